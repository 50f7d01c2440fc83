/** The CPU as an accelerator: x86-64 machine code generated here, walked by native threads. */
import type { Schedule } from '../../kernels/matmul.ts';
import { elementCount, type Kernel } from '../../tile/ir.ts';
import { verify } from '../../tile/verify.ts';
import { checkBindings, checkRepeat, viewBytes } from '../bindings.ts';
import { kernelContent } from '../content.ts';
import type {
  Device,
  DeviceBuffer,
  DeviceFactory,
  DeviceInfo,
  Executable,
  Launch,
  MappedFile,
  TracedLaunch,
} from '../device.ts';
import type { LoopFunction, LoopTarget } from '../loops/ir.ts';
import { lower, unsupported } from '../loops/lower.ts';
import { RunQueue } from '../queue.ts';
import { SettingError } from '../settings.ts';
import { generate, unsupported as ungenerable } from './codegen.ts';
import type { Isa } from './codegen-emitter.ts';
import type { Extensions } from './codegen-vector.ts';
import { processor } from './cpuid.ts';
import { DeviceHeap } from './heap.ts';
import { availableMemory, usableThreads } from './host.ts';
import { CodeBlock } from './memory.ts';
import { loadNative, type Native } from './native.ts';
import { describeSchedules, scheduleOf } from './schedules.ts';
import type { IsaName } from './targets.ts';
import { chooseIsa, isas, targetOf } from './targets.ts';
import { LaunchList, ThreadPool } from './threads.ts';
import { Tracer } from './tracer.ts';

function describe(native: Native, isa: IsaName, threads: number): DeviceInfo {
  const { brand, features } = processor(native);
  return {
    name: 'cpu',
    description: `${brand || 'x86-64'}, ${isas[isa].label}`,
    features: [isa, ...[...features].filter((name) => name !== isa)],
    threads,
    memory: availableMemory(),
    bf16Sums: isas[isa].target.matrixRegisters ? 'blocks' : 'pairs',
  };
}

/** A kernel's machine code. */
interface CompiledKernel {
  readonly entry: bigint;
  readonly scratchBytes: number;
  readonly programs: number;
}

/** Compiling is on the event loop's thread: give way this often, so that weights are read meanwhile. */
const turnMilliseconds = 2;

class CpuDevice implements Device {
  readonly info: DeviceInfo;
  readonly schedule: Schedule;
  readonly #native: Native;
  readonly #isa: Isa;
  readonly #extensions: Extensions;
  readonly #target: LoopTarget;
  readonly #heap: DeviceHeap;
  readonly #pool: ThreadPool;
  readonly #queue = new RunQueue();
  readonly #byObject = new WeakMap<Kernel, CompiledKernel>();
  readonly #byContent = new Map<string, CompiledKernel>();
  readonly #code: CodeBlock[] = [];
  readonly #executables = new Set<CpuExecutable>();
  #tracer: Tracer | null = null;
  #closed = false;

