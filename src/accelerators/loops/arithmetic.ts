/** How the products of a register tile are added up, by the type of their operands. */
import type { DType } from '../../numerics/dtype.ts';
import { isFloat } from '../../numerics/dtype.ts';
import type { LoopTarget, VecReg } from './ir.ts';
import type { Context } from './values.ts';

/** Numbers one by one; bf16 with each second before its first; pairs of bf16, or quads of bytes, in one instruction. */
export type Arithmetic = 'float' | 'swapped' | 'pairs' | 'integer' | 'quads';

/** By the type of operand a. */
export function arithmeticOf({ bf16Pairs }: LoopTarget, operand: DType): Arithmetic {
  if (operand === 'bf16') return bf16Pairs ? 'pairs' : 'swapped';
  if (isFloat(operand)) return 'float';
  return operand === 'i32' ? 'quads' : 'integer';
}

/** Rows from which sums of integers, which are the same however they are taken, are better off in matrix registers. */
const WORTH_MATRIX = 16;

/** What matrix registers would multiply, where products of so many rows are computed in them; else null. */
export function matrixOf(
  { matrixRegisters }: LoopTarget,
  arithmetic: Arithmetic,
  rows: number,
): 'pairs' | 'quads' | null {
  if (!matrixRegisters) return null;
  if (arithmetic === 'pairs') return 'pairs';
  return arithmetic === 'quads' && rows >= WORTH_MATRIX ? 'quads' : null;
}

/** Adds the products of one row's element with the columns of a step along k. */
export function addProducts(
  { code }: Context,
  arithmetic: Arithmetic,
  element: VecReg,
  columns: readonly VecReg[],
  sums: readonly VecReg[],
): void {
  columns.forEach((column, vector) => {
    const dst = sums[vector];
    if (arithmetic === 'quads') code.emit({ o: 'vdot4', dst, a: column, b: element, c: dst });
    else if (arithmetic === 'integer')
      code.emit({ o: 'vbin', dst, fn: 'iadd', a: dst, b: code.bin('imul', element, column) });
    else code.emit({ o: arithmetic === 'pairs' ? 'vdot2' : 'vfma', dst, a: element, b: column, c: dst });
  });
}
