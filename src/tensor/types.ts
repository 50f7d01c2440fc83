/** Tensor types and the errors of this folder. */
import type { DType } from '../numerics/dtype.ts';
import { byteLength } from '../numerics/dtype.ts';
import { elementCount } from '../tile/ir.ts';

/** What is known of a tensor before anything runs. Tensors are row-major and contiguous. */
export interface TensorType {
  readonly dtype: DType;
  /** At least one dimension; every size is at least 1. */
  readonly shape: readonly number[];
}

/** A graph that cannot be: wrong shapes, wrong types, use of an overwritten state. The message says what to change. */
export class GraphError extends TypeError {
  override name = 'GraphError';
}

/** Bytes that a tensor of this type occupies. */
export function typeBytes(type: TensorType): number {
  return byteLength(type.dtype, elementCount(type.shape));
}

/** A negative axis counts from the end. Throws when the axis does not exist. */
export function resolveAxis(axis: number, shape: readonly number[]): number {
  const resolved = axis < 0 ? axis + shape.length : axis;
  if (!Number.isInteger(axis) || resolved < 0 || resolved >= shape.length)
    throw new GraphError(`axis ${axis} does not exist in shape [${shape.join(', ')}]`);
  return resolved;
}
