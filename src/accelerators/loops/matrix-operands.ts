/**
 * Operands of products in matrix registers: a as rows along k, b as rows of pairs or quads along n. They are read where
 * they lie that way, else copied. Where the last step along k would not be whole, zeros fill it up.
 */
import type { Op } from '../../tile/ir.ts';
import { isNear, presentRows, wholeRows, wordsMissing } from './edges.ts';
import type { IntReg } from './ir.ts';
import type { MatrixOperand, Stream } from './matrix.ts';
import { MATRIX_ELEMENTS } from './matrix.ts';
import { loadInto } from './memory.ts';
import { asRows, packB, scratchSource, unpack } from './operands.ts';
import { pairedRows } from './pairs.ts';
import type { Source } from './panels.ts';
import { packPanelsTransposed } from './panels.ts';
import { clearRows, copyRows, eachVector, narrowRows, paddedRows, transposeRows } from './rows.ts';
import type { Context, Stored } from './values.ts';
import type { Viewed } from './views.ts';
import { elementBytes, viewedStrides } from './views.ts';

type DotOp = Extract<Op, { op: 'dot' }>;

/** A product's size along k. */
export interface Depth {
  readonly of: 'pairs' | 'quads';
  /** As the operation counts: single numbers of bf16, or quads. */
  readonly depth: number;
  /** Elements of 32 bits. */
  readonly units: number;
  /** Of a matrix register's row, and how often that is. */
  readonly elements: number;
  readonly steps: number;
  /** `elements` · `steps`, which is more than `units` where the last step has to be filled up. */
  readonly padded: number;
}

export function depthOf(of: 'pairs' | 'quads', depth: number): Depth {
  const units = of === 'pairs' ? Math.ceil(depth / 2) : depth;
  const elements = Math.min(units, MATRIX_ELEMENTS);
  const steps = Math.ceil(units / elements);
  return { of, depth, units, elements, steps, padded: elements * steps };
}

export interface ReadyMatrix {
  readonly operand: MatrixOperand;
  /** Scratch to give back afterwards. */
  readonly owned: Stored | null;
}

/** Vectors of a row of b's panels: as many as there are matrix registers of b. */
const VECTORS = 2;
const WIDTH = VECTORS * MATRIX_ELEMENTS;

export function matrixA(context: Context, op: DotOp, m: number, size: Depth): ReadyMatrix {
  const { code } = context;
  const { of, depth, units, padded } = size;
  const value = context.viewed(op.a);
  const inside = value !== null && value.block.inside === 1;
  const strides = value === null ? [] : viewedStrides(value);
  const bytes = of === 'pairs' ? 2 : 4;
  const rowsOf = (base: IntReg, row: number, owned: Stored | null): ReadyMatrix => ({
    operand: { base, row, k: 4 * size.elements, across: 0 },
    owned,
  });
  /** Elements of 32 bits lie beside each other. */
  const contiguous =
    value !== null && !op.transA && strides[1] === bytes && (of === 'quads' || depth % 2 === 0);
  const whole = padded === units && (of === 'quads' || depth % 2 === 0);
  if (contiguous && inside && whole) return rowsOf(value.block.base, strides[0], null);
  if (contiguous && whole && strides[0] % 4 === 0 && isNear(strides[0], 4 * padded)) {
    const { base, owned } = wholeRows(context, value, strides[0], [m, padded], (to) =>
      wordsMissing(value) === 'rows'
        ? presentRows(context, value, strides[0], [m, padded], to)
        : rowsFromScratch(context, op, value, size, m, to, strides[0]),
    );
    return rowsOf(base, strides[0], owned);
  }

  const out = paddedRows(context, m, padded);
  const base = context.pointer(out);
  const row = 4 * out.strides[0];
  if (!whole) clearRows(context, base, row, [m, padded]);
  if (of === 'pairs' && op.transA) {
    const direct = inside && strides[1] === 2;
    const rows = direct ? null : asRows(context, op.a, value);
    const source: Source =
      rows === null
        ? { base: (value as Viewed).block.base, type: 'bf16', strides: [strides[0], 2] }
        : scratchSource(context, rows.tile);
    // As many pairs of rows as are transposed at once, so that they stay in the first cache.
    const pairs = paddedRows(context, MATRIX_ELEMENTS, m);
    code.pieces(depth, 2 * MATRIX_ELEMENTS, (index, numbers) => {
      const from = code.pointer(source.base, code.int('mul', index, 2 * MATRIX_ELEMENTS * source.strides[0]));
      pairedRows(
        context,
        { ...source, base: from },
        [numbers, m],
        context.pointer(pairs),
        4 * pairs.strides[0],
      );
      const to = code.pointer(base, code.int('mul', index, 4 * MATRIX_ELEMENTS));
      transposeRows(context, scratchSource(context, pairs), [Math.ceil(numbers / 2), m], to, row);
    });
    context.reclaim(pairs.buffer);
    if (rows?.temporary) context.reclaim(rows.tile.buffer);
    return rowsOf(base, row, out);
  }
  if (contiguous && inside) {
    const source: Source = { base: value.block.base, type: 'i32', strides: [strides[0], 4] };
    copyRows(context, source, [m, units], base, row);
  } else rowsFromScratch(context, op, value, size, m, base, row);
  return rowsOf(base, row, out);
}

/** Copies a to rows by way of scratch, where its elements have 32 bits each. */
function rowsFromScratch(
  context: Context,
  op: DotOp,
  value: Viewed | null,
  { of, depth, units }: Depth,
  m: number,
  base: IntReg,
  row: number,
): void {
  const { tile, temporary } = asRows(context, op.a, value);
  const source = scratchSource(context, tile);
  if (of === 'pairs') narrowRows(context, source, [m, depth], base, row);
  else if (op.transA) transposeRows(context, source, [units, m], base, row);
  else copyRows(context, source, [m, units], base, row);
  if (temporary) context.reclaim(tile.buffer);
}

