/**
 * dot in matrix registers: blocks of the result of up to 32 rows and 32 columns, of which four registers hold the sums,
 * while two each hold a's rows and b's columns of a step along k.
 */
import type { Following } from './ahead.ts';
import { fetchFollowing, fetchPageAhead, followingOf } from './ahead.ts';
import { evenPieces } from './code.ts';
import type { ProductEpilogue } from './epilogue.ts';
import { finish, streamsAt } from './epilogue.ts';
import type { IntOperand, IntReg, MatrixShape } from './ir.ts';
import type { SumRows } from './sums.ts';
import type { Buffer, Context } from './values.ts';

/** Rows of a matrix register, and 32-bit elements of each. */
export const MATRIX_ROWS = 16;
export const MATRIX_ELEMENTS = 16;

/** An operand whose 32-bit elements hold pairs or quads along k. Steps are in bytes. */
export interface MatrixOperand {
  readonly base: IntReg;
  /** From row to row: of a along m, of b along k. */
  readonly row: number;
  /** From one step along k to the next. */
  readonly k: number;
  /** Of b: from one pair of registers' columns to the next. */
  readonly across: number;
  /** Of b: the memory of a view that holds all of it, one step along k behind the other. */
  readonly stream?: Stream | null;
}

/** `bytes` from `base` on, each read once. `unpacked`: the operand is made of them. */
export interface Stream {
  readonly base: IntReg;
  readonly bytes: number;
  readonly unpacked: boolean;
}

export interface MatrixProduct {
  readonly of: 'pairs' | 'quads';
  /** Each adds to the same sums. */
  readonly terms: readonly { readonly a: MatrixOperand; readonly b: MatrixOperand }[];
  readonly m: number;
  readonly n: number;
  /** Elements of a register's row that are used, and steps of so many along k. */
  readonly elements: number;
  readonly steps: number;
  /** Null: all sums begin with `bits`. */
  readonly acc: SumRows | null;
  readonly bits: number;
  /** Null where an epilogue takes the sums. */
  readonly out: SumRows | null;
  readonly epilogue: ProductEpilogue | null;
}

/** Registers: sums of the upper rows, of the lower rows; a's upper and lower rows; b's columns. */
const SUMS = [
  [0, 1],
  [2, 3],
] as const;
const A = [4, 5] as const;
const B = [6, 7] as const;
const VECTORS = B.length;
const LARGEST = A.length * MATRIX_ROWS;

/** Rows up to which a product takes as long as b takes to come from memory. */
const ROWS_THAT_WAIT = 2 * LARGEST;

/** Bytes of a row of sums beside each other in scratch. */
const SCRATCH_ROW = 4 * MATRIX_ELEMENTS * VECTORS;
/** Rows of sums that the epilogue gets at once. */
const ROWS_AT_ONCE = 4;

/** The rows of each part of a block. */
const partsOf = (rows: number): readonly number[] =>
  rows <= MATRIX_ROWS ? [rows] : [Math.ceil(rows / 2), Math.floor(rows / 2)];

function shapesOf(rows: number, elements: number): MatrixShape[] {
  const [upper, lower = upper] = partsOf(rows);
  const of = (count: number, bytes: number) => ({ rows: count, bytes });
  const whole = 4 * MATRIX_ELEMENTS;
  return [
    ...[upper, upper, lower, lower].map((count) => of(count, whole)),
    ...[upper, lower].map((count) => of(count, 4 * elements)),
    ...B.map(() => of(elements, whole)),
  ];
}

/** Steps along k that the columns of b which stay in the first cache are long. */
const STEPS_AT_ONCE = 8;
/** Rows whose sums are completed before the next ones: with a's rows, they stay near while b's columns go by. */
const BAND = 128;

/** A stretch along k of `steps`, from step `from` on. */
interface Stretch {
  readonly from: IntOperand;
  readonly steps: number;
  readonly first: boolean;
  readonly last: boolean;
}

/** Whether so many rows of a use b's columns again that it is worth to keep these nearer than in the second cache. */
const isLong = ({ m, steps }: Pick<MatrixProduct, 'm' | 'steps'>) => m > 2 * LARGEST && steps > STEPS_AT_ONCE;

/** The steps along k in stretches after which all sums have got their part. */
function stretches({ code }: Context, { m, steps }: MatrixProduct, each: (stretch: Stretch) => void): void {
  const count = isLong({ m, steps }) ? Math.ceil(steps / STEPS_AT_ONCE) : 1;
  const size = Math.ceil(steps / count);
  const last = (count - 1) * size;
  each({ from: 0, steps: count === 1 ? steps : size, first: true, last: count === 1 });
  if (count > 2) code.for(size, last, size, (from) => each({ from, steps: size, first: false, last: false }));
  if (count > 1) each({ from: last, steps: steps - last, first: false, last: true });
}

