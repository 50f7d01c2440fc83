/** Kernels that carry out several nodes which follow each other, instead of one kernel each. */
import type { Storage } from '../kernels/common.ts';
import { rmsNorm } from '../kernels/norm.ts';
import { normedRope, queryKeyValue } from '../kernels/qknorm.ts';
import { quantizedBlockRows, quantizedMatmuls } from '../kernels/quantized.ts';
import { quantizeNormedRows } from '../kernels/quantized-rows.ts';
import type { Schedule } from '../kernels/schedule.ts';
import type { Kernel } from '../tile/ir.ts';
import { normOptions } from './emit.ts';
import type { Node } from './primitives.ts';
import { is, isLeaf } from './primitives.ts';
import type { Tensor } from './tensor.ts';
import { memoryOf } from './tensor.ts';
import type { Uses } from './uses.ts';
import { plain } from './uses.ts';

export interface Combination {
  readonly kernel: Kernel;
  /** What the kernel's first views are bound to. */
  readonly operands: readonly Tensor[];
  /** What the others are bound to. */
  readonly outputs: readonly Tensor[];
  /** Other nodes that need no kernel of their own. */
  readonly absorbed: readonly Node[];
}

const storage = (tensor: Tensor) => tensor.dtype as Storage;

/**
 * A kernel at the place of `node` for it and nodes before it whose results nothing else needs by then; null where there is
 * none. `isFree`: whether a node of elementwise work is in no other kernel.
 */
export function combine(node: Node, uses: Uses, isFree: (node: Node) => boolean): Combination | null {
  if (is(node, 'cast')) return roundedNorm(node, uses);
  if (is(node, 'quantizeRows')) return quantizedNorm(node, uses);
  if (is(node, 'cacheWrite')) return cachedHeads(node, uses, isFree);
  if (!is(node, 'rope')) return null;
  const rotation = normedRotation(node, uses, node.id);
  if (rotation === null) return null;
  const { options, x, weight, tables, absorbed } = rotation;
  return { kernel: normedRope(options), operands: [x, weight, ...tables], outputs: node.outputs, absorbed };
}

/** The node that computes `input`, where nobody else needs that result. */
function onlyFor(node: Node, input: Tensor, uses: Uses): Node | null {
  const tensor = plain(input);
  const alone = !uses.isOutput(tensor) && uses.of(tensor).every((use) => use.node === node && use.direct);
  return alone ? tensor.node : null;
}

/** A norm that stores its result rounded. */
function roundedNorm(node: Node<'cast'>, uses: Uses): Combination | null {
  const norm = onlyFor(node, node.inputs[0], uses);
  if (norm === null || !is(norm, 'rmsNorm') || !uses.movable(norm, node.id)) return null;
  if (norm.attributes.type !== 'f32' || node.attributes.dtype !== 'bf16') return null;
  const [x, weight] = norm.inputs;
  return {
    kernel: rmsNorm({ ...normOptions(x, weight, norm.attributes.eps), yType: 'bf16' }),
    operands: [x, weight].map(plain),
    outputs: node.outputs,
    absorbed: [norm],
  };
}

/** A norm whose result is quantized. */
function quantizedNorm(node: Node<'quantizeRows'>, uses: Uses): Combination | null {
  const norm = onlyFor(node, node.inputs[0], uses);
  if (norm === null || !is(norm, 'rmsNorm') || !uses.movable(norm, node.id)) return null;
  const [x, weight] = norm.inputs;
  const options = normOptions(x, weight, norm.attributes.eps);
  // A norm of parts of a row, or rounded, is something else.
  if (norm.attributes.type !== 'f32' || options.rows !== x.shape[0]) return null;
  return {
    kernel: quantizeNormedRows({ ...options, group: node.attributes.group }),
    operands: [x, weight].map(plain),
    outputs: node.outputs,
    absorbed: [norm],
  };
}

/** Matrices of one kernel: devices limit how many memory blocks a kernel may be bound to. */
const MOST_MATRICES = 3;

