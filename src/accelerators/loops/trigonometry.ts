/** Sine and cosine of f32 of any size, to about 1 to 2 units in the last place. */

import { type Code, floatBits } from './code.ts';
import type { VecReg } from './ir.ts';

/** pi/2 less the nearest double. */
const HALF_PI_REST = 6.123233995736766e-17;
/** pi/2 in three parts of 24 bits, for a multiply-add that rounds once: the product of each is exact inside it. */
const PARTS_FUSED = splitHalfPi(24, 3);
/** pi/2 in parts of 8 bits, so that products with a quadrant number of up to 16 bits are exact by themselves. */
const PARTS_SPLIT = splitHalfPi(8, 6);

/** Parts of `bits` bits that add up to pi/2; the last takes the rest. */
function splitHalfPi(bits: number, count: number): readonly number[] {
  const parts: number[] = [];
  let rest = Math.PI / 2;
  while (parts.length < count - 1) {
    const unit = 2 ** (Math.floor(Math.log2(rest)) + 1 - bits);
    const part = Math.floor(rest / unit) * unit;
    parts.push(part);
    rest -= part;
  }
  return [...parts, rest + HALF_PI_REST];
}

function series(code: Code, square: VecReg, coefficients: readonly number[]): VecReg {
  let sum = code.f32(coefficients[coefficients.length - 1]);
  for (let i = coefficients.length - 2; i >= 0; i--) sum = code.fma(sum, square, code.f32(coefficients[i]));
  return sum;
}

/** An argument less the nearest multiple of pi/2, and that multiple (at least its last two bits). */
interface Reduced {
  readonly rest: VecReg;
  readonly quadrant: VecReg;
}

/** For 0 <= x <= LARGE. */
function reduceSmall(code: Code, x: VecReg): Reduced {
  const n = code.un('fround', code.bin('fmul', x, code.f32(2 / Math.PI)));
  const negative = code.un('fneg', n);
  let rest = x;
  for (const part of code.target.fma ? PARTS_FUSED : PARTS_SPLIT)
    rest = code.fma(negative, code.f32(part), rest);
  return { rest, quadrant: code.un('ftoi', n) };
}

/** Where products with the parts of pi/2 cease to be exact; above it the reduction goes through the bits of 2/pi. */
const LARGE = 2 ** 16;
/** 2/pi in binary: 32 zeros before the point, then the bits after it. */
const TWO_OVER_PI = [0, 0xa2f9836e, 0x4e441529, 0xfc2757d1, 0xf534ddc0, 0xdb629599, 0x3c439041, 0xfe5163ab];
const HALF_PI = Math.fround(Math.PI / 2);

/**
 * For x >= LARGE: x = m * 2^e with an integer m of 24 bits, and of 2/pi only 96 bits matter: those above are
 * whole turns, those below add less than 2^-70. Integer arithmetic modulo 2^96 leaves quadrant and fraction.
 */
