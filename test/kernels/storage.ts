/** Element types in which kernels store floats, and how near their results are to be. */
import type { Tolerance } from '../../src/numerics/error.ts';

export type Storage = 'f32' | 'bf16';

export const STORAGES: readonly Storage[] = ['f32', 'bf16'];

export const TOLERANCE: { readonly [S in Storage]: Tolerance } = {
  f32: { atol: 2e-6, rtol: 4e-6 },
  bf16: { atol: 1e-3, rtol: 2 ** -8 },
};

export const exact: Tolerance = {};
