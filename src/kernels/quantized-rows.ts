/** Rows of 8-bit integers, the operand that products with quantized matrices take (see `quantized.ts`). */
import type { KernelBuilder, Tile } from '../tile/builder.ts';
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Storage } from './common.ts';
import { memoized } from './common.ts';

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

export interface QuantizeRowsOptions {
  readonly rows: number;
  readonly columns: number;
  readonly group: number;
  readonly xType?: Storage;
}

/** Groups that a program of `quantizeRows` works on. */
const GROUPS_AT_ONCE = 8;

/**
 * Rows in groups of 8-bit integers: x ≈ q * scale, where the largest of a group becomes ±127. Views: x [rows, columns],
 * quads i32 [rows, columns / 4], scales f32 [rows, columns / group], sums i32 alike: of each group's q. A group that has
 * NaN or Inf in it gets such a scale, and products with it are NaN.
 */
export const quantizeRows: (options: QuantizeRowsOptions) => Kernel = memoized(
  (o: QuantizeRowsOptions): Kernel => {
    const { rows, columns, group, xType = 'f32' } = o;
    const groups = columns / group;
    return buildKernel(`quantize_rows_${rows}x${columns}_${group}_${xType}`, (k) => {
      const across = group / 4;
      const x = k.input('x', xType, [rows, groups, across, 4]);
      const quads = k.output('quads', 'i32', [rows, groups, across]);
      const scales = k.output('scales', 'f32', [rows, groups]);
      const sums = k.output('sums', 'i32', [rows, groups]);
      const count = Math.min(groups, GROUPS_AT_ONCE);
      k.grid(ceilDiv(groups, count), rows);
      const [first, row] = [k.programId(0).mul(count), k.programId(1)];
      const parts = [0, 1, 2, 3].map((place) =>
        k.load(x, [row, first, 0, place], [1, count, across, 1]).reshape([count, across]).cast('f32'),
      );
      const highest = parts.map((part) => part.abs().maximum()).reduce((a, b) => a.max(b));
      const scale = highest.mul(Math.fround(1 / 127));
      const factor = inverse(k, scale);
      const values = parts.map((part) => rounded(part.mul(factor), -127, 127));
      const total = values.map((value) => value.sum()).reduce((a, b) => a.add(b));
      k.store(quads, [row, first, 0], packed(values).reshape([1, count, across]));
      k.store(scales, [row, first], scale.reshape([1, count]));
      k.store(sums, [row, first], total.reshape([1, count]));
    });
  },
);
