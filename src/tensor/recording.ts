/**
 * What a graph remembers: its nodes, each thing computed only once, its leaves by name, and which versions of states
 * can still be used. `Graph` adds the operations.
 */

import type { DType } from '../numerics/dtype.ts';
import { sameShape, typeText } from '../tile/types.ts';
import type { Graph } from './graph.ts';
import { identity } from './identity.ts';
import { inferTypes } from './infer.ts';
import type { Attributes, Node, Primitive } from './primitives.ts';
import { is, written } from './primitives.ts';
import { simplify } from './simplify.ts';
import { describe, leafOf, memoryOf, Tensor } from './tensor.ts';
import { GraphError } from './types.ts';

export abstract class Recording {
  readonly #nodes: Node[] = [];
  readonly #byName = new Map<string, Node>();
  /** Nodes without effects by what they compute: the same thing is never computed twice. */
  readonly #known = new Map<string, Node>();
  /** Tensors whose memory a later node has overwritten. */
  readonly #overwritten = new Map<Tensor, Node>();
  #tensors = 0;

  /** All nodes in the order of recording; the inputs of a node come before it. */
  get nodes(): readonly Node[] {
    return this.#nodes;
  }

  /**
   * Records one application of a primitive and returns its results. The methods of `Graph` are the usual way.
   * Throws `GraphError` when shapes or types do not fit, or an input has been overwritten.
   */
  apply<P extends Primitive>(
    this: Graph,
    primitive: P,
    attributes: Attributes[P],
    inputs: readonly Tensor[] = [],
  ): readonly Tensor[] {
    for (const input of inputs) this.#check(input, primitive);
    const types = inferTypes(
      primitive,
      attributes,
      inputs.map((input) => input.type),
    );
    const simple = simplify(this, primitive, attributes, inputs, types);
    if (simple !== null) return [simple];
    const key = identity(primitive, attributes, inputs);
    const known = key === null ? undefined : this.#known.get(key);
    if (known !== undefined) return known.outputs;
    const outputs: Tensor[] = [];
    const node: Node<P> = { id: this.#nodes.length, primitive, attributes, inputs, outputs };
    for (const type of types) outputs.push(new Tensor(this, this.#tensors++, node as unknown as Node, type));
    this.#nodes.push(node as unknown as Node);
    if (key !== null) this.#known.set(key, node as unknown as Node);
    for (const index of written(node as unknown as Node))
      this.#overwrite(inputs[index], node as unknown as Node);
    return outputs;
  }

  /** The result of a primitive that changes nothing: most broadcasts are of this kind. */
  protected itself(this: Graph, x: Tensor, primitive: Primitive): Tensor {
    this.#check(x, primitive);
    return x;
  }

  #check(this: Graph, input: Tensor, primitive: Primitive): void {
    if (input.graph !== this) throw new GraphError(`${primitive}: the tensor belongs to another graph`);
    const root = memoryOf(input);
    const writer = this.#overwritten.get(root) ?? this.#overwritten.get(input);
    if (writer !== undefined)
      throw new GraphError(
        `${primitive}: ${describe(root)} has been overwritten by '${writer.primitive}' (node ${writer.id}); use the tensor that it returned`,
      );
  }

  #overwrite(tensor: Tensor, writer: Node): void {
    const root = leafOf(tensor);
    if (root === null || !(is(root.node, 'state') || is(root.node, 'parameter')))
      throw new GraphError(
        `${writer.primitive} writes a state or parameter, not the result of '${tensor.node.primitive}'`,
      );
    if (memoryOf(tensor) !== tensor)
      throw new GraphError(`${writer.primitive} writes a whole state, not a part of it`);
    this.#overwritten.set(tensor, writer);
  }

  /** The tensor of an input, parameter or state of this name, or undefined. */
  find(name: string): Tensor | undefined {
    return this.#byName.get(name)?.outputs[0];
  }

  /** An input, parameter or state; the earlier one where it has been asked for before. */
  protected leaf(
    this: Graph,
    kind: 'input' | 'parameter' | 'state',
    name: string,
    dtype: DType,
    shape: readonly number[],
  ): Tensor {
    const earlier = this.#byName.get(name);
    if (earlier !== undefined) {
      const { type } = earlier.outputs[0];
      if (earlier.primitive === kind && type.dtype === dtype && sameShape(type.shape, shape))
        return earlier.outputs[0];
      throw new GraphError(
        `the name '${name}' already belongs to the ${earlier.primitive} ${typeText(type)}`,
      );
    }
    const [tensor] = this.apply(kind, { name, type: { dtype, shape: [...shape] } });
    this.#byName.set(name, tensor.node);
    return tensor;
  }
}
