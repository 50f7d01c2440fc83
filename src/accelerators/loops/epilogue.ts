/** What follows a product and happens to its sums before they leave their registers. */
import type { Instruction, ValueId } from '../../tile/ir.ts';
import type { Address, IntOperand, IntReg, MemoryType, VecReg } from './ir.ts';
import { locateOp } from './memory.ts';
import type { LoadOp, StoreOp } from './nest.ts';
import { fromBlock, fromTile, Nest, readBy } from './nest.ts';
import type { Context } from './values.ts';

export interface ProductEpilogue {
  /** Where what it reads and writes begins, and its steps in bytes from row to row and from column to column. */
  readonly streams: readonly {
    readonly base: IntReg;
    readonly row: number;
    readonly column: number;
    readonly type: MemoryType;
  }[];
  /** A vector of the product's sums; `known` are other values that are in registers already. */
  readonly apply: (sum: VecReg, at: (stream: number) => Address, known: ReadonlyMap<ValueId, VecReg>) => void;
  /** The value that comes from a stream; undefined for one that is written. */
  readonly sourceOf: (stream: number) => ValueId | undefined;
}

type Access = Instruction & { readonly op: LoadOp | StoreOp };
const isAccess = (member: Instruction): member is Access =>
  member.op.op === 'load' || member.op.op === 'store';

/**
 * A group as the epilogue of `product`, or null where it cannot be: it reduces, or blocks may reach over an edge.
 * Defines its results, whose memory the epilogue fills, which is not that of `needed`: what later parts of the product
 * read.
 */
export function groupEpilogue(
  context: Context,
  shape: readonly number[],
  members: readonly Instruction[],
  outside: (id: ValueId) => boolean,
  product: ValueId,
  needed: readonly ValueId[],
): ProductEpilogue | null {
  const read = readBy(members);
  if (!read.has(product) || members.some(({ op }) => op.op === 'reduce')) return null;
  const accesses = members.flatMap((member) => (isAccess(member) ? [member] : []));
  const blocks = accesses.map(({ op }) => locateOp(context, op, shape));
  const whole = shape[1] % context.code.lanes === 0 && blocks.every(({ inside }) => inside === 1);
  if (accesses.length > 0 && !whole) return null;
  const made = new Set(members.flatMap(({ results }) => results));
  const given = [...read].filter((id) => !made.has(id) && id !== product);
  const nest = new Nest(context, shape, members);
  accesses.forEach(({ op, results }, index) => {
    if (op.op === 'load') nest.read(results[0], fromBlock(blocks[index]));
    else nest.write(op.value, fromBlock(blocks[index]));
  });
  for (const id of given) {
    const value = context.value(id);
    if (value.at === 'integer') nest.repeat(id, context.lanes(value, context.type(id).dtype) as VecReg);
    else if (value.at === 'scratch') nest.read(id, fromTile(context, value));
  }
  for (const { results } of members) {
    const [id] = results;
    if (id === undefined || !outside(id)) continue;
    const tile = context.resultTile(
      shape,
      given.filter((other) => !needed.includes(other)),
    );
    context.define(id, tile);
    nest.write(id, fromTile(context, tile));
  }
  return {
    streams: nest.streams.map(({ base, strides, type }) => ({
      base,
      row: strides[0],
      column: strides[1],
      type,
    })),
    apply: (sum, at, known) => nest.vector(at, new Map([...known, [product, sum]])),
    sourceOf: (stream) => nest.sourceOf(stream),
  };
}

/** Where each stream begins for the sums from a row on, and from a column, which counts those of `width` elements. */
export const streamsAt = (
  { code }: Context,
  { streams }: ProductEpilogue,
  row: IntOperand,
  column: IntOperand,
  width: number,
): IntReg[] =>
  streams.map(({ base, row: down, column: along }) =>
    code.pointer(base, code.int('add', code.int('mul', row, down), code.int('mul', column, along * width))),
  );

/** Hands sums, rows of vectors beside each other, to the epilogue; `corner`: where each stream begins for them. */
export function finish(
  { code }: Context,
  { streams, apply, sourceOf }: ProductEpilogue,
  corner: readonly IntReg[],
  sums: readonly (readonly VecReg[])[],
): void {
  sums.forEach((list, row) => {
    const at = (stream: number, vector: number) => ({
      base: corner[stream],
      displacement: streams[stream].row * row + streams[stream].column * code.lanes * vector,
    });
    // What a row repeats is fetched once for all its vectors.
    const known = new Map<ValueId, VecReg>();
    streams.forEach(({ column, type }, stream) => {
      const id = sourceOf(stream);
      if (column === 0 && id !== undefined) known.set(id, code.broadcast(at(stream, 0), type));
    });
    list.forEach((sum, vector) => {
      apply(sum, (stream) => at(stream, vector), known);
    });
  });
}
