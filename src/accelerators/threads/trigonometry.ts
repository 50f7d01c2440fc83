/** Sine and cosine of f32 of any size, to about 1 to 2 units in the last place. */
import type { Code } from './code.ts';
import { call, constant, float, op, polynomial } from './code.ts';
import type { Expr } from './ir.ts';

const f = (fn: Parameters<typeof op>[1], ...args: Expr[]) => op('f32', fn, ...args);
const u = (fn: Parameters<typeof op>[1], ...args: Expr[]) => op('u32', fn, ...args);
const word = (value: number) => constant('u32', value >>> 0);
const select = (c: Expr, a: Expr, b: Expr) => op(a.type, 'select', c, a, b);

/** pi/2 less the nearest double. */
const HALF_PI_REST = 6.123233995736766e-17;

/** pi/2 in six parts of 8 bits: products with a quadrant number of up to 16 bits are exact, fused or not. */
function halfPiParts(): readonly number[] {
  const parts: number[] = [];
  let rest = Math.PI / 2;
  while (parts.length < 5) {
    const unit = 2 ** (Math.floor(Math.log2(rest)) + 1 - 8);
    const part = Math.floor(rest / unit) * unit;
    parts.push(part);
    rest -= part;
  }
  return [...parts, rest + HALF_PI_REST];
}

/** An argument less the nearest multiple of pi/2, and that multiple (at least its last two bits). */
interface Reduced {
  readonly rest: Expr;
  /** u32. */
  readonly quadrant: Expr;
}

/** For 0 <= x <= LARGE. */
function reduceSmall(code: Code, x: Expr): Reduced {
  const n = code.let(f('round', f('mul', x, float(2 / Math.PI))));
  const negative = code.let(f('neg', n));
  let rest = x;
  for (const part of halfPiParts()) rest = code.let(f('fma', negative, float(part), rest));
  return { rest, quadrant: u('convert', n) };
}

/** Where products with the parts of pi/2 cease to be exact; above it the reduction goes through the bits of 2/pi. */
const LARGE = 2 ** 16;
/** 2/pi in binary: 32 zeros before the point, then the bits after it. */
const TWO_OVER_PI = [0, 0xa2f9836e, 0x4e441529, 0xfc2757d1, 0xf534ddc0, 0xdb629599, 0x3c439041, 0xfe5163ab];
const HALF_PI = Math.fround(Math.PI / 2);

/**
 * For x >= LARGE, given by its bits: x = m * 2^e with an integer m of 24 bits, and of 2/pi only 96 bits matter: those
 * above are whole turns, those below add less than 2^-70. Integer arithmetic modulo 2^96 leaves quadrant and fraction.
 */
function reduceLarge(code: Code, bits: Expr): Reduced {
  const mantissa = code.let(u('or', u('and', bits, word(0x7fffff)), word(0x800000)));
  // The window begins at bit e - 2, counted from the point, which is 32 bits into the table.
  const start = code.let(u('sub', u('shr', bits, word(23)), word(150 + 2 - 32)));
  const index = code.let(u('shr', start, word(5)));
  const bit = code.let(u('and', start, word(31)));
  const words = [0, 1, 2, 3].map((offset) => {
    let found: Expr = word(TWO_OVER_PI[offset]);
    for (let k = 1; k <= 4; k++)
      found = select(op('bool', 'eq', index, word(k)), word(TWO_OVER_PI[offset + k]), found);
    return code.let(found);
  });
  const window = [0, 1, 2].map((k) => {
    const back = call('u32', 'shift_right_u32', words[k + 1], u('sub', word(32), bit));
    return code.let(u('or', u('shl', words[k], bit), back));
  });
  const high64 = (a: Expr, b: Expr) => call('u32', 'mulhi', a, b);
  const below = code.let(high64(mantissa, window[2]));
  const low = code.let(u('add', u('mul', mantissa, window[1]), below));
  const carry = select(op('bool', 'lt', low, below), word(1), word(0));
  const upper = u('add', u('mul', mantissa, window[0]), high64(mantissa, window[1]));
  const high = code.let(u('add', upper, carry));
  // (high, low) / 2^62: the quadrant in two bits, then the fraction, from here on as a signed number.
  const top = code.let(u('or', u('shl', high, word(2)), u('shr', low, word(30))));
  const negative = code.let(u('shr', top, word(31)));
  const quadrant = u('add', u('shr', high, word(30)), negative);
  const flip = code.let(u('sub', word(0), negative));
  const major = code.let(u('xor', top, flip));
  const minor = u('xor', u('shl', low, word(2)), flip);
  // In two floats without rounding, times pi/2 in two floats.
  const a = code.let(f('convert', u('and', major, word(~0x7f))));
  const tail = u('or', u('shl', u('and', major, word(0x7f)), word(24)), u('shr', minor, word(8)));
  const b = f('mul', f('convert', tail), float(2 ** -24));
  const product = code.let(f('mul', a, float(HALF_PI)));
  const error = f('fma', a, float(HALF_PI), f('neg', product));
  const small = f('fma', b, float(HALF_PI), f('fma', a, float(Math.PI / 2 - HALF_PI), error));
  const scaled = f('mul', f('add', product, small), float(2 ** -32));
  const signed = u('xor', u('bits', scaled), u('shl', negative, word(31)));
  return { rest: f('bits', signed), quadrant };
}

/** sin(|x| + turn * pi/2), without the sign of x. */
function wave(code: Code, x: Expr, turn: 0 | 1): Expr {
  const bits = code.let(u('and', u('bits', x), word(0x7fffffff)));
  const size = code.let(f('bits', bits));
  const isLarge = code.let(op('bool', 'lt', float(LARGE), size));
  const rest = code.declare(float(0));
  const count = code.declare(word(0));
  const put = (reduced: Reduced) => {
    code.assign(rest, reduced.rest);
    code.assign(count, reduced.quadrant);
  };
  code.if(isLarge, () => put(reduceLarge(code, bits)));
  code.if(op('bool', 'not', isLarge), () => put(reduceSmall(code, size)));
  const quadrant = code.let(u('add', count, word(turn)));
  const square = code.let(f('mul', rest, rest));
  const sineSeries = polynomial(code, square, [-1 / 6, 1 / 120, -1 / 5040, 1 / 362880]);
  const sin = code.let(f('fma', f('mul', rest, square), sineSeries, rest));
  const tail = polynomial(code, square, [1 / 24, -1 / 720, 1 / 40320, -1 / 3628800]);
  const half = f('mul', square, float(0.5));
  const cos = f('sub', float(1), f('sub', half, f('mul', f('mul', square, square), tail)));
  const isOdd = op('bool', 'eq', u('and', quadrant, word(1)), word(1));
  const flip = u('shl', u('and', u('shr', quadrant, word(1)), word(1)), word(31));
  const value = f('bits', u('xor', u('bits', select(isOdd, cos, sin)), flip));
  const finite = op('bool', 'lt', bits, word(0x7f800000));
  return code.let(select(finite, value, float(Number.NaN)));
}

export function sine(code: Code, x: Expr): Expr {
  const value = wave(code, x, 0);
  return f('bits', u('xor', u('bits', value), u('and', u('bits', x), word(0x80000000))));
}

export function cosine(code: Code, x: Expr): Expr {
  return wave(code, x, 1);
}
