/**
 * The graphs of generation: prompts into the cache, the first token of each, one token more. What they hand on to each
 * other lies in states of the store, named after the geometry of a batch.
 */
import type { Qwen3Config } from '../models/config.ts';
import type { WeightTensors } from '../models/linear.ts';
import { hiddenStates, logits } from '../models/qwen3.ts';
import type { SequencePlace } from '../tensor/graph.ts';
import { Graph } from '../tensor/graph.ts';
import type { ParameterStore } from '../tensor/store.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { CacheGeometry } from './attention.ts';
import { cachedAttention } from './attention.ts';
import { sampleTokens } from './sampling.ts';
import type { WeightForm } from './weights.ts';
import { inferenceWeights } from './weights.ts';

/** A model whose weights lie in a store. */
export interface GeneratingModel {
  readonly config: Qwen3Config;
  readonly store: ParameterStore;
  readonly form: WeightForm;
}

/** `width` tokens of every sequence into the cache. Padding has position -1, which nothing is written for. */
export function prefillGraph(model: GeneratingModel, geometry: CacheGeometry, width: number): Graph {
  const { batch } = geometry;
  const g = new Graph();
  const positions = g.input('positions', 'i32', [batch * width]);
  const place = { start: g.input('start', 'i32', [batch]), lengths: g.input('lengths', 'i32', [batch]) };
  const states = hidden(g, model, geometry, g.input('ids', 'i32', [batch * width]), positions, place);
  const last = g.embedding(states, g.input('last', 'i32', [batch]));
  g.scatterRows(lastHidden(g, model, geometry), g.input('ending', 'i32', [batch]), last);
  return g;
}

function lastHidden(g: Graph, { config }: GeneratingModel, { batch, prefix }: CacheGeometry): Tensor {
  return g.state(`${prefix}hidden`, 'f32', [batch, config.hidden_size]);
}

function hidden(
  g: Graph,
  model: GeneratingModel,
  geometry: CacheGeometry,
  ids: Tensor,
  positions: Tensor,
  place: SequencePlace,
): Tensor {
  const { config } = model;
  return hiddenStates(g, config, weightsOf(g, model), {
    ids,
    positions,
    maxPositions: geometry.capacity,
    attend: cachedAttention(g, config, geometry, positions, place),
  });
}

function weightsOf(g: Graph, { config, store, form }: GeneratingModel): WeightTensors {
  return inferenceWeights(g, config, store, form);
}

/** Samples the first token of every sequence. */
export function firstGraph(model: GeneratingModel, geometry: CacheGeometry): Graph {
  const g = new Graph();
  const scores = logits(g, model.config, weightsOf(g, model), lastHidden(g, model, geometry));
  const biased = g.add(scores, g.input('bias', 'f32', [model.config.vocab_size]));
  sampleAndAdvance(g, geometry, biased, g.sub(g.input('lengths', 'i32', [geometry.batch]), 1));
  return g;
}

/** One token more for every sequence. */
export function decodeGraph(model: GeneratingModel, geometry: CacheGeometry): Graph {
  const g = new Graph();
  const { token, position } = frontier(g, geometry);
  const states = hidden(g, model, geometry, token, position, { start: position });
  sampleAndAdvance(g, geometry, logits(g, model.config, weightsOf(g, model), states), position);
  return g;
}

/**
 * Samples from logits [batch, vocabulary] the token that follows the one at `position` (i32 [batch]), writes it
 * into the history, and makes it the next step's input.
 */
function sampleAndAdvance(g: Graph, geometry: CacheGeometry, scores: Tensor, position: Tensor): void {
  const { batch, capacity, prefix } = geometry;
  const row = {
    temperature: g.input('temperature', 'f32', [batch]),
    topK: g.input('topK', 'i32', [batch]),
    topP: g.input('topP', 'f32', [batch]),
  };
  const sampled = sampleTokens(g, scores, row, {
    seed: g.input('seed', 'i32', [2]),
    sequences: g.input('sequences', 'i32', [batch]),
    positions: g.add(position, 1),
  });
  const rows = cacheRows(g, batch, capacity, position);
  const history = (part: 'tokens' | 'logprobs', values: Tensor) => {
    const state = g.state(`${prefix}${part}`, values.dtype, [batch * capacity, 1]);
    g.scatterRows(state, rows, g.reshape(values, [batch, 1]));
  };
  history('tokens', sampled.tokens);
  history('logprobs', sampled.logprobs);
  const next = frontier(g, geometry);
  const following = g.add(position, 1);
  g.assign(next.token, sampled.tokens);
  g.assign(next.position, following);
}

/** The token that every sequence continues from, and its position. */
function frontier(g: Graph, { batch, prefix }: CacheGeometry) {
  return {
    token: g.state(`${prefix}token`, 'i32', [batch]),
    position: g.state(`${prefix}position`, 'i32', [batch]),
  };
}

/** Rows of the cache at `position` of each sequence. */
function cacheRows(g: Graph, batch: number, capacity: number, position: Tensor): Tensor {
  return g.add(g.literal(Int32Array.from({ length: batch }, (_, row) => row * capacity)), position);
}
