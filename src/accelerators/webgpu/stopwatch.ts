/** Times of dispatches, by the device's own clock: each in a pass of its own, between two time stamps. */
import { elementCount } from '../../tile/ir.ts';
import type { Launch, TracedLaunch } from '../device.ts';
import { MAP_READ, USAGE } from './gpu.ts';

/** The feature that it needs. */
export const TIMESTAMPS = 'timestamp-query';
/** Dispatches between two looks at the clock's results: a query set holds 4096 time stamps. */
const AT_ONCE = 1024;

export class Stopwatch {
  readonly #device: GPUDevice;
  readonly #launches: TracedLaunch[] = [];
  #origin: bigint | null = null;

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** Times in microseconds from the first one's beginning, as fine as the device's clock. */
  get launches(): readonly TracedLaunch[] {
    return this.#launches;
  }

  /** Runs dispatches in order; `dispatch` records number i into a pass. */
  async run(launches: readonly Launch[], dispatch: (pass: GPUComputePassEncoder, i: number) => void) {
    for (let first = 0; first < launches.length; first += AT_ONCE) {
      const part = launches.slice(first, first + AT_ONCE);
      const stamps = await this.#stamps(part.length, (pass, i) => dispatch(pass, first + i));
      this.#origin ??= stamps[0];
      const since = (stamp: bigint) => Number(stamp - (this.#origin as bigint)) / 1000;
      for (const [i, launch] of part.entries()) {
        const [began, ended] = [since(stamps[2 * i]), since(stamps[2 * i + 1])];
        const programs = elementCount(launch.kernel.grid);
        this.#launches.push({
          launch,
          parts: [{ thread: 0, began, ended, busy: ended - began, programs }],
        });
      }
    }
  }

  async #stamps(count: number, dispatch: (pass: GPUComputePassEncoder, i: number) => void) {
    const device = this.#device;
    const querySet = device.createQuerySet({ type: 'timestamp', count: 2 * count });
    const size = 16 * count;
    const resolved = device.createBuffer({ size, usage: USAGE.queryResolve | USAGE.copySource });
    const staging = device.createBuffer({ size, usage: USAGE.mapRead | USAGE.copyTarget });
    try {
      const encoder = device.createCommandEncoder();
      for (let i = 0; i < count; i++) {
        const pass = encoder.beginComputePass({
          timestampWrites: {
            querySet,
            beginningOfPassWriteIndex: 2 * i,
            endOfPassWriteIndex: 2 * i + 1,
          },
        });
        dispatch(pass, i);
        pass.end();
      }
      encoder.resolveQuerySet(querySet, 0, 2 * count, resolved, 0);
      encoder.copyBufferToBuffer(resolved, 0, staging, 0, size);
      device.queue.submit([encoder.finish()]);
      await staging.mapAsync(MAP_READ);
      return new BigUint64Array(staging.getMappedRange().slice(0));
    } finally {
      for (const owned of [querySet, resolved, staging]) owned.destroy();
    }
  }
}
