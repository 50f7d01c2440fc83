/** Integer arithmetic, control flow and scalar memory as x86-64 instructions. */

import type { IntBinary, IntOperand } from '../loops/ir.ts';
import type { Emitter, Rule, Rules } from './codegen-emitter.ts';
import type { Comparison, NodeOf } from './codegen-nodes.ts';
import type { Mnemonic } from './instructions.ts';
import type { Condition } from './instructions-integer.ts';
import { type Label, mem } from './operands.ts';
import type { Needs } from './regalloc.ts';
import { cl, eax, edx, rax, rcx, rdx } from './registers.ts';

type Ibin = NodeOf<'ibin'>;
type BinaryRule = Rule<Ibin>;

/** The condition of a signed comparison, and its negation. */
const conditions: { readonly [C in Comparison]: readonly [holds: Condition, fails: Condition] } = {
  lt: ['l', 'ge'],
  le: ['le', 'g'],
  gt: ['g', 'le'],
  ge: ['ge', 'l'],
  eq: ['e', 'ne'],
  ne: ['ne', 'e'],
};

const powerOfTwo = (b: IntOperand): number | undefined =>
  typeof b === 'number' && b > 0 && b <= 2 ** 30 && (b & (b - 1)) === 0 ? Math.log2(b) : undefined;

/** Sets the flags by a - b. */
function compare(e: Emitter, a: number, b: IntOperand): void {
  if (typeof b !== 'number') e.op('cmp', e.q(a), e.q(e.number(b)));
  else if (b === 0) e.op('test', e.q(a), e.q(a));
  else e.op('cmp', e.q(a), b);
}

/** Instructions that overwrite their first operand, for functions in which the operands may change places. */
function commutative(mnemonic: Mnemonic): BinaryRule {
  return {
    emit(e, { dst, a, b }) {
      const d = e.number(dst);
      if (typeof b !== 'number' && d === e.number(b)) e.op(mnemonic, e.q(d), e.q(e.number(a)));
      else {
        e.moveGeneral(d, e.number(a));
        e.op(mnemonic, e.q(d), typeof b === 'number' ? b : e.q(e.number(b)));
      }
    },
  };
}

const add: BinaryRule = {
  emit(e, { dst, a, b }) {
    const d = e.number(dst);
    const x = e.number(a);
    if (typeof b === 'number') {
      if (d === x) e.op('add', e.q(d), b);
      else e.op('lea', e.q(d), mem(e.q(x), b));
      return;
    }
    const y = e.number(b);
    if (d === x) e.op('add', e.q(d), e.q(y));
    else if (d === y) e.op('add', e.q(d), e.q(x));
    else e.op('lea', e.q(d), mem(e.q(x), e.q(y)));
  },
};

const sub: BinaryRule = {
  emit(e, { dst, a, b }) {
    const d = e.number(dst);
    const x = e.number(a);
    if (typeof b === 'number') {
      if (d !== x && b !== -(2 ** 31)) e.op('lea', e.q(d), mem(e.q(x), -b));
      else {
        e.moveGeneral(d, x);
        e.op('sub', e.q(d), b);
      }
    } else if (d === e.number(b) && d !== x) {
      e.op('neg', e.q(d));
      e.op('add', e.q(d), e.q(x));
    } else {
      e.moveGeneral(d, x);
      e.op('sub', e.q(d), e.q(e.number(b)));
    }
  },
};

const mul: BinaryRule = {
  emit(e, node) {
    const { dst, a, b } = node;
    const shift = powerOfTwo(b);
    if (shift !== undefined) {
      e.moveGeneral(e.number(dst), e.number(a));
      if (shift > 0) e.op('shl', e.q(e.number(dst)), shift);
    } else if (typeof b === 'number') e.op('imul', e.q(e.number(dst)), e.q(e.number(a)), b);
    else commutative('imul').emit(e, node);
  },
};

function shift(mnemonic: 'shl' | 'sar'): BinaryRule {
  return {
    needs: ({ b }) => (typeof b === 'number' ? {} : { clobbers: [rcx.index] }),
    emit(e, { dst, a, b }) {
      const d = e.number(dst);
      if (typeof b !== 'number') e.op('mov', rcx, e.q(e.number(b)));
      e.moveGeneral(d, e.number(a));
      e.op(mnemonic, e.q(d), typeof b === 'number' ? b & 63 : cl);
    },
  };
}

