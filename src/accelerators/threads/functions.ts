/**
 * Functions of scalars that accelerators lack or compute too coarsely, in terms of what they all have. Transcendental
 * functions come to about 1 to 2 units in the last place: argument reduction, then Taylor series long enough that their
 * truncation is below a tenth of a unit. NaN and infinity are recognized by their bits, because shader compilers may
 * assume that comparisons never meet them.
 */
import { Code, call, constant, float, op, polynomial } from './code.ts';
import type { Expr, Scalar, ThreadFunction } from './ir.ts';
import { cosine, sine } from './trigonometry.ts';

const f = (fn: Parameters<typeof op>[1], ...args: Expr[]) => op('f32', fn, ...args);
const i = (fn: Parameters<typeof op>[1], ...args: Expr[]) => op('i32', fn, ...args);
const u = (fn: Parameters<typeof op>[1], ...args: Expr[]) => op('u32', fn, ...args);
const is = (fn: Parameters<typeof op>[1], ...args: Expr[]) => op('bool', fn, ...args);
const word = (value: number) => constant('u32', value >>> 0);
const integer = (value: number) => constant('i32', value);

const SIGN = 0x80000000;
const MAGNITUDE = 0x7fffffff;
const INFINITY = 0x7f800000;
const NAN = float(Number.NaN);

const wordOf = (x: Expr) => u('bits', x);
const isUnordered = (x: Expr) => is('gt', u('and', wordOf(x), word(MAGNITUDE)), word(INFINITY));
const select = (c: Expr, a: Expr, b: Expr) => op(a.type, 'select', c, a, b);
// Few enough bits that a product with an exponent is exact, and the rest of ln 2.
const LN2_HIGH = 0.693359375;
const LN2_LOW = Math.LN2 - LN2_HIGH;

/** 2^n for exponents within -126..127. */
const powerOfTwo = (n: Expr) => f('bits', i('shl', i('add', n, integer(127)), word(23)));

/** mantissa * 2^n for n of twice the range of exponents: in two steps, so that overflow comes out right. */
function scale(code: Code, mantissa: Expr, n: Expr): Expr {
  const half = code.let(i('shr', n, word(1)));
  const rest = i('sub', n, half);
  return f('mul', f('mul', mantissa, powerOfTwo(half)), powerOfTwo(rest));
}

/** n = round(x / ln 2), as float, and e^(x - n ln 2) - 1. */
function reduceExp(code: Code, x: Expr): { readonly n: Expr; readonly minusOne: Expr } {
  const n = code.let(f('round', f('mul', x, float(Math.LOG2E))));
  const negative = code.let(f('neg', n));
  const r = code.let(f('fma', negative, float(LN2_LOW), f('fma', negative, float(LN2_HIGH), x)));
  const series = polynomial(code, r, [1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040]);
  return { n, minusOne: code.let(f('fma', f('mul', r, r), series, r)) };
}

/** NaN stays NaN. */
const clamp = (x: Expr, low: number, high: number) =>
  call('f32', 'minimum', call('f32', 'maximum', x, float(low)), float(high));

function exp(code: Code, x: Expr): Expr {
  const { n, minusOne } = reduceExp(code, code.let(clamp(x, -105, 90)));
  return select(isUnordered(x), x, scale(code, f('add', minusOne, float(1)), code.let(i('convert', n))));
}

function exp2(code: Code, x: Expr): Expr {
  const inside = code.let(clamp(x, -152, 129));
  const n = code.let(f('round', inside));
  const r = code.let(f('sub', inside, n));
  const coefficients: number[] = [];
  for (let k = 1, c = Math.LN2; k <= 7; k++, c *= Math.LN2 / k) coefficients.push(c);
  const mantissa = f('fma', r, polynomial(code, r, coefficients), float(1));
  return select(isUnordered(x), x, scale(code, mantissa, code.let(i('convert', n))));
}

