import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  bf16BitsToF32,
  bf16ToF32,
  bitsToF32,
  f16BitsToF32,
  f16ToF32,
  f32ToBf16,
  f32ToBf16Bits,
  f32ToBits,
  f32ToF16,
  f32ToF16Bits,
} from '../../src/numerics/float.ts';
import { Random } from '../../src/numerics/random.ts';

interface Format {
  name: string;
  exponentBits: number;
  fractionBits: number;
  narrow(value: number): number;
  widen(bits: number): number;
  narrowAll(values: Float32Array): Uint16Array;
  widenAll(bits: Uint16Array): Float32Array;
}

const formats: Format[] = [
  {
    name: 'bf16',
    exponentBits: 8,
    fractionBits: 7,
    narrow: f32ToBf16Bits,
    widen: bf16BitsToF32,
    narrowAll: f32ToBf16,
    widenAll: bf16ToF32,
  },
  {
    name: 'f16',
    exponentBits: 5,
    fractionBits: 10,
    narrow: f32ToF16Bits,
    widen: f16BitsToF32,
    narrowAll: f32ToF16,
    widenAll: f16ToF32,
  },
];

/** What a code means, from the definition of the format, in float64. */
function meaning(bits: number, { exponentBits, fractionBits }: Format): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits & 0x7fff) >> fractionBits;
  const fraction = bits & (2 ** fractionBits - 1);
  const bias = 2 ** (exponentBits - 1) - 1;
  if (exponent === 2 ** exponentBits - 1) return fraction === 0 ? sign * Infinity : NaN;
  if (exponent === 0) return sign * fraction * 2 ** (1 - bias - fractionBits);
  return sign * (1 + fraction / 2 ** fractionBits) * 2 ** (exponent - bias);
}

for (const format of formats) {
  const largest = ((2 ** format.exponentBits - 1) << format.fractionBits) - 1;

  test(`${format.name}: all 65,536 codes widen to what they mean and narrow back to themselves`, () => {
    for (let bits = 0; bits <= 0xffff; bits++) {
      const expected = meaning(bits, format);
      const widened = format.widen(bits);
      assert.ok(Object.is(widened, expected), `code ${bits}: ${widened}, expected ${expected}`);
      const back = format.narrow(widened);
      if (Number.isNaN(expected)) assert.ok(Number.isNaN(meaning(back, format)), `code ${bits} lost its NaN`);
      else assert.equal(back, bits);
    }
  });

  test(`${format.name}: between all neighbours, rounds to the nearest and ties to even`, () => {
    for (let bits = 0; bits < largest; bits++) {
      const low = meaning(bits, format);
      const high = meaning(bits + 1, format);
      const middle = (low + high) / 2;
      assert.equal(Math.fround(middle), middle, 'a tie must be a float32 for this test to mean anything');
      const even = bits % 2 === 0 ? bits : bits + 1;
      assert.equal(format.narrow(middle), even, `tie above code ${bits}`);
      assert.equal(format.narrow(-middle), even | 0x8000, `negative tie above code ${bits}`);
      const middleBits = f32ToBits(middle);
      assert.equal(format.narrow(bitsToF32(middleBits - 1)), bits, `just below the tie above code ${bits}`);
      assert.equal(
        format.narrow(bitsToF32(middleBits + 1)),
        bits + 1,
        `just above the tie above code ${bits}`,
      );
    }
  });

  test(`${format.name}: overflows from half a step above the largest value on`, () => {
    const maximum = meaning(largest, format);
    const step = maximum - meaning(largest - 1, format);
    const tie = f32ToBits(maximum + step / 2);
    assert.equal(format.narrow(bitsToF32(tie - 1)), largest);
    assert.equal(format.narrow(bitsToF32(tie)), largest + 1);
    assert.equal(format.narrow(-bitsToF32(tie)), (largest + 1) | 0x8000);
    assert.equal(format.narrow(Infinity), largest + 1);
    assert.equal(format.narrow(1e300), largest + 1);
  });

  test(`${format.name}: every float32 NaN stays a NaN with its sign`, () => {
    const values = new Float32Array(1);
    const bits = new Uint32Array(values.buffer);
    for (const payload of [1, 0x1fff, 0x2000, 0x7fff, 0x8000, 0xffff, 0x3fffff, 0x400000, 0x7fffff]) {
      for (const sign of [0, 0x80000000]) {
        bits[0] = sign | 0x7f800000 | payload;
        const narrowed = format.narrowAll(values)[0]!;
        assert.ok(Number.isNaN(meaning(narrowed, format)), `payload ${payload} became ${narrowed}`);
        assert.equal(narrowed >>> 15, sign === 0 ? 0 : 1);
      }
    }
  });

  test(`${format.name}: arrays convert as single values do`, () => {
    const random = new Random(1, format.name);
    const values = new Float32Array(5000);
    const bits = new Uint32Array(values.buffer);
    for (let i = 0; i < bits.length; i++) bits[i] = random.uint32();
    // Arithmetic may change a NaN's payload on its way through a JavaScript number, so NaNs are left out here.
    for (let i = 0; i < values.length; i++) if (Number.isNaN(values[i])) values[i] = i;
    const narrowed = format.narrowAll(values);
    assert.deepEqual([...narrowed], [...values].map(format.narrow));
    const all = Uint16Array.from({ length: 0x10000 }, (_, i) => i);
    assert.deepEqual([...format.widenAll(all)], [...all].map(format.widen));
    // A view that does not begin at its buffer's start.
    assert.deepEqual([...format.narrowAll(values.subarray(7, 30))], [...narrowed.subarray(7, 30)]);
  });
}

test('a target of another length is refused', () => {
  for (const convert of [f32ToBf16, f32ToF16]) {
    assert.throws(() => convert(new Float32Array(2), new Uint16Array(3)), {
      message: 'target has 3 elements, but the source has 2',
    });
  }
  for (const convert of [bf16ToF32, f16ToF32]) {
    assert.throws(() => convert(new Uint16Array(2), new Float32Array(1)), /target has 1 elements/);
  }
});