/** Products that take the same quantized rows with different matrices: one kernel, at the place of `first`. */
export function productsOfRows(
  nodes: readonly Node[],
  schedule: Schedule,
): readonly (Combination & { readonly first: Node })[] {
  const sets = new Map<Tensor, Node<'quantizedMatmul'>[][]>();
  for (const node of nodes) {
    if (!is(node, 'quantizedMatmul')) continue;
    // Matrices from outside are there at any place.
    if (!node.inputs.slice(3).every((input) => isLeaf(memoryOf(input).node))) continue;
    const [rows] = node.inputs.map(plain);
    const known = sets.get(rows) ?? [];
    sets.set(rows, known);
    const last = known.at(-1);
    const joins = last !== undefined && last.length < MOST_MATRICES && sameRows(node, last[0]);
    if (joins) last.push(node);
    else known.push([node]);
  }
  return [...sets.values()].flat().flatMap((set) => {
    const [first, ...others] = set;
    if (others.length === 0) return [];
    const { type } = first.attributes;
    const [m, across] = first.inputs[0].shape;
    const rows = first.inputs.slice(0, 3);
    const columns = set.map(({ attributes }) => attributes.columns);
    return {
      first,
      kernel: quantizedMatmuls({ type, m, k: 4 * across, columns, blockRows: quantizedBlockRows(schedule) }),
      operands: [...rows, ...set.flatMap(({ inputs }) => inputs.slice(3))].map(plain),
      outputs: set.flatMap(({ outputs }) => outputs),
      absorbed: others,
    };
  });
}

const sameRows = (a: Node<'quantizedMatmul'>, b: Node<'quantizedMatmul'>) =>
  a.attributes.type === b.attributes.type &&
  [0, 1, 2].every((index) => plain(a.inputs[index]) === plain(b.inputs[index]));

/** A rotation of what was normalised a head at a time, to be computed at place `later`. */
function normedRotation(node: Node<'rope'>, uses: Uses, later: number) {
  const [normed, positions, cos, sin] = node.inputs;
  const norm = onlyFor(node, normed, uses);
  if (norm === null || !is(norm, 'rmsNorm') || !uses.movable(norm, later)) return null;
  const [x, weight] = norm.inputs;
  const { headDim, inverse } = node.attributes;
  if (inverse || weight.shape[0] !== headDim || weight.dtype !== 'f32') return null;
  return {
    options: {
      tokens: x.shape[0],
      heads: x.shape[1] / headDim,
      headDim,
      maxPositions: cos.shape[0],
      eps: norm.attributes.eps,
      xType: storage(x),
      type: norm.attributes.type,
      yType: node.attributes.type,
    },
    x: plain(x),
    weight: plain(weight),
    tables: [positions, cos, sin].map(plain),
    absorbed: [norm] as readonly Node[],
  };
}

/** Keys normalised and rotated into the cache, together with the queries of the attention that reads it. */
function cachedHeads(
  node: Node<'cacheWrite'>,
  uses: Uses,
  isFree: (node: Node) => boolean,
): Combination | null {
  const [, values, newKeys, newValues, slots, positions] = node.inputs;
  const readers = uses.of(node.outputs[0]).filter(({ node: reader }) => is(reader, 'attention'));
  if (readers.length !== 1) return null;
  const attention = readers[0].node;
  const rotated = [attention.inputs[0], newKeys].map((tensor, index) => {
    const rope = onlyFor(index === 0 ? attention : node, tensor, uses);
    if (rope === null || !is(rope, 'rope') || rope.id > node.id || !uses.movable(rope, node.id)) return null;
    const rotation = normedRotation(rope, uses, node.id);
    return rotation === null ? null : { ...rotation, rope };
  });
  const [query, key] = rotated;
  if (query === null || key === null) return null;
  // A token's place in the cache is its position in the sequence.
  const same =
    query.tables[0] === plain(positions) &&
    query.tables.every((table, index) => table === key.tables[index]) &&
    query.options.tokens === key.options.tokens &&
    query.options.headDim === key.options.headDim &&
    query.options.xType === key.options.xType &&
    query.options.type === key.options.type &&
    query.options.yType === key.options.yType &&
    query.options.yType === newValues.dtype;
  if (!same) return null;
  // Values that are rounded for the cache alone are rounded on their way into it.
  const rounding = onlyFor(node, newValues, uses);
  const rounded =
    rounding !== null &&
    is(rounding, 'cast') &&
    newValues.dtype === values.dtype &&
    isFree(rounding) &&
    uses.movable(rounding, node.id);
  const v = rounded ? rounding.inputs[0] : newValues;
  const [slotCount, kvHeads, maxLength] = values.shape;
  return {
    kernel: queryKeyValue({
      ...query.options,
      kvHeads,
      keyEps: key.options.eps,
      slots: slotCount,
      maxLength,
      vType: storage(v),
      cacheType: storage(values),
    }),
    operands: [query.x, query.weight, key.x, key.weight, ...query.tables, ...[v, slots].map(plain)],
    outputs: [query.rope.outputs[0], ...node.outputs],
    absorbed: [
      ...[query, key].flatMap(({ rope, absorbed }) => [rope, ...absorbed]),
      ...(rounded ? [rounding] : []),
    ],
  };
}
