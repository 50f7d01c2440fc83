/**
 * The WebGPU accelerator: in a browser its own, in Node Dawn. Kernels are WGSL made from thread code; a program is
 * recorded and handed over whole.
 */
import type { Schedule } from '../../kernels/matmul.ts';
import type { Kernel } from '../../tile/ir.ts';
import { checkBindings, checkRepeat } from '../bindings.ts';
import type { Device, DeviceBuffer, DeviceFactory, DeviceInfo, Launch, TracedLaunch } from '../device.ts';
import { RunQueue } from '../queue.ts';
import type { ThreadTarget } from '../threads/lower.ts';
import { unsupported } from '../threads/lower.ts';
import { describeAdapter, findAdapter, MAP_READ, USAGE, wantedLimits } from './gpu.ts';
import { Patcher } from './patch.ts';
import { arrange, Pipelines } from './pipelines.ts';
import type { CompiledLaunch, WebGpuExecutable } from './program.ts';
import { Recording } from './program.ts';
import { Stopwatch, TIMESTAMPS } from './stopwatch.ts';

/** What is used of WebGPU's optional features, where a device has them. */
const FEATURES: readonly GPUFeatureName[] = [TIMESTAMPS];
/** Bytes of private arrays a function may declare are 8192 in all of WebGPU; some are left for other variables. */
const PRIVATE_WORDS = 1536;
const MOST_THREADS = 256;

class WebGpuBuffer implements DeviceBuffer {
  readonly device: Device;
  readonly byteLength: number;
  readonly memory: GPUBuffer;
  freed = false;

  constructor(device: Device, byteLength: number, memory: GPUBuffer) {
    this.device = device;
    this.byteLength = byteLength;
    this.memory = memory;
  }
}

const wordsUp = (bytes: number) => Math.ceil(bytes / 4) * 4;

export class WebGpuDevice implements Device {
  readonly info: DeviceInfo;
  // Each of 256 threads keeps 16 sums in registers.
  readonly schedule: Schedule = { largestBlock: 64 };
  readonly #gpu: GPUDevice;
  readonly #target: ThreadTarget;
  readonly #pipelines: Pipelines;
  readonly #patcher: Patcher;
  readonly #queue = new RunQueue();
  /** Only where the device has time stamps. */
  readonly trace?: Device['trace'];
  #stopwatch: Stopwatch | null = null;
  readonly #buffers = new Set<WebGpuBuffer>();
  /** What WebGPU reported after the call that caused it had returned. */
  #failure: Error | null = null;
  /** Allocations whose success is not known yet. */
  #checks: Promise<void>[] = [];
  #allocatedBytes = 0;
  #closed = false;

  private constructor(gpu: GPUDevice, info: DeviceInfo) {
    this.#gpu = gpu;
    this.info = info;
    const { limits } = gpu;
    this.#target = {
      name: 'webgpu',
      threads: Math.min(
        MOST_THREADS,
        limits.maxComputeInvocationsPerWorkgroup,
        limits.maxComputeWorkgroupSizeX,
      ),
      sharedBytes: limits.maxComputeWorkgroupStorageSize - 16,
      privateWords: PRIVATE_WORDS,
    };
    this.#pipelines = new Pipelines(gpu, this.#target);
    this.#patcher = new Patcher(gpu);
    if (gpu.features.has(TIMESTAMPS)) this.trace = (work) => this.#trace(work);
    gpu.addEventListener('uncapturederror', (event) => {
      this.#failure ??= new Error(`WebGPU: ${(event as GPUUncapturedErrorEvent).error.message}`);
    });
    void gpu.lost.then(({ message, reason }) => {
      if (!this.#closed) this.#failure ??= new Error(`the WebGPU device was lost (${reason}): ${message}`);
    });
  }

  /** Throws an Error that says why there is no device. `features`: those to use, of what `info.features` lists; all. */
  static async open(options: { features?: readonly string[] } = {}): Promise<WebGpuDevice> {
    const adapter = await findAdapter();
    const present = featuresOf(adapter);
    const wanted = options.features ?? present;
    const unknown = wanted.find((feature) => !present.some((name) => name === feature));
    if (unknown !== undefined)
      throw new Error(
        `the WebGPU device has no feature '${unknown}' to choose${present.length === 0 ? '' : `: use ${present.join(', ')}`}`,
      );
    const gpu = await adapter.requestDevice({
      label: 'tandem',
      requiredLimits: wantedLimits(adapter),
      requiredFeatures: [...wanted] as GPUFeatureName[],
    });
    return new WebGpuDevice(gpu, { ...describe(adapter), features: wanted });
  }

