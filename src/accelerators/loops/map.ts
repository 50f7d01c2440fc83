/** Elementwise functions and casts on vector registers, and on integer scalars. */
import type { DType } from '../../numerics/dtype.ts';
import { isFloat } from '../../numerics/dtype.ts';
import type { MapFn } from '../../tile/ir.ts';
import type { Code } from './code.ts';
import type { IntOperand, VecBinary, VecReg } from './ir.ts';
import * as math from './math.ts';
import * as trigonometry from './trigonometry.ts';

/** How lanes are to be understood: bool lanes are all-ones or all-zeros. */
type Kind = 'float' | 'signed' | 'unsigned' | 'bool';

export function kindOf(dtype: DType): Kind {
  if (isFloat(dtype)) return 'float';
  return dtype === 'u32' ? 'unsigned' : dtype === 'bool' ? 'bool' : 'signed';
}

type Emit = (code: Code, args: readonly VecReg[], kind: Kind) => VecReg;

const unsupportedKind = (kind: Kind): never => {
  throw new Error(`no vector function for ${kind} lanes`);
};
/** One vector operation a kind of lanes. */
const binary =
  (table: { readonly [K in Kind]?: VecBinary }): Emit =>
  (code, [a, b], kind) =>
    code.bin(table[kind] ?? unsupportedKind(kind), a, b);
const swapped =
  (emit: Emit): Emit =>
  (code, [a, b], kind) =>
    emit(code, [b, a], kind);
const same = (fn: VecBinary): Emit => binary({ float: fn, signed: fn, unsigned: fn, bool: fn });
const less = binary({ float: 'flt', signed: 'ilt', unsigned: 'ult' });
const lessOrEqual = binary({ float: 'fle', signed: 'ile', unsigned: 'ule' });
const equal = binary({ float: 'feq', signed: 'ieq', unsigned: 'ieq', bool: 'ieq' });

/** Quotient and remainder of unsigned lanes, bit by bit: the processor has no vector division of integers. By zero: both 0. */
function divide(code: Code, a: VecReg, b: VecReg): { quotient: VecReg; remainder: VecReg } {
  const zero = code.bits(0);
  const [rest, quotient, remainder] = [code.newVec(), code.newVec(), code.newVec()];
  code.move(rest, a);
  code.move(quotient, zero);
  code.move(remainder, zero);
  code.for(0, 32, 1, () => {
    const overflow = code.shift('ishr', remainder, 31);
    const next = code.bin('or', code.shift('ishl', remainder, 1), code.shift('ushr', rest, 31));
    const fits = code.bin('or', overflow, code.bin('ule', b, next));
    code.move(rest, code.shift('ishl', rest, 1));
    code.move(remainder, code.bin('isub', next, code.bin('and', fits, b)));
    code.move(quotient, code.bin('isub', code.shift('ishl', quotient, 1), fits));
  });
  const byZero = code.bin('ieq', b, zero);
  return {
    quotient: code.bin('andnot', byZero, quotient),
    remainder: code.bin('andnot', byZero, remainder),
  };
}

const negate = (code: Code, a: VecReg): VecReg => code.bin('isub', code.bits(0), a);
const magnitude = (code: Code, a: VecReg): VecReg => code.bin('imax', a, negate(code, a));
/** a with its sign changed in the lanes where `sign` is all-ones. */
const withSign = (code: Code, a: VecReg, sign: VecReg): VecReg =>
  code.bin('isub', code.bin('xor', a, sign), sign);

const quotient: Emit = (code, [a, b], kind) => {
  if (kind === 'float') return code.bin('fdiv', a, b);
  if (kind === 'unsigned') return divide(code, a, b).quotient;
  const sign = code.shift('ishr', code.bin('xor', a, b), 31);
  return withSign(code, divide(code, magnitude(code, a), magnitude(code, b)).quotient, sign);
};

const remainder: Emit = (code, [a, b], kind) => {
  if (kind === 'unsigned') return divide(code, a, b).remainder;
  const sign = code.shift('ishr', a, 31);
  return withSign(code, divide(code, magnitude(code, a), magnitude(code, b)).remainder, sign);
};

const EMIT: { readonly [F in MapFn]: Emit } = {
  neg: (code, [a], kind) => (kind === 'float' ? code.un('fneg', a) : negate(code, a)),
  abs: (code, [a], kind) =>
    kind === 'float' ? code.un('fabs', a) : kind === 'signed' ? magnitude(code, a) : a,
  not: (code, [a]) => code.un('not', a),
  floor: (code, [a]) => code.un('ffloor', a),
  sqrt: (code, [a]) => code.un('fsqrt', a),
  rsqrt: (code, [a]) => code.bin('fdiv', code.f32(1), code.un('fsqrt', a)),
  exp: (code, [a]) => math.exp(code, a),
  exp2: (code, [a]) => math.exp2(code, a),
  log: (code, [a]) => math.log(code, a),
  log2: (code, [a]) => math.log2(code, a),
  tanh: (code, [a]) => math.tanh(code, a),
  sigmoid: (code, [a]) => math.sigmoid(code, a),
  sin: (code, [a]) => trigonometry.sin(code, a),
  cos: (code, [a]) => trigonometry.cos(code, a),
  add: binary({ float: 'fadd', signed: 'iadd', unsigned: 'iadd' }),
  sub: binary({ float: 'fsub', signed: 'isub', unsigned: 'isub' }),
  mul: binary({ float: 'fmul', signed: 'imul', unsigned: 'imul' }),
  div: quotient,
  rem: remainder,
  min: binary({ float: 'fmin', signed: 'imin', unsigned: 'umin' }),
  max: binary({ float: 'fmax', signed: 'imax', unsigned: 'umax' }),
  and: same('and'),
  or: same('or'),
  xor: same('xor'),
  shl: same('ishl'),
  shr: binary({ signed: 'ishr', unsigned: 'ushr' }),
  mulhi: same('umulhi'),
  lt: less,
  le: lessOrEqual,
  gt: swapped(less),
  ge: swapped(lessOrEqual),
  eq: equal,
  ne: (code, args, kind) =>
    kind === 'float' ? code.bin('fne', args[0], args[1]) : code.un('not', equal(code, args, kind)),
  fma: (code, [a, b, c]) => code.fma(a, b, c),
  select: (code, [c, a, b]) => code.select(c, a, b),
};

