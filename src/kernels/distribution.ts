/**
 * The distribution over the vocabulary that one row of logits stands for, computed in one way for the sampler and
 * for the learner: on one accelerator both get the same bits.
 */
import type { KernelBuilder, ViewHandle } from '../tile/builder.ts';
import type { Tile } from '../tile/tile.ts';
import { loadF32 } from './common.ts';

/** Columns a step. Fixed: it takes part in the order of the sums. */
const BLOCK = 1024;
/** A round of a search for a threshold divides its interval into so many parts. */
const PARTS = 8;
/** Rounds from [-104, 0): the last width, 1.2e-8, is below the spacing of most logits. */
const ROUNDS = 11;
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

/** Sums over the vocabulary of `count` terms of (shifted, column), each [1, 1], in a fixed order. */
export function sumsOver(
  d: Distribution,
  count: number,
  terms: (shifted: Tile, column: Tile) => readonly Tile[],
): readonly Tile[] {
  return d.k.loop(
    { hi: d.vocabulary, step: d.width },
    Array.from({ length: count }, () => d.k.zeros([1, 1])),
    (column, sums) => {
      // All terms before all sums: so they are made in one pass.
      const values = terms(d.shifted(column), column);
      const totals = values.map((value) => value.sum());
      return sums.map((sum, i) => sum.add(totals[i]));
    },
  );
}

/** Divides [-104, 0) towards the largest threshold for which `enough(its sum)` holds, if `active`; else -Infinity. */
function search(
  d: Distribution,
  active: Tile,
  terms: (shifted: Tile, thresholds: readonly Tile[]) => readonly Tile[],
  enough: (sum: Tile) => Tile,
): Tile {
  const { k } = d;
  const init = [k.constant(FLOOR, 'f32', [1, 1]), k.zeros([1, 1])] as const;
  const [low] = k.loop(
    { hi: active.reshape([]).select(ROUNDS, k.constant(0, 'i32')) },
    init,
    (_, [lo, hi]) => {
      const width = hi.sub(lo).mul(1 / PARTS);
      const between = Array.from({ length: PARTS - 1 }, (_part, i) => lo.add(width.mul(i + 1)));
      const reached = sumsOver(d, between.length, (x) => terms(x, between)).map(enough);
      // The sums fall as thresholds rise: those that are enough come first.
      return [
        between.reduce((last, threshold, i) => reached[i].select(threshold, last), lo),
        between.reduceRight((first, threshold, i) => reached[i].select(first, threshold), hi),
      ] as const;
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
  const byCount = search(
    d,
    topK.gt(0),
    (x, thresholds) => thresholds.map((t) => x.ge(t).cast('f32')),
    (sum) => sum.ge(count),
  );
  const active = topP.lt(1);
  const massFrom = (x: Tile, thresholds: readonly Tile[]) => {
    const mass = x.exp();
    return thresholds.map((t) => x.ge(t).select(mass, 0));
  };
  const [wanted] = d.k.loop(
    { hi: active.reshape([]).select(1, d.k.constant(0, 'i32')) },
    [d.k.zeros([1, 1])] as const,
    () => [sumsOver(d, 1, (x) => massFrom(x, [byCount]))[0].mul(topP)] as const,
  );
  const byMass = search(
    d,
    active,
    (x, thresholds) =>
      massFrom(
        x,
        thresholds.map((t) => t.max(byCount)),
      ),
    (sum) => sum.ge(wanted),
  );
  return byCount.max(byMass);
}

/** Which columns are kept: those at the threshold or above, and `token` (i32 [1, 1]) always. */
export function kept(d: Distribution, from: Tile, token: Tile, shifted: Tile, column: Tile): Tile {
  return shifted.ge(from).or(d.k.iota([1, d.width]).add(column).eq(token));
}

/** Log of the mass of the kept columns, relative to the highest logit, [1, 1]. */
export function logMass(d: Distribution, from: Tile, token: Tile): Tile {
  const [mass] = sumsOver(d, 1, (x, column) => [kept(d, from, token, x, column).select(x.exp(), 0)]);
  return mass.log();
}
