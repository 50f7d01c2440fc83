/** What goes together: element types that functions, products and casts take, and shapes that broadcast. */
import type { DType } from '../numerics/dtype.ts';
import { DTYPES } from '../numerics/dtype.ts';
import type { MapFn, TileType } from './ir.ts';

export const NUMBERS: readonly DType[] = ['f32', 'i32', 'u32'];
const INTEGERS: readonly DType[] = ['i32', 'u32'];
const BITS: readonly DType[] = ['i32', 'u32', 'bool'];
const REALS: readonly DType[] = ['f32'];
export const ARITHMETIC: readonly DType[] = ['f32', 'i32', 'u32', 'bool'];

/** Element types each function accepts (for `select`: the type of its branches). */
export const MAP_TYPES: { readonly [F in MapFn]: readonly DType[] } = {
  neg: NUMBERS,
  abs: NUMBERS,
  not: BITS,
  floor: REALS,
  sqrt: REALS,
  rsqrt: REALS,
  exp: REALS,
  exp2: REALS,
  log: REALS,
  log2: REALS,
  tanh: REALS,
  sigmoid: REALS,
  sin: REALS,
  cos: REALS,
  add: NUMBERS,
  sub: NUMBERS,
  mul: NUMBERS,
  div: NUMBERS,
  rem: INTEGERS,
  min: NUMBERS,
  max: NUMBERS,
  and: BITS,
  or: BITS,
  xor: BITS,
  shl: INTEGERS,
  shr: INTEGERS,
  mulhi: ['u32'],
  lt: NUMBERS,
  le: NUMBERS,
  gt: NUMBERS,
  ge: NUMBERS,
  eq: ARITHMETIC,
  ne: ARITHMETIC,
  fma: REALS,
  select: ARITHMETIC,
};

export const COMPARISONS: ReadonlySet<MapFn> = new Set<MapFn>(['lt', 'le', 'gt', 'ge', 'eq', 'ne']);

const isFp8 = (dtype: DType) => dtype === 'f8e4m3' || dtype === 'f8e5m2';

/** Element type of a dot's result, or null where the pair of operand types is not supported. */
export function dotResult(a: DType, b: DType): 'f32' | 'i32' | null {
  if (isFp8(a) && isFp8(b)) return 'f32';
  if (a === 'i32' && b === 'u32') return 'i32';
  if (a !== b) return null;
  if (a === 'i8') return 'i32';
  return a === 'f32' || a === 'bf16' || a === 'f16' ? 'f32' : null;
}

/** Whether `cast` converts between the two: float to float, int to int, f32 with int, bool to f32, i32, u32. */
export function castable(from: DType, to: DType): boolean {
  const a = DTYPES[from].kind;
  const b = DTYPES[to].kind;
  if (b === 'bool') return false;
  if (a === 'bool') return DTYPES[to].arithmetic;
  return a === b || (a === 'float' ? from : to) === 'f32';
}

export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, axis) => size === b[axis]);
}

export function sameType(a: TileType, b: TileType): boolean {
  return a.dtype === b.dtype && sameShape(a.shape, b.shape);
}

export function typeText(type: TileType): string {
  return `${type.dtype}[${type.shape.join(', ')}]`;
}

/** NumPy's broadcasting rule; throws a TypeError that names both shapes. */
export function broadcastShapes(a: readonly number[], b: readonly number[]): readonly number[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, axis) => {
    const x = a[axis - rank + a.length] ?? 1;
    const y = b[axis - rank + b.length] ?? 1;
    if (x !== y && x !== 1 && y !== 1) throw new TypeError(`tile shapes [${a}] and [${b}] do not broadcast`);
    return x === 1 ? y : x;
  });
}
