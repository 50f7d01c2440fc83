/** What need not be recorded: no-ops, views of views, and arithmetic on constants. */
import { convert } from '../tile/convert.ts';
import type { BinaryFn, MapFn, UnaryFn } from '../tile/ir.ts';
import { sameType } from '../tile/types.ts';
import type { Graph } from './graph.ts';
import type { Attributes, Primitive } from './primitives.ts';
import { is } from './primitives.ts';
import type { Tensor } from './tensor.ts';
import type { TensorType } from './types.ts';

type Simplify<P extends Primitive> = (
  graph: Graph,
  attributes: Attributes[P],
  inputs: readonly Tensor[],
  type: TensorType,
) => Tensor | null;

/** The value of a constant tensor; null for any other. */
export function constantOf(tensor: Tensor): number | null {
  return is(tensor.node, 'constant') ? tensor.node.attributes.value : null;
}

const f32 = Math.fround;
/** Functions folded at trace time: those whose f32 result is the same everywhere. */
const FOLD_UNARY: { readonly [F in UnaryFn]?: (x: number) => number } = {
  neg: (x) => f32(-x),
  abs: (x) => f32(Math.abs(x)),
  sqrt: (x) => f32(Math.sqrt(x)),
};
const FOLD_BINARY: { readonly [F in BinaryFn]?: (x: number, y: number) => number } = {
  add: (x, y) => f32(f32(x) + f32(y)),
  sub: (x, y) => f32(f32(x) - f32(y)),
  mul: (x, y) => f32(f32(x) * f32(y)),
  div: (x, y) => f32(f32(x) / f32(y)),
};

function fold(fn: MapFn, values: readonly (number | null)[], type: TensorType): number | null {
  if (type.dtype !== 'f32' || values.some((value) => value === null)) return null;
  const [x, y] = values as readonly number[];
  if (values.length === 1) return FOLD_UNARY[fn as UnaryFn]?.(f32(x)) ?? null;
  return values.length === 2 ? (FOLD_BINARY[fn as BinaryFn]?.(x, y) ?? null) : null;
}

/** Only rewrites that keep every bit, for every x: x * 1, x / 1, x - 0 (but not x + 0, which turns -0 into 0). */
function neutral(fn: MapFn, inputs: readonly Tensor[], values: readonly (number | null)[]): Tensor | null {
  const [x, y] = values;
  if ((fn === 'mul' || fn === 'div') && y === 1) return inputs[0];
  if (fn === 'mul' && x === 1) return inputs[1];
  if (fn === 'sub' && y === 0 && !Object.is(y, -0)) return inputs[0];
  return null;
}

const SIMPLIFY: { readonly [P in Primitive]?: Simplify<P> } = {
  map: (graph, { fn }, inputs, type) => {
    const values = inputs.map(constantOf);
    const folded = fold(fn, values, type);
    return folded === null ? neutral(fn, inputs, values) : graph.constant(folded, type.dtype, type.shape);
  },
  cast: (graph, _, [x], type) => {
    // What was widened is what it was.
    if (is(x.node, 'cast') && type.dtype === 'bf16' && x.node.inputs[0].dtype === 'bf16')
      return x.node.inputs[0];
    const value = constantOf(x);
    return value === null || !(type.dtype === 'f32' || type.dtype === 'i32')
      ? null
      : graph.constant(convert(value, x.dtype, type.dtype), type.dtype, type.shape);
  },
  // It reads either type.
  rope: (graph, attributes, [x, ...others]) =>
    is(x.node, 'cast') && x.node.inputs[0].dtype === 'bf16'
      ? graph.apply('rope', attributes, [x.node.inputs[0], ...others])[0]
      : null,
  broadcast: (graph, { shape }, [x], type) => {
    const value = constantOf(x);
    if (value !== null) return graph.constant(value, type.dtype, type.shape);
    return is(x.node, 'broadcast') ? graph.apply('broadcast', { shape }, x.node.inputs)[0] : null;
  },
  reshape: (graph, { shape }, [x], type) => {
    const value = constantOf(x);
    if (value !== null) return graph.constant(value, type.dtype, type.shape);
    return is(x.node, 'reshape') ? graph.apply('reshape', { shape }, x.node.inputs)[0] : null;
  },
};

/** Primitives that return their argument when the result's type is the argument's. */
const IDENTITY: ReadonlySet<Primitive> = new Set<Primitive>(['cast', 'broadcast', 'reshape', 'slice', 'pad']);

/** An existing or simpler tensor with the result's value, or null when the node must be recorded. */
export function simplify<P extends Primitive>(
  graph: Graph,
  primitive: P,
  attributes: Attributes[P],
  inputs: readonly Tensor[],
  types: readonly TensorType[],
): Tensor | null {
  if (IDENTITY.has(primitive) && sameType(inputs[0].type, types[0])) return inputs[0];
  return (SIMPLIFY[primitive] as Simplify<P> | undefined)?.(graph, attributes, inputs, types[0]) ?? null;
}
