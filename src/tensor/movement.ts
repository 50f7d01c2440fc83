/** Kernels that only move rows. */
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import { elementCount } from '../tile/ir.ts';
import { memoized } from './pointwise.ts';
import type { TensorType } from './types.ts';

/** Rows of zeros around x along its first axis. Views: x, y. */
export function padKernel({ dtype, shape }: TensorType, before: number, after: number): Kernel {
  const [rows] = shape;
  const columns = elementCount(shape) / rows;
  return memoized(`pad ${dtype} ${rows} ${columns} ${before} ${after}`, () =>
    buildKernel(`pad_${rows}x${columns}_${before}_${after}_${dtype}`, (k) => {
      const x = k.input('x', dtype, [rows, columns]);
      const y = k.output('y', dtype, [before + rows + after, columns]);
      const width = Math.min(columns, 1024);
      k.grid(ceilDiv(columns, width), before + rows + after);
      const column = k.programId(0).mul(width);
      const row = k.programId(1);
      // Rows outside x, before it and after it, load as zeros.
      k.store(y, [row, column], k.load(x, [row.sub(before), column], [1, width]));
    }),
  );
}

/** state[rows[i], :] = value[i, :]. A program owns a block of columns, so the later of two equal rows wins. Views: rows, value, state. */
export function scatterKernel({ dtype, shape: [height, columns] }: TensorType, count: number): Kernel {
  return memoized(`scatter ${dtype} ${height} ${columns} ${count}`, () =>
    buildKernel(`scatter_rows_${count}_${height}x${columns}_${dtype}`, (k) => {
      const rows = k.input('rows', 'i32', [count]);
      const value = k.input('value', dtype, [count, columns]);
      const state = k.output('state', dtype, [height, columns]);
      const width = Math.min(columns, 256);
      const block = Math.min(count, 8);
      k.grid(ceilDiv(columns, width));
      const column = k.programId(0).mul(width);
      k.loop({ hi: count, step: block }, [], (first) => {
        const index = k.load(rows, [first], [block], { fill: -1 });
        k.scatter(state, index, column, k.load(value, [first, column], [block, width]));
      });
    }),
  );
}
