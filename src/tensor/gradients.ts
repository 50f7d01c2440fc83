/** Reverse-mode differentiation: adds the nodes that compute gradients to the graph. */

import type { GradientRule } from './gradient_rules.ts';
import { GRADIENTS } from './gradient_rules.ts';
import type { Graph } from './graph.ts';
import type { Node, Primitive } from './primitives.ts';
import type { Tensor } from './tensor.ts';
import { GraphError, typeText } from './types.ts';

/**
 * Gradients of `loss` (f32, one element) with respect to `wrt`, each f32 of the tensor's shape; zeros where the loss
 * does not depend on it. Contributions to a tensor used several times are added in the order of its uses, last first.
 * Throws `GraphError` when a gradient would have to pass through something that has none.
 */
export function gradients(graph: Graph, loss: Tensor, wrt: readonly Tensor[]): Tensor[] {
  if (loss.dtype !== 'f32' || loss.shape.some((size) => size !== 1))
    throw new GraphError(`a loss is one f32 value, not ${typeText(loss.type)}; sum or average it`);
  for (const tensor of wrt)
    if (tensor.dtype !== 'f32' && tensor.dtype !== 'bf16')
      throw new GraphError(`there is no gradient with respect to ${typeText(tensor.type)}`);
  const relevant = dependents(graph.nodes, wrt);
  const cotangents = new Map<Tensor, Tensor>([[loss, graph.constant(1, 'f32', loss.shape)]]);
  const contribute = (tensor: Tensor, cotangent: Tensor) => {
    const known = cotangents.get(tensor);
    cotangents.set(tensor, known === undefined ? cotangent : graph.add(known, cotangent));
  };
  for (const node of [...graph.nodes.slice(0, loss.node.id + 1)].reverse()) {
    const arriving = node.outputs.map((output) => cotangents.get(output) ?? null);
    if (arriving.every((cotangent) => cotangent === null)) continue;
    if (!node.inputs.some((input) => relevant.has(input))) continue;
    const rule = GRADIENTS[node.primitive] as GradientRule<Primitive>;
    rule(graph, node as Node<Primitive>, arriving).forEach((cotangent, index) => {
      const input = node.inputs[index];
      if (cotangent !== null && relevant.has(input)) contribute(input, cotangent);
    });
  }
  return wrt.map((tensor) => cotangents.get(tensor) ?? graph.constant(0, 'f32', tensor.shape));
}

/** The tensors and everything computed from them. */
function dependents(nodes: readonly Node[], roots: readonly Tensor[]): ReadonlySet<Tensor> {
  const found = new Set<Tensor>(roots);
  for (const node of nodes)
    if (node.inputs.some((input) => found.has(input))) for (const output of node.outputs) found.add(output);
  return found;
}
