/** Which values need no tile of their own: loads where products read the view, rows that are only turned. */
import type { Instruction, Kernel, MapFn, Op, ValueId } from '../../tile/ir.ts';
import { operands } from '../../tile/ir.ts';
import { castIsFree } from './map.ts';
import { joinsPairs } from './views.ts';

const WRITES: ReadonlySet<string> = new Set(['store', 'scatter', 'atomicAdd']);

function writes({ op }: Instruction): boolean {
  return WRITES.has(op.op) || (op.op === 'loop' && op.body.some(writes));
}

const large = (shape: readonly number[]): string => shape.filter((size) => size > 1).join();

/** Functions that products apply to elements of b as they read them: cheap ones, which take integers out of words. */
const UNPACKING: ReadonlySet<MapFn> = new Set<MapFn>(['and', 'or', 'xor', 'shl', 'shr']);

/** Whether an instruction takes integers out of words: a function of them and a constant. */
function unpacks(
  kernel: Kernel,
  constants: ReadonlySet<ValueId>,
  { op }: Instruction,
  word: ValueId,
): boolean {
  const { dtype } = kernel.types[word];
  if (op.op !== 'map' || !UNPACKING.has(op.fn) || (dtype !== 'i32' && dtype !== 'u32')) return false;
  return op.args[0] === word && constants.has(op.args[1]);
}

/** Whether a value goes on to be an operand of products as it is, with unit axes and float types changed at most. */
function passes(kernel: Kernel, { op, results }: Instruction): boolean {
  if (op.op !== 'reshape' && op.op !== 'cast') return false;
  const [from, to] = [kernel.types[op.arg], kernel.types[results[0]]];
  return to.shape.length === 2 && large(from.shape) === large(to.shape) && castIsFree(from.dtype, to.dtype);
}

/** Whether a block of two-byte elements lies in its view in pairs of rows, and an instruction makes rows of it. */
function unpairs(kernel: Kernel, load: Op, { op, results }: Instruction): boolean {
  if (op.op !== 'reshape' || load.op !== 'load') return false;
  const { dtype, strides } = kernel.views[load.view];
  const { shape } = kernel.types[op.arg];
  const [, pair, last] = [...shape.keys()].filter((axis) => shape[axis] > 1);
  if (dtype !== 'bf16' || strides[pair] !== 1 || strides[last] !== 2) return false;
  return joinsPairs(shape, kernel.types[results[0]].shape);
}

/**
 * The results of loads whose only readers are operands a and b of products in the same block, with no write to memory
 * in between, and what reshapes and casts make of them on the way. Operands b that are not transposed may also be taken
 * out of words, or lie in pairs of rows.
 */
export function deferrable(kernel: Kernel): ReadonlySet<ValueId> {
  const found = new Set<ValueId>();
  const constants = new Set<ValueId>();
  const block = (body: readonly Instruction[], yields: readonly ValueId[]): void => {
    const readers = new Map<ValueId, number[]>();
    const read = (id: ValueId, position: number) => {
      const list = readers.get(id);
      if (list === undefined) readers.set(id, [position]);
      else list.push(position);
    };
    const inner = (list: readonly Instruction[]): void => {
      for (const { op } of list) {
        for (const id of operands(op)) read(id, -1);
        if (op.op !== 'loop') continue;
        for (const id of op.yields) read(id, -1);
        inner(op.body);
      }
    };
    body.forEach(({ op, results }, position) => {
      if (op.op === 'constant') constants.add(results[0]);
      for (const id of operands(op)) read(id, position);
      if (op.op !== 'loop') return;
      for (const id of op.yields) read(id, -1);
      inner(op.body);
      block(op.body, op.yields);
    });
    for (const id of yields) read(id, -1);

    /** The position of the last product that reads `id`, or -1 where something else does; `chain` collects values. */
    const lastProduct = (load: Op, id: ValueId, chain: ValueId[], onlyB = false): number => {
      chain.push(id);
      let last = -1;
      for (const position of readers.get(id) ?? []) {
        if (position < 0) return -1;
        const { op, results } = body[position];
        const isOperand = op.op === 'dot' && op.acc !== id && !(onlyB && (op.a === id || op.transB));
        const forB = unpacks(kernel, constants, body[position], id) || unpairs(kernel, load, body[position]);
        const next = isOperand
          ? position
          : forB || passes(kernel, body[position])
            ? lastProduct(load, results[0], chain, onlyB || forB)
            : -1;
        if (next < 0) return -1;
        last = Math.max(last, next);
      }
      return last;
    };
    body.forEach(({ op, results }, position) => {
      if (op.op !== 'load') return;
      const chain: ValueId[] = [];
      const last = lastProduct(op, results[0], chain);
      if (last >= 0 && !body.slice(position, last).some(writes)) for (const id of chain) found.add(id);
    });
  };
  block(kernel.body, []);
  return found;
}

/** The results of reshapes to matrices that nothing but transpositions reads: their rows may lie without gaps. */
export function turnedOnly(kernel: Kernel): ReadonlySet<ValueId> {
  const matrices = new Set<ValueId>();
  const others = new Set<ValueId>();
  const block = (body: readonly Instruction[]): void => {
    for (const { op, results } of body) {
      if (op.op === 'reshape' && kernel.types[results[0]].shape.length === 2) matrices.add(results[0]);
      if (op.op !== 'transpose') for (const id of operands(op)) others.add(id);
      if (op.op !== 'loop') continue;
      for (const id of op.yields) others.add(id);
      block(op.body);
    }
  };
  block(kernel.body);
  return new Set([...matrices].filter((id) => !others.has(id)));
}
