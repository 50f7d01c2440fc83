/** Layouts of matrices, written out plainly: transposed, in panels, two bf16 a word. */
import { f32ToBf16 } from '../../src/numerics/float.ts';
import type { Storage } from './storage.ts';

/** [rows, columns] transposed. */
export const turned = (x: ArrayLike<number>, rows: number, columns: number): number[] =>
  Array.from({ length: rows * columns }, (_, i) => x[(i % rows) * columns + Math.floor(i / rows)]);

/** A matrix [rows, columns] in panels of `width` columns: see `kernels/panels.ts`. */
export const panels = (
  x: ArrayLike<number>,
  rows: number,
  columns: number,
  width: number,
  type: Storage = 'f32',
): number[] =>
  Array.from({ length: Math.ceil(columns / width) * rows * width }, (_, i) => {
    const pair = type === 'bf16' && rows % 2 === 0 ? 2 : 1;
    const column = Math.floor(i / (rows * width)) * width + (Math.floor(i / pair) % width);
    const row = pair * (Math.floor(i / (pair * width)) % (rows / pair)) + (i % pair);
    return column < columns ? x[row * columns + column] : 0;
  });

/** Two bf16 a word. */
export const words = (x: readonly number[]): number[] => [
  ...new Uint32Array(f32ToBf16(Float32Array.from(x)).buffer),
];
