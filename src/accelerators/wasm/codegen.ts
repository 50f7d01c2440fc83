/** Loop functions to WebAssembly function bodies: registers become locals, structured loops stay what they are. */
import type { Instr, LoopFunction } from '../loops/ir.ts';
import { FunctionBody } from './body.ts';
import { COMPARISON, emitInteger } from './integer-functions.ts';
import {
  emitBroadcast,
  emitLoad,
  emitLoadPart,
  emitStore,
  emitStoreFirst,
  emitStorePart,
} from './memory-types.ts';
import type { AccessOp } from './opcodes.ts';
import { emitTranspose } from './transpose.ts';
import {
  emitFunction,
  emitHorizontal,
  VECTOR_BINARY,
  VECTOR_SHIFT,
  VECTOR_UNARY,
} from './vector-functions.ts';

type InstrName = Instr['o'];
type InstrOf<N extends InstrName> = Extract<Instr, { readonly o: N }>;

/** Parameters of the function, as locals. */
const PARAMETER = { arguments: 0, scratch: 1, from: 2, to: 3 } as const;

const INTEGER_LOAD: { readonly [T in InstrOf<'iload'>['type']]: AccessOp } = {
  i32: 'i32.load',
  i8: 'i32.load8_s',
  u8: 'i32.load8_u',
  u16: 'i32.load16_u',
};
const INTEGER_STORE: { readonly [T in InstrOf<'istore'>['type']]: AccessOp } = {
  i32: 'i32.store',
  u8: 'i32.store8',
  u16: 'i32.store16',
};

function emitFor(body: FunctionBody, { index, lo, hi, step, body: instructions }: InstrOf<'for'>): void {
  if (!(step > 0)) throw new RangeError(`a loop's step must be positive, not ${step}`);
  const { code } = body;
  body.operand(lo);
  body.set(index);
  const entered = typeof lo === 'number' && typeof hi === 'number' ? lo < hi : null;
  if (entered === false) return;
  if (entered === null) {
    body.get(index);
    body.operand(hi).plain('i32.lt_s').if();
  }
  code.loop();
  emitAll(body, instructions);
  body.get(index).i32(step).plain('i32.add');
  body.tee(index);
  body.operand(hi).plain('i32.lt_s').brIf(0).end();
  if (entered === null) code.end();
}

function emitDot2(body: FunctionBody, { dst, a, b, c }: InstrOf<'vdot2'>): void {
  const { code, fma } = body;
  const sum = body.temporary('v128', 0);
  body.get(c);
  code.set(sum);
  const add = (part: () => void) => {
    for (const operand of [a, b]) {
      body.get(operand);
      part();
    }
    if (fma) code.get(sum).vector('f32x4.relaxed_madd');
    else code.vector('f32x4.mul').get(sum).vector('f32x4.add');
    code.set(sum);
  };
  add(() => code.v128Splat(0xffff0000 | 0).vector('v128.and'));
  add(() => code.i32(16).vector('i32x4.shl'));
  code.get(sum);
  body.set(dst);
}

/** The bytes become the halves of 32-bit lanes, first those in even places, then those in odd ones. */
function emitDot4(body: FunctionBody, { dst, a, b, c }: InstrOf<'vdot4'>): void {
  const { code } = body;
  body.get(a);
  code.v128Splat(0x00ff00ff).vector('v128.and');
  body.get(b);
  code.i32(8).vector('i16x8.shl').i32(8).vector('i16x8.shr_s').vector('i32x4.dot_i16x8_s');
  body.get(a);
  code.i32(8).vector('i16x8.shr_u');
  body.get(b);
  code.i32(8).vector('i16x8.shr_s').vector('i32x4.dot_i16x8_s').vector('i32x4.add');
  body.get(c);
  code.vector('i32x4.add');
  body.set(dst);
}

/** The lowering asks for them only where the target has them. */
function noMatrixRegisters(): never {
  throw new Error('WebAssembly has no matrix registers');
}

