/** Puts instructions that step through one shape together, so that they become one loop nest. */

import { byteLength } from '../../numerics/dtype.ts';
import type { Instruction, Kernel, Op, ValueId } from '../../tile/ir.ts';
import { elementCount, operands } from '../../tile/ir.ts';
import { sameShape } from '../../tile/types.ts';

/** Values an instruction reads, in its body too. */
export function uses(op: Op): ValueId[] {
  if (op.op !== 'loop') return [...operands(op)];
  return [...operands(op), ...op.yields, ...op.body.flatMap((inner) => uses(inner.op))];
}

type MemoryOp = Extract<Op, { op: 'load' | 'store' }>;

/** More would not fit into registers. */
const MAX_MEMBERS = 48;
const MAX_MEMORY = 8;

const touchesMemory = ({ op }: Instruction): boolean =>
  op.op === 'load' ||
  op.op === 'store' ||
  op.op === 'gather' ||
  op.op === 'scatter' ||
  op.op === 'atomicAdd' ||
  (op.op === 'loop' && op.body.some(touchesMemory));
const writesMemory = ({ op }: Instruction): boolean =>
  op.op === 'store' ||
  op.op === 'scatter' ||
  op.op === 'atomicAdd' ||
  (op.op === 'loop' && op.body.some(writesMemory));

/** The shape an instruction steps through and could share, or null. */
function steps(
  kernel: Kernel,
  { op, results }: Instruction,
  deferred: ReadonlySet<ValueId>,
): readonly number[] | null {
  const type = (id: ValueId) => kernel.types[id];
  let shape: readonly number[];
  switch (op.op) {
    case 'map':
    case 'cast':
    case 'load':
      if (deferred.has(results[0])) return null;
      ({ shape } = type(results[0]));
      break;
    case 'store':
      ({ shape } = type(op.value));
      break;
    case 'reduce':
      ({ shape } = type(op.arg));
      if (op.axis !== shape.length - 1 || shape[op.axis] === 1) return null;
      break;
    default:
      return null;
  }
  if (elementCount(shape) === 1) return null;
  if (op.op === 'load' || op.op === 'store') {
    // Vectors are read and written along the last axis.
    const { strides } = kernel.views[op.view];
    if (shape[shape.length - 1] > 1 ? strides[shape.length - 1] !== 1 : true) return null;
  }
  return shape;
}

class Group {
  readonly shape: readonly number[];
  readonly members: Instruction[] = [];
  readonly #kernel: Kernel;
  readonly #constants: ReadonlyMap<ValueId, number>;
  readonly #results = new Set<ValueId>();
  readonly #reduced = new Set<ValueId>();
  readonly #memory: MemoryOp[] = [];

  constructor(kernel: Kernel, shape: readonly number[], constants: ReadonlyMap<ValueId, number>) {
    this.#kernel = kernel;
    this.#constants = constants;
    this.shape = shape;
  }

  get writes(): boolean {
    return this.#memory.some(({ op }) => op === 'store');
  }
  get reads(): boolean {
    return this.#memory.length > 0;
  }

  feeds({ op }: Instruction): boolean {
    return uses(op).some((id) => this.#results.has(id));
  }

  /** Whether the instruction, which steps through the group's shape, may be executed element by element with it. */
  takes({ op }: Instruction): boolean {
    if (this.members.length >= MAX_MEMBERS) return false;
    if (uses(op).some((id) => this.#reduced.has(id))) return false;
    if (op.op === 'reduce') return this.#results.has(op.arg);
    if (op.op !== 'load' && op.op !== 'store') return true;
    if (this.#memory.length >= MAX_MEMORY) return false;
    if (op.op === 'load') return !this.writes;
    return this.#memory.every((other) => this.#apart(op, other));
  }

  /** Whether a store may come before what another memory operation does to later elements. */
  #apart(store: MemoryOp, other: MemoryOp): boolean {
    const [a, b] = [this.#kernel.views[store.view], this.#kernel.views[other.view]];
    if (other.op === 'store' && store.view !== other.view) return true;
    // A view may lie in the memory of another that is read element for element.
    return (
      store.offsets.every((id, axis) => this.#sameInteger(id, other.offsets[axis])) &&
      sameShape(a.shape, b.shape) &&
      sameShape(a.strides, b.strides) &&
      byteLength(a.dtype, 2) === byteLength(b.dtype, 2)
    );
  }

  #sameInteger(a: ValueId, b: ValueId): boolean {
    return a === b || (this.#constants.has(a) && this.#constants.get(a) === this.#constants.get(b));
  }

  add(instruction: Instruction): void {
    const { op, results } = instruction;
    this.members.push(instruction);
    for (const id of results) (op.op === 'reduce' ? this.#reduced : this.#results).add(id);
    if (op.op === 'reduce') for (const id of results) this.#results.add(id);
    if (op.op === 'load' || op.op === 'store') this.#memory.push(op);
  }
}

/** Instructions to be lowered one by one (alone in their list) or as one nest. */
export interface Unit {
  readonly members: readonly Instruction[];
  /** What a nest steps through; null for a single instruction. */
  readonly shape: readonly number[] | null;
}

/**
 * The block as units in an order that keeps what depends on what, and the order of accesses to memory. What comes
 * between members of a group and does not need them is moved before it.
 */
export function groups(kernel: Kernel, body: readonly Instruction[], deferred: ReadonlySet<ValueId>): Unit[] {
  const units: Unit[] = [];
  const constants = new Map<ValueId, number>();
  for (const { op, results } of body) if (op.op === 'constant') constants.set(results[0], op.value);
  /** None of them needs what another one makes. */
  let open: readonly Group[] = [];
  const close = (which: (group: Group) => boolean) => {
    for (const group of open.filter(which)) {
      const worth = group.members.length > 1;
      units.push({ members: group.members, shape: worth ? group.shape : null });
    }
    open = open.filter((group) => !which(group));
  };
  for (const instruction of body) {
    const shape = steps(kernel, instruction, deferred);
    const own =
      shape === null
        ? undefined
        : open.find((group) => sameShape(group.shape, shape) && group.takes(instruction));
    close(
      (group) =>
        group !== own &&
        (group.feeds(instruction) ||
          (group.writes && touchesMemory(instruction)) ||
          (group.reads && writesMemory(instruction))),
    );
    if (own !== undefined) own.add(instruction);
    else if (shape !== null && instruction.op.op !== 'reduce' && instruction.op.op !== 'store') {
      close((group) => sameShape(group.shape, shape));
      const group = new Group(kernel, shape, constants);
      group.add(instruction);
      open = [...open, group];
    } else units.push({ members: [instruction], shape: null });
  }
  close(() => true);
  return beforeProducts(units);
}

/** What only names a value or reads one. */
const MOVABLE: ReadonlySet<string> = new Set(['constant', 'broadcast', 'reshape', 'cast', 'load']);

/** Moves what stands between a product and its reader, and does not need the product, before it. */
function beforeProducts(units: readonly Unit[]): Unit[] {
  const ordered: Unit[] = [];
  for (const unit of units) {
    let place = ordered.length;
    const [{ op }] = unit.members;
    if (unit.members.length === 1 && MOVABLE.has(op.op))
      while (place > 0 && isProductWithout(ordered[place - 1], uses(op))) place--;
    ordered.splice(place, 0, unit);
  }
  return ordered;
}

const isProductWithout = ({ members: [{ op, results }] }: Unit, needed: readonly ValueId[]): boolean =>
  op.op === 'dot' && !needed.includes(results[0]);
