/**
 * Transcendental functions on vectors of f32, to about 1 to 2 units in the last place: argument reduction, then
 * Taylor series long enough that their truncation is below a tenth of a unit.
 */

import type { Code } from './code.ts';
import type { VecReg } from './ir.ts';
import { VANISHING } from './ir.ts';

/** c[0] + x * (c[1] + x * (c[2] + …)). */
function polynomial(code: Code, x: VecReg, coefficients: readonly number[]): VecReg {
  let sum = code.f32(coefficients[coefficients.length - 1]);
  for (let i = coefficients.length - 2; i >= 0; i--) sum = code.fma(sum, x, code.f32(coefficients[i]));
  return sum;
}

// Few enough bits that a product with an exponent is exact, and the rest of ln 2.
const LN2_HIGH = 0.693359375;
const LN2_LOW = Math.LN2 - LN2_HIGH;

/** 2^n for an i32 vector of exponents within -126..127, and 0 for -127. */
function powerOfTwo(code: Code, n: VecReg): VecReg {
  return code.shift('ishl', code.bin('iadd', n, code.bits(127)), 23);
}

/**
 * mantissa * 2^n for a whole number n of twice the range of exponents, from `VANISHING` on, which multiplies by 0. Without
 * an instruction for it in two steps, so that subnormals and overflow come out right.
 */
function scale(code: Code, mantissa: VecReg, n: VecReg): VecReg {
  if (code.target.scales) {
    const dst = code.newVec();
    code.emit({ o: 'vscale', dst, a: mantissa, n });
    return dst;
  }
  const whole = code.un('ftoi', n);
  const half = code.shift('ishr', whole, 1);
  const rest = code.bin('isub', whole, half);
  return code.bin('fmul', code.bin('fmul', mantissa, powerOfTwo(code, half)), powerOfTwo(code, rest));
}

/** n = round(x / ln 2), as float, and e^(x - n ln 2) - 1. */
function reduceExp(code: Code, x: VecReg): { readonly n: VecReg; readonly minusOne: VecReg } {
  const n = code.un('fround', code.bin('fmul', x, code.f32(Math.LOG2E)));
  const negative = code.un('fneg', n);
  const r = code.fma(negative, code.f32(LN2_LOW), code.fma(negative, code.f32(LN2_HIGH), x));
  const series = polynomial(code, r, [1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040]);
  return { n, minusOne: code.fma(code.bin('fmul', r, r), series, r) };
}

/** x between two numbers that are not 0; NaN stays. */
function clamp(code: Code, x: VecReg, low: number, high: number): VecReg {
  return code.bin('fminfast', code.f32(high), code.bin('fmaxfast', code.f32(low), x));
}

export function exp(code: Code, x: VecReg): VecReg {
  // -Infinity, which masks have, comes to a factor of 0: where results are below the smallest number but not that far,
  // processors take a hundred times as long to find it out.
  const { n, minusOne } = reduceExp(code, clamp(code, x, VANISHING * Math.LN2, 90));
  return scale(code, code.bin('fadd', minusOne, code.f32(1)), n);
}

export function exp2(code: Code, x: VecReg): VecReg {
  const inside = clamp(code, x, VANISHING, 129);
  const n = code.un('fround', inside);
  const r = code.bin('fsub', inside, n);
  const coefficients: number[] = [];
  for (let k = 1, c = Math.LN2; k <= 7; k++, c *= Math.LN2 / k) coefficients.push(c);
  const mantissa = code.fma(r, polynomial(code, r, coefficients), code.f32(1));
  return scale(code, mantissa, n);
}

interface Logarithm {
  /** Exponent e as float, where x = 2^e * m with m from sqrt(1/2) to sqrt(2). */
  readonly exponent: VecReg;
  /** ln m = high - low. */
  readonly high: VecReg;
  readonly low: VecReg;
  /** Puts the results for zero, negative numbers, infinity and NaN in their lanes. */
  readonly finish: (result: VecReg) => VecReg;
}

