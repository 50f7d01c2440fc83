/** What the elementwise functions mean, one element at a time. */
import { fmaf } from '../numerics/fma.ts';
import type { BinaryFn, TernaryFn, UnaryFn } from './ir.ts';

/** Result of a function for floats (rounded to float32 by the caller) and for 32-bit integers (wrapped by the caller). */
interface Unary {
  readonly float?: (x: number) => number;
  readonly int?: (x: number) => number;
}
interface Binary {
  readonly float?: (x: number, y: number) => number;
  readonly int?: (x: number, y: number) => number;
}

export const UNARY: { readonly [F in UnaryFn]: Unary } = {
  neg: { float: (x) => -x, int: (x) => -x },
  abs: { float: Math.abs, int: Math.abs },
  not: { int: (x) => ~x },
  floor: { float: Math.floor },
  sqrt: { float: Math.sqrt },
  rsqrt: { float: (x) => 1 / Math.fround(Math.sqrt(x)) },
  exp: { float: Math.exp },
  exp2: { float: (x) => 2 ** x },
  log: { float: Math.log },
  log2: { float: Math.log2 },
  tanh: { float: Math.tanh },
  sigmoid: { float: (x) => 1 / (1 + Math.exp(-x)) },
  sin: { float: Math.sin },
  cos: { float: Math.cos },
};

const compare = (test: (x: number, y: number) => boolean): Binary => {
  const number = (x: number, y: number) => (test(x, y) ? 1 : 0);
  return { float: number, int: number };
};

export const BINARY: { readonly [F in BinaryFn]: Binary } = {
  add: { float: (x, y) => x + y, int: (x, y) => x + y },
  sub: { float: (x, y) => x - y, int: (x, y) => x - y },
  mul: { float: (x, y) => x * y, int: Math.imul },
  div: { float: (x, y) => x / y, int: (x, y) => (y === 0 ? 0 : Math.trunc(x / y)) },
  rem: { int: (x, y) => (y === 0 ? 0 : x % y) },
  min: { float: Math.min, int: Math.min },
  max: { float: Math.max, int: Math.max },
  and: { int: (x, y) => x & y },
  or: { int: (x, y) => x | y },
  xor: { int: (x, y) => x ^ y },
  shl: { int: (x, y) => (y >>> 0 >= 32 ? 0 : x << y) },
  // u32 operands arrive as numbers from 0 on, i32 operands keep their sign: x / 2^y rounded down is right for both.
  shr: { int: (x, y) => Math.floor(x / 2 ** Math.min(y >>> 0, 32)) },
  mulhi: { int: (x, y) => Number((BigInt(x) * BigInt(y)) >> 32n) },
  lt: compare((x, y) => x < y),
  le: compare((x, y) => x <= y),
  gt: compare((x, y) => x > y),
  ge: compare((x, y) => x >= y),
  eq: compare((x, y) => x === y),
  ne: compare((x, y) => x !== y),
};

export const TERNARY: { readonly [F in TernaryFn]: (x: number, y: number, z: number) => number } = {
  fma: fmaf,
  select: (x, y, z) => (x !== 0 ? y : z),
};
