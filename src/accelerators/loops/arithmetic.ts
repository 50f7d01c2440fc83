/** How the products of a register tile are added up, by the type of their operands. */
import type { DType } from '../../numerics/dtype.ts';
import { isFloat } from '../../numerics/dtype.ts';
import type { Instruction, Kernel, ValueId } from '../../tile/ir.ts';
import type { LoopTarget, VecReg } from './ir.ts';
import type { Context } from './values.ts';

/**
 * Numbers one by one; bf16 with each second before its first; pairs of bf16, or quads of bytes, in one instruction;
 * quads of which those of b are known to be below 128 and not negative.
 */
export type Arithmetic = 'float' | 'swapped' | 'pairs' | 'integer' | 'quads' | 'positive quads';

/** For operands of a type; `positive`: no byte of b has its upper bit set. */
export function arithmeticOf(
  { bf16Pairs }: LoopTarget,
  [operand, other]: readonly [DType, DType],
  positive: boolean,
): Arithmetic {
  if (other === 'u32') return 'positive quads';
  if (operand === 'bf16') return bf16Pairs ? 'pairs' : 'swapped';
  if (isFloat(operand)) return 'float';
  if (operand !== 'i32') return 'integer';
  return positive ? 'positive quads' : 'quads';
}

/** Values of which no byte has its upper bit set: they come out of a mask. */
export function positiveBytes(kernel: Kernel): ReadonlySet<ValueId> {
  const masks = new Set<ValueId>();
  const found = new Set<ValueId>();
  const block = (body: readonly Instruction[]): void => {
    for (const { op, results } of body) {
      if (op.op === 'constant' && (op.value & 0x80808080) === 0) masks.add(results[0]);
      else if (op.op === 'map' && op.fn === 'and' && op.args.some((id) => masks.has(id)))
        found.add(results[0]);
      else if (op.op === 'loop') block(op.body);
    }
  };
  block(kernel.body);
  return found;
}

/** Adds the products of one row's element with the columns of a step along k; `finish` corrects the sums afterwards. */
export interface Multiplier {
  readonly columns: (columns: readonly VecReg[]) => void;
  readonly row: (element: VecReg, columns: readonly VecReg[], sums: readonly VecReg[]) => void;
  readonly finish: (sums: readonly (readonly VecReg[])[]) => void;
}

const nothing = () => {};

export function multiplier(context: Context, arithmetic: Arithmetic, vectors: number): Multiplier {
  const { code } = context;
  if (arithmetic === 'quads') return quads(context, vectors);
  return {
    columns: nothing,
    row: (element, columns, sums) => {
      columns.forEach((column, vector) => {
        const dst = sums[vector];
        if (arithmetic === 'positive quads') code.emit({ o: 'vdot4', dst, a: column, b: element, c: dst });
        else if (arithmetic === 'integer')
          code.emit({ o: 'vbin', dst, fn: 'iadd', a: dst, b: code.bin('imul', element, column) });
        else code.emit({ o: arithmetic === 'pairs' ? 'vdot2' : 'vfma', dst, a: element, b: column, c: dst });
      });
    },
    finish: nothing,
  };
}

/**
 * Processors multiply unsigned with signed bytes: a is taken as a + 128, and 128 times the sum of each column's bytes,
 * which is counted on the way, is taken off in the end.
 */
function quads(context: Context, vectors: number): Multiplier {
  const { code } = context;
  const flip = code.bits(0x80808080 | 0);
  const ones = code.bits(0x01010101);
  const totals = Array.from({ length: vectors }, () => code.bits(0));
  return {
    columns: (columns) => {
      columns.forEach((column, vector) => {
        const dst = totals[vector];
        code.emit({ o: 'vdot4', dst, a: ones, b: column, c: dst });
      });
    },
    row: (element, columns, sums) => {
      const a = code.bin('xor', element, flip);
      columns.forEach((column, vector) => {
        const dst = sums[vector];
        code.emit({ o: 'vdot4', dst, a, b: column, c: dst });
      });
    },
    finish: (sums) => {
      totals.forEach((total, vector) => {
        const excess = code.shift('ishl', total, 7);
        for (const row of sums) {
          const dst = row[vector];
          code.emit({ o: 'vbin', dst, fn: 'isub', a: dst, b: excess });
        }
      });
    },
  };
}
