/** Attention with a KV cache. A batch has a slot a sequence. */
import { cacheShape } from '../kernels/kvcache.ts';
import type { Qwen3Config } from '../models/config.ts';
import type { Graph, SequencePlace } from '../tensor/graph.ts';
import type { AttentionShape } from '../tensor/primitives.ts';
import type { ParameterStore } from '../tensor/store.ts';
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
  /** Of keys and values. */
  readonly type: 'f32' | 'bf16';
}

/** Name and shape of the cache's states of a layer. */
function cacheStates(config: Qwen3Config, layer: number, { batch, capacity, prefix }: CacheGeometry) {
  const shape = cacheShape({
    slots: batch,
    kvHeads: config.num_key_value_heads,
    maxLength: capacity,
    headDim: config.head_dim,
  });
  const name = (part: 'k' | 'v') => `${prefix}cache.${layer}.${part}`;
  return {
    k: { name: name('k'), shape },
    v: { name: name('v'), shape },
  };
}

/**
 * Allocates a cache before anything is made for it: tables of as many positions would take long, and memory of the host.
 * @throws RangeError where the device has no memory for it
 */
export function allocateCache(store: ParameterStore, config: Qwen3Config, geometry: CacheGeometry): void {
  const { batch, capacity, type } = geometry;
  const made: string[] = [];
  try {
    for (let layer = 0; layer < config.num_hidden_layers; layer++)
      for (const { name, shape } of Object.values(cacheStates(config, layer, geometry))) {
        store.create(name, type, shape);
        made.push(name);
      }
  } catch (cause) {
    for (const name of made) store.delete(name);
    if (!(cause instanceof RangeError)) throw cause;
    throw new RangeError(
      `there is no room to generate ${capacity} tokens, prompt included, for ${batch} sequence${batch === 1 ? '' : 's'} at ` +
        'once; ask for fewer (--max-tokens, in training --max-completion-length): ' +
        cause.message,
      { cause },
    );
  }
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
    const states = cacheStates(config, layer, geometry);
    const state = ({ name, shape }: typeof states.k) => g.state(name, geometry.type, shape);
    const { keys, values } = g.cacheWrite(state(states.k), state(states.v), k, v, slots, positions);
    return g.attention(q, keys, values, shape, place);
  };
}
