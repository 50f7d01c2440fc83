/**
 * Fusion: the nodes of a graph become steps, each one kernel (or a short fixed list of them).
 * A step runs at the place of its last node; joining nodes never moves a read past a write of the same memory.
 */

import type { Schedule } from '../kernels/schedule.ts';
import type { Kernel } from '../tile/ir.ts';
import { sameShape } from '../tile/types.ts';
import type { Combination } from './combine.ts';
import { combine, productsOfRows } from './combine.ts';
import { fitsEpilogue, fitsPrologue } from './epilogue.ts';
import type { Expression, ExpressionStep } from './expression.ts';
import type { Group } from './groups.ts';
import { Groups, lastOf } from './groups.ts';
import { reducible } from './pointwise.ts';
import type { Node } from './primitives.ts';
import { is, isLeaf, written } from './primitives.ts';
import type { Tensor } from './tensor.ts';
import { leafOf, memoryOf } from './tensor.ts';
import type { TensorType } from './types.ts';
import { isInlined, isPointwise, isProduct, isView, plain, Uses } from './uses.ts';

export interface Step {
  readonly kind: 'pointwise' | 'reduce' | 'matmul' | 'kernel';
  /** Order of execution. */
  readonly position: number;
  /** The node that gives the kernel its form; null for pointwise steps. */
  readonly anchor: Node | null;
  /** What the anchor itself reads (matmul, kernel). */
  readonly operands: readonly Tensor[];
  /** The kernel of several nodes at once, whose views are the operands and outputs; else null. */
  readonly combined: Kernel | null;
  /** Elementwise part: of a matmul, its input 0 is the product; of a kernel, it computes what that takes. */
  readonly expression: Expression | null;
  /** Fill the expression's inputs (a matmul's after input 0). */
  readonly inputs: readonly Tensor[];
  /** Values written, in the order of the expression's or the anchor's outputs. */
  readonly outputs: readonly Tensor[];
  /** Names of the functions inside, for profiles. */
  readonly parts: readonly string[];
}

export interface Fused {
  readonly steps: readonly Step[];
  readonly uses: Uses;
  /** Values that are computed directly into the memory of a state: their root to the version of the state. */
  readonly placed: ReadonlyMap<Tensor, Tensor>;
}

/** Turns a graph into steps. With `enabled` false every node has its own kernel (for comparison and debugging). */
export function fuse(
  nodes: readonly Node[],
  outputs: readonly Tensor[],
  enabled = true,
  schedule: Schedule = {},
): Fused {
  const uses = new Uses(nodes, outputs);
  const groups = new Groups(uses, enabled);
  const absorbed = new Set<Node>();
  const steps: Step[] = [];
  const taken = new Set<Group>();

  /** Whether a node is in no other kernel. */
  const isFree = (node: Node) => {
    const group = groups.of(node);
    return !absorbed.has(node) && (group === undefined || (group.members.length === 1 && !taken.has(group)));
  };
  const combineAll = (wanted: (node: Node) => boolean) => {
    for (const node of [...uses.live].reverse()) {
      if (!wanted(node) || !isFree(node)) continue;
      const combination = combine(node, uses, isFree);
      if (combination === null) continue;
      for (const part of [node, ...combination.absorbed]) {
        absorbed.add(part);
        const own = groups.of(part);
        if (own !== undefined) taken.add(own);
      }
      steps.push(combinedStep(node, combination));
    }
  };

  if (enabled) {
    // First, as these can take over what would become the end of a product.
    combineAll((node) => is(node, 'cacheWrite'));
    for (const node of uses.live) {
      if (!is(node, 'reduce') && !is(node, 'quantizeRows')) continue;
      const x = plain(node.inputs[0]);
      const group = groups.of(x.node);
      if (group === undefined || taken.has(group)) continue;
      const only = groups.results(group);
      const alone =
        only.length === 1 &&
        only[0] === x &&
        !uses.isOutput(x) &&
        uses.of(x).every((use) => use.node === node && use.direct);
      if (!alone || !group.members.every((member) => uses.movable(member, node.id))) continue;
      const built = express(group, group.shape, [x]);
      const fits = is(node, 'reduce')
        ? reducible(built.expression, node.attributes.axis)
        : fitsPrologue(built.expression);
      if (!fits) continue;
      taken.add(group);
      absorbed.add(node);
      steps.push({
        kind: is(node, 'reduce') ? 'reduce' : 'kernel',
        position: node.id,
        anchor: node,
        operands: [],
        combined: null,
        ...built,
        outputs: node.outputs,
        parts: is(node, 'reduce') ? [...built.parts, node.attributes.fn] : built.parts,
      });
    }
    for (const node of [...uses.live].reverse()) {
      if (!isProduct(node)) continue;
      const [product] = node.outputs;
      const users = uses.of(product);
      const group = users.length === 0 ? undefined : groups.of(users[0].node);
      if (group === undefined || taken.has(group) || !sameShape(group.shape, product.shape)) continue;
      if (uses.isOutput(product) || !users.every((use) => use.direct && groups.of(use.node) === group))
        continue;
      const position = lastOf(group);
      if (!uses.movable(node, position)) continue;
      const written = groups.results(group);
      const built = express(group, group.shape, written, product);
      if (!fitsEpilogue(built.expression)) continue;
      taken.add(group);
      absorbed.add(node);
      steps.push({
        kind: 'matmul',
        position,
        anchor: node,
        operands: node.inputs.map(plain),
        combined: null,
        ...built,
        outputs: written,
      });
    }
    for (const { first, kernel, operands, outputs, absorbed: others } of productsOfRows(
      uses.live.filter((node) => !absorbed.has(node)),
      schedule,
    )) {
      for (const part of [first, ...others]) absorbed.add(part);
      steps.push(combinedStep(first, { kernel, operands, outputs }));
    }
    combineAll((node) => !is(node, 'cacheWrite'));
  }

  for (const group of groups.all()) {
    if (taken.has(group)) continue;
    const written = groups.results(group);
    steps.push(pointwise(lastOf(group), express(group, group.shape, written), written));
  }
  for (const node of uses.live) {
    if (isLeaf(node) || isView(node) || isPointwise(node) || absorbed.has(node)) continue;
    if (isInlined(node)) {
      // Constants and counts that need memory are fixed data, written once.
      if (is(node, 'broadcast') && uses.needsMemory(node)) {
        const [tensor] = node.outputs;
        steps.push(pointwise(node.id, express(null, tensor.shape, [tensor]), [tensor]));
      }
    } else if (is(node, 'reduce')) {
      const x = plain(node.inputs[0]);
      const built = express(null, x.shape, [x]);
      steps.push({
        kind: 'reduce',
        position: node.id,
        anchor: node,
        operands: [],
        combined: null,
        ...built,
        outputs: node.outputs,
        parts: [node.attributes.fn],
      });
    } else if (!is(node, 'assign')) {
      steps.push({
        kind: isProduct(node) ? 'matmul' : 'kernel',
        position: node.id,
        anchor: node,
        operands: node.inputs.map(plain),
        combined: null,
        expression: null,
        inputs: [],
        outputs: node.outputs,
        parts: [],
      });
    }
  }
  const ordered = early(steps);
  const placed = placeAssignments(uses, ordered, enabled);
  ordered.sort((a, b) => a.position - b.position);
  return { steps: ordered, uses, placed };
}

