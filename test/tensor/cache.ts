/** Caches of keys and values in tests of graphs. */

import type { CacheShape } from '../../src/kernels/kvcache.ts';
import { keysShape, valuesShape } from '../../src/kernels/kvcache.ts';
import type { DType } from '../../src/numerics/dtype.ts';
import type { Graph } from '../../src/tensor/index.ts';

export const cacheStates = (g: Graph, dtype: DType, size: CacheShape) => ({
  keys: g.state('keys', dtype, keysShape(size)),
  values: g.state('values', dtype, valuesShape(size)),
});

/** Where element i of [slots, kvHeads, maxLength, headDim] lies in a cache of keys. */
export function placeOfKey([slots, kvHeads, maxLength, headDim]: readonly number[], i: number): number {
  const [, , blocks, , size] = keysShape({ slots, kvHeads, maxLength, headDim });
  const row = Math.floor(i / headDim);
  const [head, position] = [Math.floor(row / maxLength), row % maxLength];
  const block = head * blocks + Math.floor(position / size);
  return (block * headDim + (i % headDim)) * size + (position % size);
}
