/** Kernels that carry out several nodes which follow each other, instead of one kernel each. */
import type { Storage } from '../kernels/common.ts';
import { normedCacheWrite, normedRope } from '../kernels/qknorm.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Node } from './primitives.ts';
import { is } from './primitives.ts';
import type { Tensor } from './tensor.ts';
import type { Uses } from './uses.ts';
import { plain } from './uses.ts';

export interface Combination {
  readonly kernel: Kernel;
  /** What the kernel's first views are bound to; the others are the last node's outputs. */
  readonly operands: readonly Tensor[];
  /** Nodes before the last one that need no kernel of their own. */
  readonly absorbed: readonly Node[];
}

const storage = (tensor: Tensor) => tensor.dtype as Storage;

/** The kernel for `node` and those before it whose results only it needs; null where there is none. */
export function combine(node: Node, uses: Uses): Combination | null {
  if (is(node, 'rope')) {
    const rotary = normedRotation(node, uses, node.id);
    if (rotary === null) return null;
    return { kernel: normedRope(rotary.options), operands: rotary.operands, absorbed: rotary.absorbed };
  }
  if (!is(node, 'cacheWrite')) return null;
  const [keys, , newKeys, newValues, slots, positions] = node.inputs;
  const rotation = onlyFor(node, newKeys, uses);
  if (rotation === null || !is(rotation, 'rope')) return null;
  const rotary = normedRotation(rotation, uses, node.id);
  if (rotary === null || !uses.movable(rotation, node.id) || newValues.dtype !== newKeys.dtype) return null;
  const [slotCount, , maxLength] = keys.shape;
  return {
    kernel: normedCacheWrite({ ...rotary.options, slots: slotCount, maxLength, cacheType: storage(keys) }),
    operands: [...rotary.operands, ...[newValues, slots, positions].map(plain)],
    absorbed: [rotation, ...rotary.absorbed],
  };
}

/** The node that computes `input`, where nobody else needs that result. */
function onlyFor(node: Node, input: Tensor, uses: Uses): Node | null {
  const tensor = plain(input);
  const alone = !uses.isOutput(tensor) && uses.of(tensor).every((use) => use.node === node && use.direct);
  return alone ? tensor.node : null;
}

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
    },
    operands: [x, weight, positions, cos, sin].map(plain),
    absorbed: [norm],
  };
}