function reduceLarge(code: Code, x: VecReg): Reduced {
  const mantissa = code.bin('or', code.bin('and', x, code.bits(0x7fffff)), code.bits(0x800000));
  // The window begins at bit e - 2, counted from the point, which is 32 bits into the table.
  const start = code.bin('iadd', code.shift('ushr', x, 23), code.bits(-150 - 2 + 32));
  const word = code.shift('ushr', start, 5);
  const bit = code.bin('and', start, code.bits(31));
  const back = code.bin('isub', code.bits(32), bit);
  const isWord = [1, 2, 3, 4].map((index) => code.bin('ieq', word, code.bits(index)));
  const words = [0, 1, 2, 3].map((offset) =>
    isWord.reduce(
      (found, mask, i) => code.select(mask, code.bits(TWO_OVER_PI[offset + i + 1]), found),
      code.bits(TWO_OVER_PI[offset]),
    ),
  );
  const window = [0, 1, 2].map((i) =>
    code.bin('or', code.bin('ishl', words[i], bit), code.bin('ushr', words[i + 1], back)),
  );
  const below = code.bin('umulhi', mantissa, window[2]);
  const low = code.bin('iadd', code.bin('imul', mantissa, window[1]), below);
  const carry = code.bin('ult', low, below);
  const upper = code.bin(
    'iadd',
    code.bin('imul', mantissa, window[0]),
    code.bin('umulhi', mantissa, window[1]),
  );
  const high = code.bin('isub', upper, carry);
  // (high, low) / 2^62: the quadrant in two bits, then the fraction, from here on as a signed number.
  const top = code.bin('or', code.shift('ishl', high, 2), code.shift('ushr', low, 30));
  const quadrant = code.bin('iadd', code.shift('ushr', high, 30), code.shift('ushr', top, 31));
  const sign = code.shift('ishr', top, 31);
  const major = code.bin('xor', top, sign);
  const minor = code.bin('xor', code.shift('ishl', low, 2), sign);
  // In two floats without rounding, times pi/2 in two floats.
  const a = code.un('itof', code.bin('and', major, code.bits(~0x7f)));
  const rest = code.bin(
    'or',
    code.shift('ishl', code.bin('and', major, code.bits(0x7f)), 24),
    code.shift('ushr', minor, 8),
  );
  const b = code.bin('fmul', code.un('itof', rest), code.f32(2 ** -24));
  const factor = code.f32(HALF_PI);
  const product = code.bin('fmul', a, factor);
  const error = code.fma(a, factor, code.un('fneg', product));
  const small = code.fma(b, factor, code.fma(a, code.f32(Math.PI / 2 - HALF_PI), error));
  const scaled = code.bin('fmul', code.bin('fadd', product, small), code.f32(2 ** -32));
  // Infinity and NaN come here too; x - x is NaN for them.
  const signed = code.bin('xor', scaled, code.bin('and', sign, code.bits(-0x80000000)));
  return { rest: code.bin('fadd', signed, code.bin('fsub', x, x)), quadrant };
}

/** sin(|x| + turn * pi/2), without the sign of x. */
function wave(code: Code, x: VecReg, turn: 0 | 1): VecReg {
  const size = code.un('fabs', x);
  const small = reduceSmall(code, size);
  const [r, n] = [code.newVec(), code.newVec()];
  code.move(r, small.rest);
  code.move(n, small.quadrant);
  const greatest = code.first(code.horizontal('imax', size));
  code.if(code.int('gt', greatest, floatBits(LARGE)), () => {
    const large = reduceLarge(code, size);
    const mask = code.bin('ilt', code.f32(LARGE), size);
    code.move(r, code.select(mask, large.rest, r));
    code.move(n, code.select(mask, large.quadrant, n));
  });
  const quadrant = code.bin('iadd', n, code.bits(turn));
  const square = code.bin('fmul', r, r);
  const sine = code.fma(
    code.bin('fmul', r, square),
    series(code, square, [-1 / 6, 1 / 120, -1 / 5040, 1 / 362880]),
    r,
  );
  const tail = series(code, square, [1 / 24, -1 / 720, 1 / 40320, -1 / 3628800]);
  const half = code.bin('fmul', square, code.f32(0.5));
  const cosine = code.bin(
    'fsub',
    code.f32(1),
    code.bin('fsub', half, code.bin('fmul', code.bin('fmul', square, square), tail)),
  );
  const odd = code.bin('ieq', code.bin('and', quadrant, code.bits(1)), code.bits(1));
  const flip = code.shift('ishl', code.shift('ushr', quadrant, 1), 31);
  return code.bin('xor', code.select(odd, cosine, sine), flip);
}

export function sin(code: Code, x: VecReg): VecReg {
  return code.bin('xor', wave(code, x, 0), code.bin('and', x, code.bits(-0x80000000)));
}

export function cos(code: Code, x: VecReg): VecReg {
  return wave(code, x, 1);
}
