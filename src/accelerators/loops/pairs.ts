/** Pairs along k: an element of 32 bits holds two bf16, the first in the low half, as `vdot2` takes them. */
import type { IntOperand, IntReg, MemoryType, VecReg } from './ir.ts';
import type { Source } from './panels.ts';
import type { Context } from './values.ts';
import { elementBytes } from './values.ts';

/** The pairs of two vectors whose lanes are bf16 widened to f32; without a second one, zeros take its place. */
export function pairOf({ code }: Context, first: VecReg, second: VecReg | null): VecReg {
  const low = code.shift('ushr', first, 16);
  return second === null ? low : code.bin('or', low, second);
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
  const load = (base: IntReg, index: number, count: number) => {
    const place = { base, displacement: bytes * index };
    return count === lanes ? code.load(place, from.type) : code.loadPart(place, count, from.type);
  };
  const row = (pair: IntOperand, both: boolean) => {
    const first = code.pointer(from.base, code.int('mul', pair, 2 * from.strides[0]));
    const second = code.pointer(first, from.strides[0]);
    const target = code.pointer(to, code.int('mul', pair, toStride));
    const vectors = (index: IntOperand, count: number) => {
      const shift = (base: IntReg, width: number) => code.pointer(base, code.int('mul', index, width));
      const [a, b, c] = [shift(first, bytes), shift(second, bytes), shift(target, 4)];
      const high = both ? load(b, 0, count) : null;
      code.store(pairOf(context, load(a, 0, count), high), { base: c, displacement: 0 });
    };
    const whole = columns - (columns % lanes);
    if (whole === lanes) vectors(0, lanes);
    else if (whole > 0) code.for(0, whole, lanes, (index) => vectors(index, lanes));
    if (whole < columns) vectors(whole, columns - whole);
  };
  const pairs = Math.floor(depth / 2);
  if (pairs === 1) row(0, true);
  else if (pairs > 1) code.for(0, pairs, 1, (pair) => row(pair, true));
  if (depth % 2 !== 0) row(pairs, false);
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
  const row = (index: IntOperand) => {
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
  };
  if (rows === 1) row(0);
  else code.for(0, rows, 1, row);
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
  const panel = (index: IntOperand, columns: number) => {
    const base = code.pointer(from.base, code.int('mul', index, bytes * width));
    const target = code.pointer(to, code.int('mul', index, 4 * width * pairs));
    pairedRows(context, { ...from, base }, [depth, columns], target, 4 * width);
  };
  const whole = Math.floor(n / width);
  if (whole === 1) panel(0, width);
  else if (whole > 1) code.for(0, whole, 1, (index) => panel(index, width));
  if (n % width !== 0) panel(whole, n % width);
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
  const panel = (index: IntOperand) => {
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
  };
  const count = Math.ceil(n / width);
  if (count === 1) panel(0);
  else code.for(0, count, 1, panel);
}
