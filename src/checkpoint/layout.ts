/** How a checkpoint holds the weights of `weightSpecs`: matrices as [out, in], thus transposed. */
import type { WeightSpec } from '../models/qwen3.ts';
import { CheckpointError } from './error.ts';
import type { StoredTensor, TensorInfo } from './safetensors.ts';
import { toFloat32 } from './safetensors.ts';

/** [rows, columns] to [columns, rows]. */
export function transposed(values: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++)
      out[column * rows + row] = values[row * columns + column];
  }
  return out;
}

/** The shape that a checkpoint holds. */
export function storedShape({ kind, shape }: WeightSpec): readonly number[] {
  return kind === 'matrix' ? [shape[1], shape[0]] : shape;
}

/** Throws CheckpointError where a weight is missing in `source`, or its shape is not what config.json calls for. */
export function checkWeight(
  spec: WeightSpec,
  info: Pick<TensorInfo, 'shape'> | undefined,
  source: string,
): asserts info is TensorInfo {
  if (info === undefined) {
    throw new CheckpointError(`${source}: the weight '${spec.name}' that config.json calls for is missing`);
  }
  const expected = storedShape(spec);
  if (info.shape.length !== expected.length || info.shape.some((size, axis) => size !== expected[axis])) {
    throw new CheckpointError(
      `${source}: the weight '${spec.name}' has shape [${info.shape}], but config.json calls for [${expected}]`,
    );
  }
}

/** A stored weight as f32 in the layout of `weightSpecs`. */
export function weightValues(spec: WeightSpec, tensor: StoredTensor): Float32Array {
  const values = toFloat32(tensor);
  return spec.kind === 'matrix' ? transposed(values, tensor.shape[0], tensor.shape[1]) : values;
}
