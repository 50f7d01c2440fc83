/** Copies that change the element type. */
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import { memoized } from './common.ts';
import type { CopyType } from './transpose.ts';

/** y = x in another element type. Views: x, y [size]. */
export const convertKernel: (options: { size: number; from: CopyType; to: CopyType }) => Kernel = memoized(
  ({ size, from, to }: { size: number; from: CopyType; to: CopyType }): Kernel =>
    buildKernel(`convert_${size}_${from}_${to}`, (k) => {
      const x = k.input('x', from, [size]);
      const y = k.output('y', to, [size]);
      const block = Math.min(size, 2048);
      k.grid(ceilDiv(size, block));
      const at = [k.programId(0).mul(block)];
      k.store(y, at, k.load(x, at, [block]).cast('f32').cast(to));
    }),
);
