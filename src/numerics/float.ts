/**
 * 16-bit floating point: bfloat16 (1 sign, 8 exponent, 7 fraction bits) and IEEE 754 binary16 (1, 5, 10).
 *
 * Narrowing rounds to the nearest value, ties to the even fraction, the rounding of the processors' own
 * conversion instructions. Values too large become infinity. A NaN stays a NaN: it is made quiet and keeps
 * its sign and the upper bits of its payload. Widening is exact.
 */

const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);

/** The 32 bits of `value` rounded to float32. */
export function f32ToBits(value: number): number {
  scratch[0] = value;
  return scratchBits[0]!;
}

/** The float32 whose bits are `bits`. */
export function bitsToF32(bits: number): number {
  scratchBits[0] = bits;
  return scratch[0]!;
}

/** bfloat16 bits of `value`, which is first rounded to float32. */
export function f32ToBf16Bits(value: number): number {
  scratch[0] = value;
  return narrowToBf16(scratchBits[0]!);
}

/** The float32 equal to a bfloat16. */
export function bf16BitsToF32(bits: number): number {
  scratchBits[0] = bits << 16;
  return scratch[0]!;
}

/** binary16 bits of `value`, which is first rounded to float32. */
export function f32ToF16Bits(value: number): number {
  scratch[0] = value;
  return narrowToF16(scratchBits[0]!);
}

/** The float32 equal to a binary16. */
export function f16BitsToF32(bits: number): number {
  scratchBits[0] = widenF16(bits);
  return scratch[0]!;
}

function narrowToBf16(bits: number): number {
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x0040;
  // Adding just under half of the last kept place, plus that place itself, rounds ties to even;
  // a carry out of the fraction moves on to the exponent, up to infinity, as it should.
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

function narrowToF16(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >>> 13) & 0x03ff);
  // 65520 is half way between the largest binary16, 65504, and the next power of two: it and all above overflow.
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude >= 0x38800000) {
    const rebased = magnitude - 0x38000000;
    return sign | ((rebased + 0x0fff + ((rebased >>> 13) & 1)) >>> 13);
  }
  // Below 2^-14 the result is a multiple of 2^-24; below 2^-25 that multiple is zero.
  if (magnitude < 0x33000000) return sign;
  const shift = 126 - (magnitude >>> 23);
  const fraction = (magnitude & 0x007fffff) | 0x00800000;
  const kept = fraction >>> shift;
  const rest = fraction & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  return sign | (rest > half || (rest === half && (kept & 1) === 1) ? kept + 1 : kept);
}

function widenF16(bits: number): number {
  const sign = (bits & 0x8000) << 16;
  const exponent = (bits >>> 10) & 0x1f;
  const fraction = bits & 0x03ff;
  if (exponent === 0x1f) return sign | 0x7f800000 | (fraction << 13);
  if (exponent !== 0) return sign | ((exponent + 112) << 23) | (fraction << 13);
  if (fraction === 0) return sign;
  const shift = Math.clz32(fraction) - 21;
  return sign | ((113 - shift) << 23) | (((fraction << shift) & 0x03ff) << 13);
}

type Convert<From, To> = (source: From, target?: To) => To;

function checkedTarget<T extends { length: number }>(target: T, length: number): T {
  if (target.length !== length) {
    throw new RangeError(`target has ${target.length} elements, but the source has ${length}`);
  }
  return target;
}

function bitsOf(values: Float32Array): Uint32Array {
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}

/** Narrows float32 values to bfloat16 bits. `target`, where given, must be as long as `source`. */
export const f32ToBf16: Convert<Float32Array, Uint16Array> = (source, target) => {
  const out = checkedTarget(target ?? new Uint16Array(source.length), source.length);
  const bits = bitsOf(source);
  for (let i = 0; i < bits.length; i++) out[i] = narrowToBf16(bits[i]!);
  return out;
};

/** Widens bfloat16 bits to float32 values. `target`, where given, must be as long as `source`. */
export const bf16ToF32: Convert<Uint16Array, Float32Array> = (source, target) => {
  const out = checkedTarget(target ?? new Float32Array(source.length), source.length);
  const bits = bitsOf(out);
  for (let i = 0; i < source.length; i++) bits[i] = source[i]! << 16;
  return out;
};

/** Narrows float32 values to binary16 bits. `target`, where given, must be as long as `source`. */
export const f32ToF16: Convert<Float32Array, Uint16Array> = (source, target) => {
  const out = checkedTarget(target ?? new Uint16Array(source.length), source.length);
  const bits = bitsOf(source);
  for (let i = 0; i < bits.length; i++) out[i] = narrowToF16(bits[i]!);
  return out;
};

/** Widens binary16 bits to float32 values. `target`, where given, must be as long as `source`. */
export const f16ToF32: Convert<Uint16Array, Float32Array> = (source, target) => {
  const out = checkedTarget(target ?? new Float32Array(source.length), source.length);
  const bits = bitsOf(out);
  for (let i = 0; i < source.length; i++) bits[i] = widenF16(source[i]!);
  return out;
};
