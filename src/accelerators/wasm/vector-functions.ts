/** The loop IR's lanewise functions in WebAssembly SIMD. Arguments are on the stack, the result replaces them. */
import type { HorizontalFn, VecBinary, VecUnary } from '../loops/ir.ts';
import type { FunctionBody } from './body.ts';
import { emitRoundBf16, emitRoundF16 } from './memory-types.ts';
import type { PlainOp, VectorOp } from './opcodes.ts';

type Emit = VectorOp | ((body: FunctionBody) => void);

export function emitFunction(body: FunctionBody, emit: Emit): void {
  if (typeof emit === 'string') body.code.vector(emit);
  else emit(body);
}

/** WebAssembly shifts all lanes by one count, modulo 32: so lane by lane, and counts of 32 or more apart. */
function shiftLanes(op: PlainOp & ('i32.shl' | 'i32.shr_s' | 'i32.shr_u')): Emit {
  return (body) => {
    const { code } = body;
    const value = body.temporary('v128', 0);
    const count = body.temporary('v128', 1);
    if (op === 'i32.shr_s') code.v128Splat(31).vector('i32x4.min_u');
    code.set(count).set(value).get(value);
    for (let lane = 0; lane < 4; lane++) {
      code.get(value).lane('i32x4.extract_lane', lane);
      code.get(count).lane('i32x4.extract_lane', lane);
      code.plain(op).lane('i32x4.replace_lane', lane);
    }
    if (op !== 'i32.shr_s') code.get(count).v128Splat(32).vector('i32x4.lt_u').vector('v128.and');
  };
}

function highProduct(body: FunctionBody): void {
  const { code } = body;
  const a = body.temporary('v128', 0);
  const b = body.temporary('v128', 1);
  code.set(b).set(a);
  code.get(a).get(b).vector('i64x2.extmul_low_i32x4_u');
  code.get(a).get(b).vector('i64x2.extmul_high_i32x4_u');
  code.shuffle([1, 3, 5, 7]);
}

/** [a, b] to [the function of b and a]: WebAssembly keeps the first of two that do not compare, and negates the second. */
function secondFirst(op: VectorOp): Emit {
  return (body) => {
    const { code } = body;
    const b = body.temporary('v128', 0);
    const a = body.temporary('v128', 1);
    code.set(b).set(a).get(b).get(a).vector(op);
  };
}

export const VECTOR_BINARY: { readonly [F in VecBinary]: Emit } = {
  fadd: 'f32x4.add',
  fsub: 'f32x4.sub',
  fmul: 'f32x4.mul',
  fdiv: 'f32x4.div',
  fmin: 'f32x4.min',
  fmax: 'f32x4.max',
  fminfast: secondFirst('f32x4.pmin'),
  fmaxfast: secondFirst('f32x4.pmax'),
  iadd: 'i32x4.add',
  isub: 'i32x4.sub',
  imul: 'i32x4.mul',
  umulhi: highProduct,
  imin: 'i32x4.min_s',
  imax: 'i32x4.max_s',
  umin: 'i32x4.min_u',
  umax: 'i32x4.max_u',
  and: 'v128.and',
  or: 'v128.or',
  xor: 'v128.xor',
  andnot: secondFirst('v128.andnot'),
  ishl: shiftLanes('i32.shl'),
  ishr: shiftLanes('i32.shr_s'),
  ushr: shiftLanes('i32.shr_u'),
  flt: 'f32x4.lt',
  fle: 'f32x4.le',
  feq: 'f32x4.eq',
  fne: 'f32x4.ne',
  ilt: 'i32x4.lt_s',
  ile: 'i32x4.le_s',
  ieq: 'i32x4.eq',
  ult: 'i32x4.lt_u',
  ule: 'i32x4.le_u',
};

export const VECTOR_UNARY: { readonly [F in VecUnary]: Emit } = {
  fneg: 'f32x4.neg',
  fabs: 'f32x4.abs',
  fsqrt: 'f32x4.sqrt',
  ffloor: 'f32x4.floor',
  fround: 'f32x4.nearest',
  not: 'v128.not',
  itof: 'f32x4.convert_i32x4_s',
  utof: 'f32x4.convert_i32x4_u',
  ftoi: 'i32x4.trunc_sat_f32x4_s',
  ftou: 'i32x4.trunc_sat_f32x4_u',
  roundbf16: emitRoundBf16,
  roundf16: emitRoundF16,
};

export const VECTOR_SHIFT = { ishl: 'i32x4.shl', ishr: 'i32x4.shr_s', ushr: 'i32x4.shr_u' } as const;

const HORIZONTAL: { readonly [F in HorizontalFn]: VectorOp } = {
  fadd: 'f32x4.add',
  fmin: 'f32x4.min',
  fmax: 'f32x4.max',
  iadd: 'i32x4.add',
  imin: 'i32x4.min_s',
  imax: 'i32x4.max_s',
  umin: 'i32x4.min_u',
  umax: 'i32x4.max_u',
};

/** [vector] to [its four lanes combined, in every lane]. */
export function emitHorizontal(body: FunctionBody, fn: HorizontalFn): void {
  const { code } = body;
  const value = body.temporary('v128', 0);
  for (const partners of [[2, 3, 0, 1] as const, [1, 0, 3, 2] as const]) {
    code.tee(value).get(value).get(value).shuffle(partners).vector(HORIZONTAL[fn]);
  }
}
