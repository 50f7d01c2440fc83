/** Token arrays of a step: examples with completion-only loss, and sampled completions. Pure and seeded: no state. */
import type { Tokenizer } from '../checkpoint/tokenizer.ts';
import type { Batch, BatchShape } from './learner.ts';
import { coldStartExample, encodeExample } from './tasks/problems.ts';
import type { Task, Teacher } from './tasks/task.ts';

/** A prompt with what follows it, as token ids. */
export interface Sequence {
  readonly prompt: readonly number[];
  readonly completion: readonly number[];
}

/** Marks a place without a target. */
export const NO_TARGET = -1;

/**
 * The length to which rows with `longest` tokens are padded. Few lengths, because a program is compiled for each: four
 * from a power of two to the next, and none that is no multiple of 4.
 */
export function paddedLength(longest: number): number {
  const step = Math.max(4, 2 ** Math.ceil(Math.log2(longest)) / 8);
  return Math.ceil(longest / step) * step;
}

/** Lays sequences out in rows of `length`, padded with token 0; targets only on completion tokens. */
export function layOut(
  sequences: readonly Sequence[],
  { length }: BatchShape,
): { ids: Int32Array; targets: Int32Array } {
  const ids = new Int32Array(sequences.length * length);
  const targets = new Int32Array(sequences.length * length).fill(NO_TARGET);
  sequences.forEach(({ prompt, completion }, row) => {
    if (prompt.length + completion.length > length) {
      throw new RangeError(
        `a sequence of ${prompt.length} + ${completion.length} tokens does not fit into ${length}`,
      );
    }
    const first = row * length;
    ids.set(prompt, first);
    ids.set(completion, first + prompt.length);
    // The token at p predicts the one at p + 1.
    targets.set(completion, first + prompt.length - 1);
  });
  return { ids, targets };
}

/** Spreads one value a sequence over the places of its completion's targets. */
export function onTargets(
  sequences: readonly Sequence[],
  { length }: BatchShape,
  value: (row: number, index: number) => number,
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(sequences.length * length);
  sequences.forEach(({ prompt, completion }, row) => {
    const first = row * length + prompt.length - 1;
    for (let i = 0; i < completion.length; i++) out[first + i] = value(row, i);
  });
  return out;
}

/** Picks what stands on the targets of row after row. */
export function fromTargets(
  sequences: readonly Sequence[],
  { length }: BatchShape,
  values: ArrayLike<number>,
): number[] {
  return sequences.flatMap(({ prompt, completion }, row) => {
    const first = row * length + prompt.length - 1;
    return Array.from({ length: completion.length }, (_, i) => values[first + i]);
  });
}

/** The teacher's examples number `first` to `first + count`. */
export function teacherSequences(
  task: Task,
  tokenizer: Tokenizer,
  seed: number,
  first: number,
  count: number,
  teacher: Teacher,
): Sequence[] {
  return Array.from({ length: count }, (_, i) =>
    encodeExample(task, tokenizer, coldStartExample(task, seed, first + i, teacher)),
  );
}

/** A batch for likelihood: every completion token of the step counts the same. */
export function likelihoodBatch(
  sequences: readonly Sequence[],
  shape: BatchShape,
  stepTokens: number,
): Batch {
  return { ...layOut(sequences, shape), weight: onTargets(sequences, shape, () => 1 / stepTokens) };
}

export function completionTokens(sequences: readonly Sequence[]): number {
  return sequences.reduce((sum, { completion }) => sum + completion.length, 0);
}