interface Logarithm {
  /** Exponent e, where x = 2^e * m with m from sqrt(1/2) to sqrt(2). */
  readonly exponent: Expr;
  /** ln m = high - low. */
  readonly high: Expr;
  readonly low: Expr;
  /** Puts the results for zero, negative numbers, infinity and NaN in their places. */
  readonly finish: (result: Expr) => Expr;
}

const SQRT1_2 = 0x3f3504f3;

function reduceLog(code: Code, x: Expr): Logarithm {
  const bits = code.let(wordOf(x));
  const small = code.let(is('lt', bits, word(0x00800000)));
  const grown = code.let(i('bits', select(small, f('mul', x, float(2 ** 23)), x)));
  const shifted = code.let(i('shr', i('sub', grown, integer(SQRT1_2)), word(23)));
  const mantissa = f('bits', i('sub', grown, i('shl', shifted, word(23))));
  const exponent = i('sub', shifted, select(small, integer(23), integer(0)));
  const high = code.let(f('sub', mantissa, float(1)));
  // ln(1 + f) = 2 atanh(s) with s = f / (2 + f), written as f - (f²/2 - s (f²/2 + R)) to keep f exact.
  const s = code.let(f('div', high, f('add', high, float(2))));
  const z = code.let(f('mul', s, s));
  const rest = f('mul', z, polynomial(code, z, [2 / 3, 2 / 5, 2 / 7, 2 / 9, 2 / 11]));
  const half = code.let(f('mul', f('mul', high, high), float(0.5)));
  const low = code.let(f('sub', half, f('mul', s, f('add', half, rest))));
  const magnitude = u('and', bits, word(MAGNITUDE));
  const finish = (result: Expr): Expr => {
    const valid = select(is('ge', bits, word(SIGN)), NAN, select(is('ge', bits, word(INFINITY)), x, result));
    return select(is('eq', magnitude, word(0)), float(Number.NEGATIVE_INFINITY), valid);
  };
  return { exponent: code.let(f('convert', exponent)), high, low, finish };
}

function log(code: Code, x: Expr): Expr {
  const { exponent, high, low, finish } = reduceLog(code, x);
  const tail = f('sub', low, f('mul', exponent, float(LN2_LOW)));
  return finish(f('fma', exponent, float(LN2_HIGH), f('sub', high, tail)));
}

const LOG2E_HIGH = Math.fround(Math.LOG2E);

function log2(code: Code, x: Expr): Expr {
  const { exponent, high, low, finish } = reduceLog(code, x);
  const natural = code.let(f('sub', high, low));
  const rounding = f('sub', f('sub', high, natural), low);
  const tail = f('fma', rounding, float(LOG2E_HIGH), f('mul', natural, float(Math.LOG2E - LOG2E_HIGH)));
  return finish(f('add', exponent, f('fma', natural, float(LOG2E_HIGH), tail)));
}

const withSignOf = (value: Expr, x: Expr) =>
  f('bits', u('or', wordOf(value), u('and', wordOf(x), word(SIGN))));

/** tanh |x| = w / (w + 2) with w = e^(2 |x|) - 1, which keeps small arguments exact. */
function tanh(code: Code, x: Expr): Expr {
  const size = code.let(f('abs', x));
  const { n, minusOne } = reduceExp(code, code.let(call('f32', 'minimum', f('add', size, size), float(20))));
  const power = code.let(powerOfTwo(i('convert', n)));
  const w = code.let(f('fma', power, minusOne, f('sub', power, float(1))));
  return select(isUnordered(x), x, withSignOf(f('div', w, f('add', w, float(2))), x));
}

/** With e = exp(-|x|): 1 / (1 + e), or e / (1 + e) below 0, where it stays exact down to the smallest numbers. */
function sigmoid(code: Code, x: Expr): Expr {
  const e = code.let(call('f32', 'exp', f('neg', f('abs', x))));
  return f('div', select(is('lt', x, float(0)), e, float(1)), f('add', float(1), e));
}

const extreme =
  (fn: 'lt' | 'gt') =>
  (_: Code, a: Expr, b: Expr): Expr =>
    select(isUnordered(a), a, select(isUnordered(b), b, select(is(fn, a, b), a, b)));

