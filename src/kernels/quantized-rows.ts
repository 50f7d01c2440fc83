/** Rows of 8-bit integers, the operand that products with quantized matrices take (see `quantized.ts`). */
import type { KernelBuilder, ViewHandle } from '../tile/builder.ts';
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Tile } from '../tile/tile.ts';
import type { Storage } from './common.ts';
import { loadF32, memoized } from './common.ts';
import { inverseRms } from './norm.ts';

/** To the nearest integer, halves upward, within [low, high]. */
export const rounded = (x: Tile, low: number, high: number): Tile =>
  x.add(0.5).floor().max(low).min(high).cast('i32');

/** 1 / x, and 0 for 0. */
export const inverse = (k: KernelBuilder, x: Tile): Tile =>
  x.eq(0).select(0, k.constant(1, 'f32', x.shape).div(x));

interface Rows {
  readonly rows: number;
  readonly columns: number;
  readonly group: number;
}

/** What is quantized, where that is computed on the way: element for element from operands like the result. */
export interface Prologue {
  /** Stands for `apply` where kernels are compared: different functions need different keys. */
  readonly key: string;
  /** Views in x's place, [rows, columns]. */
  readonly inputs: readonly { readonly name: string; readonly dtype: Storage }[];
  /** The operands at the same place, f32, to what is quantized. */
  readonly apply: (inputs: readonly Tile[], k: KernelBuilder) => Tile;
}

export interface QuantizeRowsOptions extends Rows {
  readonly xType?: Storage;
  readonly prologue?: Prologue;
}

export interface QuantizeNormedRowsOptions extends Rows {
  readonly eps: number;
  readonly xType?: Storage;
  readonly weightType?: Storage;
}

/** Groups that a program works on. */
const GROUPS_AT_ONCE = 8;

/** Declares the results and the grid: a program has some groups of a row. `store` takes their elements, f32 [1, elements]. */
function quantizing(k: KernelBuilder, { rows, columns, group }: Rows) {
  const groups = columns / group;
  const count = Math.min(groups, GROUPS_AT_ONCE);
  const values = k.output('values', 'i8', [rows, groups, group]);
  // Beside each other for the rows that a product takes at once.
  const scales = k.output('scales', 'f32', [groups, rows]);
  const sums = k.output('sums', 'i32', [groups, rows]);
  k.grid(ceilDiv(groups, count), rows);
  const [first, row] = [k.programId(0).mul(count), k.programId(1)];
  /** The elements of a view [rows or 1, columns], f32. */
  const load = (view: ViewHandle) =>
    loadF32(k, view, [view.shape[0] === 1 ? 0 : row, first.mul(group)], [1, count * group]);
  const store = (elements: Tile) => {
    const parts = elements.reshape([count, group]);
    const scale = parts
      .abs()
      .maximum()
      .mul(Math.fround(1 / 127));
    const integers = rounded(parts.mul(inverse(k, scale)), -127, 127);
    k.store(values, [row, first, 0], integers.cast('i8').reshape([1, count, group]));
    k.store(scales, [first, row], scale);
    k.store(sums, [first, row], integers.sum());
  };
  return { row, load, store };
}

const describe = ({ rows, columns, group }: Rows) => `${rows}x${columns}_${group}`;

/**
 * Rows in groups of 8-bit integers: x ≈ q * scale, where the largest of a group becomes ±127. Views: x [rows, columns]
 * or the prologue's inputs, values i8 [rows, columns], four of which are a quad in memory, scales f32 [columns / group,
 * rows], sums i32 alike: of each group's q. A group that has NaN or Inf in it gets such a scale, and products with it are
 * NaN.
 */
export const quantizeRows: (options: QuantizeRowsOptions) => Kernel = memoized(
  (o: QuantizeRowsOptions): Kernel => {
    const { xType = 'f32', prologue } = o;
    return buildKernel(`quantize_rows_${describe(o)}_${prologue?.key ?? xType}`, (k) => {
      const inputs = prologue?.inputs ?? [{ name: 'x', dtype: xType }];
      const views = inputs.map(({ name, dtype }) => k.input(name, dtype, [o.rows, o.columns]));
      const { load, store } = quantizing(k, o);
      const tiles = views.map(load);
      store(prologue?.apply(tiles, k) ?? tiles[0]);
    });
  },
);

/**
 * `quantizeRows` of what `rmsNorm` makes of x, to the bit; each program adds up its row again. Views: x [rows, columns],
 * weight [columns], values, scales, sums.
 */
export const quantizeNormedRows: (options: QuantizeNormedRowsOptions) => Kernel = memoized(
  (o: QuantizeNormedRowsOptions): Kernel => {
    const { rows, columns, xType = 'f32', weightType = 'f32' } = o;
    return buildKernel(`quantize_normed_rows_${describe(o)}_${xType}_${weightType}`, (k) => {
      const x = k.input('x', xType, [rows, columns]);
      const weight = k.input('weight', weightType, [1, columns]);
      const { row, load, store } = quantizing(k, o);
      const scale = inverseRms(loadF32(k, x, [row, 0], [1, columns]), o);
      store(load(x).mul(scale).mul(load(weight)));
    });
  },
);
