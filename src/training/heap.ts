/**
 * How V8's heap grows in a process that trains. Left alone, V8 lets it grow by some 40 MB for the garbage of compiling a
 * few programs, and keeps that while the programs run. Needs Node.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

let collect: (() => void) | null = null;

/**
 * For a process whose purpose is a training run: keeps the heap near what is alive, for a little more time of compiling.
 * Early, since what V8 has taken it rarely gives back.
 */
export function keepHeapSmall(): void {
  if (collect !== null) return;
  // The young generation stays as large as it is: compiling fills any size of it.
  setFlagsFromString('--semi-space-growth-factor=1');
  // V8's own collector, which there is no other way to call.
  setFlagsFromString('--expose-gc');
  collect = runInNewContext('gc') as () => void;
}

/** After something that left much garbage. Where nobody asked for a small heap, V8 decides when. */
export function collectGarbage(): void {
  if (collect === null) return;
  // Pages are given back only when they are empty. Not for good, since moving what is alive takes memory for a while.
  setFlagsFromString('--compact-on-every-full-gc');
  collect();
  setFlagsFromString('--no-compact-on-every-full-gc');
}
