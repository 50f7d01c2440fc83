/** Products with a model's matrices and look-ups in them, in whatever form they are held. */
import { panelsOf } from '../kernels/panels.ts';
import type { QuantizedType } from '../kernels/quantized.ts';
import { QUANTIZED_TYPES, quantizedEmbedding, quantizedShape } from '../kernels/quantized.ts';
import type { DType } from '../numerics/dtype.ts';
import type { Graph } from '../tensor/graph.ts';
import type { Tensor } from '../tensor/tensor.ts';

/** Weights as tensors of a graph. */
export interface WeightTensors {
  /** By checkpoint name; those of quantized matrices are integers, with scales beside them. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** Type to which what is multiplied with plain matrices is rounded; the matrices may be held in a narrower one. */
  readonly activations: DType;
  /** Type of queries, keys and values. */
  readonly attention: 'f32' | 'bf16';
}

/** The name of a quantized weight's scales. */
export const scalesOf = (name: string) => `${name}.scales`;

/** The type of a quantized matrix of so many rows, by how many words it has a column. */
function typeOf(words: Tensor, rows: number): QuantizedType {
  const found = (Object.keys(QUANTIZED_TYPES) as QuantizedType[]).find(
    (type) => words.shape[1] * 4 * QUANTIZED_TYPES[type].quads === rows,
  );
  if (found === undefined) throw new Error(`${words.shape[1]} words a column are no matrix of ${rows} rows`);
  return found;
}

/** input · the matrix `name`, which has `columns` columns. */
export function multiply(
  g: Graph,
  input: Tensor,
  { tensors, activations }: WeightTensors,
  name: string,
  columns: number,
): Tensor {
  const weight = tensors.get(name)!;
  const scales = tensors.get(scalesOf(name));
  if (scales !== undefined) {
    const [, k] = input.shape;
    const type = typeOf(weight, k);
    const rows = g.quantizeRows(input, quantizedShape(type, k).group);
    return g.quantizedMatmul(rows, { words: weight, scales }, { type, columns });
  }
  const x = g.cast(input, activations);
  return weight.shape.length > 2 ? g.matmul(x, weight, { columns }) : g.matmul(x, weight);
}

/** Rows `ids` of the table `name`, [vocabulary, columns]. */
export function lookUp(
  g: Graph,
  { tensors }: WeightTensors,
  name: string,
  ids: Tensor,
  columns: number,
  vocabulary: number,
): Tensor {
  const table = tensors.get(name)!;
  const scales = tensors.get(scalesOf(name));
  if (scales === undefined) return g.embedding(table, ids);
  const type = typeOf(table, columns);
  const [tokens] = ids.shape;
  const { group, groups } = quantizedShape(type, columns);
  const { quads } = QUANTIZED_TYPES[type];
  const { width, count } = panelsOf(vocabulary);
  const kernel = quantizedEmbedding({ type, tokens, vocabulary, columns });
  const words = g.reshape(table, [count, width, groups, group / 4 / quads]);
  const [x] = g.custom(kernel, [ids, words, g.reshape(scales, [count, width, groups])]);
  return g.reshape(x, [tokens, columns]);
}