/** Truncating division. A power of two needs the bias divisor - 1 for negative dividends before the shift. */
function division(result: 'quotient' | 'remainder'): BinaryRule {
  const usesDivide = ({ b }: Ibin): boolean => powerOfTwo(b) === undefined && b !== 0;
  return {
    needs: (node): Partial<Needs> => {
      if (!usesDivide(node)) return { general: 1 };
      return { general: typeof node.b === 'number' ? 1 : 0, clobbers: [rax.index, rdx.index] };
    },
    emit(e, { dst, a, b }) {
      const d = e.number(dst);
      const [temp] = e.generalTemps;
      const log = powerOfTwo(b);
      if (b === 0) e.op('xor', e.d(d), e.d(d));
      else if (log === 0) {
        if (result === 'quotient') e.moveGeneral(d, e.number(a));
        else e.op('xor', e.d(d), e.d(d));
      } else if (log !== undefined) {
        e.op('mov', e.q(temp), e.q(e.number(a)));
        e.op('sar', e.q(temp), 63);
        e.op('shr', e.q(temp), 64 - log);
        e.op('lea', e.q(d), mem(e.q(e.number(a)), e.q(temp)));
        if (result === 'quotient') e.op('sar', e.q(d), log);
        else {
          e.op('and', e.q(d), 2 ** log - 1);
          e.op('sub', e.q(d), e.q(temp));
        }
      } else divide(e, result === 'quotient' ? 0 : 2, d, e.number(a), b, temp);
    },
  };
}

function divide(e: Emitter, result: 0 | 2, d: number, a: number, b: IntOperand, temp: number): void {
  if (typeof b === 'number') e.op('mov', e.q(temp), b);
  const divisor = e.q(typeof b === 'number' ? temp : e.number(b));
  const mayNegate = typeof b !== 'number' || b === -1;
  const end = e.asm.label('divided');
  const overflow = e.asm.label('negate');
  // The processor faults on a zero divisor, and on the most negative number divided by -1.
  e.op('xor', eax, eax);
  e.op('xor', edx, edx);
  if (typeof b !== 'number') {
    e.op('test', divisor, divisor);
    e.op('je', end);
  }
  if (mayNegate) {
    e.op('cmp', divisor, -1);
    e.op('je', overflow);
  }
  e.op('mov', rax, e.q(a));
  e.op('cqo');
  e.op('idiv', divisor);
  if (mayNegate) {
    e.op('jmp', end);
    e.asm.bind(overflow);
    e.op('mov', rax, e.q(a));
    e.op('neg', rax);
  }
  e.asm.bind(end);
  e.moveGeneral(d, result);
}

function extreme(replaceIf: 'cmovg' | 'cmovl'): BinaryRule {
  return {
    needs: ({ b }) => (typeof b === 'number' ? { general: 1 } : {}),
    emit(e, { dst, a, b }) {
      const d = e.number(dst);
      let x = e.number(a);
      let y = typeof b === 'number' ? e.generalTemps[0] : e.number(b);
      if (typeof b === 'number') e.op('mov', e.q(y), b);
      if (d === y) [x, y] = [y, x];
      e.moveGeneral(d, x);
      e.op('cmp', e.q(d), e.q(y));
      e.op(replaceIf, e.q(d), e.q(y));
    },
  };
}

function comparison(cmp: Comparison): BinaryRule {
  return {
    emit(e, { dst, a, b }) {
      const d = e.number(dst);
      compare(e, e.number(a), b);
      e.op(`set${conditions[cmp][0]}`, e.b(d));
      e.op('movzx', e.d(d), e.b(d));
    },
  };
}

const binary: { readonly [F in IntBinary]: BinaryRule } = {
  add,
  sub,
  mul,
  div: division('quotient'),
  rem: division('remainder'),
  and: commutative('and'),
  or: commutative('or'),
  xor: commutative('xor'),
  shl: shift('shl'),
  shr: shift('sar'),
  min: extreme('cmovg'),
  max: extreme('cmovl'),
  lt: comparison('lt'),
  le: comparison('le'),
  gt: comparison('gt'),
  ge: comparison('ge'),
  eq: comparison('eq'),
  ne: comparison('ne'),
};

