/**
 * The walk: every thread executes a program's launches in order, takes chunks of each launch's programs from a
 * counter that all threads share, and waits at a barrier before the next launch. No JavaScript runs in between.
 */
import { Code, type FunctionType } from './encoder.ts';

/** Byte offsets in a program's control block. What threads write often lies in cache lines of its own. */
export const CONTROL = {
  /** Addresses of the first launch record and of the end of the last. */
  records: 0,
  recordsEnd: 4,
  /** How often a thread looks at the generation, at most, before it goes to sleep. */
  spins: 8,
  /** First program of the current launch that no thread has taken. */
  next: 64,
  /** Threads that wait at the barrier. */
  arrived: 128,
  /** Barriers passed. */
  generation: 192,
  sleepers: 196,
  /** Not 0: a thread has failed, the others shall return. */
  abort: 200,
  /** Threads that have returned from the walk. */
  finished: 256,
  /** 0 while the walk is under way, then 1, or 2 if a thread failed. */
  status: 260,
  /** Index of each thread's current launch, one cache line a thread. */
  progress: 320,
  progressStride: 64,
} as const;

/**
 * Looking is fast as long as the other threads run. Where they do not, because the system has given their
 * processors to somebody else, it only keeps them from running: so a thread that looked in vain looks half as
 * often next time, down to this, and one that did not twice as often.
 */
const FEWEST_SPINS = 512;

/** Byte offsets in a launch record. */
export const RECORD = {
  /** Index of the kernel in table 0. */
  kernel: 0,
  programs: 4,
  /** Programs taken at a time. */
  chunk: 8,
  /** Address of the views' pointers. */
  arguments: 12,
  size: 16,
} as const;

export function controlBytes(threads: number): number {
  return CONTROL.progress + threads * CONTROL.progressStride;
}

/** (control, thread, threads, repeat, scratch) */
export const WALK_TYPE: FunctionType = { parameters: ['i32', 'i32', 'i32', 'i32', 'i32'], results: [] };

/** The body of the walk; `kernelType` is the index in the module of the kernels' type. */
export function generateWalk(kernelType: number): Uint8Array<ArrayBuffer> {
  const code = new Code(WALK_TYPE.parameters.length);
  const [control, thread, threads, repeat, scratch] = [0, 1, 2, 3, 4] as const;
  const record = code.local('i32');
  const first = code.local('i32');
  const end = code.local('i32');
  const launch = code.local('i32');
  const generation = code.local('i32');
  const spins = code.local('i32');
  const budget = code.local('i32');
  const slept = code.local('i32');

  const choose = (comparison: 'i32.lt_u' | 'i32.gt_u') => (result: number, a: () => void, b: () => void) => {
    for (const argument of [a, b, a, b]) argument();
    code.plain(comparison).plain('select').set(result);
  };
  const smaller = choose('i32.lt_u');
  const larger = choose('i32.gt_u');

  const takeChunks = () => {
    code.block().loop();
    code.get(control).get(record).access('i32.load', RECORD.chunk);
    code.atomic('i32.atomic.rmw.add', CONTROL.next).tee(first);
    code.get(record).access('i32.load', RECORD.programs).plain('i32.ge_u').brIf(1);
    code.get(first).get(record).access('i32.load', RECORD.chunk).plain('i32.add').tee(end);
    code.get(record).access('i32.load', RECORD.programs).plain('i32.gt_u').if();
    code.get(record).access('i32.load', RECORD.programs).set(end);
    code.end();
    code.get(record).access('i32.load', RECORD.arguments).get(scratch).get(first).get(end);
    code.get(record).access('i32.load', RECORD.kernel).callIndirect(kernelType);
    code.br(0).end().end();
  };

  const barrier = () => {
    code.get(control).atomic('i32.atomic.load', CONTROL.generation).set(generation);
    code.get(control).i32(1).atomic('i32.atomic.rmw.add', CONTROL.arrived);
    code.get(threads).i32(1).plain('i32.sub').plain('i32.eq').if();
    // The last to arrive: all others wait, thus nothing changes under its hands until the generation does.
    code.get(control).i32(0).atomic('i32.atomic.store', CONTROL.arrived);
    code.get(control).i32(0).atomic('i32.atomic.store', CONTROL.next);
    code.get(control).i32(1).atomic('i32.atomic.rmw.add', CONTROL.generation).plain('drop');
    code.get(control).atomic('i32.atomic.load', CONTROL.sleepers).if();
    code.get(control).i32(-1).atomic('memory.atomic.notify', CONTROL.generation).plain('drop');
    code.end();
    code.else();
    code.get(budget).set(spins).i32(0).set(slept);
    code.block().loop();
    code.get(control).atomic('i32.atomic.load', CONTROL.generation).get(generation).plain('i32.ne').brIf(1);
    code.get(control).atomic('i32.atomic.load', CONTROL.abort).if().plain('return').end();
    code.get(spins).if();
    code.get(spins).i32(1).plain('i32.sub').set(spins);
    code.else();
    // A sleeper counts itself before it compares the generation, and the last to arrive changes the generation
    // before it looks for sleepers: so one of the two sees the other.
    code.get(control).i32(1).atomic('i32.atomic.rmw.add', CONTROL.sleepers).plain('drop');
    code
      .get(control)
      .get(generation)
      .i64(-1)
      .atomic('memory.atomic.wait32', CONTROL.generation)
      .plain('drop');
    code.get(control).i32(1).atomic('i32.atomic.rmw.sub', CONTROL.sleepers).plain('drop');
    code.i32(1).set(slept);
    code.end();
    code.br(0).end().end();
    code.get(slept).if();
    larger(
      budget,
      () => code.get(budget).i32(1).plain('i32.shr_u'),
      () => code.i32(FEWEST_SPINS),
    );
    code.else();
    code.get(budget).i32(1).plain('i32.shl').set(budget);
    code.end();
    smaller(
      budget,
      () => code.get(budget),
      () => code.get(control).access('i32.load', CONTROL.spins),
    );
    code.end();
  };

  code.get(control).access('i32.load', CONTROL.spins).set(budget);
  code.block().loop();
  code.get(repeat).plain('i32.eqz').brIf(1);
  code.get(repeat).i32(1).plain('i32.sub').set(repeat);
  code.get(control).access('i32.load', CONTROL.records).set(record);
  code.i32(0).set(launch);
  code.block().loop();
  code.get(record).get(control).access('i32.load', CONTROL.recordsEnd).plain('i32.ge_u').brIf(1);
  code.get(control).get(thread).i32(CONTROL.progressStride).plain('i32.mul').plain('i32.add');
  code.get(launch).access('i32.store', CONTROL.progress);
  takeChunks();
  barrier();
  code.get(record).i32(RECORD.size).plain('i32.add').set(record);
  code.get(launch).i32(1).plain('i32.add').set(launch);
  code.br(0).end().end();
  code.br(0).end().end();
  return code.finish();
}
