/** RMSNorm (Zhang and Sennrich, "Root mean square layer normalization", 2019), forward and backward. */
import type { KernelBuilder } from '../tile/builder.ts';
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Tile } from '../tile/tile.ts';
import type { Storage } from './common.ts';
import { loadF32, memoized, storeAs } from './common.ts';

export interface NormOptions {
  /** For the norm of each head: tokens * heads. */
  readonly rows: number;
  /** Size that is normalized. */
  readonly columns: number;
  readonly eps: number;
  /** Type of x and its gradient. */
  readonly xType?: Storage;
  /** Type of y and its gradient. */
  readonly yType?: Storage;
  readonly weightType?: Storage;
}

const name = (what: string, o: NormOptions) =>
  `rmsnorm_${what}_${o.rows}x${o.columns}_${o.xType ?? 'f32'}_${o.yType ?? 'f32'}_${o.weightType ?? 'f32'}`;

/** How many rows of `columns` elements make a block of about 4096 elements, at most `rows`. */
const rowsPerBlock = (rows: number, columns: number) =>
  Math.max(1, Math.min(rows, Math.floor(4096 / columns)));

/** 1 / sqrt(mean(x²) + eps), [rows, 1]. */
export function inverseRms(x: Tile, o: Pick<NormOptions, 'columns' | 'eps'>): Tile {
  return x.mul(x).sum().div(o.columns).add(o.eps).rsqrt();
}

function weight(k: KernelBuilder, o: NormOptions) {
  const view = k.input('weight', o.weightType ?? 'f32', [1, o.columns]);
  return () => loadF32(k, view, [0, 0], [1, o.columns]);
}

/** y = x * rsqrt(mean(x²) + eps) * weight. Views: x [rows, columns], weight [1, columns], y. */
export const rmsNorm: (options: NormOptions) => Kernel = memoized(
  (o: NormOptions): Kernel =>
    buildKernel(name('forward', o), (k) => {
      const xView = k.input('x', o.xType ?? 'f32', [o.rows, o.columns]);
      const loadWeight = weight(k, o);
      const y = k.output('y', o.yType ?? 'f32', [o.rows, o.columns]);
      const rows = rowsPerBlock(o.rows, o.columns);
      k.grid(ceilDiv(o.rows, rows));
      const row = k.programId(0).mul(rows);
      const x = loadF32(k, xView, [row, 0], [rows, o.columns]);
      storeAs(k, y, [row, 0], x.mul(inverseRms(x, o)).mul(loadWeight()));
    }),
);

/** dx = r * (g - x * r² * mean(g * x)), g = dy * weight, r as forward. Views: x, weight, dy, dx. */
export const rmsNormBackward: (options: NormOptions) => Kernel = memoized(
  (o: NormOptions): Kernel =>
    buildKernel(name('dx', o), (k) => {
      const xView = k.input('x', o.xType ?? 'f32', [o.rows, o.columns]);
      const loadWeight = weight(k, o);
      const dy = k.input('dy', o.yType ?? 'f32', [o.rows, o.columns]);
      const dx = k.output('dx', o.xType ?? 'f32', [o.rows, o.columns]);
      const rows = rowsPerBlock(o.rows, o.columns);
      k.grid(ceilDiv(o.rows, rows));
      const row = k.programId(0).mul(rows);
      const x = loadF32(k, xView, [row, 0], [rows, o.columns]);
      const g = loadF32(k, dy, [row, 0], [rows, o.columns]).mul(loadWeight());
      const r = inverseRms(x, o);
      const mean = g.mul(x).sum().div(o.columns);
      storeAs(k, dx, [row, 0], r.mul(g.sub(x.mul(r.mul(r).mul(mean)))));
    }),
);

/** Rows whose contributions to dweight one program adds up; the order of the sum, thus fixed. */
export const NORM_PARTIAL_ROWS = 64;
const CHUNK = 8;

/**
 * First half of dweight = sum over rows of dy * x * r: partial sums of 64 rows each. The second half is
 * `reduce` over the rows of `partial`. Views: x, dy, partial f32 [ceil(rows / 64), columns].
 */
export const rmsNormWeightPartial: (options: NormOptions) => Kernel = memoized(
  (o: NormOptions): Kernel =>
    buildKernel(name('dweight', o), (k) => {
      const xView = k.input('x', o.xType ?? 'f32', [o.rows, o.columns]);
      const dyView = k.input('dy', o.yType ?? 'f32', [o.rows, o.columns]);
      const programs = ceilDiv(o.rows, NORM_PARTIAL_ROWS);
      const partial = k.output('partial', 'f32', [programs, o.columns]);
      k.grid(programs);
      const lo = k.programId(0).mul(NORM_PARTIAL_ROWS);
      const hi = lo.add(NORM_PARTIAL_ROWS).min(o.rows);
      const [sum] = k.loop({ lo, hi, step: CHUNK }, [k.zeros([1, o.columns])] as const, (row, [acc]) => {
        const x = loadF32(k, xView, [row, 0], [CHUNK, o.columns]);
        const dy = loadF32(k, dyView, [row, 0], [CHUNK, o.columns]);
        return [acc.add(dy.mul(x.mul(inverseRms(x, o))).sum(0))] as const;
      });
      k.store(partial, [k.programId(0), 0], sum);
    }),
);
