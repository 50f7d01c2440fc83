/** Fused multiply-add of float32 numbers, rounded once, as processors' FMA instructions do. */

const sum = new Float64Array(1);
const words = new Uint32Array(sum.buffer);
const LOW = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1 ? 0 : 1;
const HIGH = 1 - LOW;

/**
 * a * b + c for three float32 values (numbers that `Math.fround` leaves alone), rounded to float32 once.
 *
 * The product is exact in a double. The double sum is rounded to odd (Boldo and Melquiond, "Emulation of FMA
 * and correctly rounded sums: proved algorithms using rounding to odd", IEEE TC 2008): where it is inexact,
 * the neighbour with an odd last bit is taken, and then rounding it to float32 gives the exact result's rounding.
 */
export function fmaf(a: number, b: number, c: number): number {
  const product = a * b;
  const s = product + c;
  // Two-sum: product + c = s + error, exactly.
  const back = s - product;
  const error = product - (s - back) + (c - back);
  if (error === 0 || !Number.isFinite(s)) return Math.fround(s);
  sum[0] = s;
  if ((words[LOW] & 1) === 0) {
    if (error > 0 === s > 0) {
      words[LOW] |= 1;
    } else {
      if (words[LOW] === 0) words[HIGH] -= 1;
      words[LOW] -= 1;
    }
  }
  return Math.fround(sum[0]);
}
