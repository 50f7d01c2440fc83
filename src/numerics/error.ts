/** Measures of how far computed numbers are from expected ones. */

const scratch = new Float32Array(1);
const scratchBits = new Int32Array(scratch.buffer);

/** Position of a float32 in the ordered list of all float32 values; -0 and 0 share one. */
function order(value: number): number {
  scratch[0] = value;
  return scratchBits[0] < 0 ? -(scratchBits[0] & 0x7fffffff) : scratchBits[0];
}

/** How many float32 steps lie between two numbers, both first rounded to float32. NaN with NaN: 0; NaN with a number: Infinity. */
export function ulpDistance(a: number, b: number): number {
  if (Number.isNaN(a) || Number.isNaN(b))
    return Number.isNaN(a) && Number.isNaN(b) ? 0 : Number.POSITIVE_INFINITY;
  return Math.abs(order(a) - order(b));
}

export interface Tolerance {
  /** An element passes when |actual - expected| <= atol + rtol * |expected|, … */
  readonly atol?: number;
  readonly rtol?: number;
  /** … or when it is at most this many float32 steps away. */
  readonly ulp?: number;
}

export interface Comparison {
  readonly ok: boolean;
  /** Elements outside the tolerance. */
  readonly failures: number;
  readonly count: number;
  readonly maxAbs: number;
  /** Largest |actual - expected| / |expected| where expected is not 0. */
  readonly maxRel: number;
  readonly maxUlp: number;
  /** Sum of squared errors over the sum of squared expected values; 0 when both are 0. */
  readonly nmse: number;
  /** The element furthest outside (or nearest to) its tolerance; null for no elements. */
  readonly worst: { readonly index: number; readonly actual: number; readonly expected: number } | null;
  /** One line for people. */
  readonly report: string;
}

/**
 * Compares element by element. NaN and infinities must be at the same places, with the same sign; they are
 * left out of the sums. Throws a RangeError when the lengths differ.
 */
export function compare(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: Tolerance,
): Comparison {
  if (actual.length !== expected.length) {
    throw new RangeError(`cannot compare ${actual.length} elements with ${expected.length}`);
  }
  const { atol = 0, rtol = 0, ulp = 0 } = tolerance;
  let failures = 0;
  let maxAbs = 0;
  let maxRel = 0;
  let maxUlp = 0;
  let errorSquares = 0;
  let expectedSquares = 0;
  let worst: Comparison['worst'] = null;
  let worstExcess = Number.NEGATIVE_INFINITY;
  for (let index = 0; index < actual.length; index++) {
    const a = actual[index];
    const e = expected[index];
    let excess: number;
    if (Number.isFinite(a) && Number.isFinite(e)) {
      const distance = Math.abs(a - e);
      const steps = ulpDistance(a, e);
      maxAbs = Math.max(maxAbs, distance);
      if (e !== 0) maxRel = Math.max(maxRel, distance / Math.abs(e));
      maxUlp = Math.max(maxUlp, steps);
      errorSquares += distance * distance;
      expectedSquares += e * e;
      const allowed = atol + rtol * Math.abs(e);
      if (distance > allowed && steps > ulp) failures++;
      excess = steps <= ulp ? 0 : distance / Math.max(allowed, Number.MIN_VALUE);
    } else {
      const same = Object.is(a, e);
      if (!same) failures++;
      excess = same ? 0 : Number.POSITIVE_INFINITY;
    }
    if (excess > worstExcess) {
      worstExcess = excess;
      worst = { index, actual: a, expected: e };
    }
  }
  const nmse = errorSquares === 0 ? 0 : errorSquares / expectedSquares;
  const place =
    worst === null ? '' : `; worst at ${worst.index}: ${worst.actual}, expected ${worst.expected}`;
  const report =
    `${failures} of ${actual.length} elements outside atol ${atol}, rtol ${rtol}, ulp ${ulp}` +
    ` (max abs ${maxAbs.toExponential(2)}, max rel ${maxRel.toExponential(2)}, max ulp ${maxUlp}, nmse ${nmse.toExponential(2)})${place}`;
  return { ok: failures === 0, failures, count: actual.length, maxAbs, maxRel, maxUlp, nmse, worst, report };
}
