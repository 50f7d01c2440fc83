/**
 * dot: register tiles of the result, k ascending with one accumulator an element. Operands are read where they lie
 * as far as that is fast; else b is packed into panels as wide as a register tile, and a into padded rows.
 */
import type { Op, ValueId } from '../../tile/ir.ts';
import type { Arithmetic } from './arithmetic.ts';
import { arithmeticOf, multiplier } from './arithmetic.ts';
import type { IntOperand, IntReg, LoopTarget, VecReg } from './ir.ts';
import { locateOp } from './memory.ts';
import type { Operand } from './operands.ts';
import { operandA, operandB } from './operands.ts';
import { pairOf } from './pairs.ts';
import type { Block, Context } from './values.ts';
import { elementBytes } from './values.ts';

type DotOp = Extract<Op, { op: 'dot' }>;
type StoreOp = Extract<Op, { op: 'store' }>;

interface Product {
  readonly a: Operand;
  readonly b: Operand;
  /** Steps in bytes from row to row; null: all elements are `bits`. */
  readonly acc: number | null;
  readonly bits: number;
  readonly out: number;
  readonly depth: number;
  /** One column: elements are stored one by one, as rows are not padded. */
  readonly narrow: boolean;
  readonly arithmetic: Arithmetic;
}

/** Vectors of a row of a register tile. */
const WIDEST = 8;

/** rows x vectors of the result, whose pointers are at the register tile's first element. */
function registerTile(
  context: Context,
  p: Product,
  [a, b, acc, out]: readonly IntReg[],
  rows: number,
  vectors: number,
): void {
  const { code } = context;
  const width = 4 * code.lanes;
  const at = (base: IntReg, stride: number, row: number, vector: number) => ({
    base,
    displacement: stride * row + width * vector,
  });
  const each = <T>(make: (row: number, vector: number) => T): T[][] =>
    Array.from({ length: rows }, (_, row) =>
      Array.from({ length: vectors }, (_, vector) => make(row, vector)),
    );
  const sums = each((row, vector): VecReg => {
    if (p.acc === null) return code.bits(p.bits);
    const from = at(acc, p.acc, row, vector);
    return p.narrow ? code.broadcast(from) : code.load(from);
  });
  const multiply = multiplier(context, p.arithmetic, vectors);
  const pa = code.newInt();
  const pb = code.newInt();
  code.emit({ o: 'imove', dst: pa, a });
  code.emit({ o: 'imove', dst: pb, a: b });
  const { pairs, swapped } = { pairs: p.arithmetic === 'pairs', swapped: p.arithmetic === 'swapped' };
  const bWidth = elementBytes(p.b.type) * code.lanes;
  const apart = p.b.apart === true;
  /** A step along k: of one element, or of a pair; `both`: it has a second one. */
  const step = (u: number, both: boolean) => {
    const load = (row: number, vector: number) =>
      code.load({ base: pb, displacement: p.b.k * row + bWidth * vector }, p.b.type);
    const columns = Array.from({ length: vectors }, (_, vector) =>
      apart ? pairOf(context, load(2 * u, vector), both ? load(2 * u + 1, vector) : null) : load(u, vector),
    );
    multiply.columns(columns);
    for (let row = 0; row < rows; row++) {
      const element = code.broadcast({ base: pa, displacement: p.a.k * u + p.a.step * row }, p.a.type);
      multiply.row(element, columns, sums[row]);
    }
  };
  const advance = (steps: number) => {
    code.emit({ o: 'ibin', dst: pa, fn: 'add', a: pa, b: p.a.k * steps });
    code.emit({ o: 'ibin', dst: pb, fn: 'add', a: pb, b: p.b.k * (apart ? 2 : 1) * steps });
  };
  const alone = (pairs || swapped) && p.depth % 2 !== 0;
  const total = pairs ? Math.floor(p.depth / 2) : alone ? p.depth - 1 : p.depth;
  const atOnce = code.target.dotTile.round / (rows * vectors);
  const unroll = [4, 2].find((count) => count <= atOnce && total % count === 0) ?? (swapped ? 2 : 1);
  if (total > 0)
    code.for(0, total, unroll, () => {
      for (let u = 0; u < unroll; u++) step(swapped ? u ^ 1 : u, true);
      advance(unroll);
    });
  if (alone) step(0, false);
  multiply.finish(sums);
  sums.forEach((list, row) => {
    list.forEach((sum, vector) => {
      const to = at(out, p.out, row, vector);
      if (p.narrow) code.storeFirst(sum, to);
      else code.store(sum, to);
    });
  });
}