interface Place {
  readonly product: MatrixProduct;
  readonly stride: (bytes: number) => IntReg;
  /** A block's sums, where they go through memory to become something else. */
  readonly scratch: SumRows | null;
  /** Sums that are not complete yet. */
  readonly partial: SumRows | null;
  readonly narrow: boolean;
}

export function matrixProduct(context: Context, product: MatrixProduct): void {
  const { code } = context;
  const { m, n, terms, acc, bits, out, epilogue, elements } = product;
  const narrow = n === 1;
  const takenOver = epilogue !== null || narrow;
  const scratch = takenOver || (acc === null && bits !== 0) ? context.allocate(LARGEST * SCRATCH_ROW) : null;
  const columns = Math.ceil(n / MATRIX_ELEMENTS);
  // A line farther apart than they are long, so that rows do not share sets of the cache.
  const partialRow = 4 * MATRIX_ELEMENTS * (columns + 1);
  const band = isLong(product) || columns > VECTORS ? BAND : m;
  const partial = isLong(product) ? context.allocate(partialRow * Math.min(band, m)) : null;
  const rowsAt = (buffer: Buffer, row: number): SumRows => ({
    base: code.pointer(context.scratch, buffer.offset),
    row,
  });
  const strides = new Map<number, IntReg>();
  const stride = (bytes: number): IntReg => {
    const known = strides.get(bytes) ?? code.register(bytes);
    strides.set(bytes, known);
    return known;
  };
  const place: Place = {
    product,
    stride,
    scratch: scratch && rowsAt(scratch, SCRATCH_ROW),
    partial: partial && rowsAt(partial, partialRow),
    narrow,
  };
  // Made before the loops that use them.
  for (const rows of [...terms.flatMap(({ a, b }) => [a, b]), acc, out, place.scratch, place.partial])
    if (rows !== null) stride(rows.row);
  code.pieces(m, band, (index, height) => {
    const top = code.int('mul', index, band);
    stretches(context, product, (stretch) =>
      code.pieces(columns, VECTORS, (column, vectors) => {
        const following = whatFollows(context, product, height);
        for (const { from, to, size: rows } of evenPieces(height, LARGEST)) {
          code.emit({ o: 'mshape', shapes: shapesOf(rows, elements) });
          code.each({ from, to, size: rows }, (down) =>
            block(
              context,
              place,
              { row: code.int('add', top, down), down, rows, column, vectors },
              { stretch, following },
            ),
          );
        }
      }),
    );
  });
  for (const buffer of [scratch, partial]) if (buffer !== null) context.reclaim(buffer);
}

/** `row` is the first of `rows`, `down` the same from the band's first on; `column` counts pairs of registers. */
interface Corner {
  readonly row: IntOperand;
  readonly down: IntOperand;
  readonly rows: number;
  readonly column: IntOperand;
  readonly vectors: number;
}

/** What lies in memory behind b, where b is short: it is asked for little by little, by each block of `height` rows. */
function whatFollows(
  { code }: Context,
  { terms, steps, epilogue }: MatrixProduct,
  height: number,
): Following | null {
  const [{ b: first }] = terms;
  if (!first.stream || terms.some(({ b }) => b.stream?.base !== first.stream?.base)) return null;
  const blocks = Math.ceil(height / LARGEST);
  const pieces = epilogue === null ? 0 : Math.ceil(Math.ceil(height / blocks) / ROWS_AT_ONCE);
  return followingOf(code, first.stream, blocks * (steps + pieces));
}

/** A part of the product along k, and what it asks for. */
interface Part {
  readonly stretch: Stretch;
  readonly following: Following | null;
}

