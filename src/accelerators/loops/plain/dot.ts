/** dot: register tiles of the result over row-major operands, k ascending with one accumulator an element. */
import type { Op, ValueId } from '../../../tile/ir.ts';
import type { IntReg, VecReg } from '../ir.ts';
import { copyTransposed } from './shape.ts';
import type { Context, Stored } from './values.ts';

interface Matrix {
  readonly tile: Stored;
  /** Steps in elements along the result's axis and along k. */
  readonly outer: number;
  readonly k: number;
}

interface Product {
  readonly a: Matrix;
  readonly b: Matrix;
  readonly acc: Stored | null;
  readonly out: Stored;
  readonly depth: number;
  /** One column: elements are stored one by one, as rows are not padded. */
  readonly narrow: boolean;
  readonly integer: boolean;
}

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
    displacement: 4 * stride * row + width * vector,
  });
  const each = <T>(make: (row: number, vector: number) => T): T[][] =>
    Array.from({ length: rows }, (_, row) =>
      Array.from({ length: vectors }, (_, vector) => make(row, vector)),
    );
  const sums = each((row, vector): VecReg => {
    if (p.acc === null) return code.bits(0);
    const from = at(acc, p.acc.strides[0], row, vector);
    return p.narrow ? code.broadcast(from) : code.load(from);
  });
  const pa = code.newInt();
  const pb = code.newInt();
  code.emit({ o: 'imove', dst: pa, a });
  code.emit({ o: 'imove', dst: pb, a: b });
  const unroll = p.depth % 4 === 0 ? 4 : 1;
  code.for(0, p.depth, unroll, () => {
    for (let u = 0; u < unroll; u++) {
      const columns = Array.from({ length: vectors }, (_, vector) =>
        code.load({ base: pb, displacement: 4 * p.b.k * u + width * vector }),
      );
      for (let row = 0; row < rows; row++) {
        const element = code.broadcast({ base: pa, displacement: 4 * (p.a.k * u + p.a.outer * row) });
        columns.forEach((column, vector) => {
          const dst = sums[row][vector];
          if (p.integer)
            code.emit({ o: 'vbin', dst, fn: 'iadd', a: dst, b: code.bin('imul', element, column) });
          else code.emit({ o: 'vfma', dst, a: element, b: column, c: dst });
        });
      }
    }
    code.emit({ o: 'ibin', dst: pa, fn: 'add', a: pa, b: 4 * p.a.k * unroll });
    code.emit({ o: 'ibin', dst: pb, fn: 'add', a: pb, b: 4 * p.b.k * unroll });
  });
  sums.forEach((list, row) => {
    list.forEach((sum, vector) => {
      const to = at(out, p.out.strides[0], row, vector);
      if (p.narrow) code.storeFirst(sum, to);
      else code.store(sum, to);
    });
  });
}

/** Splits 0..total in pieces of `size` and a rest; `piece` gets the start as loop index times size. */
function pieces(
  context: Context,
  total: number,
  size: number,
  piece: (index: IntReg | number, size: number) => void,
) {
  const whole = Math.floor(total / size);
  if (whole === 1) piece(0, size);
  else if (whole > 1) context.code.for(0, whole, 1, (index) => piece(index, size));
  if (total % size !== 0) piece(whole, total % size);
}

export function lowerDot(context: Context, op: Extract<Op, { op: 'dot' }>, result: ValueId): void {
  const { code } = context;
  const { shape, dtype } = context.type(result);
  const [m, n] = shape;
  const depth = context.type(op.a).shape[op.transA ? 0 : 1];
  const a = context.dense(op.a);
  let b = context.dense(op.b);
  const [alongM, alongK] = op.transA ? [1, 0] : [0, 1];
  let bSteps = op.transB ? [b.tile.strides[1], b.tile.strides[0]] : b.tile.strides;
  if (op.transB && n > 1 && bSteps[1] !== 1) {
    const tile = context.newTile([depth, n]);
    copyTransposed(context, b.tile, [n, depth], tile);
    if (b.copied) context.reclaim(b.tile.buffer);
    b = { tile, copied: true };
    bSteps = tile.strides;
  }
  const acc = op.acc === null ? null : context.dense(op.acc);
  const out = context.resultTile(shape, op.acc === null || acc?.copied ? [] : [op.acc]);
  const product: Product = {
    a: { tile: a.tile, outer: a.tile.strides[alongM], k: a.tile.strides[alongK] },
    b: { tile: b.tile, outer: 1, k: bSteps[0] },
    acc: acc?.tile ?? null,
    out,
    depth,
    narrow: n === 1,
    integer: dtype === 'i32',
  };
  const bases = [a.tile, b.tile, acc?.tile ?? out, out].map((tile) => context.pointer(tile));
  const size = code.target.dotTile;
  pieces(context, Math.ceil(n / code.lanes), size.vectors, (column, vectors) => {
    const along = code.int('mul', column, 4 * code.lanes * size.vectors);
    pieces(context, m, size.rows, (row, rows) => {
      const down = (stride: number) => code.int('mul', row, 4 * stride * size.rows);
      const [pa, pb, pacc, pout] = bases;
      const pointers = [
        code.pointer(pa, down(product.a.outer)),
        code.pointer(pb, along),
        code.pointer(pacc, code.int('add', down((acc?.tile ?? out).strides[0]), along)),
        code.pointer(pout, code.int('add', down(out.strides[0]), along)),
      ];
      registerTile(context, product, pointers, rows, vectors);
    });
  });
  for (const used of [a, b, acc]) if (used?.copied) context.reclaim(used.tile.buffer);
  context.define(result, out);
}
