/**
 * The WebAssembly accelerator: SIMD kernels on threads that share one memory, in Node and in a browser. On a
 * page that is not cross-origin isolated memory cannot be shared: then there is one thread.
 */
import type { Schedule } from '../../kernels/matmul.ts';
import { LEAST_WAYS } from '../../kernels/operands.ts';
import type { Kernel } from '../../tile/ir.ts';
import { verify } from '../../tile/verify.ts';
import { checkBindings, viewBytes } from '../bindings.ts';
import { kernelContent } from '../content.ts';
import type { Device, DeviceBuffer, DeviceFactory, DeviceInfo, Executable, Launch } from '../device.ts';
import type { LoopTarget } from '../loops/ir.ts';
import { lower, unsupported } from '../loops/lower.ts';
import { checkThreads } from '../settings.ts';
import { hasBasics, hasFusedMultiplyAdd } from './features.ts';
import { type CompiledKernel, type CompiledLaunch, compileKernel } from './program.ts';
import { WasmRuntime } from './runtime.ts';
import { availableThreads, canShareMemory } from './threads.ts';

/**
 * 'simd': always there. 'threads': memory is shared, so there may be several threads. 'fma': fused multiply-add.
 */
export type WasmFeature = 'simd' | 'threads' | 'fma';

/**
 * Looks of a waiting thread at the barrier, 2 ns each: about as long as it takes to be woken. A launch with its
 * barrier takes 1 us then on two idle processors, against 7 us asleep.
 */
const SPINS = 6000;

class WasmBuffer implements DeviceBuffer {
  readonly device: Device;
  readonly byteLength: number;
  readonly address: number;
  freed = false;

  constructor(device: Device, byteLength: number, address: number) {
    this.device = device;
    this.byteLength = byteLength;
    this.address = address;
  }
}

/** What lowering may assume; `fma` as measured in this engine. */
export function wasmTarget(fma: boolean): LoopTarget {
  return {
    name: 'wasm',
    lanes: 4,
    // Engines keep one of x86-64's 16 registers for themselves.
    vectorRegisters: 15,
    fma,
    pointerBytes: 4,
    scales: false,
    bf16Pairs: false,
    matrixRegisters: false,
    cacheWays: LEAST_WAYS,
    streamPage: 0,
    dotTile: { rows: 4, vectors: 2, round: 8 },
    wideTile: null,
  };
}

export class WasmDevice implements Device {
  readonly info: DeviceInfo;
  readonly schedule: Schedule;
  readonly #runtime: WasmRuntime;
  readonly #target: LoopTarget;
  readonly #byObject = new WeakMap<Kernel, CompiledKernel>();
  readonly #byContent = new Map<string, CompiledKernel>();
  readonly #live = new Set<WasmBuffer>();
  #allocated = 0;

  private constructor(runtime: WasmRuntime, info: DeviceInfo, fma: boolean) {
    this.#runtime = runtime;
    this.info = info;
    // Its memory is in small pages, of which a larger block touches more than a processor keeps addresses for.
    this.schedule = { largestBlock: 64, parallel: this.info.threads };
    this.#target = wasmTarget(fma);
  }

  /**
   * `threads`: by default one a processor (in Node the environment variable TANDEM_THREADS overrides that).
   * `features`: by default all that the engine has; fewer may be asked for.
   */
  static async open(options: { threads?: number; features?: readonly string[] } = {}): Promise<WasmDevice> {
    const available = availableFeatures();
    const { features = available } = options;
    for (const feature of features) {
      if (!(available as readonly string[]).includes(feature)) {
        throw new Error(`the WebAssembly engine lacks '${feature}'; it has: ${available.join(', ')}`);
      }
    }
    const shared = features.includes('threads');
    const fma = features.includes('fma');
    const threads = options.threads ?? (shared ? availableThreads() : 1);
    checkThreads(threads, 'threads');
    if (threads > 1 && !shared) {
      throw new Error(
        `${threads} threads need shared memory, which is not available here: serve the page cross-origin isolated ` +
          '(headers Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp), or use one thread',
      );
    }
    const spins = threads <= availableThreads() ? SPINS : 0;
    const runtime = await WasmRuntime.open({ threads, shared, spins });
    const kept = available.filter((feature) => feature === 'simd' || features.includes(feature));
    const info = describeDevice(kept, threads, runtime.memoryBytes);
    return new WasmDevice(runtime, info, fma);
  }

  get allocatedBytes(): number {
    return this.#allocated;
  }