export function matrixB(context: Context, op: DotOp, n: number, size: Depth): ReadyMatrix {
  const { code } = context;
  const { of, depth, units, elements, padded } = size;
  const value = context.viewed(op.b);
  const whole = padded === units;
  /** Rows of elements of 32 bits, at `row` bytes. */
  const rowsOf = (
    base: IntReg,
    row: number,
    owned: Stored | null,
    stream: Stream | null = null,
  ): ReadyMatrix => ({
    operand: { base, row, k: elements * row, across: 4 * WIDTH, stream },
    owned,
  });
  const streamOf = (base: IntReg, row: number, unpacked: boolean): Stream | null =>
    row === 4 * n ? { base, bytes: row * padded, unpacked } : null;
  const inPlace = (base: IntReg, row: number) => rowsOf(base, row, null, streamOf(base, row, false));
  const columns = n % MATRIX_ELEMENTS === 0;
  if (value !== null && value.block.inside === 1 && columns && whole) {
    const { block, unpacking } = value;
    const strides = viewedStrides(value);
    const bytes = elementBytes(block.type);
    if (of === 'pairs' && value.paired) return inPlace(block.base, bytes * block.view.strides[value.axes[0]]);
    if (of === 'quads' && !op.transB && strides[1] === 4) {
      if (unpacking.length === 0) return inPlace(block.base, strides[0]);
      const tile = context.newTile([depth, n]);
      const source: Source = { base: block.base, type: 'i32', strides };
      const target = context.pointer(tile);
      const to = { base: target, row: 4 * tile.strides[0], bytes: 4 };
      eachVector(context, source, [depth, n], to, (from, to) => {
        code.store(unpack(context, unpacking, code.load(from)), to);
      });
      return rowsOf(target, 4 * tile.strides[0], tile, streamOf(block.base, strides[0], true));
    }
  }
  if (of === 'quads') {
    const tile = filledRows(context, op, n, size, value);
    if (!op.transB) return rowsOf(context.pointer(tile), 4 * tile.strides[0], tile);
    const out = panels(context, n, padded);
    packPanelsTransposed(context, scratchSource(context, tile), [padded, n], VECTORS, context.pointer(out));
    context.reclaim(tile.buffer);
    return panelsOf(context, out, size);
  }
  // Packing from rows takes twice the panels' memory meanwhile.
  const out = panels(context, n, op.transB ? 2 * padded : padded);
  const to = context.pointer(out);
  const rows = () => {
    const tile = filledRows(context, op, n, size, value);
    packB(context, op.transB, scratchSource(context, tile), [whole ? depth : 2 * padded, n], VECTORS, to);
    context.reclaim(tile.buffer);
  };
  const strides = value === null ? [] : viewedStrides(value);
  const direct =
    value !== null && whole && !value.paired && strides[1] === 2 && (!op.transB || depth % 2 === 0);
  const length = op.transB ? depth : n;
  if (direct && length % 2 === 0 && wordsMissing(value) === 'rows' && isNear(strides[0], 2 * length)) {
    const size: readonly [number, number] = [op.transB ? n : depth, length / 2];
    const { base, owned } = wholeRows(context, value, strides[0], size, (copy) =>
      presentRows(context, value, strides[0], size, copy),
    );
    packB(context, op.transB, { base, type: 'bf16', strides }, [depth, n], VECTORS, to);
    if (owned !== null) context.reclaim(owned.buffer);
  } else if (!direct) rows();
  else
    code.if(
      value.block.inside,
      () =>
        packB(context, op.transB, { base: value.block.base, type: 'bf16', strides }, [depth, n], VECTORS, to),
      rows,
    );
  return panelsOf(context, out, size);
}

/** Panels of `units` rows of two vectors. */
const panels = (context: Context, n: number, units: number): Stored => ({
  at: 'scratch',
  buffer: context.allocate(4 * Math.ceil(n / WIDTH) * WIDTH * units),
  strides: [],
});

const panelsOf = (context: Context, tile: Stored, { elements, padded }: Depth): ReadyMatrix => ({
  operand: {
    base: context.pointer(tile),
    row: 4 * WIDTH,
    k: 4 * WIDTH * elements,
    across: 4 * WIDTH * padded,
  },
  owned: tile,
});

/** b as rows of 32-bit elements in scratch, with zeros behind its last step along k where that is not whole. */
function filledRows(context: Context, op: DotOp, n: number, size: Depth, value: Viewed | null): Stored {
  const { code } = context;
  const { of, depth, units, padded } = size;
  const filled = padded === units ? depth : of === 'pairs' ? 2 * padded : padded;
  const tile = context.newTile(op.transB ? [n, filled] : [filled, n]);
  if (value !== null) loadInto(context, value, tile);
  else {
    const { shape, dtype } = context.type(op.b);
    context.elementwise(shape, [context.source(context.value(op.b), dtype)], tile, ([lanes]) => lanes);
  }
  if (value !== null && value.unpacking.length > 0) {
    const { unpacking } = value;
    const shape = op.transB ? [n, depth] : [depth, n];
    context.elementwise(shape, [tile], tile, ([lanes]) => unpack(context, unpacking, lanes));
  }
  // Whole vectors were written: what lies behind is cleared last.
  const row = 4 * tile.strides[0];
  const base = context.pointer(tile);
  if (op.transB) clearRows(context, code.pointer(base, 4 * depth), row, [n, filled - depth]);
  else clearRows(context, code.pointer(base, row * depth), row, [filled - depth, n]);
  return tile;
}
