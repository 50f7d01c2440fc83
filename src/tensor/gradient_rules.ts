/**
 * How the gradient passes through each primitive. Cotangents are f32 whatever the tensor's type; a rule gets those of
 * the results (null: zero) and returns those of the inputs (null: none).
 */
import type { DType } from '../numerics/dtype.ts';
import type { BinaryFn, MapFn, TernaryFn, UnaryFn } from '../tile/ir.ts';
import type { Graph } from './graph.ts';
import type { Node, Primitive } from './primitives.ts';
import type { Tensor } from './tensor.ts';
import { GraphError } from './types.ts';

export type GradientRule<P extends Primitive> = (
  graph: Graph,
  node: Node<P>,
  cotangents: readonly (Tensor | null)[],
) => readonly (Tensor | null)[];

/** What every node has, whatever its primitive. */
type AnyNode = Pick<Node, 'primitive' | 'inputs'>;

/** For a primitive that has no gradient. */
function notDifferentiable(why: string): (graph: Graph, node: AnyNode) => never {
  return (_, node) => {
    throw new GraphError(`no gradient passes through '${node.primitive}': ${why}`);
  };
}

const NONE = (_: Graph, node: AnyNode) => node.inputs.map(() => null);
const NO_SECOND = notDifferentiable('gradients of gradients are not supported');
const ROUNDED = notDifferentiable('integers are for inference');
const IN_PLACE = notDifferentiable('it overwrites memory; take gradients of the values before');

/** Cotangents of the arguments, given the function's arguments, result and cotangent. */
type Derivative = (g: Graph, dy: Tensor, args: readonly Tensor[], y: Tensor) => readonly (Tensor | null)[];

const unary =
  (derivative: (g: Graph, dy: Tensor, x: Tensor, y: Tensor) => Tensor): Derivative =>
  (g, dy, [x], y) => [derivative(g, dy, x, y)];
/** Piecewise constant: the gradient is zero wherever there is one. */
const flat: Derivative = (_, __, args) => args.map(() => null);

const UNARY: { readonly [F in UnaryFn]: Derivative } = {
  neg: unary((g, dy) => g.neg(dy)),
  abs: unary((g, dy, x) => g.where(g.compare('lt', x, 0), g.neg(dy), dy)),
  not: flat,
  floor: flat,
  sqrt: unary((g, dy, _, y) => g.div(g.mul(dy, 0.5), y)),
  rsqrt: unary((g, dy, _, y) => g.mul(g.mul(dy, -0.5), g.mul(y, g.mul(y, y)))),
  exp: unary((g, dy, _, y) => g.mul(dy, y)),
  exp2: unary((g, dy, _, y) => g.mul(dy, g.mul(y, Math.LN2))),
  log: unary((g, dy, x) => g.div(dy, x)),
  log2: unary((g, dy, x) => g.div(g.mul(dy, Math.LOG2E), x)),
  tanh: unary((g, dy, _, y) => g.mul(dy, g.sub(1, g.mul(y, y)))),
  sigmoid: unary((g, dy, _, y) => g.mul(dy, g.mul(y, g.sub(1, y)))),
  sin: unary((g, dy, x) => g.mul(dy, g.map('cos', x))),
  cos: unary((g, dy, x) => g.neg(g.mul(dy, g.map('sin', x)))),
};

const BINARY: { readonly [F in BinaryFn]: Derivative } = {
  add: (_, dy) => [dy, dy],
  sub: (g, dy) => [dy, g.neg(dy)],
  mul: (g, dy, [a, b]) => [g.mul(dy, b), g.mul(dy, a)],
  div: (g, dy, [, b], y) => [g.div(dy, b), g.neg(g.div(g.mul(dy, y), b))],
  rem: flat,
  min: (g, dy, [a, b]) => choose(g, dy, g.compare('le', a, b)),
  max: (g, dy, [a, b]) => choose(g, dy, g.compare('ge', a, b)),
  and: flat,
  or: flat,
  xor: flat,
  shl: flat,
  shr: flat,
  mulhi: flat,
  lt: flat,
  le: flat,
  gt: flat,
  ge: flat,
  eq: flat,
  ne: flat,
};

const TERNARY: { readonly [F in TernaryFn]: Derivative } = {
  fma: (g, dy, [a, b]) => [g.mul(dy, b), g.mul(dy, a), dy],
  select: (g, dy, [condition]) => [null, ...choose(g, dy, condition)],
};

const MAPS: { readonly [F in MapFn]: Derivative } = { ...UNARY, ...BINARY, ...TERNARY };

function choose(g: Graph, dy: Tensor, first: Tensor): [Tensor, Tensor] {
  return [g.where(first, dy, 0), g.where(first, 0, dy)];
}

/** dH/dlogits = -p (log p + H) / temperature, zero where p is. */
function entropyGradient(
  g: Graph,
  logits: Tensor,
  temperature: Tensor,
  entropy: Tensor,
  logSumExp: Tensor,
  cotangent: Tensor,
): Tensor {
  const column = (x: Tensor) => g.reshape(x, [-1, 1]);
  const t = column(g.where(g.compare('gt', temperature, 0), temperature, 1));
  const logP = g.sub(g.div(g.cast(logits, 'f32'), t), column(logSumExp));
  const p = g.exp(logP);
  const slope = g.where(g.compare('gt', p, 0), g.mul(p, g.add(logP, column(entropy))), 0);
  return g.neg(g.div(g.mul(slope, column(cotangent)), t));
}

/** For primitives with one differentiable result: does nothing when no cotangent arrives at it. */
function single<P extends Primitive>(
  rule: (g: Graph, node: Node<P>, dy: Tensor) => readonly (Tensor | null)[],
): GradientRule<P> {
  return (g, node, [dy]) => (dy === null ? node.inputs.map(() => null) : rule(g, node, dy));
}

