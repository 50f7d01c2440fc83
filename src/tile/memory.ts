/** How elements lie in memory, by type: little-endian, i4 two a byte. */
import type { DType } from '../numerics/dtype.ts';
import { bf16BitsToF32, f16BitsToF32, f32ToBf16Bits, f32ToF16Bits } from '../numerics/float.ts';
import { f8e4m3BitsToF32, f8e5m2BitsToF32, f32ToF8e4m3Bits, f32ToF8e5m2Bits } from '../numerics/fp8.ts';

/** Elements by index; floats of any width as float32, bool as 0 or 1. */
export interface Memory {
  readonly read: (index: number) => number;
  readonly write: (index: number, value: number) => void;
}

export const MEMORY: { readonly [D in DType]: (data: DataView) => Memory } = {
  f32: (data) => ({
    read: (i) => data.getFloat32(4 * i, true),
    write: (i, value) => data.setFloat32(4 * i, value, true),
  }),
  bf16: (data) => ({
    read: (i) => bf16BitsToF32(data.getUint16(2 * i, true)),
    write: (i, value) => data.setUint16(2 * i, f32ToBf16Bits(value), true),
  }),
  f16: (data) => ({
    read: (i) => f16BitsToF32(data.getUint16(2 * i, true)),
    write: (i, value) => data.setUint16(2 * i, f32ToF16Bits(value), true),
  }),
  f8e4m3: (data) => ({
    read: (i) => f8e4m3BitsToF32(data.getUint8(i)),
    write: (i, value) => data.setUint8(i, f32ToF8e4m3Bits(value)),
  }),
  f8e5m2: (data) => ({
    read: (i) => f8e5m2BitsToF32(data.getUint8(i)),
    write: (i, value) => data.setUint8(i, f32ToF8e5m2Bits(value)),
  }),
  i32: (data) => ({
    read: (i) => data.getInt32(4 * i, true),
    write: (i, value) => data.setInt32(4 * i, value, true),
  }),
  u32: (data) => ({
    read: (i) => data.getUint32(4 * i, true),
    write: (i, value) => data.setUint32(4 * i, value, true),
  }),
  i8: (data) => ({ read: (i) => data.getInt8(i), write: (i, value) => data.setInt8(i, value) }),
  i4: (data) => ({
    read: (i) => ((data.getUint8(i >> 1) >> (4 * (i & 1))) << 28) >> 28,
    write: (i, value) => {
      const shift = 4 * (i & 1);
      const other = data.getUint8(i >> 1) & ~(15 << shift);
      data.setUint8(i >> 1, other | ((value & 15) << shift));
    },
  }),
  bool: (data) => ({
    read: (i) => (data.getUint8(i) === 0 ? 0 : 1),
    write: (i, value) => data.setUint8(i, value),
  }),
};