/**
 * Products whose epilogue belongs to a much later node, in the order of execution, as early as what they read is there:
 * so a weight's gradient is added up at once, and its operands need not be kept. Reading a version of a state earlier is
 * always right once it exists.
 */
function early(steps: readonly Step[]): Step[] {
  const ordered = steps.toSorted((a, b) => a.position - b.position);
  const ready = new Map<Tensor, number>();
  return ordered.map((step) => {
    let { position } = step;
    if (step.kind === 'matmul' && step.anchor !== null && step.anchor.id < position) {
      const reads = [...step.operands, ...step.inputs].map(memoryOf);
      const from = (tensor: Tensor) => ready.get(tensor) ?? (isLeaf(tensor.node) ? 0 : tensor.node.id);
      const last = Math.max(...reads.map(from));
      // Between two nodes where the anchor's own place is too early.
      position = Math.min(position, last < step.anchor.id ? step.anchor.id : last + 0.5);
    }
    for (const output of step.outputs) ready.set(output, position);
    return { ...step, position };
  });
}

/** A kernel at the place of `node` for it and others. */
function combinedStep(
  node: Node,
  { kernel, operands, outputs }: Pick<Combination, 'kernel' | 'operands' | 'outputs'>,
): Step {
  return {
    kind: 'kernel',
    position: node.id,
    anchor: node,
    operands,
    combined: kernel,
    expression: null,
    inputs: [],
    outputs,
    parts: [],
  };
}

function pointwise(
  position: number,
  built: { expression: Expression; inputs: readonly Tensor[]; parts: readonly string[] },
  outputs: readonly Tensor[],
): Step {
  return { kind: 'pointwise', position, anchor: null, operands: [], combined: null, ...built, outputs };
}

