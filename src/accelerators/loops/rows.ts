/** Rows of elements in scratch: copied, narrowed, cleared, transposed. */
import { fetchRows } from './ahead.ts';
import type { Code } from './code.ts';
import type { Address, IntReg, VecReg } from './ir.ts';
import type { Source } from './panels.ts';
import type { Context, Stored } from './values.ts';
import { elementBytes } from './views.ts';

/** Memory for rows of 32-bit elements, farther apart than they are long; vectors of a column lie side by side. */
export function paddedRows(context: Context, rows: number, columns: number): Stored {
  const stride = columns === 1 ? 1 : columns + 16;
  return { at: 'scratch', buffer: context.allocate(4 * rows * stride + 64), strides: [stride, 1] };
}

/** Puts `lanes`, all the same, into a row of 32-bit elements, and nothing behind it. */
export function fillRow(code: Code, row: IntReg, columns: number, lanes: VecReg): void {
  code.strips(columns, code.lanes, (column, count) => {
    const to = { base: code.pointer(row, code.int('mul', column, 4)), displacement: 0 };
    if (count === code.lanes) code.store(lanes, to);
    else code.storePart(lanes, to, count);
  });
}

/** Zeros in [rows, columns] of 32-bit elements. */
export function clearRows(
  { code }: Context,
  base: IntReg,
  stride: number,
  [rows, columns]: readonly [number, number],
): void {
  code.pieces(rows, 1, (index) =>
    fillRow(code, code.pointer(base, code.int('mul', index, stride)), columns, code.bits(0)),
  );
}

/** Vectors of a row that are visited in one stretch of code, so that little time goes to where they lie. */
export const AT_ONCE = 4;

/** Calls `visit` for each vector of [rows, columns]: where it begins in `from` and in `to`, and its elements. */
export function eachVector(
  context: Context,
  { base, type, strides }: Source,
  [rows, columns]: readonly [number, number],
  to: { readonly base: IntReg; readonly row: number; readonly bytes: number },
  visit: (from: Address, to: Address, count: number) => void,
): void {
  const { code } = context;
  code.pieces(rows, 1, (row) => {
    const source = code.pointer(base, code.int('mul', row, strides[0]));
    const target = code.pointer(to.base, code.int('mul', row, to.row));
    code.strips(columns, AT_ONCE * code.lanes, (start, width) => {
      const read = code.pointer(source, code.int('mul', start, elementBytes(type)));
      const write = code.pointer(target, code.int('mul', start, to.bytes));
      for (let column = 0; column < width; column += code.lanes)
        visit(
          { base: read, displacement: elementBytes(type) * column },
          { base: write, displacement: to.bytes * column },
          Math.min(code.lanes, width - column),
        );
    });
  });
}

/** [rows, columns] of 32-bit elements, as they are; whole vectors are written. */
export function copyRows(
  context: Context,
  from: Source,
  size: readonly [number, number],
  base: IntReg,
  row: number,
): void {
  const { code } = context;
  eachVector(context, from, size, { base, row, bytes: 4 }, (source, target, count) =>
    code.store(code.loadPart(source, count), target),
  );
}

/** Rows of bf16 widened to f32 become rows of bf16. */
export function narrowRows(
  context: Context,
  from: Source,
  size: readonly [number, number],
  base: IntReg,
  row: number,
): void {
  const { code } = context;
  eachVector(context, from, size, { base, row, bytes: 2 }, (source, target, count) => {
    const lanes = code.loadPart(source, count);
    if (count === code.lanes) code.store(lanes, target, 'bf16');
    else code.storePart(lanes, target, count, 'bf16');
  });
}

/** from: [rows, columns] of 32-bit elements; to: [columns, rows]. `ahead`: the rows after these will be read next. */
export function transposeRows(
  { code }: Context,
  from: Source,
  [rows, columns]: readonly [number, number],
  to: IntReg,
  toStride: number,
  ahead = false,
): void {
  const { lanes } = code;
  code.strips(rows, lanes, (row, height) => {
    const source = code.pointer(from.base, code.int('mul', row, from.strides[0]));
    const target = code.pointer(to, code.int('mul', row, 4));
    code.strips(columns, lanes, (column, width) => {
      const base = code.pointer(source, code.int('mul', column, 4));
      if (ahead) fetchRows(code, code.pointer(base, lanes * from.strides[0]), lanes, from.strides[0]);
      code.emit({
        o: 'vtranspose',
        from: { base, displacement: 0 },
        fromStride: from.strides[0],
        to: { base: code.pointer(target, code.int('mul', column, toStride)), displacement: 0 },
        toStride,
        rows: height,
        columns: width,
      });
    });
  });
}
