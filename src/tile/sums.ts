/** How sums are taken, so that their bits are the same everywhere: the steps and the order of `dot` and `reduce`. */
import type { DType } from '../numerics/dtype.ts';
import { isFloat } from '../numerics/dtype.ts';
import { fmaf } from '../numerics/fma.ts';
import { wrap } from './convert.ts';

/** x * y + sum of a dot, by the operands' type; quads are four signed and four unsigned bytes. */
const MULTIPLY_ADD = {
  float: fmaf,
  bytes: (x: number, y: number, sum: number) => (Math.imul(x, y) + sum) | 0,
  quads: (x: number, y: number, sum: number) => {
    let total = sum;
    for (let shift = 24; shift >= 0; shift -= 8) total += Math.imul((x << shift) >> 24, (y << shift) >>> 24);
    return total | 0;
  },
};

export function multiplyAdd(a: DType): (x: number, y: number, sum: number) => number {
  if (isFloat(a)) return MULTIPLY_ADD.float;
  return a === 'i32' ? MULTIPLY_ADD.quads : MULTIPLY_ADD.bytes;
}

/** The order in which a dot adds. */
export function orderAlongK(operand: DType, k: number): readonly number[] {
  return Array.from({ length: k }, (_, p) => (operand === 'bf16' && (p | 1) < k ? p ^ 1 : p));
}

/** x + y of an element type. */
export const adder = (dtype: DType): ((x: number, y: number) => number) =>
  isFloat(dtype) ? (x, y) => Math.fround(x + y) : (x, y) => wrap(x + y, dtype);

/** Sum in the order the language fixes for the last axis: 16 partial sums, added pairwise. */
export function sumLast(
  data: ArrayLike<number>,
  begin: number,
  size: number,
  plus: (x: number, y: number) => number,
): number {
  const partial = new Array<number>(16).fill(0);
  for (let i = 0; i < size; i++) partial[i % 16] = plus(partial[i % 16], data[begin + i]);
  for (let half = 8; half >= 1; half /= 2) {
    for (let j = 0; j < half; j++) partial[j] = plus(partial[j], partial[j + half]);
  }
  return partial[0];
}
