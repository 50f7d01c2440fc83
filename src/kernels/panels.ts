/**
 * Matrices in panels: [k, n] held as [panels, k, width], each panel a contiguous block of `width` columns, the last one
 * filled up with zeros. A multiplication by few rows then reads memory from one end to the other, which is the most
 * that memory gives; rows of a wide matrix would be read in short pieces far apart. With bf16, rows lie in pairs,
 * [panels, k / 2, width, 2], as processors multiply them.
 */
import type { DType } from '../numerics/dtype.ts';
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import { elementCount } from '../tile/ir.ts';
import { memoized, storeAs, typeSuffix } from './common.ts';
import type { CopyType } from './transpose.ts';

/** Columns of a panel: a row is one cache line of two-byte elements, and as wide as the register tile of a product. */
const PANEL = 32;

export interface Panels {
  /** Columns of a panel. */
  readonly width: number;
  readonly count: number;
}

/** How a matrix of `columns` columns is divided. */
export function panelsOf(columns: number): Panels {
  const width = Math.min(PANEL, columns);
  return { width, count: ceilDiv(columns, width) };
}

/** Whether rows lie in pairs, as processors multiply bf16: so they do wherever they can. */
export const inPairs = (dtype: DType, rows: number): boolean => dtype === 'bf16' && rows % 2 === 0;

/** The shape in which a matrix [rows, columns] is held in panels. */
export function panelShape(dtype: DType, rows: number, columns: number): readonly number[] {
  const { width, count } = panelsOf(columns);
  return inPairs(dtype, rows) ? [count, rows / 2, width, 2] : [count, rows, width];
}

/** Rows of the matrix, and columns of a panel, of panels as `panelShape` makes them. */
export const panelSizes = ([, rows, width, pair = 1]: readonly number[]) => ({ rows: rows * pair, width });

/** Values of a matrix [rows, columns], row-major, in panels of `dtype`. */
export function packPanels(
  values: Float32Array,
  rows: number,
  columns: number,
  dtype: DType,
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(elementCount(panelShape(dtype, rows, columns)));
  eachElement(dtype, rows, columns, (packed, plain) => {
    out[packed] = values[plain];
  });
  return out;
}

/** Undoes `packPanels`. */
export function unpackPanels(
  values: Float32Array,
  rows: number,
  columns: number,
  dtype: DType,
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(rows * columns);
  eachElement(dtype, rows, columns, (packed, plain) => {
    out[plain] = values[packed];
  });
  return out;
}

function eachElement(
  dtype: DType,
  rows: number,
  columns: number,
  move: (packed: number, plain: number) => void,
): void {
  const { width } = panelsOf(columns);
  const high = inPairs(dtype, rows) ? 2 : 1;
  for (let from = 0; from < columns; from += width)
    for (let row = 0; row < rows; row++) {
      const start = from * rows + (row - (row % high)) * width + (row % high);
      const end = Math.min(width, columns - from);
      for (let lane = 0; lane < end; lane++) move(start + lane * high, row * columns + from + lane);
    }
}

export interface PackOptions {
  /** Columns of the packed matrix that x holds: whole panels of them, or the last ones. */
  readonly columns: number;
  /** Rows of the packed matrix. */
  readonly rows: number;
  /** Columns of a panel. */
  readonly width: number;
  readonly type: CopyType;
  /** Type of y, to which values are rounded. */
  readonly yType: CopyType;
}

/** Rows and columns of x that are turned at once: they fit into the first cache. */
const TURNED = 32;

/** Panels of xᵀ, from x as a checkpoint holds it. Views: x [columns, rows], y as `panelShape` says. */
export const packTransposed: (options: PackOptions) => Kernel = memoized((o: PackOptions): Kernel => {
  if (!inPairs(o.yType, o.rows)) return packElements(o);
  return o.type === 'bf16' ? packPairs(o) : packRounded(o);
});

const nameOf = ({ columns, rows, width, type, yType }: PackOptions) =>
  `pack_${columns}x${rows}_panel${width}_${typeSuffix(type, yType)}`;

function packElements(o: PackOptions): Kernel {
  const { columns, rows, width, type, yType } = o;
  return buildKernel(nameOf(o), (k) => {
    const x = k.input('x', type, [columns, rows]);
    const y = k.output('y', yType, [ceilDiv(columns, width), rows, width]);
    const step = Math.min(rows, TURNED);
    const across = Math.min(width, TURNED);
    k.grid(ceilDiv(width, across), ceilDiv(rows, step), ceilDiv(columns, width));
    const [lane, row, panel] = [k.programId(0).mul(across), k.programId(1).mul(step), k.programId(2)];
    const tile = k
      .load(x, [panel.mul(width).add(lane), row], [across, step])
      .cast('f32')
      .transpose();
    storeAs(k, y, [panel, row, lane], tile.reshape([1, step, across]));
  });
}

/** Pairs of rows are pairs of neighbours in x: words, which only turn. */
function packPairs(o: PackOptions): Kernel {
  const { columns, rows, width } = o;
  return buildKernel(`${nameOf(o)}_pairs`, (k) => {
    const x = k.input('x', 'u32', [columns, rows / 2]);
    const y = k.output('y', 'u32', [ceilDiv(columns, width), rows / 2, width]);
    const step = Math.min(rows / 2, TURNED);
    k.grid(ceilDiv(rows / 2, step), ceilDiv(columns, width));
    const [row, panel] = [k.programId(0).mul(step), k.programId(1)];
    const tile = k.load(x, [panel.mul(width), row], [width, step]);
    k.store(y, [panel, row, 0], tile.transpose().reshape([1, step, width]));
  });
}

function packRounded(o: PackOptions): Kernel {
  const { columns, rows, width, type, yType } = o;
  return buildKernel(`${nameOf(o)}_rounded`, (k) => {
    const x = k.input('x', type, [columns, rows / 2, 2]);
    const y = k.output('y', yType, [ceilDiv(columns, width), rows / 2, width, 2]);
    const step = Math.min(rows / 2, TURNED);
    k.grid(ceilDiv(rows / 2, step), ceilDiv(columns, width));
    const [row, panel] = [k.programId(0).mul(step), k.programId(1)];
    for (const which of [0, 1]) {
      const tile = k
        .load(x, [panel.mul(width), row, which], [width, step, 1])
        .reshape([width, step])
        .cast('f32');
      storeAs(k, y, [panel, row, 0, which], tile.transpose().reshape([1, step, width, 1]));
    }
  });
}
