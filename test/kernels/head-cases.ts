/** What happens to the heads of queries, keys and values on their way to attention: norms, rotary positions, the cache. */
import type { CacheShape } from '../../src/kernels/kvcache.ts';
import { cacheWrite } from '../../src/kernels/kvcache.ts';
import { normedRope, queryKeyValue } from '../../src/kernels/qknorm.ts';
import { rope, ropeTable } from '../../src/kernels/rope.ts';
import type { Case } from './buffers.ts';
import { decode, encode, normals } from './buffers.ts';
import { keyIndex, rmsNormReference } from './references.ts';
import { exact, type Storage, TOLERANCE } from './storage.ts';

/** Rotary positions of x [tokens, heads * headDim], or backward. */
function rotate(x: readonly number[], positions: readonly number[], headDim: number, sign = 1): number[] {
  const [half, width] = [headDim / 2, x.length / positions.length];
  return x.map((value, i) => {
    const d = i % headDim;
    const angle = sign * positions[Math.floor(i / width)] * 10000 ** ((-2 * (d % half)) / headDim);
    return value * Math.cos(angle) + (d < half ? -x[i + half] : x[i - half]) * Math.sin(angle);
  });
}

/** A cache [slots, kvHeads, maxLength, headDim] after rows [tokens, kvHeads * headDim] were written to it; NaN where none was. */
function inCache(
  rows: readonly number[],
  cache: CacheShape,
  slots: readonly number[],
  positions: readonly number[],
): number[] {
  const { kvHeads, maxLength, headDim } = cache;
  const values = new Array<number>(cache.slots * kvHeads * maxLength * headDim).fill(Number.NaN);
  rows.forEach((value, i) => {
    const [t, head] = [Math.floor(i / (kvHeads * headDim)), Math.floor(i / headDim) % kvHeads];
    const at = keyIndex(cache, 'cache', slots[t], head, positions[t]);
    if (slots[t] >= 0 && positions[t] < maxLength) values[at + (i % headDim)] = value;
  });
  return values;
}

const [tokens, heads, headDim, maxPositions, eps] = [9, 3, 6, 40, 1e-6];
const positions = Array.from({ length: tokens }, (_, t) => (t * 7) % maxPositions);

export function headCases(type: Storage): Case[] {
  const cases: Case[] = [];
  const tolerance = TOLERANCE[type];
  const { cos, sin } = ropeTable(maxPositions, headDim, 10000);
  const q = normals(24, tokens * heads * headDim, type);
  for (const inverse of [false, true]) {
    cases.push({
      name: `rope ${type}${inverse ? ' inverse' : ''}`,
      kernel: rope({ tokens, heads, headDim, maxPositions, xType: type, type, inverse }),
      inputs: { x: q, positions, cos, sin },
      expected: { y: rotate(q, positions, headDim, inverse ? -1 : 1) },
      tolerance,
    });
  }

  if (type !== 'f32')
    for (const [xType, yType] of [
      ['f32', type],
      [type, 'f32'],
    ] as const)
      cases.push({
        name: `rope of ${xType} in ${yType}`,
        kernel: rope({ tokens, heads, headDim, maxPositions, xType, type: yType }),
        inputs: { x: q, positions, cos, sin },
        expected: { y: rotate(q, positions, headDim) },
        tolerance: TOLERANCE[yType],
      });

  // Rounded twice, or once: to the type of the result alone.
  const rounding: readonly (readonly [string, Storage])[] = [
    ['', type],
    ...(type === 'f32' ? [] : [[' of f32', 'f32'] as const]),
  ];
  for (const [title, normType] of rounding) cases.push(...normedCases(type, normType, title));
  return cases;
}

/** Queries and keys normalised, rounded to `normType`, rotated, and rounded to `type`. */
function normedCases(type: Storage, normType: Storage, title: string): Case[] {
  const cases: Case[] = [];
  const tolerance = TOLERANCE[type];
  const { cos, sin } = ropeTable(maxPositions, headDim, 10000);
  const q = normals(24, tokens * heads * headDim, normType);
  /** Normalised a head at a time, rounded, and rotated. */
  const rotated = (x: readonly number[], weight: readonly number[], count: number) => {
    const norms = rmsNormReference(x, weight, tokens * count, headDim, eps).y;
    return rotate(decode(normType, encode(normType, norms)), positions, headDim);
  };
  const queryWeight = normals(29, headDim, 'f32');
  const head = { tokens, heads, headDim, maxPositions, eps, xType: normType, type: normType, yType: type };
  cases.push({
    name: `normedRope ${type}${title}`,
    kernel: normedRope(head),
    inputs: { x: q, weight: queryWeight, positions, cos, sin },
    expected: { y: rotated(q, queryWeight, heads) },
    tolerance,
  });
  const kvHeads = 2;
  const many = normals(33, tokens * 2 * kvHeads * headDim, normType);
  const fresh = [
    normals(34, tokens * kvHeads * headDim, normType),
    normals(30, tokens * kvHeads * headDim, type),
  ];
  const keyWeight = normals(35, headDim, 'f32');
  const cacheSlots = positions.map((_, t) => (t === 4 ? -1 : t % 2));
  const cache = { slots: 2, kvHeads, maxLength: maxPositions, headDim };
  const cached = (rows: readonly number[]) => inCache(rows, cache, cacheSlots, positions);
  cases.push({
    name: `queryKeyValue ${type}${title}`,
    kernel: queryKeyValue({
      ...head,
      heads: 2 * kvHeads,
      ...cache,
      keyEps: eps,
      cacheType: type,
    }),
    inputs: {
      q: many,
      queryWeight,
      k: fresh[0],
      keyWeight,
      positions,
      cos,
      sin,
      v: fresh[1],
      slot: cacheSlots,
    },
    expected: {
      y: rotated(many, queryWeight, 2 * kvHeads),
      keys: cached(rotated(fresh[0], keyWeight, kvHeads)),
      values: cached(fresh[1]),
    },
    tolerance,
  });
  return cases;
}

export function cacheCases(): Case[] {
  const slot = [1, 0, 1, -1];
  const [newKeys, newValues] = [normals(31, 4 * 2 * 3), normals(32, 4 * 2 * 3)];
  return [
    { name: 'cacheWrite', maxLength: 4, position: [2, 0, 4, 1] },
    { name: 'cacheWrite, several blocks', maxLength: 70, position: [69, 63, 64, 1] },
  ].map(({ name, maxLength, position }) => {
    const cache = { slots: 2, kvHeads: 2, maxLength, headDim: 3 };
    return {
      name,
      kernel: cacheWrite({ tokens: 4, ...cache }),
      inputs: { newKeys, newValues, slot, position },
      expected: {
        keys: inCache(newKeys, cache, slot, position),
        values: inCache(newValues, cache, slot, position),
      },
      tolerance: exact,
    };
  });
}
