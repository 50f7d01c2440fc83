/** Reverse-mode differentiation: adds the nodes that compute gradients to the graph. */

import { typeText } from '../tile/types.ts';
import type { GradientRule } from './gradient_rules.ts';
import { GRADIENTS } from './gradient_rules.ts';
import type { Graph } from './graph.ts';
import type { Node, Primitive } from './primitives.ts';
import { isLeaf, written } from './primitives.ts';
import type { Tensor } from './tensor.ts';
import { GraphError } from './types.ts';

/**
 * Gradients of `loss` (f32, one element) with respect to `wrt`, each f32 of the tensor's shape; zeros where the loss
 * does not depend on it. Contributions to a tensor used several times are added in the order of its uses, last first.
 *
 * With `checkpoints`, what was computed between two of these tensors is computed again from the first of them where
 * the gradients need it, so that its memory is free meanwhile. The gradients' bits do not change. (Chen and others,
 * "Training deep nets with sublinear memory cost", 2016.)
 *
 * Throws `GraphError` when a gradient would have to pass through something that has none, or something that writes
 * memory would have to be computed again.
 */
export function gradients(
  graph: Graph,
  loss: Tensor,
  wrt: readonly Tensor[],
  { checkpoints = [] }: { readonly checkpoints?: readonly Tensor[] } = {},
): Tensor[] {
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
  const again = new Recomputation(graph, checkpoints);
  for (const node of [...graph.nodes.slice(0, loss.node.id + 1)].reverse()) {
    const arriving = node.outputs.map((output) => cotangents.get(output) ?? null);
    if (arriving.every((cotangent) => cotangent === null)) continue;
    if (!node.inputs.some((input) => relevant.has(input))) continue;
    const rule = GRADIENTS[node.primitive] as GradientRule<Primitive>;
    rule(graph, again.mirror(node), arriving).forEach((cotangent, index) => {
      const input = node.inputs[index];
      if (cotangent !== null && relevant.has(input)) contribute(input, cotangent);
    });
  }
  return wrt.map((tensor) => cotangents.get(tensor) ?? graph.constant(0, 'f32', tensor.shape));
}

/** Computes again what lies between checkpoints. */
class Recomputation {
  readonly #graph: Graph;
  /** Ascending. Nodes behind the last one, and before the first, are not computed again. */
  readonly #checkpoints: readonly Tensor[];
  readonly #copies = new Map<Tensor, Tensor>();

  constructor(graph: Graph, checkpoints: readonly Tensor[]) {
    this.#graph = graph;
    this.#checkpoints = checkpoints.toSorted((a, b) => a.node.id - b.node.id);
  }

  /** The node with inputs and outputs as they are computed again. */
  mirror(node: Node): Node {
    if (!this.#isBetween(node)) return node;
    return {
      ...node,
      inputs: node.inputs.map((input) => this.#copy(input)),
      outputs: node.outputs.map((output) => this.#copy(output)),
    };
  }

  #isBetween({ id }: Node): boolean {
    const first = this.#checkpoints[0]?.node.id ?? id;
    return id > first && id <= this.#checkpoints[this.#checkpoints.length - 1].node.id;
  }

  #copy(tensor: Tensor): Tensor {
    const known = this.#copies.get(tensor);
    if (known !== undefined) return known;
    const { node } = tensor;
    // Another tensor of the same memory: what is computed from it is not taken for what was computed already.
    if (this.#checkpoints.includes(tensor)) this.#copies.set(tensor, this.#graph.stopGradient(tensor));
    else if (!this.#isBetween(node) || isLeaf(node)) this.#copies.set(tensor, tensor);
    else {
      if (written(node).length > 0)
        throw new GraphError(
          `${node.primitive} (node ${node.id}) writes memory and cannot be computed again between checkpoints`,
        );
      const inputs = node.inputs.map((input) => this.#copy(input));
      const outputs = this.#graph.apply(node.primitive, node.attributes, inputs);
      node.outputs.forEach((output, i) => {
        this.#copies.set(output, outputs[i]);
      });
    }
    return this.#copies.get(tensor) as Tensor;
  }
}

/** The tensors and everything computed from them. */
function dependents(nodes: readonly Node[], roots: readonly Tensor[]): ReadonlySet<Tensor> {
  const found = new Set<Tensor>(roots);
  for (const node of nodes)
    if (node.inputs.some((input) => found.has(input))) for (const output of node.outputs) found.add(output);
  return found;
}