  unsupported(kernel: Kernel): string | null {
    return unsupported(kernel, this.#target);
  }

  allocate(byteLength: number): DeviceBuffer {
    const buffer = new WasmBuffer(this, byteLength, this.#runtime.allocate(byteLength));
    this.#live.add(buffer);
    this.#allocated += byteLength;
    return buffer;
  }

  free(buffer: DeviceBuffer): void {
    const own = this.#own(buffer);
    this.#runtime.release(own.address);
    own.freed = true;
    this.#live.delete(own);
    this.#allocated -= own.byteLength;
  }

  write(buffer: DeviceBuffer, data: ArrayBufferView, byteOffset = 0): void {
    const { address } = this.#range(buffer, byteOffset, data.byteLength);
    this.#runtime.write(address, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }

  async read(
    buffer: DeviceBuffer,
    byteOffset = 0,
    byteLength = buffer.byteLength - byteOffset,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const { address } = this.#range(buffer, byteOffset, byteLength);
    return this.#runtime.read(address, byteLength);
  }

  async compile(launches: readonly Launch[]): Promise<Executable> {
    const compiled = launches.map((launch): CompiledLaunch => {
      const { kernel, bindings } = launch;
      const code = this.#compileKernel(kernel);
      checkBindings(this, launch);
      const addresses = bindings.map(
        ({ buffer, byteOffset }, view) => this.#range(buffer, byteOffset, viewBytes(kernel, view)).address,
      );
      return { kernel: code, arguments: addresses };
    });
    const program = await this.#runtime.load(compiled);
    return {
      run: (repeat = 1) => program.run(repeat),
      dispose: () => program.dispose(),
    };
  }

  async close(): Promise<void> {
    await this.#runtime.close();
    for (const buffer of this.#live) this.free(buffer);
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #compileKernel(kernel: Kernel): CompiledKernel {
    let compiled = this.#byObject.get(kernel);
    if (compiled) return compiled;
    const content = kernelContent(kernel);
    compiled = this.#byContent.get(content);
    if (!compiled) {
      verify(kernel);
      const reason = this.unsupported(kernel);
      if (reason !== null) throw new Error(`kernel '${kernel.name}' cannot be compiled for wasm: ${reason}`);
      compiled = compileKernel(lower(kernel, this.#target), this.#target.fma);
      this.#byContent.set(content, compiled);
    }
    this.#byObject.set(kernel, compiled);
    return compiled;
  }

  #own(buffer: DeviceBuffer): WasmBuffer {
    if (!(buffer instanceof WasmBuffer) || buffer.device !== this) {
      throw new Error('the buffer belongs to another device');
    }
    if (buffer.freed) throw new Error(`the buffer of ${buffer.byteLength} bytes was freed already`);
    return buffer;
  }

  #range(buffer: DeviceBuffer, byteOffset: number, byteLength: number): { address: number } {
    const own = this.#own(buffer);
    const valid =
      Number.isInteger(byteOffset) && byteOffset >= 0 && Number.isInteger(byteLength) && byteLength >= 0;
    if (!valid || byteOffset + byteLength > own.byteLength) {
      throw new RangeError(
        `bytes ${byteOffset} to ${byteOffset + byteLength} are not within the buffer of ${own.byteLength} bytes`,
      );
    }
    return { address: own.address + byteOffset };
  }
}

function availableFeatures(): readonly WasmFeature[] {
  const threads = canShareMemory() && hasBasics(true);
  return [
    'simd',
    ...(threads ? (['threads'] as const) : []),
    ...(hasFusedMultiplyAdd() ? (['fma'] as const) : []),
  ];
}

/** Bytes a 32-bit memory can grow to; what an engine grants may be less. */
const ADDRESS_SPACE = 2 ** 32;

function describeDevice(features: readonly WasmFeature[], threads: number, memory: number): DeviceInfo {
  const details = [
    'WebAssembly SIMD',
    ...(features.includes('threads') ? [] : ['memory not shared']),
    ...(features.includes('fma') ? ['fused multiply-add'] : []),
  ];
  return { name: 'wasm', description: details.join(', '), features, threads, memory };
}

export const wasmFactory: DeviceFactory = {
  name: 'wasm',
  async probe() {
    if (!hasBasics(false)) {
      const reason = 'this JavaScript engine has no WebAssembly SIMD';
      return { name: 'wasm', available: false, reason };
    }
    const features = availableFeatures();
    const threads = features.includes('threads') ? availableThreads() : 1;
    return {
      name: 'wasm',
      available: true,
      reason: '',
      info: describeDevice(features, threads, ADDRESS_SPACE),
    };
  },
  open: (options) => WasmDevice.open(options),
};
