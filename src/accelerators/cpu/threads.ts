/** Native threads that walk lists of launches. */
import { processorThreads } from './host.ts';
import { CodeBlock, Mapping } from './memory.ts';
import type { Native, Routine } from './native.ts';
import {
  assembleHalt,
  assembleTimestamp,
  assembleWalker,
  control,
  event,
  finished,
  idle,
  maximumChunks,
  maximumWalkers,
  record,
  role,
  thread,
} from './walker.ts';

/** One launch as the walker takes it. */
export interface NativeLaunch {
  /** Address of `void f(void** arguments, void* scratch, int64 from, int64 to)`. */
  readonly entry: bigint;
  /** What `arguments` points at. */
  readonly arguments: readonly bigint[];
  readonly programs: number;
}

/** Chunks a thread that a launch is cut into: enough to even out, few enough that claims cost nothing. */
const chunksPerThread = 8;

/** A list of launches in memory that the walker can read. */
export class LaunchList {
  readonly begin: bigint;
  readonly end: bigint;
  /** Of all launches together. */
  readonly chunks: number;
  /** How long one pass over the list took, when it was last walked. */
  microseconds = Infinity;
  readonly #mapping: Mapping;

  /** Programs of a launch are handed out in chunks for `threads` threads; `chunk` overrides their size. */
  constructor(native: Native, launches: readonly NativeLaunch[], threads: number, chunk?: number) {
    const recordBytes = record.bytes * launches.length;
    const argumentBytes = launches.reduce((sum, launch) => sum + 8 * launch.arguments.length, 0);
    this.#mapping = new Mapping(native, recordBytes + argumentBytes);
    const view = this.#mapping.view();
    let argument = recordBytes;
    let allChunks = 0;
    launches.forEach((launch, i) => {
      const at = i * record.bytes;
      const size = chunk ?? Math.max(1, Math.ceil(launch.programs / (threads * chunksPerThread)));
      const chunks = Math.ceil(launch.programs / size);
      if (!Number.isSafeInteger(launch.programs) || launch.programs < 1 || chunks > maximumChunks) {
        throw new RangeError(`a launch of ${launch.programs} programs in chunks of ${size} cannot be walked`);
      }
      view.setBigUint64(at + record.entry, launch.entry, true);
      view.setBigUint64(at + record.arguments, this.#mapping.address + BigInt(argument), true);
      view.setBigInt64(at + record.programs, BigInt(launch.programs), true);
      view.setBigInt64(at + record.chunk, BigInt(size), true);
      view.setUint32(at + record.chunks, chunks, true);
      allChunks += chunks;
      for (const value of launch.arguments) {
        view.setBigUint64(argument, value, true);
        argument += 8;
      }
    });
    this.begin = this.#mapping.address;
    this.end = this.begin + BigInt(recordBytes);
    this.chunks = allChunks;
  }

  free(): void {
    this.#mapping.free();
  }
}

// Node waits at exit for what runs on its pool: a walk in progress must end, and quickly.
const halts = new Set<() => void>();
function haltAll(): void {
  for (const halt of halts) halt();
}
function haltAtExit(halt: () => void): void {
  if (halts.size === 0) process.on('exit', haltAll);
  halts.add(halt);
}
function forgetHalt(halt: () => void): void {
  halts.delete(halt);
  if (halts.size === 0) process.off('exit', haltAll);
}

/** How long threads look for work before they sleep: longer than most launches, shorter than anybody notices. */
const spinMicroseconds = 50;
/** With more threads than processors, whoever spins keeps the others from working. */
const crowdedSpinMicroseconds = 2;
/** A walk this short is done within the call itself: passing it to another thread would take longer. */
const shortMicroseconds = 50;
/** After this much of it in a row, the event loop gets a turn. */
const patienceMicroseconds = 1000;
/** What a walk of nothing takes of the event loop's thread. */
const callMicroseconds = 1;

let ticksPerMicrosecond: number | undefined;

/** Frequency of the time stamp counter, measured once against the system's clock. */
function measureTicks(native: Native): number {
  const code = new CodeBlock(native, [assembleTimestamp()]);
  try {
    const read = native.routine(code.addresses[0]);
    const stamp = new BigUint64Array(1);
    // A thread that is set aside between the two clocks would pair times that do not belong together: the quickest of
    // several pairs was not.
    const sample = () => {
      let best = { ticks: 0, time: 0, took: Number.POSITIVE_INFINITY };
      for (let attempt = 0; attempt < 8; attempt++) {
        const before = performance.now();
        read(stamp);
        const after = performance.now();
        if (after - before < best.took)
          best = { ticks: Number(stamp[0]), time: (before + after) / 2, took: after - before };
      }
      return best;
    };
    const start = sample();
    let now = start;
    while (now.time - start.time < 1) now = sample();
    return (now.ticks - start.ticks) / (1000 * (now.time - start.time));
  } finally {
    code.free();
  }
}

/** One chunk of a launch, as a tracing pool saw it. */
export interface ChunkEvent {
  /** Index of the launch in its list. */
  readonly launch: number;
  readonly thread: number;
  /** Microseconds of the time stamp counter. */
  readonly began: number;
  readonly ended: number;
  readonly programs: number;
}

/** Threads that wait for walks: one is the caller's own, the others are created here and end with `close`. */
export class ThreadPool {
  readonly threads: number;
  readonly #native: Native;
  readonly #code: CodeBlock;
  readonly #state: Mapping;
  readonly #view: DataView<ArrayBuffer>;
  readonly #walk: Routine;
  readonly #halt: () => void;
  readonly #handles: bigint[] = [];
  #scratch: Mapping | null = null;
  #scratchBytes = 0;
  #withoutTurn = 0;
  readonly #traces: boolean;

