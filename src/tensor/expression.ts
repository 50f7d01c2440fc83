/** A tree of elementwise functions as data: what a fused kernel computes for each element. */
import type { DType } from '../numerics/dtype.ts';
import type { KernelBuilder, ViewHandle } from '../tile/builder.ts';
import type { MapFn } from '../tile/ir.ts';
import { elementCount } from '../tile/ir.ts';
import type { Tile } from '../tile/tile.ts';
import type { TensorType } from './types.ts';

/** One step; `args` are positions among the inputs followed by the earlier steps. */
export type ExpressionStep =
  | { readonly op: 'map'; readonly fn: MapFn; readonly args: readonly number[] }
  | { readonly op: 'cast'; readonly dtype: DType; readonly args: readonly number[] }
  | { readonly op: 'constant'; readonly dtype: DType; readonly value: number; readonly args: readonly [] }
  /** The element's index along an axis of the iteration space. */
  | { readonly op: 'iota'; readonly axis: number; readonly args: readonly [] };

export interface Expression {
  /** The iteration space. */
  readonly shape: readonly number[];
  /** Each has the rank of `shape` and, in every dimension, its size or 1. */
  readonly inputs: readonly TensorType[];
  readonly steps: readonly ExpressionStep[];
  /** Positions of the values that are written. */
  readonly outputs: readonly number[];
  readonly outputTypes: readonly DType[];
}

/** Equal for expressions whose kernels are equal. */
export function expressionKey(expression: Expression): string {
  const steps = expression.steps.map((step): string => {
    switch (step.op) {
      case 'map':
        return `${step.fn}(${step.args})`;
      case 'cast':
        return `cast ${step.dtype}(${step.args})`;
      case 'constant':
        return `${step.dtype} ${Object.is(step.value, -0) ? '-0' : step.value}`;
      case 'iota':
        return `iota ${step.axis}`;
      default:
        return step satisfies never;
    }
  });
  const inputs = expression.inputs.map((type) => `${type.dtype}[${type.shape}]`);
  return `[${expression.shape}] ${inputs.join(' ')} | ${steps.join(' ')} | ${expression.outputs} | ${expression.outputTypes}`;
}

/**
 * Emits the steps on tiles: `inputs[i]` broadcasts to `shape`, a block of the iteration space that begins at `offsets`.
 * Returns the tiles of the outputs, of full `shape`.
 */
export function evaluate(
  k: KernelBuilder,
  expression: Expression,
  inputs: readonly Tile[],
  offsets: readonly (Tile | number)[],
  shape: readonly number[],
): readonly Tile[] {
  const values: Tile[] = [...inputs];
  for (const step of expression.steps) {
    switch (step.op) {
      case 'map':
        values.push(k.map(step.fn, ...step.args.map((arg) => values[arg])));
        break;
      case 'cast':
        values.push(values[step.args[0]].cast(step.dtype));
        break;
      case 'constant':
        values.push(k.constant(step.value, step.dtype));
        break;
      case 'iota':
        values.push(k.iota(shape, step.axis).add(offsets[step.axis]));
        break;
    }
  }
  return expression.outputs.map((position) => values[position].broadcast(shape));
}

/**
 * The same computation over fewer dimensions: neighbours that every input treats alike become one. Axis `keep`, if
 * any, stays a dimension of its own; `axis` in the result says which.
 */
export function collapse(expression: Expression, keep = -1): { expression: Expression; axis: number } {
  const { shape, inputs } = expression;
  const rigid = expression.steps.some((step) => step.op === 'iota');
  const groups: number[][] = [];
  shape.forEach((size, axis) => {
    const last = groups.at(-1);
    const joins =
      last !== undefined &&
      !rigid &&
      axis !== keep &&
      !last.includes(keep) &&
      inputs.every((input) => {
        const there = elementCount(last.map((a) => input.shape[a]));
        const full = elementCount(last.map((a) => shape[a]));
        // Size 1 on either side joins anything.
        if (size === 1 || full === 1) return true;
        return (there === full && input.shape[axis] === size) || (there === 1 && input.shape[axis] === 1);
      });
    if (joins) last.push(axis);
    else groups.push([axis]);
  });
  const collapsed = (full: readonly number[]) => groups.map((axes) => elementCount(axes.map((a) => full[a])));
  return {
    expression: {
      ...expression,
      shape: collapsed(shape),
      inputs: inputs.map((input) => ({ dtype: input.dtype, shape: collapsed(input.shape) })),
    },
    axis: groups.findIndex((axes) => axes.includes(keep)),
  };
}

/** The block of an input that covers `block` of the iteration space at `offsets`. */
export function loadInput(
  k: KernelBuilder,
  view: ViewHandle,
  offsets: readonly (Tile | number)[],
  block: readonly number[],
  space: readonly number[],
): Tile {
  const repeats = view.shape.map((size, axis) => size === 1 && space[axis] !== 1);
  return k.load(
    view,
    offsets.map((offset, axis) => (repeats[axis] ? 0 : offset)),
    block.map((size, axis) => (repeats[axis] ? 1 : size)),
  );
}