  get allocatedBytes(): number {
    return this.#allocatedBytes;
  }

  unsupported(kernel: Kernel): string | null {
    return unsupported(kernel, this.#target);
  }

  barriers(launch: Launch): number {
    return this.#pipelines.shader(launch.kernel, arrange(launch)).barriers;
  }

  /** Memory may turn out to be exhausted only later: then the next `compile`, `run` or `read` fails. */
  allocate(byteLength: number): DeviceBuffer {
    this.#check();
    if (!Number.isSafeInteger(byteLength) || byteLength < 0)
      throw new RangeError(`cannot allocate ${byteLength} bytes: the size must be a whole number, 0 or more`);
    const { maxBufferSize, maxStorageBufferBindingSize } = this.#gpu.limits;
    const most = Math.min(maxBufferSize, maxStorageBufferBindingSize);
    if (byteLength > most)
      throw new RangeError(
        `cannot allocate ${byteLength} bytes at once: a buffer of this WebGPU device has at most ${most}`,
      );
    this.#gpu.pushErrorScope('out-of-memory');
    const usage = USAGE.storage | USAGE.copySource | USAGE.copyTarget;
    const memory = this.#gpu.createBuffer({ size: Math.max(4, wordsUp(byteLength)), usage });
    const check = this.#gpu.popErrorScope().then((error) => {
      if (error !== null)
        this.#failure ??= new Error(`WebGPU has no memory for ${byteLength} bytes: ${error.message}`);
    });
    this.#checks.push(check);
    const buffer = new WebGpuBuffer(this, byteLength, memory);
    this.#buffers.add(buffer);
    this.#allocatedBytes += byteLength;
    return buffer;
  }

  free(buffer: DeviceBuffer): void {
    const own = this.#own(buffer);
    own.freed = true;
    own.memory.destroy();
    this.#buffers.delete(own);
    this.#allocatedBytes -= own.byteLength;
  }

  write(buffer: DeviceBuffer, data: ArrayBufferView, byteOffset = 0): void {
    const { memory } = this.#range(buffer, byteOffset, data.byteLength);
    const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
    const end = byteOffset + bytes.length;
    const [first, last] = [wordsUp(byteOffset), Math.floor(end / 4) * 4];
    if (first < last) this.#gpu.queue.writeBuffer(memory, first, bytes, first - byteOffset, last - first);
    for (const word of new Set([Math.floor(byteOffset / 4), Math.floor((end - 1) / 4)])) {
      let [mask, bits] = [0, 0];
      for (let byte = Math.max(byteOffset, 4 * word); byte < Math.min(end, 4 * word + 4); byte++) {
        mask |= 0xff << (8 * (byte % 4));
        bits |= bytes[byte - byteOffset] << (8 * (byte % 4));
      }
      if (mask !== 0 && mask !== -1) this.#patcher.patch(memory, word, mask, bits);
    }
  }

  async read(
    buffer: DeviceBuffer,
    byteOffset = 0,
    byteLength = buffer.byteLength - byteOffset,
  ): Promise<Uint8Array<ArrayBuffer>> {
    this.#range(buffer, byteOffset, byteLength);
    await this.#queue.idle();
    await this.#settle();
    const { memory } = this.#range(buffer, byteOffset, byteLength);
    if (byteLength === 0) return new Uint8Array(0);
    const begin = Math.floor(byteOffset / 4) * 4;
    const size = wordsUp(byteOffset + byteLength) - begin;
    const staging = this.#gpu.createBuffer({ size, usage: USAGE.mapRead | USAGE.copyTarget });
    try {
      const encoder = this.#gpu.createCommandEncoder();
      encoder.copyBufferToBuffer(memory, begin, staging, 0, size);
      this.#gpu.queue.submit([encoder.finish()]);
      await staging.mapAsync(MAP_READ);
      const copied = new Uint8Array(staging.getMappedRange()).slice(
        byteOffset - begin,
        byteOffset - begin + byteLength,
      );
      this.#check();
      return copied;
    } finally {
      staging.destroy();
    }
  }

  async compile(launches: readonly Launch[]): Promise<WebGpuExecutable> {
    await this.#settle();
    const prepared = launches.map((launch) => {
      const { kernel } = launch;
      const reason = this.unsupported(kernel);
      if (reason !== null)
        throw new Error(`kernel '${kernel.name}' cannot be compiled for webgpu: ${reason}`);
      checkBindings(this, launch);
      for (const { buffer } of launch.bindings) this.#own(buffer);
      return { launch, arrangement: arrange(launch) };
    });
    const compiled: CompiledLaunch[] = await Promise.all(
      prepared.map(async (one) => ({
        ...one,
        compiled: await this.#pipelines.get(one.launch.kernel, one.arrangement),
      })),
    );
    const recording = new Recording(this.#gpu, compiled, (buffer) => this.#own(buffer).memory);
    let disposed = false;
    return {
      dispatches: recording.dispatches,
      run: (repeat = 1) => {
        checkRepeat(repeat);
        if (disposed) throw new Error('this executable is disposed');
        return this.#queue.add(async () => {
          await this.#settle();
          this.#gpu.pushErrorScope('validation');
          if (this.#stopwatch === null) recording.submit(repeat);
          else
            for (let i = 0; i < repeat; i++)
              await this.#stopwatch.run(launches, (pass, index) => recording.dispatch(pass, index));
          const [error] = await Promise.all([
            this.#gpu.popErrorScope(),
            this.#gpu.queue.onSubmittedWorkDone(),
          ]);
          if (error !== null) throw new Error(`WebGPU refused the program: ${error.message}`);
          this.#check();
        });
      },
      dispose: () => {
        if (disposed) return;
        disposed = true;
        void this.#queue.idle().then(() => recording.dispose());
      },
    };
  }

  async #trace<T>(work: () => Promise<T>): Promise<{ value: T; launches: readonly TracedLaunch[] }> {
    this.#check();
    if (this.#stopwatch !== null) throw new Error('the WebGPU device traces already');
    const stopwatch = new Stopwatch(this.#gpu);
    this.#stopwatch = stopwatch;
    try {
      const value = await work();
      await this.#queue.idle();
      return { value, launches: stopwatch.launches };
    } finally {
      this.#stopwatch = null;
    }
  }

  async close(): Promise<void> {
    await this.#queue.idle();
    this.#closed = true;
    for (const buffer of [...this.#buffers]) this.free(buffer);
    this.#gpu.destroy();
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Throws where the device is closed, or what went wrong since the last call. */
  #check(): void {
    if (this.#closed) throw new Error('the WebGPU device is closed');
    if (this.#failure !== null) throw this.#failure;
  }
  async #settle(): Promise<void> {
    const checks = this.#checks;
    this.#checks = [];
    await Promise.all(checks);
    this.#check();
  }

  #own(buffer: DeviceBuffer): WebGpuBuffer {
    if (!(buffer instanceof WebGpuBuffer) || buffer.device !== this)
      throw new Error('the buffer was not allocated by this WebGPU device');
    if (buffer.freed) throw new Error(`the buffer of ${buffer.byteLength} bytes was freed already`);
    return buffer;
  }

  #range(buffer: DeviceBuffer, byteOffset: number, byteLength: number): WebGpuBuffer {
    const own = this.#own(buffer);
    const valid =
      Number.isInteger(byteOffset) && byteOffset >= 0 && Number.isInteger(byteLength) && byteLength >= 0;
    if (!valid || byteOffset + byteLength > own.byteLength)
      throw new RangeError(
        `bytes ${byteOffset} to ${byteOffset + byteLength} are not within the buffer of ${own.byteLength} bytes`,
      );
    return own;
  }
}

const featuresOf = (adapter: GPUAdapter) => FEATURES.filter((name) => adapter.features.has(name));

function describe(adapter: GPUAdapter): DeviceInfo {
  return {
    name: 'webgpu',
    description: describeAdapter(adapter),
    features: featuresOf(adapter),
    threads: 1,
    // WebGPU does not tell how much memory there is; this much is granted at once.
    memory: adapter.limits.maxBufferSize,
  };
}

export const webgpuFactory: DeviceFactory = {
  name: 'webgpu',
  async probe() {
    try {
      return { name: 'webgpu', available: true, reason: '', info: describe(await findAdapter()) };
    } catch (error) {
      return { name: 'webgpu', available: false, reason: (error as Error).message };
    }
  },
  open: (options) => WebGpuDevice.open(options),
};
