import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compare, ulpDistance } from '../../src/numerics/error.ts';
import { bitsToF32, f32ToBits } from '../../src/numerics/float.ts';
import { fmaf } from '../../src/numerics/fma.ts';
import {
  f8e4m3BitsToF32,
  f8e5m2BitsToF32,
  f32ToF8e4m3Bits,
  f32ToF8e5m2Bits,
} from '../../src/numerics/fp8.ts';
import { Random } from '../../src/numerics/random.ts';

test('ulpDistance counts float32 steps across zero', () => {
  assert.equal(ulpDistance(1, 1 + 2 ** -23), 1);
  assert.equal(ulpDistance(-0, 0), 0);
  assert.equal(ulpDistance(-(2 ** -149), 2 ** -149), 2);
  assert.equal(ulpDistance(Number.NaN, Number.NaN), 0);
  assert.equal(ulpDistance(Number.NaN, 1), Infinity);
});

test('compare finds the worst element and insists on Inf and NaN', () => {
  const result = compare([1, 2.5, 3], [1, 2, 3], { atol: 0.1 });
  assert.equal(result.ok, false);
  assert.deepEqual(result.worst, { index: 1, actual: 2.5, expected: 2 });
  assert.equal(result.maxAbs, 0.5);
  assert.equal(result.nmse, 0.25 / 14);
  assert.match(result.report, /1 of 3 .* worst at 1: 2.5, expected 2/);
  assert.ok(compare([Number.NaN, Infinity], [Number.NaN, Infinity], {}).ok);
  assert.ok(!compare([Infinity], [-Infinity], { atol: 1e9 }).ok);
  assert.ok(!compare([1], [Number.NaN], { atol: 1e9 }).ok);
  assert.ok(compare([1 + 2 ** -23], [1], { ulp: 1 }).ok);
  assert.throws(() => compare([1], [], {}), /cannot compare 1/);
});

/** The exact a*b + c as an integer multiple of 2^-scale, rounded to float32 by integer arithmetic. */
function exactFma(a: number, b: number, c: number): number {
  const scale = 320n;
  const exact = (x: number): bigint => {
    const bits = f32ToBits(x);
    const field = (bits >>> 23) & 0xff;
    const fraction = BigInt((bits & 0x7fffff) | (field === 0 ? 0 : 0x800000));
    const magnitude = fraction << BigInt(Math.max(field, 1) - 1); // in units of 2^-149
    return bits >>> 31 === 1 ? -magnitude : magnitude;
  };
  const total = ((exact(a) * exact(b)) << (scale - 298n)) + (exact(c) << (scale - 149n));
  const negative = total < 0n;
  const magnitude = negative ? -total : total;
  const length = magnitude.toString(2).length;
  const drop = BigInt(Math.max(length - 24, Number(scale) - 149));
  let units = magnitude >> drop;
  const rest = magnitude - (units << drop);
  const half = 1n << (drop - 1n);
  if (rest > half || (rest === half && units % 2n === 1n)) units += 1n;
  const value = Number(units) * 2 ** Number(drop - scale);
  return Math.fround(negative ? -value : value);
}

test('fmaf rounds once', () => {
  const random = new Random(3);
  for (let i = 0; i < 20000; i++) {
    const near = () => bitsToF32((random.uint32() & 0x807fffff) | ((100 + random.below(56)) << 23));
    const [a, b] = [near(), near()];
    // Sums that nearly cancel, or that lie near a rounding boundary, are where a double rounding shows.
    const c =
      i % 2 === 0
        ? near()
        : Math.fround(
            -a * b * (1 + (random.below(5) - 2) * 2 ** -24) * 2 ** (i % 3 === 0 ? 0 : random.below(60) - 30),
          );
    assert.equal(fmaf(a, b, c), exactFma(a, b, c), `fma(${a}, ${b}, ${c})`);
  }
  const tiny = 2 ** -149;
  assert.equal(fmaf(1.5, tiny, tiny), exactFma(1.5, tiny, tiny));
  assert.equal(fmaf(1 + 2 ** -12, 1 + 2 ** -12, 2 ** -80), 1 + 2 ** -11 + 2 ** -23);
  assert.notEqual(Math.fround((1 + 2 ** -12) ** 2 + 2 ** -80), 1 + 2 ** -11 + 2 ** -23);
  assert.equal(fmaf(Infinity, 1, -5), Infinity);
  assert.ok(Number.isNaN(fmaf(Infinity, 0, 1)));
  assert.ok(Number.isNaN(fmaf(1, 1, Number.NaN)));
});

test('fp8: every pattern round-trips, halves go to even, large values saturate', () => {
  for (const [encode, decode] of [
    [f32ToF8e4m3Bits, f8e4m3BitsToF32],
    [f32ToF8e5m2Bits, f8e5m2BitsToF32],
  ] as const) {
    let previous = -1;
    for (let bits = 0; bits < 128; bits++) {
      const value = decode(bits);
      if (!Number.isFinite(value)) continue;
      assert.equal(encode(value), bits);
      assert.equal(encode(-value), bits | 0x80);
      if (bits > 0) {
        assert.ok(value > previous);
        assert.equal(encode((value + previous) / 2), bits % 2 === 0 ? bits : bits - 1);
      }
      previous = value;
    }
    assert.ok(Number.isNaN(decode(encode(Number.NaN))));
    assert.equal(decode(encode(Infinity)), previous);
  }
  assert.equal(f8e4m3BitsToF32(0x7e), 448);
  assert.equal(f8e5m2BitsToF32(0x7b), 57344);
  assert.equal(f8e5m2BitsToF32(0xfc), -Infinity);
  assert.equal(f8e4m3BitsToF32(1), 2 ** -9);
  assert.equal(f8e5m2BitsToF32(1), 2 ** -16);
});
