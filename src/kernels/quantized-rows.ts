/** Rows of 8-bit integers, the operand that products with quantized matrices take (see `quantized.ts`). */
import type { KernelBuilder, ViewHandle } from '../tile/builder.ts';
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Tile } from '../tile/tile.ts';
import type { Storage } from './common.ts';
import { loadF32, memoized } from './common.ts';
import { inverseRms } from './norm.ts';

/** (a, b, c, d), each i32 in [-128, 127], as the bytes of a word. */
export const packed = (bytes: readonly Tile[]): Tile =>
  bytes
    .map((byte, place) => (place === 3 ? byte.shl(24) : byte.and(0xff).shl(8 * place)))
    .reduce((word, byte) => word.or(byte));

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

/** Declares the results and the grid: a program has some groups of a row. `store` takes the elements at each place of their quads. */
function quantizing(k: KernelBuilder, { rows, columns, group }: Rows) {
  const [groups, across] = [columns / group, group / 4];
  const count = Math.min(groups, GROUPS_AT_ONCE);
  const quads = k.output('quads', 'i32', [rows, groups, across]);
  // Beside each other for the rows that a product takes at once.
  const scales = k.output('scales', 'f32', [groups, rows]);
  const sums = k.output('sums', 'i32', [groups, rows]);
  k.grid(ceilDiv(groups, count), rows);
  const [first, row] = [k.programId(0).mul(count), k.programId(1)];
  /** The elements at `place` of the quads of a view [rows or 1, groups, across, 4], f32 [count, across]. */
  const load = (view: ViewHandle, place: number) =>
    loadF32(k, view, [view.shape[0] === 1 ? 0 : row, first, 0, place], [1, count, across, 1]).reshape([
      count,
      across,
    ]);
  const store = (part: (place: number) => Tile) => {
    const parts = [0, 1, 2, 3].map(part);
    const highest = parts.map((tile) => tile.abs().maximum()).reduce((a, b) => a.max(b));
    const scale = highest.mul(Math.fround(1 / 127));
    const factor = inverse(k, scale);
    const values = parts.map((tile) => rounded(tile.mul(factor), -127, 127));
    const total = values.map((value) => value.sum()).reduce((a, b) => a.add(b));
    k.store(quads, [row, first, 0], packed(values).reshape([1, count, across]));
    k.store(scales, [first, row], scale.reshape([count, 1]));
    k.store(sums, [first, row], total.reshape([count, 1]));
  };
  return { row, load, store };
}

const describe = ({ rows, columns, group }: Rows) => `${rows}x${columns}_${group}`;
/** A row in groups of quads. */
const inQuads = ({ rows, columns, group }: Rows) => [rows, columns / group, group / 4, 4];

/**
 * Rows in groups of 8-bit integers: x ≈ q * scale, where the largest of a group becomes ±127. Views: x [rows, columns]
 * or the prologue's inputs, quads i32 [rows, columns / 4], scales f32 [columns / group, rows], sums i32 alike: of each
 * group's q. A group that has NaN or Inf in it gets such a scale, and products with it are NaN.
 */
export const quantizeRows: (options: QuantizeRowsOptions) => Kernel = memoized(
  (o: QuantizeRowsOptions): Kernel => {
    const { xType = 'f32', prologue } = o;
    return buildKernel(`quantize_rows_${describe(o)}_${prologue?.key ?? xType}`, (k) => {
      const inputs = prologue?.inputs ?? [{ name: 'x', dtype: xType }];
      const views = inputs.map(({ name, dtype }) => k.input(name, dtype, inQuads(o)));
      const { load, store } = quantizing(k, o);
      store((place) => {
        const tiles = views.map((view) => load(view, place));
        return prologue?.apply(tiles, k) ?? tiles[0];
      });
    });
  },
);

/**
 * `quantizeRows` of what `rmsNorm` makes of x, to the bit; each program adds up its row again. Views: x [rows, columns],
 * weight [columns], quads, scales, sums.
 */
export const quantizeNormedRows: (options: QuantizeNormedRowsOptions) => Kernel = memoized(
  (o: QuantizeNormedRowsOptions): Kernel => {
    const { columns, xType = 'f32', weightType = 'f32' } = o;
    return buildKernel(`quantize_normed_rows_${describe(o)}_${xType}_${weightType}`, (k) => {
      const x = k.input('x', xType, inQuads(o));
      const weight = k.input('weight', weightType, inQuads({ ...o, rows: 1 }));
      const { row, load, store } = quantizing(k, o);
      const whole = loadF32(k, x, [row, 0, 0, 0], [1, ...x.shape.slice(1)]).reshape([1, columns]);
      const scale = inverseRms(whole, o);
      store((place) => load(x, place).mul(scale).mul(load(weight, place)));
    });
  },
);
