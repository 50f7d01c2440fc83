/** When two nodes compute the same. */
import type { Attributes, Primitive } from './primitives.ts';
import type { Tensor } from './tensor.ts';

/** Two nodes of the same key compute the same values; null for leaves and nodes with effects. */
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
      return null;
    case 'custom': {
      const { kernel, gradient } = attributes as Attributes['custom'];
      if (kernel.views.some(({ access }) => access === 'readwrite')) return null;
      return `custom ${inputs.map((input) => input.id).join(' ')} ${numberOf(kernel)} ${gradient === null ? '' : numberOf(gradient)}`;
    }
    default:
      return `${primitive} ${inputs.map((input) => input.id).join(' ')} ${attributesText(attributes)}`;
  }
}

const numbers = new WeakMap<object, number>();
let nextNumber = 0;

/** Tells objects and functions apart that have no text of their own. */
function numberOf(thing: object): number {
  const number = numbers.get(thing) ?? nextNumber++;
  numbers.set(thing, number);
  return number;
}

/** Unlike JSON, tells -0, NaN and infinities apart from other numbers. */
function attributesText(value: unknown): string {
  if (typeof value === 'number') return Object.is(value, -0) ? '-0' : `${value}`;
  if (typeof value === 'string') return JSON.stringify(value);
  if (typeof value !== 'object' || value === null) return `${value}`;
  if (Array.isArray(value)) return `[${value.map(attributesText).join(',')}]`;
  let text = '{';
  for (const [name, part] of Object.entries(value)) text += `${name}:${attributesText(part)},`;
  return `${text}}`;
}