/** The expression that computes `results` from memory, over `shape`. `product`, if given, is its input 0. */
function express(
  group: Group | null,
  shape: readonly number[],
  results: readonly Tensor[],
  product?: Tensor,
): { expression: Expression; inputs: readonly Tensor[]; parts: readonly string[] } {
  const members = group?.members ?? [];
  const inside = new Set([...members, ...(group?.repeated ?? [])]);
  const inputs: Tensor[] = [];
  const types: TensorType[] = product === undefined ? [] : [{ dtype: product.dtype, shape }];
  const position = new Map<Tensor, number>();
  if (product !== undefined) position.set(product, 0);
  const deferred: { step: (at: (tensor: Tensor) => number) => ExpressionStep; tensor: Tensor }[] = [];

  const require = (outer: Tensor): void => {
    const tensor = plain(outer);
    if (position.has(tensor)) return;
    const { node } = tensor;
    if (is(node, 'constant')) {
      const { value } = node.attributes;
      position.set(tensor, -1);
      deferred.push({ tensor, step: () => ({ op: 'constant', dtype: tensor.dtype, value, args: [] }) });
    } else if (is(node, 'iota')) {
      const { axis } = node.attributes;
      position.set(tensor, -1);
      deferred.push({ tensor, step: () => ({ op: 'iota', axis, args: [] }) });
    } else if (inside.has(node)) {
      for (const input of node.inputs) require(input);
      position.set(tensor, -1);
      deferred.push({
        tensor,
        step: (at): ExpressionStep => {
          const args = node.inputs.map((input) => at(plain(input)));
          if (is(node, 'map')) return { op: 'map', fn: node.attributes.fn, args };
          return { op: 'cast', dtype: tensor.dtype, args };
        },
      });
    } else {
      const source = is(node, 'broadcast') ? plain(node.inputs[0]) : tensor;
      const known = inputs.indexOf(source);
      if (known < 0) {
        inputs.push(source);
        types.push(source.type);
      }
      position.set(tensor, (known < 0 ? inputs.length - 1 : known) + (product === undefined ? 0 : 1));
    }
  };
  for (const member of members) require(member.outputs[0]);
  for (const result of results) require(result);

  const steps: ExpressionStep[] = [];
  deferred.forEach(({ tensor }, index) => {
    position.set(tensor, types.length + index);
  });
  const at = (tensor: Tensor) => position.get(tensor) as number;
  for (const { step } of deferred) steps.push(step(at));
  return {
    expression: {
      shape,
      inputs: types,
      steps,
      outputs: results.map((result) => at(plain(result))),
      outputTypes: results.map((result) => result.dtype),
    },
    inputs,
    parts: members.map((node) => (is(node, 'map') ? node.attributes.fn : node.primitive)),
  };
}

/**
 * Assignments: the value is computed straight into the state where nothing else needs the old contents by then;
 * elsewhere a copy step is added to `steps`.
 */
function placeAssignments(uses: Uses, steps: Step[], enabled: boolean): Map<Tensor, Tensor> {
  const producers = new Map<Tensor, Step>();
  const readers = new Map<Tensor, Step[]>();
  for (const step of steps) {
    for (const output of step.outputs) producers.set(output, step);
    for (const read of new Set([...step.operands, ...step.inputs].map(memoryOf)))
      readers.set(read, [...(readers.get(read) ?? []), step]);
  }
  const placed = new Map<Tensor, Tensor>();
  /** For a version of a state: the value placed there, which is the same memory. */
  const versions = new Map<Tensor, Tensor>();
  const effective = new Map<Node, number>();

  for (const node of uses.live) {
    if (!is(node, 'assign')) {
      if (written(node).length > 0) effective.set(node, node.id);
      continue;
    }
    const [state, value] = node.inputs;
    const leaf = leafOf(state) as Tensor;
    const root = wholeRoot(value);
    const producer = root === null ? undefined : producers.get(root);
    const readersOf = (version: Tensor) => [
      ...(readers.get(version) ?? []),
      ...(readers.get(versions.get(version) ?? version) ?? []),
    ];
    const direct =
      enabled &&
      root !== null &&
      producer !== undefined &&
      leafOf(root) === null &&
      !uses.isOutput(root) &&
      !placed.has(root) &&
      readersOf(state).every(
        (reader) =>
          reader.position < producer.position ||
          (reader === producer && readsElementwise(producer, [state, versions.get(state)], root)),
      ) &&
      uses.writers(leaf).every((writer) => {
        if (writer.id < node.id) return (effective.get(writer) as number) < producer.position;
        return writer === node || (readers.get(root) ?? []).every((reader) => reader.position < writer.id);
      });
    if (direct) {
      placed.set(root, node.outputs[0]);
      versions.set(node.outputs[0], root);
      effective.set(node, producer.position);
      continue;
    }
    effective.set(node, node.id);
    const copy = pointwise(node.id, express(null, node.outputs[0].shape, [plain(value)]), node.outputs);
    steps.push(copy);
    for (const read of copy.inputs.map(memoryOf)) readers.set(read, [...(readers.get(read) ?? []), copy]);
  }
  return placed;
}

/** The tensor whose whole memory this is, looking through reshapes; null where only a part is meant. */
function wholeRoot(tensor: Tensor): Tensor | null {
  const { node } = tensor;
  if (is(node, 'slice')) return null;
  return is(node, 'reshape') || is(node, 'stopGradient') ? wholeRoot(node.inputs[0]) : tensor;
}

/** Whether every read of these versions by the step is element for element with its output `result`. */
export function readsElementwise(
  step: Step,
  versions: readonly (Tensor | undefined)[],
  result: Tensor,
): boolean {
  if (step.kind !== 'pointwise' && step.kind !== 'matmul') return false;
  const concerns = (tensor: Tensor) => versions.includes(memoryOf(tensor));
  return (
    !step.operands.some(concerns) &&
    step.inputs.every((input) => !concerns(input) || sameShape(input.shape, result.shape))
  );
}
