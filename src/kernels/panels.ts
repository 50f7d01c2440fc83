/**
 * Matrices in panels: [k, n] held as [panels, k, width], each panel a contiguous block of `width` columns, the last one
 * filled up with zeros. A multiplication by few rows then reads memory from one end to the other, which is the most
 * that memory gives; rows of a wide matrix would be read in short pieces far apart.
 */
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
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

/** Values of a matrix [rows, columns], row-major, in panels. */
export function packPanels(values: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(panelsOf(columns).count * rows * panelsOf(columns).width);
  eachRun(rows, columns, (packed, plain, length) => out.set(values.subarray(plain, plain + length), packed));
  return out;
}

/** Undoes `packPanels`. */
export function unpackPanels(values: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(rows * columns);
  eachRun(rows, columns, (packed, plain, length) => out.set(values.subarray(packed, packed + length), plain));
  return out;
}

function eachRun(
  rows: number,
  columns: number,
  move: (packed: number, plain: number, length: number) => void,
): void {
  const { width, count } = panelsOf(columns);
  for (let panel = 0; panel < count; panel++) {
    const length = Math.min(width, columns - panel * width);
    for (let row = 0; row < rows; row++)
      move((panel * rows + row) * width, row * columns + panel * width, length);
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

/** Panels of xᵀ, from x as a checkpoint holds it. Views: x [columns, rows], y [panels, rows, width]. */
export const packTransposed: (options: PackOptions) => Kernel = memoized((o: PackOptions): Kernel => {
  const twoBytes = o.type === o.yType && o.type !== 'f32';
  return twoBytes && o.columns % 2 === 0 && o.rows % 2 === 0 && o.width % 2 === 0
    ? packPairs(o)
    : packElements(o);
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

/**
 * The same for two-byte types that stay as they are, two elements at a time as the halves of a u32: half as many
 * elements to turn, and none of them rounded.
 */
function packPairs(o: PackOptions): Kernel {
  const { columns, rows, width } = o;
  return buildKernel(`${nameOf(o)}_pairs`, (k) => {
    const x = k.input('x', 'u32', [columns / 2, 2, rows / 2]);
    const y = k.output('y', 'u32', [ceilDiv(columns, width), rows / 2, 2, width / 2]);
    const step = Math.min(rows / 2, TURNED);
    const across = width / 2;
    k.grid(ceilDiv(rows / 2, step), ceilDiv(columns, width));
    const [row, panel] = [k.programId(0).mul(step), k.programId(1)];
    const pair = (which: number) =>
      k.load(x, [panel.mul(across), which, row], [across, 1, step]).reshape([across, step]);
    const [even, odd] = [pair(0), pair(1)];
    const halves = [even.and(0xffff).or(odd.shl(16)), even.shr(16).or(odd.and(0xffff0000))];
    halves.forEach((half, which) => {
      k.store(y, [panel, row, which, 0], half.transpose().reshape([1, step, 1, across]));
    });
  });
}
