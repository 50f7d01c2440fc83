/** Elementwise functions and casts of one element. */
import type { DType } from '../../numerics/dtype.ts';
import type { MapFn } from '../../tile/ir.ts';
import { call, constant, float, int, op } from './code.ts';
import { carrier } from './facts.ts';
import type { FunctionName } from './functions.ts';
import type { Expr, OpFn, Scalar } from './ir.ts';

type Emit = (type: Scalar, args: readonly Expr[]) => Expr;

const same =
  (fn: OpFn): Emit =>
  (type, args) =>
    op(type, fn, ...args);
const compare =
  (fn: OpFn): Emit =>
  (_, args) =>
    op('bool', fn, ...args);
const float1 =
  (name: FunctionName): Emit =>
  (_, args) =>
    call('f32', name, ...args);
const isI32 = (type: Scalar) => type === 'i32';
const unsigned = (x: Expr) => (x.type === 'u32' ? x : op('u32', 'convert', x));
const extreme =
  (fn: 'min' | 'max', name: FunctionName): Emit =>
  (type, args) =>
    type === 'f32' ? call('f32', name, ...args) : op(type, fn, ...args);

const EMIT: { readonly [F in MapFn]: Emit } = {
  neg: (type, [x]) => (type === 'u32' ? op('u32', 'sub', constant('u32', 0), x) : op(type, 'neg', x)),
  abs: (type, [x]) => (type === 'u32' ? x : op(type, 'abs', x)),
  not: same('not'),
  floor: same('floor'),
  sqrt: same('sqrt'),
  rsqrt: (_, [x]) => op('f32', 'div', float(1), op('f32', 'sqrt', x)),
  exp: float1('exp'),
  exp2: float1('exp2'),
  log: float1('log'),
  log2: float1('log2'),
  tanh: float1('tanh'),
  sigmoid: float1('sigmoid'),
  sin: float1('sin'),
  cos: float1('cos'),
  add: same('add'),
  sub: same('sub'),
  mul: same('mul'),
  div: (type, [x, y]) =>
    type === 'f32'
      ? op('f32', 'div', x, y)
      : y.e === 'constant' && y.value !== 0
        ? op(type, 'div', x, y)
        : call(type, isI32(type) ? 'divide_i32' : 'divide_u32', x, y),
  rem: (type, [x, y]) =>
    y.e === 'constant' && y.value !== 0
      ? op(type, 'rem', x, y)
      : call(type, isI32(type) ? 'remainder_i32' : 'remainder_u32', x, y),
  min: extreme('min', 'minimum'),
  max: extreme('max', 'maximum'),
  and: same('and'),
  or: same('or'),
  xor: same('xor'),
  shl: (type, [x, y]) => call(type, isI32(type) ? 'shift_left_i32' : 'shift_left_u32', x, unsigned(y)),
  shr: (type, [x, y]) => call(type, isI32(type) ? 'shift_right_i32' : 'shift_right_u32', x, unsigned(y)),
  mulhi: (_, args) => call('u32', 'mulhi', ...args),
  lt: compare('lt'),
  le: compare('le'),
  gt: compare('gt'),
  ge: compare('ge'),
  eq: compare('eq'),
  ne: compare('ne'),
  fma: same('fma'),
  select: same('select'),
};

/** `fn` of elements; `type` is that of the last argument. */
export const emitMap = (fn: MapFn, type: Scalar, args: readonly Expr[]): Expr => EMIT[fn](type, args);

/** A float rounded to what `dtype` holds. */
export function roundTo(dtype: DType, x: Expr): Expr {
  if (dtype === 'bf16') return call('f32', 'from_bf16_bits', call('u32', 'bf16_bits', x));
  if (dtype === 'f16') return call('f32', 'from_f16_bits', call('u32', 'f16_bits', x));
  return x;
}

export function emitCast(from: DType, to: DType, x: Expr): Expr {
  const [source, target] = [carrier(from), carrier(to)];
  if (from === to) return x;
  if (target === 'f32') {
    if (source === 'f32') return to === 'f32' ? x : roundTo(to, x);
    return roundTo(to, op('f32', 'convert', x));
  }
  if (source === 'f32') {
    if (target === 'u32') return call('u32', 'to_u32', x);
    const value = call('i32', 'to_i32', x);
    return to === 'i8' ? op('i32', 'min', op('i32', 'max', value, int(-128)), int(127)) : value;
  }
  const value = source === target ? x : op(target, 'convert', x);
  if (to !== 'i8' || source === 'bool') return value;
  return op('i32', 'shr', op('i32', 'shl', value, constant('u32', 24)), constant('u32', 24));
}

/** A constant of the tile language as an element of `dtype`. */
export function constantOf(dtype: DType, value: number): Expr {
  const type = carrier(dtype);
  if (type === 'f32') return float(value);
  if (type === 'u32') return constant('u32', value >>> 0);
  if (type === 'bool') return constant('bool', value & 1);
  return constant('i32', dtype === 'i8' ? (value << 24) >> 24 : value | 0);
}
