/** Pairs along k: an element of 32 bits holds two bf16, the first in the low half, as `vdot2` takes them. */
import type { IntOperand, IntReg, MemoryType, VecReg } from './ir.ts';
import type { Source } from './panels.ts';
import { eachPanelRow } from './panels.ts';
import { AT_ONCE } from './rows.ts';
import type { Context } from './values.ts';
import { elementBytes } from './views.ts';

/** The pairs of two vectors whose lanes are bf16 widened to f32; without a second one, zeros take its place. */
export function pairOf({ code }: Context, first: VecReg, second: VecReg | null): VecReg {
  const low = code.shift('ushr', first, 16);
  return second === null ? low : code.bin('or', low, second);
}

/** The first or second of each pair, widened to f32. */
export function halfOf({ code }: Context, pairs: VecReg, which: number): VecReg {
  return which === 0 ? code.shift('ishl', pairs, 16) : code.bin('and', pairs, code.bits(0xffff0000));
}

/** Pairs of neighbouring rows. from: [depth, columns] with contiguous rows; to: rows of pairs, `toStride` bytes apart. */
export function pairedRows(
  context: Context,
  from: Source,
  [depth, columns]: readonly [number, number],
  to: IntReg,
  toStride: number,
): void {
  const { code } = context;
  const { lanes } = code;
  const bytes = elementBytes(from.type);
  const span = AT_ONCE * lanes;
  code.pieces(depth, 2, (pair, rows) => {
    const first = code.pointer(from.base, code.int('mul', pair, 2 * from.strides[0]));
    const target = code.pointer(to, code.int('mul', pair, toStride));
    code.strips(columns, span, (start, width) => {
      const source = code.pointer(first, code.int('mul', start, bytes));
      const write = code.pointer(target, code.int('mul', start, 4));
      for (let column = 0; column < width; column += lanes) {
        const load = (row: number, type: MemoryType) =>
          code.loadPart(
            { base: source, displacement: row * from.strides[0] + bytes * column },
            width - column,
            type,
          );
        const low = from.type === 'bf16' ? load(0, 'u16') : code.shift('ushr', load(0, from.type), 16);
        const pairs = rows === 2 ? code.bin('or', low, load(1, from.type)) : low;
        code.store(pairs, { base: write, displacement: 4 * column });
      }
    });
  });
}

/**
 * Pairs of neighbours in a row, at the place of the first of each; what lies between is of no use. from: rows of 32-bit
 * elements in scratch, which may be read beyond their end; to: rows `toStride` bytes apart, not the same memory.
 */
export function pairedAlongRows(
  context: Context,
  from: Source,
  [rows, depth]: readonly [number, number],
  to: IntReg,
  toStride: number,
): void {
  const { code } = context;
  const { lanes } = code;
  const type: MemoryType = 'i32';
  code.pieces(rows, 1, (index) => {
    const source = code.pointer(from.base, code.int('mul', index, from.strides[0]));
    const target = code.pointer(to, code.int('mul', index, toStride));
    const vectors = (k: IntOperand) => {
      const place = code.pointer(source, code.int('mul', k, 4));
      const first = code.load({ base: place, displacement: 0 }, type);
      const second = code.load({ base: place, displacement: 4 }, type);
      code.store(pairOf(context, first, second), {
        base: code.pointer(target, code.int('mul', k, 4)),
        displacement: 0,
      });
    };
    if (depth <= lanes) vectors(0);
    else code.for(0, depth, lanes, vectors);
    if (depth % 2 === 0) return;
    const last = code.broadcast({ base: source, displacement: 4 * (depth - 1) }, type);
    code.storeFirst(pairOf(context, last, null), { base: target, displacement: 4 * (depth - 1) });
  });
}

/** Pairs of the rows of a matrix in panels. from: [depth, n], its rows contiguous. */
export function packPairs(
  context: Context,
  from: Source,
  [depth, n]: readonly [number, number],
  vectors: number,
  to: IntReg,
): void {
  const { code } = context;
  const width = vectors * code.lanes;
  const bytes = elementBytes(from.type);
  const pairs = Math.ceil(depth / 2);
  code.pieces(n, width, (index, columns) => {
    const base = code.pointer(from.base, code.int('mul', index, bytes * width));
    const target = code.pointer(to, code.int('mul', index, 4 * width * pairs));
    pairedRows(context, { ...from, base }, [depth, columns], target, 4 * width);
  });
}

/** Panels of rows (see `panels.ts`) become, from where they begin, panels of half as many rows of pairs. */
export function pairPanels(
  context: Context,
  base: IntReg,
  [depth, n]: readonly [number, number],
  vectors: number,
): void {
  const { code } = context;
  const width = vectors * code.lanes;
  const pairs = Math.ceil(depth / 2);
  code.pieces(Math.ceil(n / width), 1, (index) => {
    const start = code.pointer(base, code.int('mul', index, 4 * width * depth));
    const target = code.pointer(base, code.int('mul', index, 4 * width * pairs));
    // A row of pairs is written after the rows at and behind its place have been read.
    pairedRows(
      context,
      { base: start, type: 'i32', strides: [4 * width, 4] },
      [depth, width],
      target,
      4 * width,
    );
  });
}

/** Rows of pairs become panels of rows, widened to f32 (see `panels.ts`). from: [depth / 2, n] pairs, its rows contiguous. */
export function unpairedPanels(
  context: Context,
  from: Source,
  [depth, n]: readonly [number, number],
  vectors: number,
  to: IntReg,
): void {
  const { code } = context;
  const { lanes } = code;
  const width = vectors * lanes;
  eachPanelRow(context, from, { rows: depth / 2, depth, n, vectors }, to, (read, write, columns) => {
    for (let column = 0; column < columns; column += lanes) {
      const words = code.load({ base: read, displacement: 4 * column });
      for (const which of [0, 1])
        code.store(halfOf(context, words, which), {
          base: write,
          displacement: 4 * (which * width + column),
        });
    }
  });
}