/** By zero: 0. */
const quotient =
  (type: 'i32' | 'u32', fn: 'div' | 'rem') =>
  (code: Code, a: Expr, b: Expr): Expr => {
    const zero = constant(type, 0);
    const byZero = code.let(is('eq', b, zero));
    return select(byZero, zero, op(type, fn, a, select(byZero, constant(type, 1), b)));
  };

/** By 32 or more (the amount an u32): 0, or the sign where the value has one and is shifted right. */
function shift(type: 'i32' | 'u32', fn: 'shl' | 'shr') {
  return (_: Code, a: Expr, amount: Expr): Expr => {
    if (type === 'i32' && fn === 'shr') return op(type, fn, a, u('min', amount, word(31)));
    const inside = op(type, fn, a, u('and', amount, word(31)));
    return select(is('lt', amount, word(32)), inside, constant(type, 0));
  };
}

/** Upper half of a 64-bit product, from products of 16-bit halves. */
function mulhi(code: Code, a: Expr, b: Expr): Expr {
  const halves = (x: Expr) => [code.let(u('and', x, word(0xffff))), code.let(u('shr', x, word(16)))];
  const [al, ah] = halves(a);
  const [bl, bh] = halves(b);
  const middle = code.let(u('add', u('mul', ah, bl), u('shr', u('mul', al, bl), word(16))));
  const other = u('add', u('mul', al, bh), u('and', middle, word(0xffff)));
  return u('add', u('mul', ah, bh), u('add', u('shr', middle, word(16)), u('shr', other, word(16))));
}

/** Toward zero, saturating; NaN gives 0. Every bound is exact in f32; below 2^31 the conversion is in range. */
function toInt(code: Code, x: Expr): Expr {
  const inside = code.let(is('lt', f('abs', x), float(2 ** 31)));
  const limit = select(is('lt', x, float(0)), integer(-0x80000000), integer(0x7fffffff));
  const value = select(inside, i('convert', select(inside, x, float(0))), limit);
  return select(isUnordered(x), integer(0), value);
}
function toUnsigned(code: Code, x: Expr): Expr {
  const inside = code.let(is('and', is('ge', x, float(0)), is('lt', x, float(2 ** 32))));
  const value = u('convert', select(inside, x, float(0)));
  const large = is('and', is('gt', x, float(0)), is('not', isUnordered(x)));
  return select(inside, value, select(large, word(0xffffffff), word(0)));
}

/** The upper half of an f32's bits, rounded to nearest even; NaN stays NaN. */
function bf16Bits(code: Code, x: Expr): Expr {
  const bits = code.let(wordOf(x));
  const odd = u('and', u('shr', bits, word(16)), word(1));
  const rounded = u('shr', u('add', bits, u('add', odd, word(0x7fff))), word(16));
  return select(isUnordered(x), u('or', u('shr', bits, word(16)), word(0x40)), rounded);
}
const fromBf16Bits = (_: Code, bits: Expr): Expr => f('bits', u('shl', bits, word(16)));

function f16Bits(code: Code, x: Expr): Expr {
  const bits = code.let(wordOf(x));
  const size = code.let(u('and', bits, word(MAGNITUDE)));
  const odd = u('and', u('shr', size, word(13)), word(1));
  // The exponent's bias is 112 smaller; what rounding carries over into it is right as it is.
  const normal = u('shr', u('sub', u('add', size, u('add', odd, word(0x0fff))), word(0x38000000)), word(13));
  const subnormal = u('convert', f('round', f('mul', f('bits', size), float(2 ** 24))));
  const finite = select(is('lt', size, word(0x38800000)), subnormal, normal);
  const large = select(is('ge', size, word(0x47800000)), word(0x7c00), finite);
  const value = select(is('gt', size, word(INFINITY)), word(0x7e00), large);
  return u('or', value, u('and', u('shr', bits, word(16)), word(0x8000)));
}
function fromF16Bits(code: Code, bits: Expr): Expr {
  const size = code.let(u('and', bits, word(0x7fff)));
  const wide = code.let(u('shl', size, word(13)));
  const normal = f('bits', u('add', wide, word(112 << 23)));
  const special = f('bits', u('or', wide, word(INFINITY)));
  const subnormal = f('mul', f('convert', size), float(2 ** -24));
  const value = select(
    is('lt', size, word(0x0400)),
    subnormal,
    select(is('ge', size, word(0x7c00)), special, normal),
  );
  return f('bits', u('or', wordOf(value), u('shl', u('and', bits, word(0x8000)), word(16))));
}