const EMIT: { readonly [N in InstrName]: (body: FunctionBody, instr: InstrOf<N>) => void } = {
  parameter: (body, { dst, which }) => {
    body.code.get(PARAMETER[which]);
    body.set(dst);
  },
  viewBase: (body, { dst, index }) => {
    body.code.get(PARAMETER.arguments).access('i32.load', 4 * index);
    body.set(dst);
  },
  iconst: (body, { dst, value }) => {
    body.code.i32(value);
    body.set(dst);
  },
  imove: (body, { dst, a }) => {
    body.get(a);
    body.set(dst);
  },
  ibin: (body, { dst, fn, a, b }) => {
    body.get(a);
    body.operand(b);
    emitInteger(body, fn, b);
    body.set(dst);
  },
  iselect: (body, { dst, c, a, b }) => {
    body.get(a);
    body.get(b);
    body.get(c).plain('select');
    body.set(dst);
  },
  iwrap: (body, { dst, a }) => {
    body.get(a);
    body.set(dst);
  },
  iload: (body, { dst, type, from }) => {
    const offset = body.address(from);
    body.code.access(INTEGER_LOAD[type], offset);
    body.set(dst);
  },
  istore: (body, { src, type, to }) => {
    const offset = body.address(to);
    body.get(src).access(INTEGER_STORE[type], offset);
  },
  for: emitFor,
  if: (body, { a, cmp, b, then, else: otherwise }) => {
    body.get(a);
    body.operand(b).plain(COMPARISON[cmp]).if();
    emitAll(body, then);
    if (otherwise.length > 0) {
      body.code.else();
      emitAll(body, otherwise);
    }
    body.code.end();
  },
  vconst: (body, { dst, bits }) => {
    body.code.v128Splat(bits);
    body.set(dst);
  },
  vmove: (body, { dst, a }) => {
    body.get(a);
    body.set(dst);
  },
  vsplat: (body, { dst, a }) => {
    body.get(a).vector('i32x4.splat');
    body.set(dst);
  },
  vfirst: (body, { dst, a }) => {
    body.get(a).lane('i32x4.extract_lane', 0);
    body.set(dst);
  },
  viota: (body, { dst }) => {
    body.code.v128([0, 1, 2, 3]);
    body.set(dst);
  },
  vload: (body, { dst, type, from }) => {
    emitLoad(body, type, from);
    body.set(dst);
  },
  vloadpart: (body, { dst, type, from, count }) => {
    emitLoadPart(body, type, from, count);
    body.set(dst);
  },
  vbroadcast: (body, { dst, type, from }) => {
    emitBroadcast(body, type, from);
    body.set(dst);
  },
  vstore: (body, { src, type, to }) => emitStore(body, type, to, src),
  vstorepart: (body, { src, type, to, count }) => emitStorePart(body, type, to, src, count),
  vstorefirst: (body, { src, type, to }) => emitStoreFirst(body, type, to, src),
  vbin: (body, { dst, fn, a, b }) => {
    body.get(a);
    body.get(b);
    emitFunction(body, VECTOR_BINARY[fn]);
    body.set(dst);
  },
  vshift: (body, { dst, fn, a, by }) => {
    if (!(by >= 0 && by < 32)) throw new RangeError(`vshift by ${by}: the count must be in [0, 32)`);
    body.get(a).i32(by).vector(VECTOR_SHIFT[fn]);
    body.set(dst);
  },
  vun: (body, { dst, fn, a }) => {
    body.get(a);
    emitFunction(body, VECTOR_UNARY[fn]);
    body.set(dst);
  },
  vfma: (body, { dst, a, b, c }) => {
    const { code, fma } = body;
    body.get(a);
    body.get(b);
    if (fma) {
      body.get(c);
      code.vector('f32x4.relaxed_madd');
    } else {
      code.vector('f32x4.mul');
      body.get(c);
      code.vector('f32x4.add');
    }
    body.set(dst);
  },
  vdot2: emitDot2,
  vdot4: emitDot4,
  vselect: (body, { dst, mask, a, b }) => {
    body.get(a);
    body.get(b);
    body.get(mask).vector('v128.bitselect');
    body.set(dst);
  },
  vhorizontal: (body, { dst, fn, a }) => {
    body.get(a);
    emitHorizontal(body, fn);
    body.set(dst);
  },
  vtranspose: emitTranspose,
  prefetch: () => {},
  mshape: noMatrixRegisters,
  mzero: noMatrixRegisters,
  mload: noMatrixRegisters,
  mstore: noMatrixRegisters,
  mdot: noMatrixRegisters,
  vscale: () => {
    throw new Error('WebAssembly has no instruction that scales');
  },
};

function emitAll(body: FunctionBody, instructions: readonly Instr[]): void {
  for (const instr of instructions) {
    const emit = EMIT[instr.o] as (body: FunctionBody, instr: Instr) => void;
    emit(body, instr);
  }
}

/**
 * The body of a function of `KERNEL_TYPE`. It refers to nothing else in a module but memory 0, so it may be put
 * into any. `fma`: vfma becomes one relaxed instruction, which the caller knows to round once.
 */
export function generate(fn: LoopFunction, fma: boolean): Uint8Array<ArrayBuffer> {
  if (fn.lanes !== 4) throw new Error(`${fn.name} is made for ${fn.lanes} lanes; WebAssembly has 4`);
  const body = new FunctionBody(fma);
  emitAll(body, fn.body);
  return body.code.finish();
}
