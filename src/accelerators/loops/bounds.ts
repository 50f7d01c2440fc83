/** What is known of integer scalars when a kernel is lowered: blocks that are surely inside a view need no edges. */
import type { MapFn } from '../../tile/ir.ts';

/** The value is at least `[0]` and at most `[1]`. */
export type Bounds = readonly [number, number];

type Rule = (...args: readonly Bounds[]) => Bounds;

/** Of a value of which nothing is known. */
const ANY: Bounds = [-(2 ** 31), 2 ** 31 - 1];

const products: Rule = (a, b) => {
  const all = a.flatMap((x) => b.map((y) => x * y));
  return [Math.min(...all), Math.max(...all)];
};

const RULES: { readonly [F in MapFn]?: Rule } = {
  add: (a, b) => [a[0] + b[0], a[1] + b[1]],
  sub: (a, b) => [a[0] - b[1], a[1] - b[0]],
  mul: products,
  min: (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1])],
  max: (a, b) => [Math.max(a[0], b[0]), Math.max(a[1], b[1])],
  div: (a, [low, high]) =>
    low === high && low > 0
      ? [Math.trunc(a[0] / low), Math.trunc(a[1] / low)]
      : [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY],
  select: (_, a, b) => [Math.min(a[0], b[0]), Math.max(a[1], b[1])],
};

/** Bounds of `fn` of values with the given bounds, or undefined where nothing is known or the result could wrap. */
export function mapBounds(fn: MapFn, args: readonly (Bounds | undefined)[]): Bounds | undefined {
  const rule = RULES[fn];
  if (rule === undefined) return undefined;
  const [low, high] = rule(...args.map((bounds) => bounds ?? ANY));
  return low >= ANY[0] && high <= ANY[1] ? [low, high] : undefined;
}

/** Bounds of the index of a loop that counts from lo to below hi. */
export function indexBounds(
  lo: Bounds | undefined,
  hi: Bounds | undefined,
  step: number,
): Bounds | undefined {
  if (lo === undefined || hi === undefined) return undefined;
  const last = lo[0] === lo[1] ? lo[0] + Math.floor((hi[1] - 1 - lo[0]) / step) * step : hi[1] - 1;
  return [lo[0], Math.max(lo[0], last)];
}