interface Definition {
  readonly parameters: readonly Scalar[];
  readonly result: Scalar;
  readonly body: (code: Code, ...args: Expr[]) => Expr;
}

const define = (
  parameters: readonly Scalar[],
  result: Scalar,
  body: (code: Code, ...args: Expr[]) => Expr,
): Definition => ({ parameters, result, body });

const DEFINITIONS = {
  maximum: define(['f32', 'f32'], 'f32', extreme('gt')),
  minimum: define(['f32', 'f32'], 'f32', extreme('lt')),
  exp: define(['f32'], 'f32', exp),
  exp2: define(['f32'], 'f32', exp2),
  log: define(['f32'], 'f32', log),
  log2: define(['f32'], 'f32', log2),
  tanh: define(['f32'], 'f32', tanh),
  sigmoid: define(['f32'], 'f32', sigmoid),
  sin: define(['f32'], 'f32', sine),
  cos: define(['f32'], 'f32', cosine),
  divide_i32: define(['i32', 'i32'], 'i32', quotient('i32', 'div')),
  divide_u32: define(['u32', 'u32'], 'u32', quotient('u32', 'div')),
  remainder_i32: define(['i32', 'i32'], 'i32', quotient('i32', 'rem')),
  remainder_u32: define(['u32', 'u32'], 'u32', quotient('u32', 'rem')),
  shift_left_i32: define(['i32', 'u32'], 'i32', shift('i32', 'shl')),
  shift_left_u32: define(['u32', 'u32'], 'u32', shift('u32', 'shl')),
  shift_right_i32: define(['i32', 'u32'], 'i32', shift('i32', 'shr')),
  shift_right_u32: define(['u32', 'u32'], 'u32', shift('u32', 'shr')),
  mulhi: define(['u32', 'u32'], 'u32', mulhi),
  to_i32: define(['f32'], 'i32', toInt),
  to_u32: define(['f32'], 'u32', toUnsigned),
  bf16_bits: define(['f32'], 'u32', bf16Bits),
  from_bf16_bits: define(['u32'], 'f32', fromBf16Bits),
  f16_bits: define(['f32'], 'u32', f16Bits),
  from_f16_bits: define(['u32'], 'f32', fromF16Bits),
} as const satisfies { readonly [name: string]: Definition };

export type FunctionName = keyof typeof DEFINITIONS;

const built = new Map<FunctionName, ThreadFunction>();

/** The code of a function, made once. */
export function threadFunction(name: FunctionName): ThreadFunction {
  const known = built.get(name);
  if (known !== undefined) return known;
  const { parameters, result, body }: Definition = DEFINITIONS[name];
  const code = new Code();
  const list = parameters.map((type) => ({ id: code.newId(), type }));
  const calls = new Set<string>();
  const statements = code.block(() => {
    const value = body(code, ...list.map(({ id, type }) => code.variable(type, id)));
    code.emit({ s: 'return', value });
  });
  JSON.stringify(statements, (key, value) => {
    if (key !== 'args' && value?.e === 'call') calls.add(value.name);
    return value;
  });
  const made = { name, parameters: list, result, body: statements, calls: [...calls] };
  built.set(name, made);
  return made;
}

/** The functions of these names and all that they call, callees first. */
export function withCallees(names: Iterable<string>): readonly ThreadFunction[] {
  const found = new Map<string, ThreadFunction>();
  const visit = (name: string) => {
    if (found.has(name)) return;
    const made = threadFunction(name as FunctionName);
    for (const callee of made.calls) visit(callee);
    found.set(name, made);
  };
  for (const name of names) visit(name);
  return [...found.values()];
}
