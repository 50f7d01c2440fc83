/**
 * The primitives of the graph and their attributes. Every table of this folder (types, gradients, kernels, reference
 * values in the tests) has one entry for each of them, so a new primitive does not compile until all are written.
 */
import type { QuantizedType } from '../kernels/quantized.ts';
import type { DType } from '../numerics/dtype.ts';
import type { Kernel, MapFn, ReduceFn } from '../tile/ir.ts';
import type { Graph } from './graph.ts';
import type { Tensor } from './tensor.ts';
import type { TensorType } from './types.ts';

/** Geometry of an attention over sequences; see `Graph.attention`. */
export interface AttentionShape {
  /** Number of sequences that the queries are of. */
  readonly sequences: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Factor of the scores before the softmax; 1 / sqrt(headDim) when left out. */
  readonly scale?: number;
}

/** The gradient of a user's kernel: cotangents of the outputs (null: zero) to cotangents of the inputs. */
export type CustomGradient = (
  graph: Graph,
  context: {
    readonly inputs: readonly Tensor[];
    readonly outputs: readonly Tensor[];
    readonly cotangents: readonly (Tensor | null)[];
  },
) => readonly (Tensor | null)[];

export interface LeafAttributes {
  readonly name: string;
  readonly type: TensorType;
}

export interface Attributes {
  /** Written by the host before a run. */
  readonly input: LeafAttributes;
  /** Persistent and shared between programs through a `ParameterStore`; gradients are taken with respect to these. */
  readonly parameter: LeafAttributes;
  /** Persistent like a parameter; optimizer moments, KV caches, counters. */
  readonly state: LeafAttributes;
  /** Fixed data. */
  readonly literal: { readonly data: Float32Array | Int32Array; readonly type: TensorType };
  /** Every element is `value`. */
  readonly constant: { readonly value: number; readonly type: TensorType };
  /** i32, counting along `axis`. */
  readonly iota: { readonly axis: number; readonly shape: readonly number[] };

  /** Elementwise function of tensors of one shape (the graph's methods insert broadcasts). */
  readonly map: { readonly fn: MapFn };
  /** Element type conversion with the tile language's rounding. */
  readonly cast: { readonly dtype: DType };
  /** Repeats size-1 dimensions; same rank. */
  readonly broadcast: { readonly shape: readonly number[] };
  readonly reshape: { readonly shape: readonly number[] };
  /** Rows `start` to `end` (exclusive) of the first axis; shares the argument's memory. */
  readonly slice: { readonly start: number; readonly end: number };
  /** Rows of zeros before and after: the transpose of `slice`. */
  readonly pad: { readonly before: number; readonly after: number };
  /** Swaps the two dimensions of a matrix. */
  readonly transpose: Record<never, never>;
  /** The argument, through which no gradient flows. */
  readonly stopGradient: Record<never, never>;
  /** Along `axis`, which keeps size 1. */
  readonly reduce: { readonly fn: ReduceFn; readonly axis: number };

  /** op(a) op(b), accumulated in f32; sums over k ascending. */
  readonly matmul: {
    readonly transA: boolean;
    readonly transB: boolean;
    /** b is in panels (`kernels/panels.ts`), [panels, k, width], of a matrix of so many columns; null: it is a matrix. */
    readonly columns: number | null;
  };
  /** x [T, K] in groups of 8-bit integers: quads i32 [T, K / 4], scales f32 and sums i32 [K / group, T]. */
  readonly quantizeRows: { readonly group: number };
  /** (quads, scales, sums of rows, words, scales of a matrix of so many columns in panels) to f32 [T, columns]. */
  readonly quantizedMatmul: { readonly type: QuantizedType; readonly columns: number };
  /** (table [V, D], or the panels of its transpose; ids i32 [T]) to [T, D]; an id outside the table gives zeros. */
  readonly embedding: Record<never, never>;
  /** (cotangent [T, D], ids [T]) to [vocabulary, D], tokens in ascending order. */
  readonly embeddingGrad: { readonly vocabulary: number };
  /** (x [T, g*N], weight [N]): each group of N is divided by its root mean square and multiplied by the weight. */
  readonly rmsNorm: { readonly eps: number; readonly type: 'f32' | 'bf16' };
  /** (x, weight, cotangent) to (dx like x, dweight f32). */
  readonly rmsNormGrad: { readonly eps: number };
  /** (x [T, h*headDim], positions i32 [T], cos, sin [positions, headDim / 2]): rotates the halves of each head. `type`: of the result. */
  readonly rope: { readonly headDim: number; readonly inverse: boolean; readonly type: 'f32' | 'bf16' };
  /** (q, keys, values, slots, start, lengths) to (out like q, log-sum-exp f32 [sequences * kvHeads, queries * group]). */
  readonly attention: Required<AttentionShape>;
  /** (q, keys, values, slots, start, lengths, out, log-sum-exp, cotangent like q) to (dq, dkeys, dvalues). */
  readonly attentionGrad: Required<AttentionShape>;
  /** (logits [T, V], targets i32 [T], temperature f32 [T]) to (log-probability, entropy, log-sum-exp), f32 [T] each. */
  readonly tokenLogProbability: Record<never, never>;
  /** (logits, targets, temperature, log-sum-exp, cotangent of the log-probability) to dlogits like logits. */
  readonly tokenLogProbabilityGrad: Record<never, never>;

  /** (state, value): the state's memory becomes the value. */
  readonly assign: Record<never, never>;
  /** (state [R, C], rows i32 [T], value [T, C]): state[rows[i], :] = value[i, :]; rows outside are skipped. */
  readonly scatterRows: Record<never, never>;
  /**
   * (keys, values [slots, kvHeads, maxLength, headDim], newKeys, newValues [T, kvHeads * headDim], slots, positions i32
   * [T]).
   */
  readonly cacheWrite: Record<never, never>;
  /** A user's kernel: inputs fill its 'read' and 'readwrite' views in order, outputs are its 'write' views. */
  readonly custom: { readonly kernel: Kernel; readonly gradient: CustomGradient | null };
}

export type Primitive = keyof Attributes;

/** One application of a primitive. */
export interface Node<P extends Primitive = Primitive> {
  /** Position in the graph: inputs have smaller ids. */
  readonly id: number;
  readonly primitive: P;
  readonly attributes: Attributes[P];
  readonly inputs: readonly Tensor[];
  readonly outputs: readonly Tensor[];
}

/** Narrows a node to one primitive, with its attributes. */
export function is<P extends Primitive>(node: Node, primitive: P): node is Node<P> {
  return node.primitive === primitive;
}

/** Whether a node stands for memory or data from outside the graph. */
export function isLeaf(node: Node): boolean {
  return is(node, 'input') || is(node, 'parameter') || is(node, 'state') || is(node, 'literal');
}

/** Indices of the inputs whose memory a node overwrites. Output i is the new version of the i-th of them. */
export function written(node: Node): readonly number[] {
  if (is(node, 'assign') || is(node, 'scatterRows')) return [0];
  if (is(node, 'cacheWrite')) return [0, 1];
  if (!is(node, 'custom')) return [];
  return node.attributes.kernel.views
    .filter((view) => view.access !== 'write')
    .flatMap((view, index) => (view.access === 'readwrite' ? [index] : []));
}
