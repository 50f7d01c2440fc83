/** Caches of keys and values in tests of graphs. */

import type { CacheShape } from '../../src/kernels/kvcache.ts';
import { cacheShape } from '../../src/kernels/kvcache.ts';
import type { DType } from '../../src/numerics/dtype.ts';
import type { Graph } from '../../src/tensor/index.ts';

export const cacheStates = (g: Graph, dtype: DType, size: CacheShape) => ({
  keys: g.state('keys', dtype, cacheShape(size)),
  values: g.state('values', dtype, cacheShape(size)),
});
