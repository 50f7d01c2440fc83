/** Blocks of rows that may reach beyond their view, for products that read rows as they lie: made whole where they do. */
import type { IntOperand, IntReg } from './ir.ts';
import { copyRows, fillRow } from './rows.ts';
import type { Context, Stored } from './values.ts';
import type { Viewed } from './views.ts';

const VECTOR_BYTES = 64;

/** Rows may lie so many times as far apart as they are long where some are copied as they lie. */
const SPREAD = 4;
export const isNear = (row: number, bytes: number): boolean => row <= SPREAD * bytes;

/**
 * Rows of so many words, `row` bytes apart, that may reach beyond their view: where they do, `copy` makes them anew, as
 * far apart, so that all else is the same.
 */
export function wholeRows(
  context: Context,
  { block }: Viewed,
  row: number,
  [rows, words]: readonly [number, number],
  copy: (to: IntReg) => void,
): { readonly base: IntReg; readonly owned: Stored | null } {
  const { code } = context;
  if (block.inside === 1) return { base: block.base, owned: null };
  const owned: Stored = {
    at: 'scratch',
    // One row has no distance to the next; whole vectors are written.
    buffer: context.allocate(rows * Math.max(row, 4 * words) + VECTOR_BYTES),
    strides: [row / 4, 1],
  };
  const to = context.pointer(owned);
  code.if(
    code.register(block.inside),
    () => {},
    () => copy(to),
  );
  const base = code.newInt();
  code.emit({ o: 'iselect', dst: base, c: code.register(block.inside), a: block.base, b: to });
  return { base, owned };
}

/** What of a block that reaches beyond its view is not there: whole rows, or more than is said here. */
export function wordsMissing({ block, axes, fill }: Viewed): 'rows' | 'more' {
  const [rows, columns] = axes;
  if (rows < 0 || columns < 0 || fill !== 0) return 'more';
  const [begin, end] = block.ranges[columns];
  return begin === 0 && end === block.shape[columns] ? 'rows' : 'more';
}

/** Copies the rows of a block that are there, and clears the others. */
export function presentRows(
  context: Context,
  { block, axes }: Viewed,
  row: number,
  [rows, words]: readonly [number, number],
  to: IntReg,
): void {
  const { code } = context;
  const { ranges, shape, base } = block;
  const [axis] = axes;
  // Where an axis of one element is outside, no row is there.
  const present = [...shape.keys()]
    .filter((other) => !axes.includes(other) && !(ranges[other][0] === 0 && ranges[other][1] === 1))
    .map((other) => code.int('lt', ranges[other][0], ranges[other][1]));
  const [from, until] = ranges[axis];
  const begin = code.int('min', from, rows);
  const end = present.reduce((bound, there) => code.int('mul', bound, there), until);
  const stop = code.int('max', end, begin);
  const clear = (row: IntReg) => fillRow(code, row, words, code.bits(0));
  const each = (lo: IntOperand, hi: IntOperand, visit: (target: IntReg, index: IntOperand) => void) =>
    code.for(lo, hi, 1, (index) => visit(code.pointer(to, code.int('mul', index, row)), index));
  each(0, begin, clear);
  each(begin, stop, (target, index) => {
    const source = {
      base: code.pointer(base, code.int('mul', index, row)),
      type: 'i32',
      strides: [row, 4],
    } as const;
    copyRows(context, source, [1, words], target, row);
  });
  each(stop, rows, clear);
}
