/**
 * The Qwen3 family (Qwen3 Technical Report, arXiv 2505.09388, section 2): a pre-norm transformer with RMSNorm,
 * grouped-query attention with RMS-normalised queries and keys (QK-norm), rotary positions and SwiGLU.
 *
 * Matrices are held as [in, out], so that a forward pass multiplies without transposing; checkpoints hold
 * [out, in] and are transposed when they are read and written.
 */
import { panelShape, panelsOf } from '../kernels/panels.ts';
import type { QuantizedType } from '../kernels/quantized.ts';
import { isQuantized, quantizedShape } from '../kernels/quantized.ts';
import type { DType } from '../numerics/dtype.ts';
import type { Graph } from '../tensor/graph.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { TensorType } from '../tensor/types.ts';
import type { Qwen3Config } from './config.ts';
import { ropeTheta } from './config.ts';
import type { WeightTensors } from './linear.ts';
import { lookUp, multiply, scalesOf } from './linear.ts';

/** One weight: its name in a checkpoint, and its shape as this program holds it. */
export interface WeightSpec {
  readonly name: string;
  /** [in, out] for matrices, [vocabulary, hidden] for the embedding, [size] for norms. */
  readonly shape: readonly number[];
  readonly kind: 'embedding' | 'matrix' | 'norm';
  /** Standard deviation of a new weight; norms begin as ones. */
  readonly std: number;
}

const EMBEDDING = 'model.embed_tokens.weight';
const layerName = (layer: number, part: string) => `model.layers.${layer}.${part}.weight`;

/** Every weight of a model, in the order in which checkpoints and checksums go through them. */
export function weightSpecs(config: Qwen3Config): WeightSpec[] {
  const {
    hidden_size: hidden,
    intermediate_size: inner,
    head_dim: headDim,
    num_hidden_layers: layers,
  } = config;
  const queries = config.num_attention_heads * headDim;
  const keys = config.num_key_value_heads * headDim;
  const matrix = (name: string, rows: number, columns: number, depth = 1): WeightSpec => ({
    name,
    shape: [rows, columns],
    kind: 'matrix',
    std: Math.sqrt(1 / (rows * depth)),
  });
  const norm = (name: string, size: number): WeightSpec => ({ name, shape: [size], kind: 'norm', std: 0 });
  // Projections back into the residual stream are smaller, so that its size does not grow with the depth (GPT-2).
  const depth = 2 * layers;
  const specs: WeightSpec[] = [
    {
      name: EMBEDDING,
      shape: [config.vocab_size, hidden],
      kind: 'embedding',
      std: Math.sqrt(1 / hidden),
    },
  ];
  for (let layer = 0; layer < layers; layer++) {
    specs.push(
      norm(layerName(layer, 'input_layernorm'), hidden),
      matrix(layerName(layer, 'self_attn.q_proj'), hidden, queries),
      matrix(layerName(layer, 'self_attn.k_proj'), hidden, keys),
      matrix(layerName(layer, 'self_attn.v_proj'), hidden, keys),
      norm(layerName(layer, 'self_attn.q_norm'), headDim),
      norm(layerName(layer, 'self_attn.k_norm'), headDim),
      matrix(layerName(layer, 'self_attn.o_proj'), queries, hidden, depth),
      norm(layerName(layer, 'post_attention_layernorm'), hidden),
      matrix(layerName(layer, 'mlp.gate_proj'), hidden, inner),
      matrix(layerName(layer, 'mlp.up_proj'), hidden, inner),
      matrix(layerName(layer, 'mlp.down_proj'), inner, hidden, depth),
    );
  }
  specs.push(norm('model.norm.weight', hidden));
  if (!config.tie_word_embeddings) specs.push(matrix('lm_head.weight', hidden, config.vocab_size));
  return specs;
}

/** Number of trained values. */
export function parameterCount(config: Qwen3Config): number {
  return weightSpecs(config).reduce(
    (sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1),
    0,
  );
}

/**
 * How matrices are held. 'rows': [in, out], as training needs them. 'panels': see `kernels/panels.ts`, as inference
 * reads them fastest; of a tied embedding it is the transpose that is in panels, which serves look-ups and the head.
 */
export type WeightLayout = 'rows' | 'panels';

/** The memory that a weight is held in: one tensor, or, quantized, its integers and their scales. */
export interface HeldTensor extends TensorType {
  readonly name: string;
}

/**
 * How a weight is held. `stored` is the type of matrices and embeddings; norms are f32, and what is only looked up is
 * not quantized but bf16. Throws RangeError where a matrix has a size that cannot be quantized, or the layout is 'rows'.
 */
export function heldTensors(
  config: Qwen3Config,
  spec: WeightSpec,
  stored: DType | QuantizedType,
  layout: WeightLayout,
): readonly HeldTensor[] {
  const { name, kind, shape } = spec;
  if (kind === 'norm') return [{ name, dtype: 'f32', shape }];
  const matrix = matrixShape(config, spec);
  if (isQuantized(stored)) {
    if (layout === 'rows') throw new RangeError(`${stored} weights are held in panels, not in rows`);
    if (matrix === null) return [{ name, dtype: 'bf16', shape }];
    const { width, count } = panelsOf(matrix[1]);
    try {
      const { words, groups } = quantizedShape(stored, matrix[0]);
      return [
        { name, dtype: 'i32', shape: [count, words, width] },
        { name: scalesOf(name), dtype: 'bf16', shape: [count, groups, width] },
      ];
    } catch (cause) {
      throw new RangeError(`the weight '${name}': ${(cause as Error).message}`, { cause });
    }
  }
  if (layout === 'rows' || matrix === null) return [{ name, dtype: stored, shape }];
  return [{ name, dtype: stored, shape: panelShape(stored, ...matrix) }];
}

