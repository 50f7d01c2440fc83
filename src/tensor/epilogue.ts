/** What kernels can compute on the way: of a product before it is stored, of rows before they are quantized. */
import { sameShape } from '../tile/types.ts';
import type { Expression } from './expression.ts';

export type Kind = 'full' | 'row' | 'column';

/** How the matmul kernel reads an extra operand of this shape; null where it cannot. */
export function epilogueKind(shape: readonly number[], [m, n]: readonly number[]): Kind | null {
  const [rows, columns] = shape;
  if (rows === m && columns === n) return 'full';
  if (rows === 1 && columns === n) return 'row';
  return rows === m && columns === 1 ? 'column' : null;
}

const stored = (dtype: string) => dtype === 'f32' || dtype === 'bf16';

/** Whether a matmul's kernel can end in this expression, whose input 0 is the product. */
export function fitsEpilogue(expression: Expression): boolean {
  return (
    expression.outputs.length === 1 &&
    stored(expression.outputTypes[0]) &&
    expression.steps.every((step) => step.op !== 'iota') &&
    expression.inputs.every(
      (input) => stored(input.dtype) && epilogueKind(input.shape, expression.shape) !== null,
    )
  );
}

/** Whether what this expression computes can be quantized as it comes, a row at a time. */
export function fitsPrologue(expression: Expression): boolean {
  const { inputs, shape } = expression;
  return (
    fitsEpilogue(expression) && inputs.length > 0 && inputs.every((input) => sameShape(input.shape, shape))
  );
}
