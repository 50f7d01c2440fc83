/**
 * What an accelerator is to the rest of Tandem: memory, and programs of kernel launches. To support a new one,
 * implement `Device` in a folder beside this file and register it.
 */
import type { Schedule } from '../kernels/matmul.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Bf16Sums } from '../tile/sums.ts';

/** A block of device memory. Offsets and sizes are in bytes. */
export interface DeviceBuffer {
  readonly device: Device;
  readonly byteLength: number;
  /** Neither `write` nor a kernel may change it. */
  readonly readOnly?: boolean;
}

export interface MappedFile extends DeviceBuffer {
  /** Zeros stood for bytes that could not be read, since the file was cut off or the disk failed: ask after reading. */
  readonly damaged: boolean;
}

/** One kernel of a program: `bindings[i]` is where view i of the kernel begins. 64-byte aligned offsets are fastest. */
export interface Launch {
  readonly kernel: Kernel;
  readonly bindings: readonly Binding[];
  /** Floating-point operations, roughly, where whoever made the launch knows; for profiles. */
  readonly flops?: number;
}

export interface Binding {
  readonly buffer: DeviceBuffer;
  readonly byteOffset: number;
}

/** A compiled list of launches over fixed buffers. Launch i+1 begins after launch i is complete. */
export interface Executable {
  /** Executes the whole list `repeat` times (1), without JavaScript between launches. One run at a time a device. */
  run(repeat?: number): Promise<void>;
  dispose(): void;
}

/** What one thread did of a launch. Times in microseconds from one origin for all of a trace. */
export interface TracedPart {
  readonly thread: number;
  readonly began: number;
  readonly ended: number;
  /** Of these, those in which it computed: the rest went to handing out work. */
  readonly busy: number;
  readonly programs: number;
}

export interface TracedLaunch {
  readonly launch: Launch;
  /** Of the threads that took part. */
  readonly parts: readonly TracedPart[];
}

export interface DeviceInfo {
  /** 'cpu', 'wasm', 'interpreter', … */
  readonly name: string;
  /** For people: 'AMD EPYC, AVX-512', 'WebAssembly SIMD, 2 threads'. */
  readonly description: string;
  readonly features: readonly string[];
  readonly threads: number;
  /** Bytes this device can allocate, as far as is known. */
  readonly memory: number;
  /** How products of bf16 are added up; 'pairs' when left out. */
  readonly bf16Sums?: Bf16Sums;
  /** For people: where the blocks of matrix products come from, where there is a choice. Of a probe only. */
  readonly schedules?: string;
}

/** `await using device = await openDevice(…)` closes it. */
export interface Device extends AsyncDisposable {
  readonly info: DeviceInfo;
  /** How kernels that this device runs are best cut, where it differs from the defaults. */
  readonly schedule?: Schedule;
  /** Why this kernel cannot be compiled here (it names the operation), or null when it can. */
  unsupported(kernel: Kernel): string | null;
  /**
   * Where threads run one program of the kernel together: how often they wait for each other in it, loops counted once.
   * Left out by accelerators on which one thread runs a program from its beginning to its end.
   */
  barriers?(launch: Launch): number;
  /** Zero-filled, 64-byte aligned. Throws when memory is exhausted. */
  allocate(byteLength: number): DeviceBuffer;
  free(buffer: DeviceBuffer): void;
  /** Copies bytes into device memory; ordered before any later `run`. */
  write(buffer: DeviceBuffer, data: ArrayBufferView, byteOffset?: number): void;
  /**
   * Where the host sees device memory: a part of a buffer itself, no copy. It must not be used after `free`, and what
   * others do to the memory meanwhile (a run, a read from a file that is still under way) is for the caller to order.
   */
  map?(buffer: DeviceBuffer, byteOffset: number, byteLength: number): Uint8Array;
  /**
   * A file as memory that kernels read, without a copy of its own: pages come from the system's cache of files, or from
   * the disk, when they are first read. Left out by accelerators that cannot. Throws, naming the path, where the file
   * cannot be opened.
   */
  mapFile?(path: string): MappedFile;
  /** Copies bytes out of device memory, after all earlier runs. */
  read(buffer: DeviceBuffer, byteOffset?: number, byteLength?: number): Promise<Uint8Array<ArrayBuffer>>;
  /** Compiles the launches. Throws an error that names the kernel and operation when one is unsupported. */
  compile(launches: readonly Launch[]): Promise<Executable>;
  /**
   * Records every launch that is executed until `work` is done, in their order. Results are the same, it only takes longer.
   * Left out by accelerators that cannot tell. Throws where a trace is going on already.
   */
  trace?<T>(
    work: () => Promise<T>,
  ): Promise<{ readonly value: T; readonly launches: readonly TracedLaunch[] }>;
  /** Bytes allocated and not yet freed: leaks fail the tests. */
  readonly allocatedBytes: number;
  /** Frees all memory. Buffers, executables and what was built on them cannot be used any more. */
  close(): Promise<void>;
}

/** What `tandem devices` prints of one accelerator. */
export interface DeviceProbe {
  readonly name: string;
  readonly available: boolean;
  /** Why it is not available; empty when it is. */
  readonly reason: string;
  readonly info?: DeviceInfo;
}

/** How an accelerator enters the registry: cheap to probe, opened on demand. */
export interface DeviceFactory {
  readonly name: string;
  probe(): Promise<DeviceProbe>;
  open(options?: { threads?: number; features?: readonly string[] }): Promise<Device>;
}