  /** `traces`: its walks are made by `trace` only. Throws when the system refuses a thread. */
  constructor(native: Native, threads: number, traces = false) {
    if (threads > maximumWalkers) throw new RangeError(`${threads} threads are more than ${maximumWalkers}`);
    this.threads = threads;
    this.#native = native;
    ticksPerMicrosecond ??= measureTicks(native);
    this.#traces = traces;
    const walker = assembleWalker(traces);
    this.#code = new CodeBlock(native, [walker.bytes, assembleHalt()]);
    const [walkerAddress, haltAddress] = this.#code.addresses;
    this.#state = new Mapping(native, control.bytes + threads * thread.bytes);
    this.#view = this.#state.view();
    const halt = native.routine(haltAddress);
    this.#halt = () => halt(this.#state.address);
    this.#walk = native.routine(walkerAddress + BigInt(walker.caller));
    this.#view.setUint32(control.word, idle, true);
    const spin = threads > processorThreads(native) ? crowdedSpinMicroseconds : spinMicroseconds;
    this.#view.setBigUint64(control.spin, BigInt(Math.round(spin * ticksPerMicrosecond)), true);
    for (let i = 0; i < threads; i++) {
      const at = control.bytes + i * thread.bytes;
      this.#view.setBigUint64(at + thread.control, this.#state.address, true);
      this.#view.setUint32(at + thread.role, i === 0 ? role.caller : role.worker, true);
    }
    haltAtExit(this.#halt);
    try {
      for (let i = 1; i < threads; i++) this.#start(walkerAddress + BigInt(walker.worker), i);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #block(index: number): bigint {
    return this.#state.address + BigInt(control.bytes + index * thread.bytes);
  }

  #start(entry: bigint, index: number): void {
    const handle = new BigUint64Array(1);
    const error = this.#native.pthread_create(handle, null, entry, this.#block(index));
    if (error !== 0) {
      throw new Error(
        `the system refuses thread ${index + 1} of ${this.threads} (errno ${error}): open the device with fewer threads`,
      );
    }
    this.#handles.push(handle[0]);
  }

  /** Gives every thread at least `byteLength` bytes of scratch. Not during a walk. */
  reserveScratch(byteLength: number): void {
    if (byteLength <= this.#scratchBytes) return;
    // Whole pages, so that no two threads share a line.
    const each = Math.ceil(byteLength / 4096) * 4096;
    const scratch = new Mapping(this.#native, each * this.threads);
    for (let i = 0; i < this.threads; i++) {
      const at = control.bytes + i * thread.bytes + thread.scratch;
      this.#view.setBigUint64(at, scratch.address + BigInt(i * each), true);
    }
    this.#scratch?.free();
    this.#scratch = scratch;
    this.#scratchBytes = each;
  }

  /** Walks the list `repeat` times (1 or more). One walk at a time. Rejects when the pool is closed meanwhile. */
  async walk(list: LaunchList, repeat: number): Promise<void> {
    if (this.#traces) throw new Error('a tracing pool walks by `trace`');
    if (list.begin === list.end) return;
    await this.#walkList(list, repeat);
  }

  /** Walks the list once, and tells of every chunk when which thread worked on it. As `walk` otherwise. */
  async trace(list: LaunchList): Promise<ChunkEvent[]> {
    if (!this.#traces) throw new Error('this pool does not trace');
    if (list.begin === list.end) return [];
    // Any thread may get all chunks.
    const room = list.chunks * event.bytes;
    const events = new Mapping(this.#native, room * this.threads);
    try {
      const start = (index: number) => events.address + BigInt(index * room);
      const pointer = (index: number) => control.bytes + index * thread.bytes + thread.trace;
      for (let i = 0; i < this.threads; i++) this.#view.setBigUint64(pointer(i), start(i), true);
      await this.#walkList(list, 1);
      const view = events.view();
      const chunks: ChunkEvent[] = [];
      for (let i = 0; i < this.threads; i++) {
        const used = Number(this.#view.getBigUint64(pointer(i), true) - start(i));
        for (let at = i * room; at < i * room + used; at += event.bytes) {
          const stamp = (offset: number) =>
            Number(view.getBigUint64(at + offset, true)) / (ticksPerMicrosecond as number);
          chunks.push({
            launch: Number(view.getBigUint64(at + event.record, true) - list.begin) / record.bytes,
            thread: i,
            began: stamp(event.began),
            ended: stamp(event.ended),
            programs: Number(view.getBigInt64(at + event.to, true) - view.getBigInt64(at + event.from, true)),
          });
        }
      }
      return chunks;
    } finally {
      events.free();
    }
  }

  async #walkList(list: LaunchList, repeat: number): Promise<void> {
    this.#view.setBigUint64(control.begin, list.begin, true);
    this.#view.setBigUint64(control.end, list.end, true);
    this.#view.setBigInt64(control.repeat, BigInt(repeat), true);
    const short = list.microseconds * repeat < shortMicroseconds;
    const here = short && this.#withoutTurn < patienceMicroseconds;
    const result = here ? this.#walk(this.#block(0)) : await this.#walkElsewhere();
    const at = control.bytes;
    const ticks =
      this.#view.getBigUint64(at + thread.ended, true) - this.#view.getBigUint64(at + thread.began, true);
    const microseconds = Number(ticks) / ticksPerMicrosecond!;
    list.microseconds = microseconds / repeat;
    this.#withoutTurn = here ? this.#withoutTurn + microseconds + callMicroseconds : 0;
    if (result !== finished) throw new Error('the device was stopped during a run');
  }

  #walkElsewhere(): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#walk.async(this.#block(0), (error, result) => (error ? reject(error) : resolve(result)));
    });
  }

  /** Ends the threads and frees their memory. Not during a walk. */
  close(): void {
    this.#halt();
    for (const handle of this.#handles) {
      const error = this.#native.pthread_join(handle, null);
      if (error !== 0) throw new Error(`cannot join a thread (errno ${error})`);
    }
    forgetHalt(this.#halt);
    this.#code.free();
    this.#state.free();
    this.#scratch?.free();
  }
}