/** Quotients by 2^n of integers: a shift, after which negative ones are rounded toward zero. */
function divideByPower(code: Code, a: VecReg, n: number, kind: Kind): VecReg {
  if (n === 0) return a;
  if (kind === 'unsigned') return code.shift('ushr', a, n);
  const correction = code.shift('ushr', code.shift('ishr', a, 31), 32 - n);
  return code.shift('ishr', code.bin('iadd', a, correction), n);
}

/** `fn` of vectors; `dtype` is that of the last argument, `last` the bits of its lanes where they are constant. */
export function emitMap(
  code: Code,
  fn: MapFn,
  args: readonly VecReg[],
  dtype: DType,
  last: number | null,
): VecReg {
  const kind = kindOf(dtype);
  const isInteger = kind === 'signed' || kind === 'unsigned';
  if (fn === 'div' && isInteger && last !== null && last > 0 && (last & (last - 1)) === 0)
    return divideByPower(code, args[0], 31 - Math.clz32(last), kind);
  return EMIT[fn](code, args, kind);
}

/** What is known of an operation on integers. */
interface Known {
  /** The result does not wrap. */
  readonly fits: boolean;
  /** The first argument is not negative. */
  readonly natural: boolean;
}

type IntEmit = (code: Code, args: readonly IntOperand[], dtype: DType, known: Known) => IntOperand;
const plain =
  (fn: 'and' | 'or' | 'xor' | 'min' | 'max' | 'rem' | 'lt' | 'le' | 'gt' | 'ge' | 'eq' | 'ne'): IntEmit =>
  (code, [a, b]) =>
    code.int(fn, a, b);
const wrapped =
  (fn: 'add' | 'sub' | 'mul'): IntEmit =>
  (code, [a, b], _, { fits }) =>
    fits ? code.int(fn, a, b) : code.wrap(code.int(fn, a, b));

/** What integer registers compute by themselves, for i32 and bool (0 or 1) scalars; the rest goes through vectors. */
const INTEGER: { readonly [F in MapFn]?: IntEmit } = {
  neg: (code, [a]) => code.wrap(code.int('sub', 0, a)),
  abs: (code, [a]) => code.wrap(code.int('max', a, code.int('sub', 0, a))),
  not: (code, [a], dtype) => code.int('xor', a, dtype === 'bool' ? 1 : -1),
  add: wrapped('add'),
  sub: wrapped('sub'),
  mul: wrapped('mul'),
  div: (code, [a, b], _, { fits, natural }) => {
    const isPower = typeof b === 'number' && b > 0 && (b & (b - 1)) === 0;
    if (natural && isPower && b > 1) return code.int('shr', a, 31 - Math.clz32(b));
    return fits ? code.int('div', a, b) : code.wrap(code.int('div', a, b));
  },
  rem: plain('rem'),
  min: plain('min'),
  max: plain('max'),
  and: plain('and'),
  or: plain('or'),
  xor: plain('xor'),
  lt: plain('lt'),
  le: plain('le'),
  gt: plain('gt'),
  ge: plain('ge'),
  eq: plain('eq'),
  ne: plain('ne'),
  select: (code, [c, a, b]) => {
    if (typeof c === 'number') return c !== 0 ? a : b;
    const dst = code.newInt();
    code.emit({ o: 'iselect', dst, c, a: code.register(a), b: code.register(b) });
    return dst;
  },
};

/** `fn` of integer scalars, or null where it must go through vectors. */
export function emitIntegerMap(
  code: Code,
  fn: MapFn,
  args: readonly IntOperand[],
  dtype: DType,
  known: Known,
): IntOperand | null {
  return INTEGER[fn]?.(code, args, dtype, known) ?? null;
}

/** Whether a cast keeps the lanes' bits as they are. */
export function castIsFree(from: DType, to: DType): boolean {
  if (from === to) return true;
  if (kindOf(to) === 'float') return kindOf(from) === 'float' && to === 'f32';
  return (kindOf(from) === 'signed' || kindOf(from) === 'unsigned') && to !== 'i8';
}

export function emitCast(code: Code, a: VecReg, from: DType, to: DType): VecReg {
  if (castIsFree(from, to)) return a;
  const [source, target] = [kindOf(from), kindOf(to)];
  if (source === 'bool') return code.bin('and', a, target === 'float' ? code.f32(1) : code.bits(1));
  if (target === 'float') {
    const value = source === 'float' ? a : code.un(source === 'unsigned' ? 'utof' : 'itof', a);
    return to === 'f32' ? value : code.un(to === 'bf16' ? 'roundbf16' : 'roundf16', value);
  }
  if (source === 'float') {
    const value = code.un(target === 'unsigned' ? 'ftou' : 'ftoi', a);
    if (to !== 'i8') return value;
    return code.bin('imin', code.bin('imax', value, code.bits(-128)), code.bits(127));
  }
  return code.shift('ishr', code.shift('ishl', a, 24), 24);
}
