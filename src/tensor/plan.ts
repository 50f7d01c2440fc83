/** Which memory every tensor of a fused graph occupies. */
import { DTYPES } from '../numerics/dtype.ts';
import { elementCount } from '../tile/ir.ts';
import type { KernelCall } from './emit.ts';
import { Scratch } from './emit.ts';
import type { Fused, Step } from './fuse.ts';
import { readsElementwise } from './fuse.ts';
import { align, placeBlocks } from './memory.ts';
import { is } from './primitives.ts';
import type { Tensor } from './tensor.ts';
import { leafOf, memoryOf } from './tensor.ts';
import { typeBytes } from './types.ts';

export type Region =
  | { readonly kind: 'arena' }
  /** Inputs, outputs, fixed data: lives as long as the program. */
  | { readonly kind: 'io' }
  | { readonly kind: 'store'; readonly name: string };

export interface Place {
  readonly region: Region;
  readonly offset: number;
}

export interface Plan {
  /** Where a tensor's memory begins. */
  readonly place: (tensor: Tensor) => Place;
  readonly scratch: (scratch: Scratch) => Place;
  readonly arenaBytes: number;
  readonly ioBytes: number;
  readonly unsharedBytes: number;
}

/** A place in the arena, used by one value or by several that are computed in place of each other. */
interface Slot {
  readonly bytes: number;
  readonly first: number;
  last: number;
}

const ARENA: Region = { kind: 'arena' };
const IO: Region = { kind: 'io' };

/** `calls[i]` are the kernels of step i. */
export function planMemory({ steps, uses, placed }: Fused, calls: readonly (readonly KernelCall[])[]): Plan {
  const lastUse = new Map<Tensor, number>();
  steps.forEach((step, index) => {
    for (const read of [...step.operands, ...step.inputs]) lastUse.set(memoryOf(read), index);
  });

  const fixed = new Map<Tensor, Place>();
  let ioBytes = 0;
  const inIo = (tensor: Tensor) => {
    fixed.set(tensor, { region: IO, offset: ioBytes });
    ioBytes += align(typeBytes(tensor.type));
  };
  for (const node of uses.live) {
    const counted = (is(node, 'constant') || is(node, 'iota')) && uses.needsMemory(node);
    if (is(node, 'input') || is(node, 'literal') || counted) inIo(node.outputs[0]);
  }

  const slots: Slot[] = [];
  const slotOf = new Map<Tensor | Scratch, Slot>();
  let unsharedBytes = 0;
  const open = (owner: Tensor | Scratch, first: number, last: number) => {
    const slot: Slot = { bytes: typeBytes(owner.type), first, last };
    slots.push(slot);
    slotOf.set(owner, slot);
    unsharedBytes += align(slot.bytes);
  };
  steps.forEach((step, index) => {
    for (const output of step.outputs) {
      const target = placed.get(output);
      const leaf = leafOf(target ?? output);
      if (leaf !== null) continue;
      if (uses.isOutput(output)) {
        inIo(output);
        continue;
      }
      const last = Math.max(index, lastUse.get(output) ?? index);
      const reused = replaceable(step, index, output, slotOf, lastUse);
      if (reused === null) open(output, index, last);
      else {
        slotOf.set(output, reused);
        reused.last = last;
        unsharedBytes += align(reused.bytes);
      }
    }
    for (const { operands } of calls[index])
      for (const operand of operands)
        if (operand instanceof Scratch && !slotOf.has(operand)) open(operand, index, index);
  });
  const { offsets, bytes } = placeBlocks(slots);
  const offsetOf = new Map(slots.map((slot, index) => [slot, offsets[index]]));

  const scratch = (owner: Tensor | Scratch): Place => ({
    region: ARENA,
    offset: offsetOf.get(slotOf.get(owner) as Slot) as number,
  });
  const place = (tensor: Tensor): Place => {
    const { node } = tensor;
    if (is(node, 'reshape') || is(node, 'stopGradient')) return place(node.inputs[0]);
    if (is(node, 'slice')) {
      const base = place(node.inputs[0]);
      const row = elementCount(tensor.shape.slice(1));
      return {
        region: base.region,
        offset: base.offset + (node.attributes.start * row * DTYPES[tensor.dtype].bits) / 8,
      };
    }
    const leaf = leafOf(placed.get(tensor) ?? tensor);
    if (leaf !== null && (is(leaf.node, 'state') || is(leaf.node, 'parameter')))
      return { region: { kind: 'store', name: leaf.node.attributes.name }, offset: 0 };
    const known = fixed.get(tensor);
    if (known !== undefined) return known;
    if (!slotOf.has(tensor))
      throw new Error(`the result of '${node.primitive}' (node ${node.id}) has no memory`);
    return scratch(tensor);
  };
  return { place, scratch, arenaBytes: bytes, ioBytes, unsharedBytes };
}

/** The slot of an input that the step may overwrite with `output`: read element for element, and never again. */
function replaceable(
  step: Step,
  index: number,
  output: Tensor,
  slotOf: ReadonlyMap<Tensor | Scratch, Slot>,
  lastUse: ReadonlyMap<Tensor, number>,
): Slot | null {
  for (const input of step.inputs) {
    const root = memoryOf(input);
    const slot = slotOf.get(root);
    if (slot === undefined || slot.last !== index || lastUse.get(root) !== index) continue;
    const same =
      DTYPES[root.dtype].bits === DTYPES[output.dtype].bits && slot.bytes === typeBytes(output.type);
    if (same && typeBytes(root.type) === slot.bytes && readsElementwise(step, [root], output)) return slot;
  }
  return null;
}
