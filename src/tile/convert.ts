/** What `cast` means: one value from one element type to another. */
import type { DType } from '../numerics/dtype.ts';
import { isFloat } from '../numerics/dtype.ts';
import { bf16BitsToF32, f16BitsToF32, f32ToBf16Bits, f32ToF16Bits } from '../numerics/float.ts';
import { f8e4m3BitsToF32, f8e5m2BitsToF32, f32ToF8e4m3Bits, f32ToF8e5m2Bits } from '../numerics/fp8.ts';

/** `value`, a float32, rounded to what `dtype` can hold. */
const ROUND_FLOAT: { readonly [D in DType]?: (value: number) => number } = {
  f32: Math.fround,
  bf16: (value) => bf16BitsToF32(f32ToBf16Bits(value)),
  f16: (value) => f16BitsToF32(f32ToF16Bits(value)),
  f8e4m3: (value) => f8e4m3BitsToF32(f32ToF8e4m3Bits(value)),
  f8e5m2: (value) => f8e5m2BitsToF32(f32ToF8e5m2Bits(value)),
};

const INTEGER_RANGE: { readonly [D in DType]?: readonly [number, number] } = {
  i32: [-0x80000000, 0x7fffffff],
  u32: [0, 0xffffffff],
  i8: [-128, 127],
  i4: [-8, 7],
};

/** Keeps the low bits of an integer, as a value of `dtype`. */
export function wrap(value: number, dtype: DType): number {
  if (dtype === 'u32') return value >>> 0;
  const unused = dtype === 'i8' ? 24 : dtype === 'i4' ? 28 : 0;
  return (value << unused) >> unused;
}

/** One value converted between element types. */
export function convert(value: number, from: DType, to: DType): number {
  const round = ROUND_FLOAT[to];
  if (round !== undefined) return round(Math.fround(value));
  if (!isFloat(from)) return wrap(value, to);
  if (Number.isNaN(value)) return 0;
  const [low, high] = INTEGER_RANGE[to] as readonly [number, number];
  return Math.min(high, Math.max(low, Math.trunc(value)));
}
