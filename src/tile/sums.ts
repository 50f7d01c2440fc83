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

function multiplyAdd(a: DType): (x: number, y: number, sum: number) => number {
  if (isFloat(a)) return MULTIPLY_ADD.float;
  return a === 'i32' ? MULTIPLY_ADD.quads : MULTIPLY_ADD.bytes;
}

/**
 * How a dot of bf16 adds: one after the other, of each pair along k the second first; or, where processors have matrix
 * registers, 32 at a time, of which those at even and those at odd places are added up apart, from 0 on.
 */
export type Bf16Sums = 'pairs' | 'blocks';

/** Numbers along k that matrix registers take at a time. */
export const BLOCK_ALONG_K = 32;

/** The sum of an element of a dot over k products, from `acc` on; `x` and `y` give the operands' elements along k. */
export function dotSum(
  operand: DType,
  k: number,
  bf16Sums: Bf16Sums,
): (x: (p: number) => number, y: (p: number) => number, acc: number) => number {
  const step = multiplyAdd(operand);
  if (operand === 'bf16' && bf16Sums === 'blocks')
    return (x, y, acc) => {
      let sum = acc;
      for (let begin = 0; begin < k; begin += BLOCK_ALONG_K) {
        const parts = [0, 0];
        for (let p = begin; p < Math.min(k, begin + BLOCK_ALONG_K); p++)
          parts[p % 2] = step(x(p), y(p), parts[p % 2]);
        sum = Math.fround(sum + Math.fround(parts[0] + parts[1]));
      }
      return sum;
    };
  const order = Array.from({ length: k }, (_, p) => (operand === 'bf16' && (p | 1) < k ? p ^ 1 : p));
  return (x, y, acc) => order.reduce((sum, p) => step(x(p), y(p), sum), acc);
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
