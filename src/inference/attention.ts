/** Attention with a KV cache. A batch has a slot a sequence. */
import { keysShape, valuesShape } from '../kernels/kvcache.ts';
import type { Qwen3Config } from '../models/config.ts';
import type { DType } from '../numerics/dtype.ts';
import type { Graph, SequencePlace } from '../tensor/graph.ts';
import type { AttentionShape } from '../tensor/primitives.ts';
import type { Tensor } from '../tensor/tensor.ts';

/** Geometry of a model's attention over so many sequences. */
export function attentionShape(config: Qwen3Config, sequences: number): AttentionShape {
  return {
    sequences,
    heads: config.num_attention_heads,
    kvHeads: config.num_key_value_heads,
    headDim: config.head_dim,
  };
}

export interface CacheGeometry {
  readonly batch: number;
  /** Tokens a sequence can grow to. */
  readonly capacity: number;
  /** Begins the names of the states. */
  readonly prefix: string;
}

/** The cache's states of a layer. `prefix` begins the names of all that belongs to one geometry of one engine. */
function cacheStates(
  g: Graph,
  config: Qwen3Config,
  layer: number,
  { batch, capacity, prefix }: CacheGeometry,
  dtype: DType,
) {
  const size = {
    slots: batch,
    kvHeads: config.num_key_value_heads,
    maxLength: capacity,
    headDim: config.head_dim,
  };
  const name = (part: 'k' | 'v') => `${prefix}cache.${layer}.${part}`;
  return { k: g.state(name('k'), dtype, keysShape(size)), v: g.state(name('v'), dtype, valuesShape(size)) };
}

/**
 * Attention of new tokens, whose keys and values are put into the cache first, to everything in the cache up to them.
 * @param positions of every new token (i32 [batch * new tokens])
 * @param place position of each sequence's first new token, and how many of its tokens count
 */
export function cachedAttention(
  g: Graph,
  config: Qwen3Config,
  geometry: CacheGeometry,
  positions: Tensor,
  place: SequencePlace,
) {
  const shape = attentionShape(config, geometry.batch);
  const perSequence = positions.shape[0] / geometry.batch;
  const slots = g.literal(
    Int32Array.from({ length: positions.shape[0] }, (_, row) => Math.floor(row / perSequence)),
  );
  return (layer: number, q: Tensor, k: Tensor, v: Tensor): Tensor => {
    const cache = cacheStates(g, config, layer, geometry, k.dtype);
    const { keys, values } = g.cacheWrite(cache.k, cache.v, k, v, slots, positions);
    return g.attention(q, keys, values, shape, place);
  };
}
