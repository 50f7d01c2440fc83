/**
 * 8-bit floating point (Micikevicius and others, "FP8 formats for deep learning", 2022): E4M3 has no infinity,
 * one NaN pattern a sign and a largest value of 448; E5M2 is a short binary16 with infinities, largest 57344.
 * Narrowing rounds to nearest even and saturates: what is too large, infinity too, becomes the largest value.
 */

interface Format {
  readonly fractionBits: number;
  readonly minExponent: number;
  readonly largest: number;
  readonly largestBits: number;
  readonly nanBits: number;
}

const E4M3: Format = { fractionBits: 3, minExponent: -6, largest: 448, largestBits: 0x7e, nanBits: 0x7f };
const E5M2: Format = { fractionBits: 2, minExponent: -14, largest: 57344, largestBits: 0x7b, nanBits: 0x7e };

function roundHalfEven(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
}

function encode(value: number, format: Format): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x80 : 0;
  if (Number.isNaN(value)) return format.nanBits;
  const magnitude = Math.abs(value);
  if (magnitude >= format.largest) return sign | format.largestBits;
  // log2 may be one off next to a power of two; the comparisons put that right.
  let exponent = Math.max(format.minExponent, Math.floor(Math.log2(magnitude)));
  if (exponent > format.minExponent && 2 ** exponent > magnitude) exponent--;
  if (2 ** (exponent + 1) <= magnitude) exponent++;
  const units = roundHalfEven(magnitude / 2 ** (exponent - format.fractionBits));
  // A normal number's leading 1 adds 1 to the exponent field, and so does a carry: the sum is right in both cases.
  const bits = ((exponent - format.minExponent) << format.fractionBits) + units;
  return sign | Math.min(bits, format.largestBits);
}

function decode(bits: number, format: Format): number {
  const sign = (bits & 0x80) !== 0 ? -1 : 1;
  const magnitude = bits & 0x7f;
  if (magnitude > format.largestBits) {
    return format === E5M2 && magnitude === 0x7c ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  }
  const field = magnitude >> format.fractionBits;
  const fraction = magnitude & ((1 << format.fractionBits) - 1);
  const units = field === 0 ? fraction : fraction | (1 << format.fractionBits);
  return sign * units * 2 ** (format.minExponent + Math.max(field, 1) - 1 - format.fractionBits);
}

/** E4M3 bits of `value`: nearest even, saturating at 448; NaN is 0x7f. */
export function f32ToF8e4m3Bits(value: number): number {
  return encode(value, E4M3);
}
/** The float32 equal to an E4M3 number. */
export function f8e4m3BitsToF32(bits: number): number {
  return decode(bits, E4M3);
}
/** E5M2 bits of `value`: nearest even, saturating at 57344; NaN is 0x7e. */
export function f32ToF8e5m2Bits(value: number): number {
  return encode(value, E5M2);
}
/** The float32 equal to an E5M2 number. */
export function f8e5m2BitsToF32(bits: number): number {
  return decode(bits, E5M2);
}