function reduceLog(code: Code, x: VecReg): Logarithm {
  const small = code.bin('flt', x, code.f32(2 ** -126));
  const grown = code.select(small, code.bin('fmul', x, code.f32(2 ** 23)), x);
  const shifted = code.shift('ishr', code.bin('isub', grown, code.f32(Math.SQRT1_2)), 23);
  const mantissa = code.bin('isub', grown, code.shift('ishl', shifted, 23));
  const exponent = code.bin('isub', shifted, code.bin('and', small, code.bits(23)));
  const f = code.bin('fsub', mantissa, code.f32(1));
  // ln(1 + f) = 2 atanh(s) with s = f / (2 + f), written as f - (f²/2 - s (f²/2 + R)) to keep f exact.
  const s = code.bin('fdiv', f, code.bin('fadd', f, code.f32(2)));
  const z = code.bin('fmul', s, s);
  const rest = code.bin('fmul', z, polynomial(code, z, [2 / 3, 2 / 5, 2 / 7, 2 / 9, 2 / 11]));
  const half = code.bin('fmul', code.bin('fmul', f, f), code.f32(0.5));
  const low = code.bin('fsub', half, code.bin('fmul', s, code.bin('fadd', half, rest)));
  const finish = (result: VecReg): VecReg => {
    const infinity = code.f32(Number.POSITIVE_INFINITY);
    const zero = code.f32(0);
    // x + NaN-or-x: keeps NaN and +infinity as they are.
    const finite = code.bin('flt', x, infinity);
    const positive = code.select(finite, result, x);
    const valid = code.select(code.bin('flt', x, zero), code.f32(Number.NaN), positive);
    return code.select(code.bin('feq', x, zero), code.un('fneg', infinity), valid);
  };
  return { exponent: code.un('itof', exponent), high: f, low, finish };
}

export function log(code: Code, x: VecReg): VecReg {
  const { exponent, high, low, finish } = reduceLog(code, x);
  const tail = code.bin('fsub', low, code.bin('fmul', exponent, code.f32(LN2_LOW)));
  return finish(code.fma(exponent, code.f32(LN2_HIGH), code.bin('fsub', high, tail)));
}

const LOG2E_HIGH = Math.fround(Math.LOG2E);

export function log2(code: Code, x: VecReg): VecReg {
  const { exponent, high, low, finish } = reduceLog(code, x);
  const natural = code.bin('fsub', high, low);
  const rounding = code.bin('fsub', code.bin('fsub', high, natural), low);
  const tail = code.fma(
    rounding,
    code.f32(LOG2E_HIGH),
    code.bin('fmul', natural, code.f32(Math.LOG2E - LOG2E_HIGH)),
  );
  const scaled = code.fma(natural, code.f32(LOG2E_HIGH), tail);
  return finish(code.bin('fadd', exponent, scaled));
}

const SIGN = -0x80000000;

/** tanh |x| = w / (w + 2) with w = e^(2 |x|) - 1, which keeps small arguments exact. */
export function tanh(code: Code, x: VecReg): VecReg {
  const double = code.bin('fminfast', code.f32(20), code.bin('fadd', code.un('fabs', x), code.un('fabs', x)));
  const { n, minusOne } = reduceExp(code, double);
  const power = powerOfTwo(code, code.un('ftoi', n));
  const w = code.fma(power, minusOne, code.bin('fsub', power, code.f32(1)));
  const value = code.bin('fdiv', w, code.bin('fadd', w, code.f32(2)));
  return code.bin('or', value, code.bin('and', x, code.bits(SIGN)));
}

/** With e = exp(-|x|): 1 / (1 + e), or e / (1 + e) below 0, where it stays exact down to subnormals. */
export function sigmoid(code: Code, x: VecReg): VecReg {
  const e = exp(code, code.un('fneg', code.un('fabs', x)));
  const one = code.f32(1);
  const numerator = code.select(code.bin('flt', x, code.f32(0)), e, one);
  return code.bin('fdiv', numerator, code.bin('fadd', one, e));
}
