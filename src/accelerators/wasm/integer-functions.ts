/** The loop IR's functions of integers in WebAssembly. Arguments are on the stack, the result replaces them. */
import type { Instr, IntBinary, IntOperand } from '../loops/ir.ts';
import type { FunctionBody } from './body.ts';
import type { PlainOp } from './opcodes.ts';

type Comparison = Extract<Instr, { readonly o: 'if' }>['cmp'];

/** Emits [a, b] to [result]; b is given too, for what is simpler when it is constant. */
type Emit = PlainOp | ((body: FunctionBody, b: IntOperand) => void);

function divide(body: FunctionBody, b: IntOperand): void {
  const { code } = body;
  if (typeof b === 'number' && b !== 0 && b !== -1) {
    code.plain('i32.div_s');
    return;
  }
  const dividend = body.temporary('i32', 0);
  const divisor = body.temporary('i32', 1);
  const quotient = body.temporary('i32', 2);
  // The instruction traps on 0, and on the smallest integer by -1, whose quotient wraps to itself.
  code.set(divisor).set(dividend).i32(0).set(quotient);
  code.get(divisor).if();
  code.get(divisor).i32(-1).plain('i32.eq').if();
  code.i32(0).get(dividend).plain('i32.sub').set(quotient);
  code.else();
  code.get(dividend).get(divisor).plain('i32.div_s').set(quotient);
  code.end().end().get(quotient);
}

function remainder(body: FunctionBody, b: IntOperand): void {
  const { code } = body;
  if (typeof b === 'number' && b !== 0) {
    code.plain('i32.rem_s');
    return;
  }
  const dividend = body.temporary('i32', 0);
  const divisor = body.temporary('i32', 1);
  const rest = body.temporary('i32', 2);
  code.set(divisor).set(dividend).i32(0).set(rest);
  code.get(divisor).if().get(dividend).get(divisor).plain('i32.rem_s').set(rest).end().get(rest);
}

/** The instruction takes counts modulo 32; here 32 and more give 0, or the sign. */
function shift(op: 'i32.shl' | 'i32.shr_s'): Emit {
  return (body, b) => {
    const { code } = body;
    if (typeof b === 'number' && b >= 0 && b < 32) {
      code.plain(op);
      return;
    }
    const count = body.temporary('i32', 1);
    code.set(count);
    if (op === 'i32.shr_s') {
      code.get(count).i32(31).get(count).i32(32).plain('i32.lt_u').plain('select').plain(op);
    } else {
      code.get(count).plain(op).i32(0).get(count).i32(32).plain('i32.lt_u').plain('select');
    }
  };
}

function smaller(comparison: PlainOp): Emit {
  return (body) => {
    const { code } = body;
    const a = body.temporary('i32', 0);
    const b = body.temporary('i32', 1);
    code.set(b).set(a).get(a).get(b).get(a).get(b).plain(comparison).plain('select');
  };
}

export const COMPARISON = {
  lt: 'i32.lt_s',
  le: 'i32.le_s',
  gt: 'i32.gt_s',
  ge: 'i32.ge_s',
  eq: 'i32.eq',
  ne: 'i32.ne',
} as const satisfies { readonly [C in Comparison]: PlainOp };

const INTEGER_BINARY: { readonly [F in IntBinary]: Emit } = {
  add: 'i32.add',
  sub: 'i32.sub',
  mul: 'i32.mul',
  div: divide,
  rem: remainder,
  and: 'i32.and',
  or: 'i32.or',
  xor: 'i32.xor',
  shl: shift('i32.shl'),
  shr: shift('i32.shr_s'),
  min: smaller('i32.lt_s'),
  max: smaller('i32.gt_s'),
  ...COMPARISON,
};

/** [a, b] to [fn(a, b)]; b is given too. */
export function emitInteger(body: FunctionBody, fn: IntBinary, b: IntOperand): void {
  const emit = INTEGER_BINARY[fn];
  if (typeof emit === 'string') body.code.plain(emit);
  else emit(body, b);
}
