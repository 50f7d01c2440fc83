/** Memory, threads and loaded programs: the accelerator as loop functions see it, below kernels and buffers. */
import { checkRepeat } from '../bindings.ts';
import { RunQueue } from '../queue.ts';
import { FIRST_ADDRESS } from './body.ts';
import { Heap } from './heap.ts';
import { createSharedMemory, type LinearMemory, RemoteMemory, SharedMemory } from './memory.ts';
import {
  type CompiledLaunch,
  distinctKernels,
  LARGEST_MEMORY_PAGES,
  PAGE_BYTES,
  programBlock,
  programBlockBytes,
  programModule,
} from './program.ts';
import { Team, Trap } from './team.ts';
import { CONTROL } from './walk.ts';

const CACHE_LINE = 64;

export interface RuntimeOptions {
  readonly threads: number;
  /** Share the memory with the threads; otherwise there is one thread, and the memory is its own. */
  readonly shared: boolean;
  /** How often a thread looks whether a barrier opens before it sleeps; 0 where threads outnumber processors. */
  readonly spins: number;
}

/** A program in memory and in all threads. Runs are queued: one at a time a runtime. */
export interface LoadedProgram {
  /** `repeat`: 1 to 2^31. Rejects with an error that names the kernel when one fails. */
  run(repeat: number): Promise<void>;
  dispose(): void;
}

export class WasmRuntime {
  readonly #team: Team;
  readonly #memory: LinearMemory;
  readonly #heap: Heap;
  readonly #options: RuntimeOptions;
  /** Bytes that the memory may grow to. */
  readonly memoryBytes: number;
  #scratch = { address: 0, stride: 0 };
  #nextProgram = 1;
  readonly #queue = new RunQueue();
  /** Tasks in the queue that have not ended. */
  #pending = 0;
  #closed = false;

  private constructor(team: Team, memory: LinearMemory, maximumPages: number, options: RuntimeOptions) {
    this.#team = team;
    this.#memory = memory;
    this.#options = options;
    this.memoryBytes = maximumPages * PAGE_BYTES - FIRST_ADDRESS;
    this.#heap = new Heap({
      first: FIRST_ADDRESS,
      limit: maximumPages * PAGE_BYTES,
      ensure: (end) => memory.ensure(end),
      clear: (address, byteLength) => memory.clear(address, byteLength),
    });
  }

  static async open(options: RuntimeOptions, maximumPages = LARGEST_MEMORY_PAGES): Promise<WasmRuntime> {
    const { threads } = options;
    if (options.shared) {
      const { memory, maximum } = createSharedMemory(maximumPages);
      const team = await Team.open(threads, memory, { initial: 1, maximum });
      return new WasmRuntime(team, new SharedMemory(memory), maximum, options);
    }
    const team = await Team.open(threads, null, { initial: 1, maximum: maximumPages });
    return new WasmRuntime(team, new RemoteMemory(team, 1), maximumPages, options);
  }

  /** Address of a new 64-byte aligned block of zeros. */
  allocate(byteLength: number): number {
    this.#check();
    return this.#heap.allocate(byteLength);
  }

  /** The block may be had again once nothing that was queued before can use it. */
  release(address: number): void {
    if (this.#closed) return;
    if (this.#pending === 0) {
      this.#heap.release(address);
      return;
    }
    this.#enqueue(async () => {
      if (!this.#closed) this.#heap.release(address);
    });
  }

  write(address: number, bytes: Uint8Array): void {
    this.#check();
    this.#memory.write(address, bytes);
  }

  /** After all runs queued so far. */
  async read(address: number, byteLength: number): Promise<Uint8Array<ArrayBuffer>> {
    this.#check();
    await this.#queue.idle();
    this.#check();
    return this.#memory.read(address, byteLength);
  }

  async load(launches: readonly CompiledLaunch[]): Promise<LoadedProgram> {
    this.#check();
    const kernels = distinctKernels(launches);
    const module = await WebAssembly.compile(programModule(kernels, this.#options.shared));
    this.#check();
    this.#reserveScratch(Math.max(0, ...kernels.map(({ scratchBytes }) => scratchBytes)));
    const { threads, spins } = this.#options;
    const address = this.allocate(programBlockBytes(launches, threads));
    this.#memory.write(address, programBlock(launches, kernels, { address, threads, spins }));
    const program = this.#nextProgram++;
    this.#team.load(program, module);
    let disposed = false;
    return {
      run: async (repeat) => {
        if (disposed) throw new Error('the program was disposed of');
        checkRepeat(repeat);
        await this.#enqueue(() => this.#run(program, address, repeat, launches));
      },
      dispose: () => {
        if (disposed) return;
        disposed = true;
        if (this.#closed) return;
        this.release(address);
        this.#enqueue(async () => {
          if (!this.#closed) this.#team.unload(program);
        });
      },
    };
  }

  /** Stops the threads; what runs now is given up. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#team.close();
  }

  async #run(
    program: number,
    control: number,
    repeat: number,
    launches: readonly CompiledLaunch[],
  ): Promise<void> {
    this.#check();
    // What an earlier run left behind that failed half way, and the status of any.
    this.#memory.clear(control + CONTROL.next, CONTROL.progress - CONTROL.next);
    const { address: scratch, stride: scratchStride } = this.#scratch;
    try {
      await this.#team.run({ program, control, repeat, scratch, scratchStride });
    } catch (error) {
      if (!(error instanceof Trap)) throw error;
      const name = launches[error.launch]?.kernel.name;
      throw new Error(
        `kernel ${name} (launch ${error.launch} of ${launches.length}) failed: ${error.message}`,
        {
          cause: error,
        },
      );
    }
  }

  #enqueue(task: () => Promise<void>): Promise<void> {
    this.#pending++;
    return this.#queue.add(task).finally(() => {
      this.#pending--;
    });
  }

  /** All programs share the threads' scratch memory, as only one runs at a time. */
  #reserveScratch(byteLength: number): void {
    // One cache line more keeps neighbours apart.
    const stride = Math.ceil(byteLength / CACHE_LINE) * CACHE_LINE + CACHE_LINE;
    const old = this.#scratch;
    if (stride <= old.stride) return;
    this.#scratch = { address: this.#heap.allocate(stride * this.#options.threads), stride };
    if (old.stride > 0) this.release(old.address);
  }

  #check(): void {
    if (this.#closed) throw new Error('the WebAssembly device is closed');
  }
}
