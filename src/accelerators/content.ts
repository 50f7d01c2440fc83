import type { Kernel } from '../tile/ir.ts';

/** A text that two kernels share exactly when they are the same: what compiled code may be kept under. */
export function kernelContent(kernel: Kernel): string {
  return JSON.stringify(kernel, (_, value) => {
    if (typeof value !== 'number') return value;
    // JSON has neither of them.
    return Number.isFinite(value) && !Object.is(value, -0)
      ? value
      : `number ${Object.is(value, -0) ? '-0' : value}`;
  });
}