export const GRADIENTS: { readonly [P in Primitive]: GradientRule<P> } = {
  input: NONE,
  parameter: NONE,
  state: NONE,
  literal: NONE,
  constant: NONE,
  iota: NONE,
  map: single((g, node, dy) => {
    const [y] = node.outputs;
    return y.dtype === 'f32' ? MAPS[node.attributes.fn](g, dy, node.inputs, y) : node.inputs.map(() => null);
  }),
  cast: single((g, node, dy) => {
    const [from, to] = [node.inputs[0].dtype, node.outputs[0].dtype];
    const differentiable = (dtype: DType) => dtype === 'f32' || dtype === 'bf16' || dtype === 'f16';
    if (!differentiable(from) || !differentiable(to)) return [null];
    // The gradient of a rounded value has its precision, as what is multiplied with it will. It is rounded here, where it
    // is computed, so that it goes through memory that way.
    return [from === 'bf16' ? g.cast(g.cast(dy, from), 'f32') : dy];
  }),
  broadcast: single((g, node, dy) => {
    const [x] = node.inputs;
    let total = dy;
    x.shape.forEach((size, axis) => {
      if (size !== dy.shape[axis]) total = g.sum(total, axis);
    });
    return [total];
  }),
  reshape: single((g, node, dy) => [g.reshape(dy, node.inputs[0].shape)]),
  slice: single((g, node, dy) => {
    const { start, end } = node.attributes;
    return [g.pad(dy, start, node.inputs[0].shape[0] - end)];
  }),
  pad: single((g, node, dy) => {
    const { before } = node.attributes;
    return [g.slice(dy, before, before + node.inputs[0].shape[0])];
  }),
  transpose: single((g, _, dy) => [g.transpose(dy)]),
  stopGradient: NONE,
  reduce: single((g, node, dy) => {
    const [x] = node.inputs;
    const wide = g.broadcastTo(dy, x.shape);
    if (node.attributes.fn === 'sum') return [wide];
    // Elements that equal the extreme share its gradient evenly.
    const chosen = g.cast(g.compare('eq', x, g.broadcastTo(node.outputs[0], x.shape)), 'f32');
    const count = g.sum(chosen, node.attributes.axis);
    return [g.mul(chosen, g.broadcastTo(g.div(dy, count), x.shape))];
  }),

  matmul: single((g, node, dy) => {
    const { transA, transB, columns } = node.attributes;
    if (columns !== null)
      throw new GraphError('a product with a matrix in panels has no gradient: train with plain matrices');
    const [a, b] = node.inputs;
    const d = g.cast(dy, a.dtype === b.dtype ? a.dtype : 'f32');
    const da = transA
      ? g.matmul(b, d, { transA: transB, transB: true })
      : g.matmul(d, b, { transB: !transB });
    const db = transB
      ? g.matmul(d, a, { transA: true, transB: transA })
      : g.matmul(a, d, { transA: !transA });
    return [da, db];
  }),
  embedding: single((g, node, dy) => {
    const [table, ids] = node.inputs;
    if (table.shape.length > 2)
      throw new GraphError('an embedding table in panels has no gradient: train with a plain one');
    return [g.apply('embeddingGrad', { vocabulary: table.shape[0] }, [dy, ids])[0], null];
  }),
  embeddingGrad: NO_SECOND,
  rmsNorm: single((g, node, dy) => {
    const { eps } = node.attributes;
    return g.apply('rmsNormGrad', { eps }, [...node.inputs, dy]).map((part) => g.cast(part, 'f32'));
  }),
  rmsNormGrad: NO_SECOND,
  quantizeRows: ROUNDED,
  quantizedMatmul: ROUNDED,
  rope: single((g, node, dy) => {
    // Gradients are f32.
    const attributes = { ...node.attributes, inverse: !node.attributes.inverse, type: 'f32' } as const;
    return [g.apply('rope', attributes, [dy, ...node.inputs.slice(1)])[0], null, null, null];
  }),
  attention: single((g, node, dy) => {
    if (node.inputs[2].shape.length === 4)
      throw new GraphError('attention to a cache has no gradient: give it keys and values of tokens');
    const [out, logSumExp] = node.outputs;
    const inputs = [...node.inputs, out, logSumExp, g.cast(dy, out.dtype)];
    const parts = g.apply('attentionGrad', node.attributes, inputs).map((part) => g.cast(part, 'f32'));
    return [...parts, null, null, null];
  }),
  attentionGrad: NO_SECOND,
  tokenLogProbability: (g, node, [ofLogProbability, ofEntropy]) => {
    const [logits, targets, temperature] = node.inputs;
    const [, entropy, logSumExp] = node.outputs;
    const parts: Tensor[] = [];
    if (ofLogProbability !== null) {
      const inputs = [logits, targets, temperature, logSumExp, ofLogProbability];
      parts.push(g.cast(g.apply('tokenLogProbabilityGrad', {}, inputs)[0], 'f32'));
    }
    if (ofEntropy !== null)
      parts.push(entropyGradient(g, logits, temperature, entropy, logSumExp, ofEntropy));
    return [parts.length === 0 ? null : parts.reduce((a, b) => g.add(a, b)), null, null];
  },
  tokenLogProbabilityGrad: NO_SECOND,

  assign: IN_PLACE,
  scatterRows: IN_PLACE,
  cacheWrite: IN_PLACE,
  custom: (g, node, cotangents) => {
    const { kernel, gradient } = node.attributes;
    if (gradient === null)
      throw new GraphError(`kernel '${kernel.name}' has no gradient; give one with the option 'gradient'`);
    return gradient(g, { inputs: node.inputs, outputs: node.outputs, cotangents });
  },
};