/** [in, out] of the matrix that a weight is multiplied as; null where it is none. */
export function matrixShape(
  config: Qwen3Config,
  { kind, shape }: WeightSpec,
): readonly [number, number] | null {
  if (kind === 'matrix') return [shape[0], shape[1]];
  return kind === 'embedding' && config.tie_word_embeddings ? [shape[1], shape[0]] : null;
}

export interface ForwardInputs {
  /** i32 [tokens]. */
  readonly ids: Tensor;
  /** i32 [tokens]: the place of each token in its sequence. */
  readonly positions: Tensor;
  /** Positions from here on do not occur; the model's maximum when left out. */
  readonly maxPositions?: number;
  /**
   * Attention of a layer over whatever keys and values the caller keeps.
   * q is [tokens, heads * headDim]; k and v are [tokens, kvHeads * headDim]; the result has q's shape.
   */
  attend(layer: number, q: Tensor, k: Tensor, v: Tensor): Tensor;
  /** Called with what enters each layer, [tokens, hidden]. */
  atLayer?(x: Tensor): void;
}

/**
 * The parameters of a graph, held in `stored`. `compute`: the type that is multiplied in, if it is another one. A
 * narrower one: matrices are rounded to it where they are used (training keeps f32 weights and multiplies in bf16). f32
 * with matrices held in bf16: they are widened, which is exact. Norms stay in f32.
 */
export function declareWeights(
  g: Graph,
  config: Qwen3Config,
  stored: DType | QuantizedType,
  { compute, layout = 'rows' }: { readonly compute?: DType; readonly layout?: WeightLayout } = {},
): WeightTensors {
  const plain = isQuantized(stored) ? 'f32' : stored;
  const activations = compute ?? plain;
  const rounds = plain === 'f32' && activations !== 'f32';
  const attention = attentionType(isQuantized(stored) ? stored : activations);
  const tensors = new Map(
    weightSpecs(config).flatMap((spec) =>
      heldTensors(config, spec, stored, layout).map(({ name, dtype, shape }): [string, Tensor] => {
        const held = g.parameter(name, dtype, shape);
        return [name, rounds && spec.kind !== 'norm' ? g.cast(held, activations) : held];
      }),
    ),
  );
  return { tensors, activations, attention };
}

/** Type of queries, keys and values, which caches hold too, where matrices are multiplied in `compute`. */
export const attentionType = (compute: DType | QuantizedType): 'f32' | 'bf16' =>
  compute === 'f32' ? 'f32' : 'bf16';

/** The last hidden states after the final norm, [tokens, hidden]. */
export function hiddenStates(
  g: Graph,
  config: Qwen3Config,
  weights: WeightTensors,
  inputs: ForwardInputs,
): Tensor {
  const weight = (name: string) => weights.tensors.get(name)!;
  const columnsOf = new Map(weightSpecs(config).map(({ name, shape }) => [name, shape[1]]));
  const { head_dim: headDim, rms_norm_eps: eps } = config;
  const rotary = {
    headDim,
    theta: ropeTheta(config),
    maxPositions: inputs.maxPositions ?? config.max_position_embeddings,
    type: weights.attention,
  };
  // The residual stream is f32, whatever the type of the weights.
  let x = g.cast(lookUp(g, weights, EMBEDDING, inputs.ids, config.hidden_size, config.vocab_size), 'f32');
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    inputs.atLayer?.(x);
    const part = (name: string) => weight(layerName(layer, name));
    const linear = (input: Tensor, name: string) => {
      const full = layerName(layer, name);
      return multiply(g, input, weights, full, columnsOf.get(full)!);
    };
    /** What does not go to the residual stream is rounded. */
    const inner = (input: Tensor, name: string) => g.cast(linear(input, name), weights.activations);
    const normed = (input: Tensor, name: string) => g.rmsNorm(input, part(name), eps);

    const gated = (input: Tensor) => {
      const [gate, up] = ['mlp.gate_proj', 'mlp.up_proj'].map((name) => inner(input, name));
      return g.swiglu(g.cast(gate, 'f32'), g.cast(up, 'f32'));
    };

    const h = normed(x, 'input_layernorm');
    const q = g.rope(normed(inner(h, 'self_attn.q_proj'), 'self_attn.q_norm'), inputs.positions, rotary);
    const k = g.rope(normed(inner(h, 'self_attn.k_proj'), 'self_attn.k_norm'), inputs.positions, rotary);
    const v = g.cast(linear(h, 'self_attn.v_proj'), weights.attention);
    x = g.add(x, linear(inputs.attend(layer, q, k, v), 'self_attn.o_proj'));

    const m = normed(x, 'post_attention_layernorm');
    x = g.add(x, linear(gated(m), 'mlp.down_proj'));
  }
  return g.rmsNorm(x, weight('model.norm.weight'), eps);
}

/** Logits of hidden states, f32 [rows, vocabulary]. */
export function logits(g: Graph, config: Qwen3Config, weights: WeightTensors, hidden: Tensor): Tensor {
  const { vocab_size: vocabulary } = config;
  if (!config.tie_word_embeddings) return multiply(g, hidden, weights, 'lm_head.weight', vocabulary);
  const table = weights.tensors.get(EMBEDDING)!;
  if (table.shape.length > 2) return multiply(g, hidden, weights, EMBEDDING, vocabulary);
  return g.matmul(g.cast(hidden, weights.activations), table, { transB: true });
}
