/** Panels: a matrix [k, n] held as [n / width, k, width], where width is that of a register tile of `dot`. */
import type { IntOperand, IntReg, MemoryType } from './ir.ts';
import { transposeRows } from './rows.ts';
import type { Context } from './values.ts';
import { elementBytes } from './views.ts';

/** A matrix in memory; strides in bytes. */
export interface Source {
  readonly base: IntReg;
  readonly type: MemoryType;
  readonly strides: readonly number[];
}

/**
 * Walks a matrix, whose rows are contiguous, by what goes into each panel of [depth, n]. Of `rows` rows each becomes
 * `depth / rows`; `move` gets where a row's part of a panel lies, where it goes, and its elements.
 */
export function eachPanelRow(
  context: Context,
  from: Source,
  { rows, depth, n, vectors }: { rows: number; depth: number; n: number; vectors: number },
  to: IntReg,
  move: (source: IntReg, target: IntReg, count: number) => void,
): void {
  const { code } = context;
  const width = vectors * code.lanes;
  const bytes = elementBytes(from.type);
  code.for(0, rows, 1, (k) => {
    const row = code.pointer(from.base, code.int('mul', k, from.strides[0]));
    const target = code.pointer(to, code.int('mul', k, (depth / rows) * 4 * width));
    code.pieces(n, width, (index, count) =>
      move(
        code.pointer(row, code.int('mul', index, bytes * width)),
        code.pointer(target, code.int('mul', index, 4 * width * depth)),
        count,
      ),
    );
  });
}

/** from: [depth, n], its rows contiguous. */
export function packPanels(
  context: Context,
  from: Source,
  [depth, n]: readonly [number, number],
  vectors: number,
  to: IntReg,
): void {
  const { code } = context;
  const { lanes } = code;
  const bytes = elementBytes(from.type);
  eachPanelRow(context, from, { rows: depth, depth, n, vectors }, to, (source, target, count) => {
    for (let v = 0; v * lanes < count; v++) {
      const read = { base: source, displacement: bytes * lanes * v };
      code.store(code.loadPart(read, count - v * lanes, from.type), {
        base: target,
        displacement: 4 * lanes * v,
      });
    }
  });
}

/** from: [n, depth], its rows contiguous. `ahead`: see `transposeRows`. */
export function packPanelsTransposed(
  context: Context,
  from: Source,
  [depth, n]: readonly [number, number],
  vectors: number,
  to: IntReg,
  ahead = false,
): void {
  const { code } = context;
  const { lanes } = code;
  const width = vectors * lanes;
  // Vector number v of a row of the panels lies in panel v / vectors, at v % vectors.
  const place = (start: IntOperand): IntOperand => {
    const panel = code.int('div', start, width);
    const within = code.int('sub', start, code.int('mul', panel, width));
    return code.int('add', code.int('mul', panel, 4 * width * depth), code.int('mul', within, 4));
  };
  code.strips(n, lanes, (column, height) => {
    const source = code.pointer(from.base, code.int('mul', column, from.strides[0]));
    const target = code.pointer(to, place(column));
    transposeRows(context, { ...from, base: source }, [height, depth], target, 4 * width, ahead);
  });
}
