/** Copies that change layout. */
import type { DType } from '../numerics/dtype.ts';
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import { memoized } from './common.ts';

/** Element types that are copied, whether or not there is arithmetic in them. */
export type CopyType = Extract<DType, 'f32' | 'bf16' | 'f16'>;

export interface TransposeOptions {
  readonly rows: number;
  readonly columns: number;
  readonly type?: CopyType;
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
