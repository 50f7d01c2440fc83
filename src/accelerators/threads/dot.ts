/**
 * Matrix products. Operands that lie in device memory come in pieces along k into workgroup memory; each thread keeps
 * its elements of the result in registers and adds to them in ascending k.
 */
import type { DType } from '../../numerics/dtype.ts';
import { isFloat } from '../../numerics/dtype.ts';
import type { Instruction, ValueId } from '../../tile/ir.ts';
import type { Code } from './code.ts';
import { add, constant, div, int, less, mul, op, read, rem } from './code.ts';
import type { Context } from './context.ts';
import type { Elements, OpOf } from './element.ts';
import type { Expr, ThreadArray } from './ir.ts';
import type { Rectangle } from './layout.ts';
import { columnOf, eachOwn, Index, rowOf, share } from './layout.ts';

/** Words of workgroup memory for a piece of both operands, and the steps along k of a piece. */
const PIECE_WORDS = 2048;
const STEPS = { least: 4, most: 32 } as const;

/** A step along k: `from`, where the piece begins, and the number within the piece. */
interface Step {
  readonly from: Expr;
  readonly k: Expr;
}

/** An operand as [k, across]; `fill` brings the piece that begins at k, where it comes in pieces. */
interface Operand {
  readonly across: number;
  readonly at: (step: Step, i: Expr) => Expr;
  readonly fill: ((from: Expr) => void) | null;
}

export function lowerDot(context: Context, elements: Elements, instruction: Instruction): void {
  const dot = instruction.op as OpOf<'dot'>;
  const [result] = instruction.results;
  const { code, facts, threads } = context;
  context.closeNest();
  const [m, n] = context.type(result).shape;
  const depth = context.type(dot.a).shape[dot.transA ? 0 : 1];
  const pieceOf = (id: ValueId) => context.place(id).shared === undefined;
  const brought = (pieceOf(dot.a) ? m : 0) + (pieceOf(dot.b) ? n : 0);
  const room = 2 ** Math.floor(Math.log2(PIECE_WORDS / Math.max(1, brought)));
  const steps = brought === 0 ? depth : Math.min(depth, Math.max(STEPS.least, Math.min(STEPS.most, room)));
  const operand = (id: ValueId, acrossFirst: boolean) =>
    operandOf(context, elements, { id, acrossFirst, depth, steps });
  const [a, b] = [operand(dot.a, !dot.transA), operand(dot.b, dot.transB)];
  const type = context.scalarType(result);
  const paired = context.type(dot.a).dtype === 'bf16';
  const plus = multiplyAdd(code, context.type(dot.a).dtype);

  const pieces = (multiply: (step: Step) => void) => {
    const piece = (from: Expr) => {
      context.phase(() => {
        a.fill?.(from);
        b.fill?.(from);
      });
      context.phase(() => {
        const rest = op('i32', 'min', int(steps), op('i32', 'sub', int(depth), from));
        const count = depth % steps === 0 ? int(steps) : code.let(rest);
        code.for(int(0), count, 1, (k) => multiply({ from, k: paired ? partner(code, k, count) : k }));
      });
    };
    if (steps === depth) piece(int(0));
    else context.loop({ lo: int(0), hi: int(depth), step: steps }, piece);
  };

  if (facts.isSingle(result)) {
    const sum = code.declare(dot.acc === null ? constant(type, 0) : context.single(dot.acc));
    pieces((step) => code.assign(sum, plus(a.at(step, int(0)), b.at(step, int(0)), sum)));
    context.place(result).single = sum;
    return;
  }

  const layout = context.layout(result);
  const target = context.targets.get(result);
  const sums = target?.space === 'private' ? target : context.newOwnArray(type, layout);
  const start = dot.acc;
  if (start === null || context.place(start).own !== sums)
    context.phase(() => {
      eachOwn(code, layout, threads, (index) => {
        const first = start === null ? constant(type, 0) : elements.element(start, index);
        context.writeAt(sums, index, first, true);
      });
    });
  // A result of one column is laid out as a row: the operands change places.
  const [rows, columns] = n === 1 ? [b, a] : [a, b];
  const rectangle = layout.rectangle as Rectangle;
  if (sums.space === 'private') {
    const line = context.newArray(context.scalarType(dot.b), rectangle.slotColumns, 'private');
    pieces((step) => multiplySlots({ context, plus, rectangle, sums, line, rows, columns, step }));
  } else {
    pieces((step) => {
      eachOwn(code, layout, threads, (index) => {
        const [i, j] = index.coordinates([rectangle.rows, rectangle.columns]);
        const sum = plus(rows.at(step, i), columns.at(step, j), context.readAt(sums, index, true));
        context.writeAt(sums, index, sum, true);
      });
    });
  }

  const place = context.place(result);
  if (sums.space === 'private') place.own = sums;
  else place.shared = sums;
  const accesses = facts.uses(result).map(({ access }) => access);
  const other = target !== undefined && target !== sums ? target : null;
  if (other === null && (place.shared !== undefined || !accesses.includes('other'))) return;
  const shared = other ?? context.newArray(type, layout.count, 'shared');
  context.phase(() => {
    eachOwn(code, layout, threads, (index) => {
      context.writeAt(shared, index, context.readAt(sums, index, true), true);
    });
  });
  place.shared = shared;
}

