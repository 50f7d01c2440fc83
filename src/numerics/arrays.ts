/** Values of every element type between JavaScript arrays and the little-endian bytes of device memory. */
import type { DType } from './dtype.ts';
import { byteLength } from './dtype.ts';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from './float.ts';
import { f8e4m3BitsToF32, f8e5m2BitsToF32, f32ToF8e4m3Bits, f32ToF8e5m2Bits } from './fp8.ts';

/** Floats of any width are held as f32, i8 and i4 as one signed value a byte, bool as 0 and 1. */
export type ValueArray = Float32Array | Int32Array | Uint32Array | Int8Array | Uint8Array;

interface Form<A extends ValueArray> {
  readonly array: { new (length: number): A; readonly name: string };
  encode(values: A): ArrayBufferView;
  /** @param bytes those of the values alone, in a buffer of their own */
  decode(bytes: Uint8Array<ArrayBuffer>, count: number): A;
}

const floats = (
  encode: (values: Float32Array) => ArrayBufferView,
  decode: (bytes: Uint8Array<ArrayBuffer>) => Float32Array,
): Form<Float32Array> => ({ array: Float32Array, encode, decode });

const FORMS: { readonly [D in DType]: Form<ValueArray> } = {
  f32: floats(
    (values) => values,
    ({ buffer }) => new Float32Array(buffer),
  ),
  bf16: floats(
    (values) => f32ToBf16(values),
    ({ buffer }) => bf16ToF32(new Uint16Array(buffer)),
  ),
  f16: floats(
    (values) => f32ToF16(values),
    ({ buffer }) => f16ToF32(new Uint16Array(buffer)),
  ),
  f8e4m3: floats(
    (values) => Uint8Array.from(values, f32ToF8e4m3Bits),
    (bytes) => Float32Array.from(bytes, f8e4m3BitsToF32),
  ),
  f8e5m2: floats(
    (values) => Uint8Array.from(values, f32ToF8e5m2Bits),
    (bytes) => Float32Array.from(bytes, f8e5m2BitsToF32),
  ),
  i32: {
    array: Int32Array,
    encode: (values: Int32Array) => values,
    decode: ({ buffer }) => new Int32Array(buffer),
  },
  u32: {
    array: Uint32Array,
    encode: (values: Uint32Array) => values,
    decode: ({ buffer }) => new Uint32Array(buffer),
  },
  i8: {
    array: Int8Array,
    encode: (values: Int8Array) => values,
    decode: ({ buffer }) => new Int8Array(buffer),
  },
  i4: {
    array: Int8Array,
    encode: (values: Int8Array) =>
      Uint8Array.from(
        { length: Math.ceil(values.length / 2) },
        (_, i) => (values[2 * i] & 15) | ((values[2 * i + 1] & 15) << 4),
      ),
    // Shifted up and down again, so that the sign is extended.
    decode: (bytes, count) =>
      Int8Array.from({ length: count }, (_, i) => (bytes[i >> 1] << (i % 2 === 0 ? 28 : 24)) >> 28),
  },
  bool: {
    array: Uint8Array,
    encode: (values: Uint8Array) => values.map((value) => (value === 0 ? 0 : 1)),
    decode: (bytes) => bytes,
  },
};

/** Device bytes of `values`; floats are rounded to nearest even. Throws TypeError when it is not this type's array. */
export function encodeValues(dtype: DType, values: ValueArray): ArrayBufferView {
  const { array, encode } = FORMS[dtype];
  if (!(values instanceof array)) {
    const given = (values as object | null | undefined)?.constructor.name ?? String(values);
    throw new TypeError(`${dtype} values are given as ${array.name}, not ${given}`);
  }
  return encode(values);
}

/** The first `count` values of device bytes, as a copy. */
export function decodeValues(dtype: DType, bytes: Uint8Array, count: number): ValueArray {
  return FORMS[dtype].decode(bytes.slice(0, byteLength(dtype, count)), count);
}
