/** Who uses which tensor, once views and inlined nodes are looked through. */

import type { Node } from './primitives.ts';
import { is, written } from './primitives.ts';
import type { Tensor } from './tensor.ts';
import { leafOf, memoryOf } from './tensor.ts';

/** A use of a tensor by a node that becomes (part of) a kernel. */
export interface Use {
  readonly node: Node;
  /** The node takes the tensor itself, element for element: not a view of it, and not a broadcast. */
  readonly direct: boolean;
}

/** The tensor without `stopGradient`, which means nothing at run time. */
export function plain(tensor: Tensor): Tensor {
  return is(tensor.node, 'stopGradient') ? plain(tensor.node.inputs[0]) : tensor;
}

export function isView(node: Node): boolean {
  return is(node, 'reshape') || is(node, 'slice') || is(node, 'stopGradient');
}

/** Nodes repeated inside every kernel that uses them rather than computed once into memory. */
export function isInlined(node: Node): boolean {
  return is(node, 'constant') || is(node, 'iota') || is(node, 'broadcast');
}

/** Nodes that compute element by element. */
export function isPointwise(node: Node): boolean {
  return is(node, 'map') || is(node, 'cast');
}

/** Products of matrices, which may end in elementwise work. */
export function isProduct(node: Node): boolean {
  return is(node, 'matmul') || is(node, 'quantizedMatmul');
}

/** Nodes whose kernel is made from an expression, into which inlined nodes go. */
function takesExpression(node: Node): boolean {
  return isPointwise(node) || is(node, 'assign') || is(node, 'reduce');
}

export class Uses {
  /** Nodes that outputs or effects depend on, in order. */
  readonly live: readonly Node[];
  readonly #consumers = new Map<Tensor, Node[]>();
  readonly #cache = new Map<Tensor, readonly Use[]>();
  readonly #outputRoots: ReadonlySet<Tensor>;
  readonly #writers = new Map<Tensor, Node[]>();
  readonly #until = new Map<Node, number>();

  constructor(nodes: readonly Node[], outputs: readonly Tensor[]) {
    const alive = new Set<Node>(outputs.map((tensor) => tensor.node));
    for (let index = nodes.length - 1; index >= 0; index--) {
      const node = nodes[index];
      if (!alive.has(node) && written(node).length === 0) continue;
      alive.add(node);
      for (const input of node.inputs) alive.add(input.node);
    }
    this.live = nodes.filter((node) => alive.has(node));
    for (const node of this.live) {
      for (const input of new Set(node.inputs)) {
        const known = this.#consumers.get(input);
        if (known === undefined) this.#consumers.set(input, [node]);
        else known.push(node);
      }
      for (const index of written(node)) {
        const leaf = leafOf(node.inputs[index]) as Tensor;
        this.#writers.set(leaf, [...(this.#writers.get(leaf) ?? []), node]);
      }
    }
    this.#outputRoots = new Set(outputs.map(memoryOf));
  }

  /** Whether the host reads this tensor's memory after a run. */
  isOutput(tensor: Tensor): boolean {
    return this.#outputRoots.has(tensor);
  }

  /** All uses by kernels. */
  of(tensor: Tensor): readonly Use[] {
    const cached = this.#cache.get(tensor);
    if (cached !== undefined) return cached;
    const uses: Use[] = [];
    for (const node of this.#consumers.get(tensor) ?? []) {
      if (is(node, 'stopGradient')) uses.push(...this.of(node.outputs[0]));
      else if (isView(node)) uses.push(...this.of(node.outputs[0]).map((use) => ({ ...use, direct: false })));
      else if (is(node, 'broadcast')) {
        uses.push(...this.of(node.outputs[0]).map((use) => ({ ...use, direct: false })));
        if (this.needsMemory(node)) uses.push({ node, direct: true });
      } else uses.push({ node, direct: true });
    }
    this.#cache.set(tensor, uses);
    return uses;
  }

  /** Whether an inlined node must also be written to memory. */
  needsMemory(node: Node): boolean {
    const [tensor] = node.outputs;
    return this.isOutput(tensor) || this.of(tensor).some((use) => !use.direct || !takesExpression(use.node));
  }

  /** Nodes that write the memory of a leaf, in order. */
  writers(leaf: Tensor): readonly Node[] {
    return this.#writers.get(leaf) ?? [];
  }

  /** Whether what `node` reads at its place in the graph is still there at position `later`. */
  movable(node: Node, later: number): boolean {
    let until = this.#until.get(node);
    if (until === undefined) {
      until = this.#overwritten(node);
      this.#until.set(node, until);
    }
    return later < until;
  }

  /** Position of the first node after this one that overwrites what this one reads. */
  #overwritten(node: Node): number {
    let first = Number.POSITIVE_INFINITY;
    for (const input of node.inputs) {
      const leaf = leafOf(
        isInlined(input.node) && input.node.inputs.length > 0 ? input.node.inputs[0] : input,
      );
      if (leaf === null) continue;
      for (const { id } of this.writers(leaf)) if (id > node.id && id < first) first = id;
    }
    return first;
  }
}
