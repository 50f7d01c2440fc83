/** Copies that change layout. */
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Storage } from './common.ts';
import { memoized } from './common.ts';

export interface TransposeOptions {
  readonly rows: number;
  readonly columns: number;
  readonly type?: Storage;
}

/** y[j, i] = x[i, j]. Views: x [rows, columns], y [columns, rows]. */
export const transpose: (options: TransposeOptions) => Kernel = memoized(
  ({ rows, columns, type = 'f32' }: TransposeOptions): Kernel =>
    buildKernel(`transpose_${rows}x${columns}_${type}`, (k) => {
      const x = k.input('x', type, [rows, columns]);
      const y = k.output('y', type, [columns, rows]);
      const [r, c] = [Math.min(rows, 32), Math.min(columns, 32)];
      k.grid(ceilDiv(columns, c), ceilDiv(rows, r));
      const [column, row] = [k.programId(0).mul(c), k.programId(1).mul(r)];
      k.store(y, [column, row], k.load(x, [row, column], [r, c]).transpose());
    }),
);