/** The register tile for m rows: few rows leave registers for more vectors of each row of b. */
function tileFor(
  { dotTile, vectorRegisters }: LoopTarget,
  m: number,
  arithmetic: Arithmetic,
): LoopTarget['dotTile'] {
  // Quads need registers for two constants and for the columns' sums.
  const rows = arithmetic === 'quads' ? Math.max(1, dotTile.rows - 2) : dotTile.rows;
  if (m >= rows) return { ...dotTile, rows };
  if (arithmetic === 'quads') return { ...dotTile, rows: m };
  const fitting = Math.floor((vectorRegisters - 1) / (m + 1));
  return { ...dotTile, rows: m, vectors: Math.max(dotTile.vectors, Math.min(fitting, WIDEST)) };
}

/** Splits total into pieces of two neighbouring sizes, none above `size`; `piece` gets its start. */
function evenly(
  context: Context,
  total: number,
  size: number,
  piece: (start: IntOperand, size: number) => void,
): void {
  const { code } = context;
  const count = Math.ceil(total / size);
  const small = Math.floor(total / count);
  const larger = total % count;
  const run = (from: number, to: number, step: number) => {
    if (to - from === step) piece(from, step);
    else if (to > from) code.for(from, to, step, (start) => piece(start, step));
  };
  const border = larger * (small + 1);
  run(0, border, small + 1);
  run(border, total, small);
}

/** The place in a view where `store` puts a product, if register tiles can write there. */
function destination(context: Context, store: StoreOp, [, n]: readonly number[]): Block | null {
  const { strides, dtype } = context.kernel.views[store.view];
  const { shape } = context.type(store.value);
  if (n % context.code.lanes !== 0 || strides[strides.length - 1] !== 1) return null;
  if (dtype !== 'f32' && dtype !== 'i32') return null;
  const block = locateOp(context, store, shape);
  return block.inside === 1 ? block : null;
}

/** Lowers a product; whether it also did what `store`, the only reader of the result, has to do. */
export function lowerDot(context: Context, op: DotOp, result: ValueId, store: StoreOp | null): boolean {
  const { code } = context;
  const { shape } = context.type(result);
  const [m, n] = shape;
  const depth = context.type(op.a).shape[op.transA ? 0 : 1];
  const arithmetic = arithmeticOf(code.target, context.type(op.a).dtype, context.positiveBytes.has(op.b));
  const size = tileFor(code.target, m, arithmetic);
  const a = operandA(context, op, m, depth, arithmetic);
  const b = operandB(context, op, size, shape, depth, arithmetic);
  const start = op.acc === null ? ({ at: 'constant', bits: 0 } as const) : context.value(op.acc);
  const acc = op.acc === null || start.at === 'constant' ? null : context.dense(op.acc);
  const direct = store === null ? null : destination(context, store, shape);
  const out = direct ?? context.resultTile(shape, op.acc === null || acc?.copied ? [] : [op.acc]);
  const pout = 'view' in out ? out.base : context.pointer(out);
  const outStep = 'view' in out ? 4 * out.view.strides[0] : 4 * out.strides[0];
  const accStep = acc === null ? null : 4 * acc.tile.strides[0];
  const pacc = acc === null ? pout : context.pointer(acc.tile);
  const product: Product = {
    a: a.operand,
    b: b.operand,
    acc: accStep,
    bits: start.at === 'constant' ? start.bits : 0,
    out: outStep,
    depth,
    narrow: n === 1,
    arithmetic,
  };
  code.pieces(Math.ceil(n / code.lanes), size.vectors, (column, vectors) => {
    const along = code.int('mul', column, 4 * code.lanes * size.vectors);
    const panel = code.pointer(b.operand.base, code.int('mul', column, b.operand.step));
    evenly(context, m, size.rows, (row, rows) => {
      const down = (step: number) => code.int('add', code.int('mul', row, step), along);
      const to = code.pointer(pout, down(outStep));
      const pointers = [
        code.pointer(a.operand.base, code.int('mul', row, a.operand.step)),
        panel,
        accStep === null ? to : code.pointer(pacc, down(accStep)),
        to,
      ];
      registerTile(context, product, pointers, rows, vectors);
    });
  });
  for (const tile of [a.owned, b.owned, acc?.copied ? acc.tile : null])
    if (tile !== null) context.reclaim(tile.buffer);
  if ('view' in out) return true;
  context.define(result, out);
  return false;
}
