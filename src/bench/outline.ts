/** A device that runs nothing: it counts what another one would be given. */
import type { Device, DeviceBuffer, DeviceInfo, Executable, Launch } from '../accelerators/device.ts';
import type { Traffic } from '../accelerators/traffic.ts';
import { trafficOf } from '../accelerators/traffic.ts';

/** What a piece of work takes of a device. */
export interface Counters {
  /** Kernels launched: on a GPU, dispatches. Every one begins when the one before it is complete. */
  readonly launches: number;
  /** Barriers inside the kernels launched, see `Device.barriers`. */
  readonly barriers: number;
  /** Between memory and processor, see `trafficOf`. */
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** Lists of launches handed to the device. Within one, the host takes no part. */
  readonly runs: number;
  /** Reads of device memory by the host, each of which waits for what was handed over before. */
  readonly hostReads: number;
  readonly hostBytes: number;
}

const NOTHING: Counters = {
  launches: 0,
  barriers: 0,
  bytesRead: 0,
  bytesWritten: 0,
  runs: 0,
  hostReads: 0,
  hostBytes: 0,
};
const NAMES = Object.keys(NOTHING) as (keyof Counters)[];

export const combineCounters = (a: Counters, b: Counters, fn: (x: number, y: number) => number): Counters =>
  Object.fromEntries(NAMES.map((name) => [name, fn(a[name], b[name])])) as unknown as Counters;

/**
 * Stands for `real`, whose kernels it lowers as that does. Memory is counted, never held: whatever is read is zero.
 * So programs of any size are compiled and "run" by the code that runs them on the real device.
 */
export class OutlineDevice implements Device {
  readonly info: DeviceInfo;
  readonly schedule: Device['schedule'];
  readonly #real: Device;
  readonly #barriers = new WeakMap<Launch['kernel'], number>();
  readonly #traffic = new WeakMap<Launch['kernel'], Traffic>();
  #counters = NOTHING;
  #allocatedBytes = 0;

  constructor(real: Device) {
    this.#real = real;
    this.info = real.info;
    this.schedule = real.schedule;
  }

  /** Of everything since the device was made. */
  get counters(): Counters {
    return this.#counters;
  }
  get allocatedBytes(): number {
    return this.#allocatedBytes;
  }
  unsupported(kernel: Launch['kernel']): string | null {
    return this.#real.unsupported(kernel);
  }
  allocate(byteLength: number): DeviceBuffer {
    this.#allocatedBytes += byteLength;
    return { device: this, byteLength };
  }
  free(buffer: DeviceBuffer): void {
    this.#allocatedBytes -= buffer.byteLength;
  }
  write(): void {}
  async read(
    buffer: DeviceBuffer,
    byteOffset = 0,
    byteLength = buffer.byteLength - byteOffset,
  ): Promise<Uint8Array<ArrayBuffer>> {
    this.#add({ ...NOTHING, hostReads: 1, hostBytes: byteLength });
    return new Uint8Array(byteLength);
  }

  /** Throws what the real device throws for a kernel that it does not support. */
  async compile(launches: readonly Launch[]): Promise<Executable> {
    const once = launches
      .map((launch) => this.#launch(launch))
      .reduce((a, b) => combineCounters(a, b, (x, y) => x + y), NOTHING);
    return {
      run: async (repeat = 1) => {
        this.#add({ ...combineCounters(once, once, (x) => repeat * x), runs: 1 });
      },
      dispose() {},
    };
  }

  #launch(launch: Launch): Counters {
    const { kernel } = launch;
    const reason = this.unsupported(kernel);
    if (reason !== null)
      throw new Error(`kernel '${kernel.name}' cannot be compiled for ${this.info.name}: ${reason}`);
    const barriers = this.#barriers.get(kernel) ?? this.#real.barriers?.(launch) ?? 0;
    this.#barriers.set(kernel, barriers);
    const traffic = this.#traffic.get(kernel) ?? trafficOf(kernel);
    this.#traffic.set(kernel, traffic);
    return { ...NOTHING, launches: 1, barriers, bytesRead: traffic.read, bytesWritten: traffic.written };
  }

  #add(more: Counters): void {
    this.#counters = combineCounters(this.#counters, more, (x, y) => x + y);
  }

  async close(): Promise<void> {}
  async [Symbol.asyncDispose](): Promise<void> {}
}