  constructor(native: Native, isa: IsaName, threads: number) {
    this.#native = native;
    this.#isa = isas[isa].code;
    this.info = describe(native, isa, threads);
    const { features } = processor(native);
    this.#extensions = { vnni: features.has('avx512vnni'), bf16: features.has('avx512bf16') };
    this.#target = targetOf(processor(native), isa);
    this.schedule = scheduleOf(processor(native), this.#target, threads);
    this.#heap = new DeviceHeap(native, this);
    this.#pool = new ThreadPool(native, threads);
  }

  get allocatedBytes(): number {
    return this.#heap.allocatedBytes;
  }

  unsupported(kernel: Kernel): string | null {
    const loops = this.#lower(kernel);
    return typeof loops === 'string' ? loops : ungenerable(loops, this.#isa);
  }

  /** The kernel as vector loops, or why it has none here. */
  #lower(kernel: Kernel): LoopFunction | string {
    const target = this.#target;
    const reason = unsupported(kernel, target);
    if (reason !== null) return reason;
    return lower(kernel, target);
  }

  allocate(byteLength: number): DeviceBuffer {
    this.#checkOpen();
    return this.#heap.allocate(byteLength);
  }

  free(buffer: DeviceBuffer): void {
    this.#heap.free(buffer);
  }

  mapFile(path: string): MappedFile {
    this.#checkOpen();
    return this.#heap.mapFile(path);
  }

  write(buffer: DeviceBuffer, data: ArrayBufferView, byteOffset = 0): void {
    if (buffer.readOnly) throw new Error('cannot write to a buffer: it is read-only');
    const address = this.#heap.address(buffer, byteOffset, data.byteLength, 'write to a buffer');
    this.#native.memcpy(address, data, data.byteLength);
  }

  map(buffer: DeviceBuffer, byteOffset: number, byteLength: number): Uint8Array {
    const address = this.#heap.address(buffer, byteOffset, byteLength, 'map a buffer');
    return new Uint8Array(this.#native.view(address, byteLength));
  }

  async read(
    buffer: DeviceBuffer,
    byteOffset = 0,
    byteLength = buffer.byteLength - byteOffset,
  ): Promise<Uint8Array<ArrayBuffer>> {
    await this.#queue.idle();
    const address = this.#heap.address(buffer, byteOffset, byteLength, 'read a buffer');
    const bytes = new Uint8Array(byteLength);
    this.#native.memcpy(bytes, address, byteLength);
    return bytes;
  }

  async compile(launches: readonly Launch[]): Promise<Executable> {
    this.#checkOpen();
    await this.#compileKernels(launches.map(({ kernel }) => kernel));
    this.#checkOpen();
    let scratchBytes = 0;
    const native = launches.map((launch) => {
      checkBindings(this, launch);
      const compiled = this.#byObject.get(launch.kernel)!;
      scratchBytes = Math.max(scratchBytes, compiled.scratchBytes);
      const addresses = launch.bindings.map(({ buffer, byteOffset }, view) =>
        this.#heap.address(buffer, byteOffset, viewBytes(launch.kernel, view), 'bind a buffer'),
      );
      return { entry: compiled.entry, programs: compiled.programs, arguments: addresses };
    });
    const list = new LaunchList(this.#native, native, this.#pool.threads);
    const buffers = new Set(launches.flatMap(({ bindings }) => bindings.map(({ buffer }) => buffer)));
    const executable = new CpuExecutable({
      list,
      start: (repeat) => {
        this.#checkOpen();
        return this.#queue.add(async () => {
          if (this.#tracer !== null) return this.#tracer.walk(list, launches, repeat, scratchBytes);
          this.#pool.reserveScratch(scratchBytes);
          await this.#pool.walk(list, repeat);
        });
      },
      pin: () => this.#heap.pin(buffers),
      forget: () => this.#executables.delete(executable),
    });
    this.#executables.add(executable);
    return executable;
  }

  async trace<T>(work: () => Promise<T>): Promise<{ value: T; launches: readonly TracedLaunch[] }> {
    this.#checkOpen();
    if (this.#tracer !== null) throw new Error('the cpu device traces already');
    const tracer = new Tracer(this.#native, this.#pool.threads);
    this.#tracer = tracer;
    try {
      const value = await work();
      await this.#queue.idle();
      return { value, launches: tracer.launches };
    } finally {
      await this.#queue.idle();
      this.#tracer = null;
      tracer.close();
    }
  }

  /** Generates code for the kernels that have none, all of it in one block. */
  async #compileKernels(kernels: readonly Kernel[]): Promise<void> {
    const fresh = new Map<string, { code: Uint8Array; scratchBytes: number; programs: number }>();
    const contents = new Map<Kernel, string>();
    let turn = performance.now();
    for (const kernel of kernels) {
      if (this.#byObject.has(kernel) || contents.has(kernel)) continue;
      const content = kernelContent(kernel);
      contents.set(kernel, content);
      if (this.#byContent.has(content) || fresh.has(content)) continue;
      verify(kernel);
      const loops = this.#lower(kernel);
      if (typeof loops === 'string') {
        throw new Error(`kernel '${kernel.name}' cannot be compiled for the cpu: ${loops}`);
      }
      const programs = elementCount(kernel.grid);
      fresh.set(content, {
        code: generate(loops, this.#isa, this.#extensions).code,
        scratchBytes: loops.scratchBytes,
        programs,
      });
      if (performance.now() - turn > turnMilliseconds) {
        await new Promise<void>((resolve) => setImmediate(resolve));
        turn = performance.now();
      }
    }
    this.#checkOpen();
    if (fresh.size > 0) {
      const block = new CodeBlock(
        this.#native,
        [...fresh.values()].map(({ code }) => code),
      );
      this.#code.push(block);
      [...fresh].forEach(([content, { scratchBytes, programs }], i) => {
        this.#byContent.set(content, { entry: block.addresses[i], scratchBytes, programs });
      });
    }
    for (const [kernel, content] of contents) this.#byObject.set(kernel, this.#byContent.get(content)!);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#queue.idle();
    this.#pool.close();
    for (const executable of [...this.#executables]) executable.dispose();
    this.#heap.freeAll();
    for (const block of this.#code) block.free();
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #checkOpen(): void {
    if (this.#closed) throw new Error('the cpu device is closed');
  }
}

interface ExecutableParts {
  readonly list: LaunchList;
  /** Queues a run of the list. */
  start(repeat: number): Promise<void>;
  /** Keeps the buffers from being freed; throws when one is already. Returns what ends that. */
  pin(): () => void;
  forget(): void;
}

class CpuExecutable implements Executable {
  readonly #parts: ExecutableParts;
  #running = 0;
  #disposed = false;

  constructor(parts: ExecutableParts) {
    this.#parts = parts;
  }

  async run(repeat = 1): Promise<void> {
    checkRepeat(repeat);
    if (this.#disposed) throw new Error('this executable is disposed, or its device is closed');
    const unpin = this.#parts.pin();
    this.#running++;
    try {
      await this.#parts.start(repeat);
    } finally {
      this.#running--;
      unpin();
    }
  }

  dispose(): void {
    if (this.#disposed) return;
    if (this.#running > 0) throw new Error('this executable is running: await its run first');
    this.#disposed = true;
    this.#parts.forget();
    this.#parts.list.free();
  }
}

export const cpuFactory: DeviceFactory = {
  name: 'cpu',
  async probe() {
    try {
      const native = await loadNative();
      const isa = chooseIsa(processor(native));
      const threads = usableThreads(native);
      const schedules = describeSchedules(processor(native), targetOf(processor(native), isa), threads);
      const info = { ...describe(native, isa, threads), schedules };
      return { name: 'cpu', available: true, reason: '', info };
    } catch (error) {
      if (error instanceof SettingError) throw error;
      return {
        name: 'cpu',
        available: false,
        reason: error instanceof Error ? error.message : String(error),
      };
    }
  },
  async open(options = {}) {
    const native = await loadNative();
    return new CpuDevice(
      native,
      chooseIsa(processor(native), options.features),
      usableThreads(native, options.threads),
    );
  },
};
