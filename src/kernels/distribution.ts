/**
 * The distribution over the vocabulary that one row of logits stands for, computed in one way for the sampler and
 * for the learner: on one accelerator both get the same bits.
 */
import type { KernelBuilder, Tile, ViewHandle } from '../tile/builder.ts';
import { loadF32 } from './common.ts';

/** Columns a step. Fixed: it takes part in the order of the sums. */
const BLOCK = 1024;
/** Halvings of the threshold interval [-104, 0): its last width, 2.4e-8, is below the spacing of most logits. */
const HALVINGS = 32;
/** exp of anything below is 0 in f32. */
const FLOOR = -104;

export interface Distribution {
  readonly k: KernelBuilder;
  /** Scaled logits minus their maximum, [1, width], at a column; -Infinity beyond the vocabulary. */
  readonly shifted: (column: Tile) => Tile;
  /** The same of one token, [1, 1]. */
  readonly shiftedAt: (token: Tile) => Tile;
  readonly highest: Tile;
  /** f32 [1, 1]; 1 where the row's temperature is 0. */
  readonly temperature: Tile;
  readonly width: number;
  readonly vocabulary: number;
}

/** The untruncated distribution softmax(logits[row] / temperature); `temperature`: f32 [1, 1], 0 reads as 1. */
export function distribution(
  k: KernelBuilder,
  logits: ViewHandle,
  row: Tile,
  rowTemperature: Tile,
): Distribution {
  const vocabulary = logits.shape[1];
  const width = Math.min(BLOCK, vocabulary);
  const temperature = rowTemperature.gt(0).select(rowTemperature, 1);
  const scaled = (column: Tile, columns: number) =>
    loadF32(k, logits, [row, column], [1, columns], { fill: Number.NEGATIVE_INFINITY }).div(temperature);
  const start = k.constant(Number.NEGATIVE_INFINITY, 'f32', [1, 1]);
  const [highest] = k.loop(
    { hi: vocabulary, step: width },
    [start] as const,
    (column, [max]) => [max.max(scaled(column, width).maximum())] as const,
  );
  return {
    k,
    highest,
    temperature,
    width,
    vocabulary,
    shifted: (column) => scaled(column, width).sub(highest),
    shiftedAt: (token) => scaled(token, 1).sub(highest),
  };
}

/** Sum over the vocabulary of `term(shifted, column)`, [1, 1], in a fixed order. */
export function sumOver(d: Distribution, term: (shifted: Tile, column: Tile) => Tile): Tile {
  const [total] = d.k.loop(
    { hi: d.vocabulary, step: d.width },
    [d.k.zeros([1, 1])] as const,
    (column, [sum]) => [sum.add(term(d.shifted(column), column).sum())] as const,
  );
  return total;
}

/** Halves [-104, 0) towards the largest threshold for which `enough(threshold)` holds, if `active`; else -Infinity. */
function search(d: Distribution, active: Tile, enough: (threshold: Tile) => Tile): Tile {
  const { k } = d;
  const init = [k.constant(FLOOR, 'f32', [1, 1]), k.zeros([1, 1])] as const;
  const [low] = k.loop(
    { hi: active.reshape([]).select(HALVINGS, k.constant(0, 'i32')) },
    init,
    (_, [lo, hi]) => {
      const middle = lo.add(hi).mul(0.5);
      const reached = enough(middle);
      return [reached.select(middle, lo), reached.select(hi, middle)] as const;
    },
  );
  return active.select(low, Number.NEGATIVE_INFINITY);
}

export interface Truncation {
  /** i32 [1, 1]; 0: off. */
  readonly topK: Tile;
  /** f32 [1, 1]; 1 or more: off. */
  readonly topP: Tile;
}

/**
 * The shifted logit from which tokens are kept, [1, 1]: first the topK likeliest, then of those the fewest
 * likeliest whose mass reaches topP. Ties at the threshold, to about 2.4e-8, are kept.
 */
export function threshold(d: Distribution, { topK, topP }: Truncation): Tile {
  const count = topK.cast('f32');
  const byCount = search(d, topK.gt(0), (t) => sumOver(d, (x) => x.ge(t).cast('f32')).ge(count));
  const active = topP.lt(1);
  const mass = (t: Tile) => sumOver(d, (x) => x.ge(t).select(x.exp(), 0));
  const [wanted] = d.k.loop(
    { hi: active.reshape([]).select(1, d.k.constant(0, 'i32')) },
    [d.k.zeros([1, 1])] as const,
    () => [mass(byCount).mul(topP)] as const,
  );
  const byMass = search(d, active, (t) => mass(t.max(byCount)).ge(wanted));
  return byCount.max(byMass);
}

/** Which columns are kept: those at the threshold or above, and `token` (i32 [1, 1]) always. */
export function kept(d: Distribution, from: Tile, token: Tile, shifted: Tile, column: Tile): Tile {
  return shifted.ge(from).or(d.k.iota([1, d.width]).add(column).eq(token));
}

/** Log of the mass of the kept columns, relative to the highest logit, [1, 1]. */
export function logMass(d: Distribution, from: Tile, token: Tile): Tile {
  return sumOver(d, (x, column) => kept(d, from, token, x, column).select(x.exp(), 0)).log();
}
