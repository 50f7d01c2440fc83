/**
 * dot: register tiles of the result, k ascending with one accumulator an element. Operands are read where they lie
 * as far as that is fast; else b is packed into panels as wide as a register tile, and a into padded rows.
 */
import type { DType } from '../../numerics/dtype.ts';
import { isFloat } from '../../numerics/dtype.ts';
import type { Op, ValueId } from '../../tile/ir.ts';
import type { IntOperand, IntReg, LoopTarget, MemoryType, VecReg } from './ir.ts';
import { loadInto, locateOp } from './memory.ts';
import type { Source } from './panels.ts';
import { packPanels, packPanelsTransposed } from './panels.ts';
import type { Block, Context, Stored } from './values.ts';
import { elementBytes, viewedStrides } from './values.ts';

type DotOp = Extract<Op, { op: 'dot' }>;
type StoreOp = Extract<Op, { op: 'store' }>;

/** An operand of register tiles. Steps are in bytes. */
export interface Operand {
  readonly base: IntReg;
  readonly type: MemoryType;
  /** From one register tile's first row (a) to the next row; from one register tile (b) to the next beside it. */
  readonly step: number;
  /** Along k. */
  readonly k: number;
}

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

/** What is multiplied: numbers, or quads of bytes. */
type Arithmetic = 'float' | 'integer' | 'quads';

function arithmeticOf(operand: DType): Arithmetic {
  if (isFloat(operand)) return 'float';
  return operand === 'i32' ? 'quads' : 'integer';
}

/** Adds the products of one row's element with the columns of a step along k; `finish` corrects the sums afterwards. */
interface Multiplier {
  readonly columns: (columns: readonly VecReg[]) => void;
  readonly row: (element: VecReg, columns: readonly VecReg[], sums: readonly VecReg[]) => void;
  readonly finish: (sums: readonly (readonly VecReg[])[]) => void;
}

const nothing = () => {};

function multiplier(context: Context, arithmetic: Arithmetic, vectors: number): Multiplier {
  const { code } = context;
  if (arithmetic === 'quads') return quads(context, vectors);
  return {
    columns: nothing,
    row: (element, columns, sums) => {
      columns.forEach((column, vector) => {
        const dst = sums[vector];
        if (arithmetic === 'float') code.emit({ o: 'vfma', dst, a: element, b: column, c: dst });
        else code.emit({ o: 'vbin', dst, fn: 'iadd', a: dst, b: code.bin('imul', element, column) });
      });
    },
    finish: nothing,
  };
}

/**
 * Processors multiply unsigned with signed bytes: a is taken as a + 128, and 128 times the sum of each column's bytes,
 * which is counted on the way, is taken off in the end.
 */
function quads(context: Context, vectors: number): Multiplier {
  const { code } = context;
  const flip = code.bits(0x80808080 | 0);
  const ones = code.bits(0x01010101);
  const totals = Array.from({ length: vectors }, () => code.bits(0));
  return {
    columns: (columns) => {
      columns.forEach((column, vector) => {
        const dst = totals[vector];
        code.emit({ o: 'vdot4', dst, a: ones, b: column, c: dst });
      });
    },
    row: (element, columns, sums) => {
      const a = code.bin('xor', element, flip);
      columns.forEach((column, vector) => {
        const dst = sums[vector];
        code.emit({ o: 'vdot4', dst, a, b: column, c: dst });
      });
    },
    finish: (sums) => {
      totals.forEach((total, vector) => {
        const excess = code.shift('ishl', total, 7);
        for (const row of sums) {
          const dst = row[vector];
          code.emit({ o: 'vbin', dst, fn: 'isub', a: dst, b: excess });
        }
      });
    },
  };
}

/** Register tiles along m up to which packing b takes longer than reading it in place again. */
const FEW = 2;
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
  const steps = code.target.dotTile.round / (rows * vectors);
  const unroll = [4, 2].find((count) => count <= steps && p.depth % count === 0) ?? 1;
  const bWidth = elementBytes(p.b.type) * code.lanes;
  code.for(0, p.depth, unroll, () => {
    for (let u = 0; u < unroll; u++) {
      const columns = Array.from({ length: vectors }, (_, vector) =>
        code.load({ base: pb, displacement: p.b.k * u + bWidth * vector }, p.b.type),
      );
      multiply.columns(columns);
      for (let row = 0; row < rows; row++) {
        const element = code.broadcast({ base: pa, displacement: p.a.k * u + p.a.step * row }, p.a.type);
        multiply.row(element, columns, sums[row]);
      }
    }
    code.emit({ o: 'ibin', dst: pa, fn: 'add', a: pa, b: p.a.k * unroll });
    code.emit({ o: 'ibin', dst: pb, fn: 'add', a: pb, b: p.b.k * unroll });
  });
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

