/** When two nodes compute the same. */
import type { Attributes, Primitive } from './primitives.ts';
import type { Tensor } from './tensor.ts';

/** Two nodes of the same key compute the same values; null for leaves and nodes with effects or functions inside. */
export function identity(
  primitive: Primitive,
  attributes: Attributes[Primitive],
  inputs: readonly Tensor[],
): string | null {
  switch (primitive) {
    case 'input':
    case 'parameter':
    case 'state':
    case 'literal':
    case 'assign':
    case 'scatterRows':
    case 'cacheWrite':
    case 'custom':
      return null;
    default:
      return `${primitive} ${inputs.map((input) => input.id).join(' ')} ${attributesText(attributes)}`;
  }
}

function attributesText(attributes: Attributes[Primitive]): string {
  return JSON.stringify(attributes, (_, value) => (typeof value === 'number' ? numberText(value) : value));
}

/** JSON has no -0, NaN and infinities. */
function numberText(value: number): number | string {
  return Number.isFinite(value) && !Object.is(value, -0) ? value : Object.is(value, -0) ? '-0' : `${value}`;
}
