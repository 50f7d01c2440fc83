/** What the matmul kernel can do to its product before storing it. */
import type { Expression } from './expression.ts';

export type Kind = 'full' | 'row' | 'column';

/** How the matmul kernel reads an extra operand of this shape; null where it cannot. */
export function epilogueKind(shape: readonly number[], [m, n]: readonly number[]): Kind | null {
  const [rows, columns] = shape;
  if (rows === m && columns === n) return 'full';
  if (rows === 1 && columns === n) return 'row';
  return rows === m && columns === 1 ? 'column' : null;
}

/** Whether a matmul's kernel can end in this expression, whose input 0 is the product. */
export function fitsEpilogue(expression: Expression): boolean {
  const stored = (dtype: string) => dtype === 'f32' || dtype === 'bf16';
  return (
    expression.outputs.length === 1 &&
    stored(expression.outputTypes[0]) &&
    expression.steps.every((step) => step.op !== 'iota') &&
    expression.inputs.every(
      (input) => stored(input.dtype) && epilogueKind(input.shape, expression.shape) !== null,
    )
  );
}
