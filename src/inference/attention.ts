/** Attention with a KV cache. The cache of a batch is one block of rows a layer: sequence × capacity + position. */
import type { Qwen3Config } from '../models/config.ts';
import type { DType } from '../numerics/dtype.ts';
import type { Graph, Tensor } from '../tensor/graph.ts';
import type { AttentionShape } from '../tensor/primitives.ts';

/** Geometry of a model's attention over `batch` sequences. */
export function attentionShape(config: Qwen3Config, batch: number): AttentionShape {
  return {
    batch,
    heads: config.num_attention_heads,
    kvHeads: config.num_key_value_heads,
    headDim: config.head_dim,
  };
}

export interface CacheGeometry {
  readonly batch: number;
  /** Tokens a sequence can grow to. */
  readonly capacity: number;
}

/** The cache's states of a layer; one name per geometry, so that engines of several sizes can share a store. */
export function cacheStates(
  g: Graph,
  config: Qwen3Config,
  layer: number,
  { batch, capacity }: CacheGeometry,
  dtype: DType,
) {
  const size = [batch * capacity, config.num_key_value_heads * config.head_dim];
  const name = (part: 'k' | 'v') => `cache.${batch}x${capacity}.${layer}.${part}`;
  return { k: g.state(name('k'), dtype, size), v: g.state(name('v'), dtype, size) };
}

/**
 * Attention for new tokens that are put into the cache at `rows` (i32 [tokens]).
 * @param offsets tokens of each sequence before the new ones (i32 [batch]): the queries look at the cache; null when
 *   the new tokens are the beginning of every sequence and need only look at themselves
 */
export function cachedAttention(
  g: Graph,
  config: Qwen3Config,
  geometry: CacheGeometry,
  rows: Tensor,
  offsets: Tensor | null,
) {
  const shape = attentionShape(config, geometry.batch);
  return (layer: number, q: Tensor, k: Tensor, v: Tensor): Tensor => {
    const cache = cacheStates(g, config, layer, geometry, k.dtype);
    const keys = g.scatterRows(cache.k, rows, k);
    const values = g.scatterRows(cache.v, rows, v);
    return offsets === null ? g.attention(q, k, v, shape) : g.attention(q, keys, values, shape, offsets);
  };
}