/** Of each pair along k the second comes first; a last one without a partner stays where it is. */
function partner(code: Code, k: Expr, count: Expr): Expr {
  const other = code.let(op('i32', 'xor', k, int(1)));
  return code.let(op('i32', 'select', less(op('i32', 'or', k, int(1)), count), other, k));
}

/** x * y + sum. */
type MultiplyAdd = (x: Expr, y: Expr, sum: Expr) => Expr;

function multiplyAdd(code: Code, a: DType): MultiplyAdd {
  if (isFloat(a)) return (x, y, sum) => op('f32', 'fma', x, y, sum);
  const bytes: MultiplyAdd = (x, y, sum) => op('i32', 'add', op('i32', 'mul', x, y), sum);
  if (a !== 'i32') return bytes;
  const byte = (type: 'i32' | 'u32', word: Expr, place: number) => {
    const top = place === 3 ? word : op(type, 'shl', word, constant('u32', 24 - 8 * place));
    const value = op(type, 'shr', top, constant('u32', 24));
    return type === 'i32' ? value : op('i32', 'convert', value);
  };
  return (x, y, sum) => {
    const [u, v] = [code.let(x), code.let(y)];
    return [0, 1, 2, 3].reduce(
      (total, place) => bytes(byte('i32', u, place), byte('u32', v, place), total),
      sum,
    );
  };
}

/** One step along k for all slots of a thread: each operand is read once a row or column. */
function multiplySlots(given: {
  context: Context;
  plus: MultiplyAdd;
  rectangle: Rectangle;
  sums: ThreadArray;
  line: ThreadArray;
  rows: Operand;
  columns: Operand;
  step: Step;
}): void {
  const { context, plus, rectangle: r, sums, line, rows, columns, step } = given;
  const { code } = context;
  // Slots beyond the tile compute something that nobody reads, from its last row or column.
  const within = (x: Expr, size: number, threads: number) =>
    code.let(size % threads === 0 ? x : op('i32', 'min', x, int(size - 1)));
  const repeat = (count: number, body: (slot: Expr) => void) => {
    if (count === 1) body(int(0));
    else code.for(int(0), int(count), 1, body);
  };
  repeat(r.slotColumns, (j) => {
    const column = within(columnOf(r, j), r.columns, r.threadColumns);
    code.write(line, j, columns.at(step, column));
  });
  repeat(r.slotRows, (i) => {
    const row = within(rowOf(r, i), r.rows, r.threadRows);
    const x = code.let(rows.at(step, row));
    repeat(r.slotColumns, (j) => {
      const slot = code.let(add(mul(i, r.slotColumns), j));
      code.write(sums, slot, plus(x, read(line, j), read(sums, slot)));
    });
  });
}

function operandOf(
  context: Context,
  elements: Elements,
  given: { id: ValueId; acrossFirst: boolean; depth: number; steps: number },
): Operand {
  const { id, acrossFirst, depth, steps } = given;
  const { code, threads } = context;
  const { shape } = context.type(id);
  const across = shape[acrossFirst ? 0 : 1];
  const { shared } = context.place(id);
  if (shared !== undefined) {
    const at = ({ from, k }: Step, i: Expr) => {
      context.touch(shared, 'read other');
      const position = add(from, k);
      return read(shared, acrossFirst ? add(mul(i, depth), position) : add(mul(position, across), i));
    };
    return { across, at, fill: null };
  }
  // One word more a row, so that neighbours in a column lie in different banks.
  const pitch = across + 1;
  const piece = context.newArray(context.scalarType(id), steps * pitch, 'shared');
  return {
    across,
    at: ({ k }, i) => {
      context.touch(piece, 'read other');
      return read(piece, add(mul(k, pitch), i));
    },
    fill: (from) => {
      context.touch(piece, 'write other');
      // Neighbouring threads fetch neighbours along the operand's last axis.
      share(code, steps * across, threads, (item) => {
        const inner = acrossFirst ? steps : across;
        const [outer, last] = [code.let(div(item, inner)), code.let(rem(item, inner))];
        const [i, k] = acrossFirst ? [outer, last] : [last, outer];
        const position = code.let(add(from, k));
        const put = () => {
          const index = new Index(code, shape, acrossFirst ? [i, position] : [position, i]);
          code.write(piece, add(mul(k, pitch), i), elements.element(id, index));
        };
        code.if(depth % steps === 0 ? null : less(position, int(depth)), put);
      });
    },
  };
}
