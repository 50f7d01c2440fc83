/** Groups of elementwise nodes of one shape that become one kernel. */

import { byteLength } from '../numerics/dtype.ts';
import { sameShape } from '../tile/types.ts';
import type { Node } from './primitives.ts';
import { is } from './primitives.ts';
import type { Tensor } from './tensor.ts';
import type { Uses } from './uses.ts';
import { isPointwise, isProduct, plain } from './uses.ts';

export interface Group {
  /** In the order of the graph. */
  readonly members: readonly Node[];
  readonly shape: readonly number[];
  /** Nodes of earlier groups that this kernel computes again instead of reading their values. */
  readonly repeated: Set<Node>;
}

/** Views of one kernel; devices limit how many memory blocks a kernel may be bound to. */
const MAX_OPERANDS = 20;
/** Nodes that may be computed again to save one read and, often, one write. */
const MAX_REPEATED = 4;

/** Nodes between two that are computed together only because they read the same value. */
const NEAR = 8;

const bytes = ({ dtype }: Tensor) => byteLength(dtype, 1);

/** Position at which a group runs. */
export function lastOf(group: Group): number {
  return group.members[group.members.length - 1].id;
}

export class Groups {
  readonly #uses: Uses;
  readonly #of = new Map<Node, Group>();
  /** Values that other groups widen for themselves. */
  readonly #narrow = new Set<Tensor>();

  /** With `enabled` false every node is a group of its own. */
  constructor(uses: Uses, enabled: boolean) {
    this.#uses = uses;
    for (const node of uses.live) {
      if (!isPointwise(node)) continue;
      let group = this.#alone(node);
      if (enabled) group = this.#joined(node, group);
      for (const member of group.members) this.#of.set(member, group);
    }
    if (!enabled) return;
    for (const group of this.all()) this.#widen(group);
    for (const group of this.all()) this.#split(group);
    for (const group of this.all()) this.#repeat(group);
  }
  of(node: Node): Group | undefined {
    return this.#of.get(node);
  }
  all(): readonly Group[] {
    return [...new Set(this.#of.values())];
  }
  /** Values of the group that others read from memory. */
  results(group: Group): readonly Tensor[] {
    return group.members
      .map((node) => node.outputs[0])
      .filter(
        (tensor) =>
          this.#uses.isOutput(tensor) ||
          this.#narrow.has(tensor) ||
          this.#uses.of(tensor).some((use) => !this.#computes(group, use, tensor)),
      );
  }
  #computes(group: Group, use: { readonly node: Node; readonly direct: boolean }, tensor: Tensor): boolean {
    const user = this.#of.get(use.node);
    return use.direct && user !== undefined && (user === group || user.repeated.has(tensor.node));
  }
  #alone(node: Node): Group {
    return { members: [node], shape: node.outputs[0].shape, repeated: new Set() };
  }
  /** The group with those it can be computed with: of its arguments, and of near nodes that read the same values. */
  #joined(node: Node, start: Group): Group {
    let group = start;
    const join = (other: Group | undefined) => {
      if (other === undefined || group.members.includes(other.members[0])) return;
      if (!sameShape(other.shape, group.shape)) return;
      const members = [...new Set([...other.members, ...group.members])].sort((a, b) => a.id - b.id);
      if (joinable(this.#uses, members)) group = { ...group, members };
    };
    for (const input of node.inputs) join(this.#of.get(plain(input).node));
    for (const input of new Set(node.inputs.map(plain)))
      for (const use of this.#uses.of(input))
        if (use.direct && use.node.id < node.id && node.id - use.node.id <= NEAR)
          join(this.#of.get(use.node));
    return group;
  }

  /** What an earlier group widened is read as it was, in fewer bytes, and widened once more. */
  #widen(group: Group): void {
    for (const tensor of new Set(group.members.flatMap((member) => member.inputs.map(plain)))) {
      const { node } = tensor;
      const source = this.#of.get(node);
      if (source === undefined || source === group || !is(node, 'cast')) continue;
      const [narrow] = node.inputs.map(plain);
      if (bytes(narrow) >= bytes(tensor) || !sameShape(tensor.shape, group.shape)) continue;
      if (!this.#uses.movable(node, lastOf(group))) continue;
      group.repeated.add(node);
      this.#narrow.add(narrow);
    }
  }

  /**
   * Products whose rounded values are needed in memory end in rounding them, instead of leaving that, and twice the bytes,
   * to a group of others; but for the last product of a group, which may end in all of it.
   */
  #split(group: Group): void {
    const rounded = group.members.flatMap((member) => {
      if (!is(member, 'cast')) return [];
      const [product] = member.inputs.map(plain);
      const narrower = bytes(member.outputs[0]) < bytes(product);
      const only = !this.#uses.isOutput(product) && this.#uses.of(product).length === 1;
      return narrower && only && isProduct(product.node) ? [{ member, product: product.node }] : [];
    });
    const last = Math.max(...rounded.map(({ product }) => product.id));
    const needed = new Set(this.results(group).map(({ node }) => node));
    const apart = new Set(
      rounded
        .filter(({ member, product }) => product.id < last || needed.has(member))
        .map(({ member }): Node => member),
    );
    const members = group.members.filter((member) => !apart.has(member));
    if (apart.size === 0 || members.length === 0) return;
    for (const member of apart) this.#of.set(member, this.#alone(member));
    const rest: Group = { ...group, members };
    for (const member of members) this.#of.set(member, rest);
  }

  /**
   * A value of an earlier group that follows from what this one reads anyway is computed again: for the backward of
   * an activation, the function of its argument instead of its stored result.
   */
  #repeat(group: Group): void {
    const inside = new Set(group.members);
    const read = new Set(
      [...group.members, ...group.repeated]
        .flatMap((member) => member.inputs.map(plain))
        .filter((tensor) => !inside.has(tensor.node)),
    );
    for (const tensor of read) {
      const source = this.#of.get(tensor.node);
      if (source === undefined || source === group || !sameShape(tensor.shape, group.shape)) continue;
      const again = new Set<Node>();
      const enough = this.#collect(tensor, source, read, again);
      // What they read is still there, since the group reads it too.
      if (enough) for (const node of again) group.repeated.add(node);
    }
  }
  /** Adds what computes `tensor` from `read` to `again`; false when something else is needed, or too much. */
  #collect(tensor: Tensor, source: Group, read: ReadonlySet<Tensor>, again: Set<Node>): boolean {
    again.add(tensor.node);
    if (again.size > MAX_REPEATED) return false;
    return tensor.node.inputs.map(plain).every((input) => {
      if (is(input.node, 'constant') || again.has(input.node)) return true;
      return this.#of.get(input.node) === source
        ? this.#collect(input, source, read, again)
        : input !== tensor && read.has(input);
    });
  }
}

/** Whether the members can all run at the place of the last one. */
function joinable(uses: Uses, members: readonly Node[]): boolean {
  const last = members[members.length - 1].id;
  const inside = new Set(members);
  let operands = 0;
  const external = new Set<Tensor>();
  for (const member of members) {
    let leaves = uses.isOutput(member.outputs[0]);
    for (const use of uses.of(member.outputs[0])) {
      if (use.direct && inside.has(use.node)) continue;
      if (use.node.id <= last) return false;
      leaves = true;
    }
    if (leaves) operands++;
    if (!uses.movable(member, last)) return false;
    for (const input of member.inputs) if (!inside.has(plain(input).node)) external.add(input);
  }
  return operands + external.size <= MAX_OPERANDS;
}
