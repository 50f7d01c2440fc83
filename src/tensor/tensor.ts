/** Values of a graph, and whose memory they are. */
import type { DType } from '../numerics/dtype.ts';
import type { Graph } from './graph.ts';
import type { Node } from './primitives.ts';
import { is, isLeaf, written } from './primitives.ts';
import type { TensorType } from './types.ts';

/** A value of a graph. Belongs to the graph that made it. */
export class Tensor {
  readonly graph: Graph;
  /** Unique within the graph. */
  readonly id: number;
  readonly node: Node;
  readonly type: TensorType;

  constructor(graph: Graph, id: number, node: Node, type: TensorType) {
    this.graph = graph;
    this.id = id;
    this.node = node;
    this.type = type;
  }
  get shape(): readonly number[] {
    return this.type.shape;
  }
  get dtype(): DType {
    return this.type.dtype;
  }
}

/** The tensor that owns the memory of a view into it (reshape, slice, stopGradient). */
export function memoryOf(tensor: Tensor): Tensor {
  const { node } = tensor;
  return is(node, 'reshape') || is(node, 'slice') || is(node, 'stopGradient')
    ? memoryOf(node.inputs[0])
    : tensor;
}

/** The leaf whose memory this tensor is, through views and in-place updates; null for a computed value. */
export function leafOf(tensor: Tensor): Tensor | null {
  const root = memoryOf(tensor);
  if (isLeaf(root.node)) return root;
  const position = root.node.outputs.indexOf(root);
  const target = written(root.node)[position];
  return target === undefined ? null : leafOf(root.node.inputs[target]);
}

/** How messages call it: its leaf's name, or the primitive that computes it. */
export function describe(tensor: Tensor): string {
  const leaf = leafOf(tensor);
  return leaf !== null && 'name' in leaf.node.attributes
    ? `${leaf.node.primitive} '${leaf.node.attributes.name}'`
    : `the result of '${tensor.node.primitive}'`;
}