type IntegerNode =
  | 'pointer'
  | 'iconst'
  | 'imove'
  | 'ibin'
  | 'iselect'
  | 'iwrap'
  | 'iload'
  | 'istore'
  | 'prefetch';

export const integerRules: Rules<IntegerNode> = {
  pointer: {
    emit: (e, { dst, views, index }) => e.op('mov', e.q(e.number(dst)), mem(e.q(e.number(views)), 8 * index)),
  },
  iconst: {
    emit(e, { dst, value }) {
      const d = e.number(dst);
      if (value === 0) e.op('xor', e.d(d), e.d(d));
      else if (value > 0 && value < 2 ** 32) e.op('mov', e.d(d), value);
      else e.op('mov', e.q(d), Number.isSafeInteger(value) ? value : BigInt(value));
    },
  },
  imove: { emit: (e, { dst, a }) => e.moveGeneral(e.number(dst), e.number(a)) },
  ibin: {
    needs: (node, isa) => binary[node.fn].needs?.(node, isa) ?? {},
    emit: (e, node) => binary[node.fn].emit(e, node),
  },
  iselect: {
    emit(e, { dst, c, a, b }) {
      const d = e.number(dst);
      e.op('test', e.q(e.number(c)), e.q(e.number(c)));
      if (d === e.number(a)) e.op('cmove', e.q(d), e.q(e.number(b)));
      else {
        e.moveGeneral(d, e.number(b));
        e.op('cmovne', e.q(d), e.q(e.number(a)));
      }
    },
  },
  iwrap: { emit: (e, { dst, a }) => e.op('movsxd', e.q(e.number(dst)), e.d(e.number(a))) },
  iload: {
    emit(e, { dst, type, from }) {
      const d = e.number(dst);
      const memory = e.memory(from);
      if (type === 'i32') e.op('movsxd', e.q(d), memory);
      else if (type === 'i8') e.op('movsx', e.q(d), { ...memory, kind: 'm8' });
      else e.op('movzx', e.d(d), { ...memory, kind: type === 'u8' ? 'm8' : 'm16' });
    },
  },
  istore: {
    emit(e, { src, type, to }) {
      const s = e.number(src);
      e.op('mov', e.memory(to), { i32: e.d(s), u8: e.b(s), u16: e.w(s) }[type]);
    },
  },
  prefetch: { emit: (e, { from }) => e.op('prefetcht0', e.memory(from)) },
};

type FlowNode = 'loopBegin' | 'loopEnd' | 'ifBegin' | 'ifElse' | 'ifEnd';

/** Hot code is fetched in aligned blocks of this size. */
const loopAlignment = 32;

/** The rules of loops and branches, for one function: they remember the labels of what is open. */
export function flowRules(): Rules<FlowNode> {
  const open: { first: Label; second: Label }[] = [];
  return {
    loopBegin: {
      emit(e, { index, hi, certain }) {
        const head = e.asm.label('loop');
        const end = e.asm.label('loop end');
        open.push({ first: head, second: end });
        if (!certain) {
          compare(e, e.number(index), hi);
          e.op('jge', end);
        }
        e.asm.align(loopAlignment);
        e.place(head);
      },
    },
    loopEnd: {
      emit(e, { index, hi }) {
        const { first: head, second: end } = open.pop()!;
        compare(e, e.number(index), hi);
        e.op('jl', head);
        e.place(end);
      },
    },
    ifBegin: {
      emit(e, { a, cmp, b }) {
        const otherwise = e.asm.label('else');
        open.push({ first: otherwise, second: e.asm.label('end if') });
        compare(e, e.number(a), b);
        e.op(`j${conditions[cmp][1]}`, otherwise);
      },
    },
    ifElse: {
      emit(e, { empty }) {
        const { first: otherwise, second: end } = open[open.length - 1];
        if (!empty) e.op('jmp', end);
        e.place(otherwise);
      },
    },
    ifEnd: {
      emit(e) {
        e.place(open.pop()!.second);
      },
    },
  };
}