/** Splits total into pieces of `size` and a rest; `piece` gets its number. */
function pieces(
  context: Context,
  total: number,
  size: number,
  piece: (index: IntOperand, size: number) => void,
): void {
  const whole = Math.floor(total / size);
  if (whole === 1) piece(0, size);
  else if (whole > 1) context.code.for(0, whole, 1, (index) => piece(index, size));
  if (total % size !== 0) piece(whole, total % size);
}

/** Rows whose distance this divides fall into few sets of the first-level cache. */
const CONFLICT = 2048;

interface Ready {
  readonly operand: Operand;
  /** Scratch to give back afterwards. */
  readonly owned: Stored | null;
}

function operandA(context: Context, op: DotOp, m: number, depth: number): Ready {
  const value = context.viewed(op.a);
  const [alongM, alongK] = op.transA ? [1, 0] : [0, 1];
  if (value !== null) {
    const bytes = viewedStrides(value);
    const { type } = value.block;
    const inPlace = value.block.inside === 1 && (type === 'f32' || type === 'i32');
    if (inPlace && (op.transA || bytes[alongM] % CONFLICT !== 0 || m < 8))
      return {
        operand: { base: value.block.base, type: value.block.type, step: bytes[alongM], k: bytes[alongK] },
        owned: null,
      };
    const [rows, columns] = op.transA ? [depth, m] : [m, depth];
    // Vectors of a column lie side by side.
    const stride = columns === 1 ? 1 : columns + 16;
    const tile: Stored = {
      at: 'scratch',
      buffer: context.allocate(4 * rows * stride + 64),
      strides: [stride, 1],
    };
    loadInto(context, value, tile);
    return { operand: scratchOperand(context, tile, alongM, alongK), owned: tile };
  }
  const { tile, copied } = context.dense(op.a);
  return { operand: scratchOperand(context, tile, alongM, alongK), owned: copied ? tile : null };
}

function scratchOperand(context: Context, tile: Stored, outer: number, k: number): Operand {
  const { strides } = tile;
  return { base: context.pointer(tile), type: 'i32', step: 4 * strides[outer], k: 4 * strides[k] };
}

function scratchSource(context: Context, tile: Stored): Source {
  return { base: context.pointer(tile), type: 'i32', strides: tile.strides.map((stride) => 4 * stride) };
}

function operandB(
  context: Context,
  op: DotOp,
  size: LoopTarget['dotTile'],
  [m, n]: readonly number[],
  depth: number,
): Ready {
  const { code } = context;
  const { lanes } = code;
  const width = size.vectors * lanes;
  const value = context.viewed(op.b);
  const panel = { k: 4 * width, step: 4 * width * depth };
  const panels = () => context.allocate(4 * Math.ceil(n / width) * width * depth);
  const packed = (tile: Stored): Ready => ({
    operand: { base: context.pointer(tile), type: 'i32', ...panel },
    owned: tile,
  });
  if (value !== null) {
    const { block } = value;
    const strides = viewedStrides(value);
    const bytes = elementBytes(block.type);
    const contiguous = strides[1] === bytes;
    // A panel in memory is what packing would make.
    const isPanel = n === width && strides[0] === n * bytes && bytes === 4;
    if (
      block.inside === 1 &&
      !op.transB &&
      contiguous &&
      n % lanes === 0 &&
      (isPanel || m <= FEW * code.target.dotTile.rows)
    )
      return {
        operand: { base: block.base, type: block.type, step: width * bytes, k: strides[0] },
        owned: null,
      };
    const tile: Stored = { at: 'scratch', buffer: panels(), strides: [] };
    const pack = (source: Source) =>
      (op.transB ? packPanelsTransposed : packPanels)(
        context,
        source,
        [depth, n],
        size.vectors,
        context.pointer(tile),
      );
    const direct = contiguous && (!op.transB || bytes === 4);
    code.if(
      direct ? block.inside : 0,
      () => pack({ base: block.base, type: block.type, strides }),
      () => {
        const rows = context.newTile(context.type(op.b).shape);
        loadInto(context, value, rows);
        pack(scratchSource(context, rows));
        context.reclaim(rows.buffer);
      },
    );
    return packed(tile);
  }
  const { tile, copied } = context.dense(op.b);
  const source = scratchSource(context, tile);
  if (op.transB && n > 1 && tile.strides[0] !== 1) {
    const out: Stored = { at: 'scratch', buffer: panels(), strides: [] };
    packPanelsTransposed(context, source, [depth, n], size.vectors, context.pointer(out));
    if (copied) context.reclaim(tile.buffer);
    return packed(out);
  }
  return {
    operand: { base: source.base, type: 'i32', step: 4 * width, k: source.strides[op.transB ? 1 : 0] },
    owned: copied ? tile : null,
  };
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
  const arithmetic = arithmeticOf(context.type(op.a).dtype);
  const size = tileFor(code.target, m, arithmetic);
  const a = operandA(context, op, m, depth);
  const b = operandB(context, op, size, shape, depth);
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
  pieces(context, Math.ceil(n / code.lanes), size.vectors, (column, vectors) => {
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
