/** SwiGLU (Shazeer, "GLU variants improve transformer", 2020) as elementwise kernels. */
import type { Kernel } from '../tile/ir.ts';
import type { Storage } from './common.ts';
import { elementwise } from './elementwise.ts';

export interface SwigluOptions {
  readonly rows: number;
  readonly columns: number;
  readonly type?: Storage;
}

/** y = silu(gate) * up, silu(g) = g * sigmoid(g). Views: gate, up, y; all [rows, columns]. */
export function swiglu({ rows, columns, type = 'f32' }: SwigluOptions): Kernel {
  const input = (name: string) => ({ name, dtype: type, shape: [rows, columns] as const });
  return elementwise({
    key: `swiglu_${type}`,
    rows,
    columns,
    inputs: [input('gate'), input('up')],
    outputs: [{ name: 'y', dtype: type }],
    expression: ([gate, up]) => [gate.mul(gate.sigmoid()).mul(up)],
  });
}

/** Views: gate, up, dy, dgate, dup; all [rows, columns]. */
export function swigluBackward({ rows, columns, type = 'f32' }: SwigluOptions): Kernel {
  const input = (name: string) => ({ name, dtype: type, shape: [rows, columns] as const });
  return elementwise({
    key: `swiglu_backward_${type}`,
    rows,
    columns,
    inputs: [input('gate'), input('up'), input('dy')],
    outputs: [
      { name: 'dgate', dtype: type },
      { name: 'dup', dtype: type },
    ],
    expression: ([gate, up, dy], k) => {
      const s = gate.sigmoid();
      const slope = s.mul(gate.mul(k.constant(1).sub(s)).add(1));
      return [dy.mul(up).mul(slope), dy.mul(gate.mul(s))];
    },
  });
}