function block(context: Context, place: Place, corner: Corner, { stretch, following }: Part): void {
  const { code } = context;
  const { product, stride } = place;
  const { of, terms, m, out, epilogue } = product;
  const { steps } = stretch;
  const waits = following === null && m <= ROWS_THAT_WAIT;
  const parts = partsOf(corner.rows);
  const columns = Array.from({ length: corner.vectors }, (_, vector) => vector);
  if (stretch.first) begin(context, place, corner);
  else move(context, place, corner, 'mload', partialAt(context, place, corner));

  const start = ({ base, k }: MatrixOperand, beside: IntOperand): IntReg => {
    const dst = code.newInt();
    const first = code.pointer(base, code.int('add', beside, code.int('mul', stretch.from, k)));
    code.emit({ o: 'imove', dst, a: first });
    return dst;
  };
  const pointers = terms.map(({ a, b }) => ({
    a: start(a, code.int('mul', corner.row, a.row)),
    b: start(b, code.int('mul', corner.column, b.across)),
  }));
  const step = () => {
    if (following !== null) fetchFollowing(code, following);
    terms.forEach(({ a, b }, term) => {
      if (waits && b.stream?.unpacked === false) fetchPageAhead(code, pointers[term].b, b.k);
      const load = (register: number, base: IntReg, displacement: number, row: number) =>
        code.emit({ o: 'mload', register, from: { base, displacement }, stride: stride(row) });
      for (const vector of columns) load(B[vector], pointers[term].b, 4 * MATRIX_ELEMENTS * vector, b.row);
      parts.forEach((_, part) => {
        load(A[part], pointers[term].a, part * parts[0] * a.row, a.row);
        for (const vector of columns)
          code.emit({ o: 'mdot', of, sum: SUMS[part][vector], a: A[part], b: B[vector] });
      });
    });
  };
  if (steps === 1) step();
  else
    code.for(0, steps, 1, () => {
      step();
      terms.forEach(({ a, b }, term) => {
        const forward = (dst: IntReg, by: number) => code.emit({ o: 'ibin', dst, fn: 'add', a: dst, b: by });
        forward(pointers[term].a, a.k);
        forward(pointers[term].b, b.k);
      });
    });

  if (!stretch.last || (epilogue === null && !place.narrow)) {
    const to = stretch.last ? sumsAt(context, out as SumRows, corner) : partialAt(context, place, corner);
    move(context, place, corner, 'mstore', to);
    return;
  }
  const rows = place.scratch as SumRows;
  move(context, place, corner, 'mstore', rows);
  code.pieces(corner.rows, ROWS_AT_ONCE, (index, count) => {
    if (following !== null) fetchFollowing(code, following);
    const row = code.int('mul', index, ROWS_AT_ONCE);
    const base = code.pointer(rows.base, code.int('mul', row, SCRATCH_ROW));
    const sums = Array.from({ length: count }, (_, each) =>
      columns.map((vector) =>
        code.load({ base, displacement: SCRATCH_ROW * each + 4 * MATRIX_ELEMENTS * vector }),
      ),
    );
    if (epilogue !== null) {
      const down = code.int('add', corner.row, row);
      const streams = streamsAt(context, epilogue, down, corner.column, MATRIX_ELEMENTS * VECTORS);
      finish(context, epilogue, streams, sums);
    } else if (out !== null) {
      const to = code.pointer(sumsAt(context, out, corner).base, code.int('mul', row, out.row));
      sums.forEach(([sum], each) => {
        code.storeFirst(sum, { base: to, displacement: out.row * each });
      });
    }
  });
}

/** The block's first sum. */
function sumsAt({ code }: Context, { base, row }: SumRows, corner: Corner): SumRows {
  const along = code.int('mul', corner.column, SCRATCH_ROW);
  return { base: code.pointer(base, code.int('add', code.int('mul', corner.row, row), along)), row };
}

const partialAt = (context: Context, { partial }: Place, corner: Corner): SumRows =>
  sumsAt(context, partial as SumRows, { ...corner, row: corner.down });

/** Loads or stores the block's sums. */
function move(
  { code }: Context,
  { stride }: Place,
  { rows, vectors }: Corner,
  o: 'mload' | 'mstore',
  { base, row }: SumRows,
): void {
  const [upper] = partsOf(rows);
  partsOf(rows).forEach((_, part) => {
    for (let vector = 0; vector < vectors; vector++) {
      const address = { base, displacement: part * upper * row + 4 * MATRIX_ELEMENTS * vector };
      const register = SUMS[part][vector];
      if (o === 'mload') code.emit({ o, register, from: address, stride: stride(row) });
      else code.emit({ o, register, to: address, stride: stride(row) });
    }
  });
}

/** Gives the sums what they begin with. */
function begin(context: Context, place: Place, corner: Corner): void {
  const { code } = context;
  const { acc, bits } = place.product;
  const { rows, vectors } = corner;
  if (acc === null && bits === 0) {
    partsOf(rows).forEach((_, part) => {
      for (let vector = 0; vector < vectors; vector++)
        code.emit({ o: 'mzero', register: SUMS[part][vector] });
    });
    return;
  }
  if (acc !== null && !place.narrow) {
    move(context, place, corner, 'mload', sumsAt(context, acc, corner));
    return;
  }
  const scratch = place.scratch as SumRows;
  const from = acc === null ? null : sumsAt(context, acc, corner);
  code.pieces(rows, 1, (index) => {
    const to = code.pointer(scratch.base, code.int('mul', index, SCRATCH_ROW));
    const sum =
      from === null
        ? code.bits(bits)
        : code.broadcast({
            base: code.pointer(from.base, code.int('mul', index, from.row)),
            displacement: 0,
          });
    for (let vector = 0; vector < vectors; vector++)
      code.store(sum, { base: to, displacement: 4 * MATRIX_ELEMENTS * vector });
  });
  move(context, place, corner, 'mload', scratch);
}
