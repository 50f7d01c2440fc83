/** The threads of a device: loading programs into all of them, and running one on all of them together. */
import { startThread, type Thread } from './threads.ts';
import { CONTROL } from './walk.ts';
import { type Command, type Report, STATUS_FAILED } from './worker-source.ts';

/** A kernel stopped with an error, for example an access outside the memory. */
export class Trap extends Error {
  /** Index of the launch in the program. */
  readonly launch: number;

  constructor(thread: number, launch: number, message: string) {
    super(`${message} (thread ${thread})`);
    this.launch = launch;
  }
}

export interface RunRequest {
  readonly program: number;
  /** Address of the program's control block. */
  readonly control: number;
  readonly repeat: number;
  /** Address of the first thread's scratch memory, and the distance to the next thread's. */
  readonly scratch: number;
  readonly scratchStride: number;
}

interface Waiting<T> {
  resolve(value: T): void;
  reject(error: Error): void;
}

type WaitAsync = (
  words: Int32Array,
  index: number,
  value: number,
) => { async: true; value: Promise<string> } | { async: false; value: string };
// Cheaper than a message where the engine has it: 66 instead of 79 us for an empty run on two threads in Node 20.
const waitAsync = (Atomics as { waitAsync?: WaitAsync }).waitAsync;

export class Team {
  readonly #memory: WebAssembly.Memory | null;
  readonly #threads: Thread[] = [];
  #ready: Waiting<void> | null = null;
  #run: Waiting<void> | null = null;
  readonly #reads: Waiting<Uint8Array<ArrayBuffer>>[] = [];
  #trap: Trap | null = null;
  #trapped: Waiting<Trap> | null = null;
  #broken: Error | null = null;
  /** Number of things awaited; starting is the first. */
  #held = 1;

  private constructor(memory: WebAssembly.Memory | null) {
    this.#memory = memory;
  }

  /** Starts the threads. With `memory` null there may be only one, which makes a memory of its own. */
  static async open(
    threads: number,
    memory: WebAssembly.Memory | null,
    pages: { readonly initial: number; readonly maximum: number },
  ): Promise<Team> {
    if (memory === null && threads !== 1) throw new Error('threads need a shared memory');
    const team = new Team(memory);
    let starting = threads;
    const allReady = new Promise<void>((resolve, reject) => {
      team.#ready = { resolve: () => --starting === 0 && resolve(), reject };
    });
    try {
      for (let thread = 0; thread < threads; thread++) {
        const started = startThread(`tandem wasm ${thread}`, {
          report: (report) => team.#receive(report),
          died: (reason) => team.#break(`thread ${thread} ended: ${reason}`),
        });
        team.#threads.push(started);
        started.post({ type: 'open', thread, threads, memory, ...pages });
      }
      await allReady;
    } catch (error) {
      await team.close();
      throw error;
    }
    team.#ready = null;
    team.#hold(-1);
    return team;
  }

  get size(): number {
    return this.#threads.length;
  }

  load(program: number, module: WebAssembly.Module): void {
    for (const thread of this.#threads) thread.post({ type: 'load', program, module });
  }

  unload(program: number): void {
    for (const thread of this.#threads) thread.post({ type: 'unload', program });
  }

  /**
   * Walks a loaded program on all threads. The caller has cleared the control block and starts one run at a time.
   * Rejects with `Trap` when a kernel fails; the team can go on then.
   */
  async run({ program, control, repeat, scratch, scratchStride }: RunRequest): Promise<void> {
    this.#check();
    const words = this.#memory ? new Int32Array(this.#memory.buffer) : null;
    const status = (control + CONTROL.status) / 4;
    this.#trap = null;
    this.#trapped = null;
    const finished = new Promise<void>((resolve, reject) => {
      this.#run = { resolve, reject };
    });
    this.#hold(1);
    try {
      const notify = words !== null && waitAsync !== undefined;
      if (notify) {
        const wait = waitAsync(words, status, 0);
        if (!wait.async) throw new Error('the control block was not cleared before the run');
        wait.value.then(() => this.#finish(words[status] === STATUS_FAILED));
      }
      this.#threads.forEach((thread, index) => {
        thread.post({
          type: 'run',
          program,
          control,
          repeat,
          scratch: scratch + index * scratchStride,
          notify,
        });
      });
      await finished;
    } finally {
      this.#run = null;
      this.#hold(-1);
    }
  }

  /** A command to the only thread, about the memory that only it has. */
  order(command: Extract<Command, { type: 'ensure' | 'write' | 'clear' }>, transfer?: ArrayBuffer[]): void {
    this.#check();
    this.#threads[0]!.post(command, transfer);
  }

  /** Reads from the memory that only the one thread has, after all earlier commands. */
  async read(address: number, byteLength: number): Promise<Uint8Array<ArrayBuffer>> {
    this.#check();
    this.#hold(1);
    try {
      return await new Promise((resolve, reject) => {
        this.#reads.push({ resolve, reject });
        this.#threads[0]!.post({ type: 'read', address, byteLength });
      });
    } finally {
      this.#hold(-1);
    }
  }

  async close(): Promise<void> {
    this.#hold(1);
    this.#break('the device was closed');
    await Promise.all(this.#threads.map((thread) => thread.terminate()));
  }

  #receive(report: Report): void {
    switch (report.type) {
      case 'ready':
        this.#ready?.resolve();
        return;
      case 'trapped':
        this.#trap ??= new Trap(report.thread, report.launch, report.message);
        this.#trapped?.resolve(this.#trap);
        return;
      case 'finished':
        this.#finish(report.failed);
        return;
      case 'bytes':
        this.#reads.shift()?.resolve(report.bytes);
        return;
      case 'broken':
        this.#break(report.message);
    }
  }

  #finish(failed: boolean): void {
    const run = this.#run;
    if (!run) return;
    if (!failed) run.resolve();
    else if (this.#trap) run.reject(this.#trap);
    // The word of the failure may overtake the message that tells what it was.
    else this.#trapped = { resolve: (trap) => run.reject(trap), reject: run.reject };
  }

  /** Every thread may be anywhere now, so nothing more can be run. */
  #break(reason: string): void {
    this.#broken ??= new Error(`the WebAssembly threads are gone: ${reason}`);
    for (const waiting of [this.#ready, this.#run, ...this.#reads.splice(0)]) waiting?.reject(this.#broken);
  }

  #check(): void {
    if (this.#broken) throw this.#broken;
  }

  /** While something is awaited, the threads keep the process alive. */
  #hold(change: 1 | -1): void {
    const held = this.#held > 0;
    this.#held += change;
    if (this.#held > 0 === held) return;
    for (const thread of this.#threads) thread.hold(!held);
  }
}
