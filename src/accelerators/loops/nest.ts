/** A group of instructions as one loop nest: every element passes through all of them in registers. */
import type { Instruction, Op, ValueId } from '../../tile/ir.ts';
import type { Address, HorizontalFn, IntOperand, IntReg, MemoryType, VecReg } from './ir.ts';
import { emitCast, emitMap } from './map.ts';
import { fromMemory, loadInto, locateOp, storeFrom, toMemory } from './memory.ts';
import { joining, PARTIALS } from './reduce.ts';
import type { Context, Stored } from './values.ts';
import { WRITTEN_OUT } from './values.ts';
import type { Block } from './views.ts';
import { elementBytes, viewedBlock } from './views.ts';

export type LoadOp = Extract<Op, { op: 'load' }>;
export type StoreOp = Extract<Op, { op: 'store' }>;
type ReduceOp = Extract<Op, { op: 'reduce' }>;

/** Memory that the nest steps through. Strides in bytes, one an axis. */
export interface Stream {
  readonly base: IntReg;
  readonly strides: readonly number[];
  readonly type: MemoryType;
  /** A view has no memory beyond its last element, and its bools are 0 or 1. */
  readonly inView: boolean;
}

export const fromTile = (context: Context, tile: Stored): Stream => ({
  base: context.pointer(tile),
  strides: tile.strides.map((stride) => 4 * stride),
  type: 'i32',
  inView: false,
});
export const fromBlock = ({ view, base, type }: Block): Stream => ({
  base,
  strides: view.strides.map((stride) => stride * elementBytes(type)),
  type,
  inView: true,
});

/** Joins axes that every stream steps through evenly; the last one stays as it is if `keepLast`. */
function joinAxes(
  shape: readonly number[],
  streams: readonly Stream[],
  keepLast: boolean,
): { readonly sizes: number[]; readonly strides: number[][] } {
  const sizes: number[] = [];
  const strides: number[][] = streams.map(() => []);
  shape.forEach((size, axis) => {
    const isLast = axis === shape.length - 1;
    if (size === 1 && !isLast) return;
    const previous = sizes.length - 1;
    const even = (list: readonly number[], s: number) => strides[s][previous] === list[axis] * size;
    if (
      previous >= 0 &&
      size > 1 &&
      !(isLast && keepLast) &&
      streams.every((stream, s) => even(stream.strides, s))
    ) {
      sizes[previous] *= size;
      for (const [s, stream] of streams.entries()) strides[s][previous] = stream.strides[axis];
    } else if (size === 1 && previous >= 0) return;
    else {
      sizes.push(size);
      for (const [s, stream] of streams.entries()) strides[s].push(size === 1 ? 0 : stream.strides[axis]);
    }
  });
  return { sizes, strides };
}

interface Reduction {
  readonly op: ReduceOp;
  readonly out: Stored;
  readonly fn: HorizontalFn;
  readonly neutral: number;
  readonly partials: VecReg[];
}

export class Nest {
  readonly #context: Context;
  readonly #shape: readonly number[];
  readonly #members: readonly Instruction[];
  /** Where a value that the nest reads comes from, and where one that it makes goes to. */
  readonly #sources = new Map<ValueId, Stream>();
  readonly #targets: { readonly id: ValueId; readonly to: Stream }[] = [];
  readonly #reductions: Reduction[] = [];
  /** Values that are the same for all elements. */
  readonly #everywhere = new Map<ValueId, VecReg>();

  constructor(context: Context, shape: readonly number[], members: readonly Instruction[]) {
    this.#context = context;
    this.#shape = shape;
    this.#members = members;
  }

  read(id: ValueId, from: Stream): void {
    this.#sources.set(id, from);
  }

  write(id: ValueId, to: Stream): void {
    this.#targets.push({ id, to });
  }

  repeat(id: ValueId, lanes: VecReg): void {
    this.#everywhere.set(id, lanes);
  }

  reduce(op: ReduceOp, out: Stored): void {
    const { fn, neutral } = joining(op.fn, this.#context.type(op.arg).dtype);
    this.#reductions.push({ op, out, fn, neutral, partials: [] });
  }

  /** All memory that a vector of the nest touches, in the order in which `vector` asks for it. */
  get streams(): readonly Stream[] {
    return [...this.#sources.values(), ...this.#targets.map(({ to }) => to)];
  }

  /** One whole vector; `known` are values that are in registers already. For nests without reductions. */
  vector(at: (stream: number) => Address, known: ReadonlyMap<ValueId, VecReg>): void {
    const all = new Map([...this.#everywhere, ...known]);
    this.#vector([...this.#sources.keys()], this.streams, at, all, 0, this.#context.code.lanes);
  }

  /** The value that comes from a stream. */
  sourceOf(stream: number): ValueId | undefined {
    return [...this.#sources.keys()][stream];
  }

  emit(): void {
    const context = this.#context;
    const { code } = context;
    const ids = [...this.#sources.keys()];
    const outs = this.#reductions.map(({ out }) => fromTile(context, out));
    const streams = [...this.#sources.values(), ...this.#targets.map(({ to }) => to), ...outs];
    const { sizes, strides } = joinAxes(this.#shape, streams, this.#reductions.length > 0);
    const columns = sizes[sizes.length - 1];
    const inner = strides.map((list) => list[list.length - 1]);
    context.nest(
      sizes.slice(0, -1),
      streams.map(({ base }, s) => ({ base, strides: strides[s].slice(0, -1) })),
      (pointers) => {
        const repeated = new Map(this.#everywhere);
        ids.forEach((id, s) => {
          if (inner[s] === 0 && columns > 1)
            repeated.set(id, code.broadcast({ base: pointers[s], displacement: 0 }, streams[s].type));
        });
        this.#row(ids, streams, pointers, repeated, columns);
        this.#reductions.forEach((reduction, r) => {
          const to = pointers[pointers.length - this.#reductions.length + r];
          code.storeFirst(this.#joined(reduction), { base: to, displacement: 0 });
        });
      },
    );
  }

  /** All vectors of a row; `count` lanes of the last one lie in the row. */
  #row(
    ids: readonly ValueId[],
    streams: readonly Stream[],
    pointers: readonly IntReg[],
    repeated: ReadonlyMap<ValueId, VecReg>,
    columns: number,
  ): void {
    const { code } = this.#context;
    const { lanes } = code;
    const group = this.#reductions.length > 0 ? PARTIALS / lanes : 1;
    for (const reduction of this.#reductions)
      reduction.partials.splice(
        0,
        group,
        ...Array.from({ length: group }, () => {
          const partial = code.newVec();
          code.move(partial, code.bits(reduction.neutral));
          return partial;
        }),
      );
    const vector = (start: IntOperand, k: number, count: number) => {
      const at = (s: number): Address => {
        const bytes = elementBytes(streams[s].type);
        return typeof start === 'number'
          ? { base: pointers[s], displacement: bytes * (start + k * lanes) }
          : { base: pointers[s], index: start, scale: bytes as 1 | 2 | 4, displacement: bytes * k * lanes };
      };
      this.#vector(ids, streams, at, repeated, k, count);
    };
    const chunk = group * lanes;
    const whole = columns - (columns % chunk);
    const full = (start: IntOperand) => {
      for (let k = 0; k < group; k++) vector(start, k, lanes);
    };
    code.repeat(0, whole, chunk, WRITTEN_OUT, full);
    for (let k = 0; whole + k * lanes < columns; k++)
      vector(whole, k, Math.min(lanes, columns - whole - k * lanes));
  }

  #vector(
    ids: readonly ValueId[],
    streams: readonly Stream[],
    at: (stream: number) => Address,
    repeated: ReadonlyMap<ValueId, VecReg>,
    partial: number,
    count: number,
  ): void {
    const context = this.#context;
    const { code } = context;
    const values = new Map<ValueId, VecReg>(repeated);
    const value = (id: ValueId): VecReg => {
      const known = values.get(id);
      if (known !== undefined) return known;
      const s = ids.indexOf(id);
      const { dtype } = context.type(id);
      let lanes: VecReg;
      if (s < 0) lanes = context.lanes(context.value(id), dtype) as VecReg;
      else {
        const { type, inView } = streams[s];
        const part = count < code.lanes && inView;
        lanes = part ? code.loadPart(at(s), count, type) : code.load(at(s), type);
        if (inView) lanes = fromMemory(context, lanes, dtype);
      }
      values.set(id, lanes);
      return lanes;
    };
    for (const { op, results } of this.#members) {
      if (op.op === 'map') {
        const { dtype } = context.type(op.args[op.args.length - 1]);
        values.set(
          results[0],
          emitMap(code, op.fn, op.args.map(value), dtype, context.constantBits(op.args)),
        );
      } else if (op.op === 'cast')
        values.set(
          results[0],
          emitCast(code, value(op.arg), context.type(op.arg).dtype, context.type(results[0]).dtype),
        );
      else if (op.op === 'load') value(results[0]);
    }
    for (const { op, fn, neutral, partials } of this.#reductions) {
      const lanes = value(op.arg);
      const counted =
        count === code.lanes
          ? lanes
          : code.select(code.bin('ilt', code.iota(), code.bits(count)), lanes, code.bits(neutral));
      code.emit({ o: 'vbin', dst: partials[partial], fn, a: partials[partial], b: counted });
    }
    // A target may be the memory of a source that is read for the last time: all is read before anything is written.
    for (const { id } of this.#targets) value(id);
    this.#targets.forEach(({ id, to }, t) => {
      const s = ids.length + t;
      const lanes = to.inView ? toMemory(context, value(id), context.type(id).dtype) : value(id);
      if (count < code.lanes && to.inView) code.storePart(lanes, at(s), count, to.type);
      else code.store(lanes, at(s), to.type);
    });
  }

  #joined({ fn, partials }: Reduction): VecReg {
    const { code } = this.#context;
    let rest: readonly VecReg[] = partials;
    while (rest.length > 1) {
      const half = rest.length / 2;
      rest = rest.slice(0, half).map((partial, i) => code.bin(fn, partial, rest[i + half]));
    }
    return code.horizontal(fn, rest[0]);
  }
}

/** Values that the members read, whoever makes them. */
export function readBy(members: readonly Instruction[]): ReadonlySet<ValueId> {
  const read = new Set<ValueId>();
  for (const { op } of members) {
    if (op.op === 'map') for (const id of op.args) read.add(id);
    else if (op.op === 'cast') read.add(op.arg);
    else if (op.op === 'store') read.add(op.value);
  }
  return read;
}

/** Lowers a group. `outside` says which results are read after it. */
export function lowerGroup(
  context: Context,
  shape: readonly number[],
  members: readonly Instruction[],
  outside: (id: ValueId) => boolean,
): void {
  const { code } = context;
  const made = new Set(members.flatMap(({ results }) => results));
  const given = [...readBy(members)].filter((id) => !made.has(id));
  const loads = members.filter((m): m is Instruction & { op: LoadOp } => m.op.op === 'load');
  const stores = members.filter((m): m is Instruction & { op: StoreOp } => m.op.op === 'store');
  const reduces = members.filter((m): m is Instruction & { op: ReduceOp } => m.op.op === 'reduce');
  const blocks = new Map<Instruction, Block>();
  let inside: IntOperand = 1;
  for (const member of [...loads, ...stores]) {
    const block = locateOp(context, member.op, shape);
    blocks.set(member, block);
    inside =
      inside === 1 ? block.inside : block.inside === 1 ? inside : code.int('and', inside, block.inside);
  }

  const reduced = new Map<Instruction, Stored>();
  const kept = new Map<ValueId, Stored>();
  const sources = given.flatMap((id) => {
    const value = context.value(id);
    return value.at === 'scratch' ? [{ id, tile: value }] : [];
  });
  for (const { op, results } of members) {
    const [id] = results;
    if (op.op === 'store' || op.op === 'reduce' || !outside(id)) continue;
    // Where a block reaches over an edge, it is loaded before anything else is read.
    const tile = op.op === 'load' ? context.newTile(shape) : context.resultTile(shape, given);
    context.define(id, tile);
    kept.set(id, tile);
  }
  for (const member of reduces) {
    const tile = context.newTile(context.type(member.results[0]).shape);
    context.define(member.results[0], tile);
    reduced.set(member, tile);
  }
  const nest = (prepare: (nest: Nest) => void) => {
    const built = new Nest(context, shape, members);
    for (const id of given) {
      const value = context.value(id);
      if (value.at === 'integer') built.repeat(id, context.lanes(value, context.type(id).dtype) as VecReg);
    }
    for (const { id, tile } of sources) built.read(id, fromTile(context, tile));
    for (const [id, tile] of kept) built.write(id, fromTile(context, tile));
    for (const [member, tile] of reduced) built.reduce(member.op as ReduceOp, tile);
    prepare(built);
    built.emit();
  };
  code.if(
    inside,
    () =>
      nest((built) => {
        for (const member of loads) built.read(member.results[0], fromBlock(blocks.get(member) as Block));
        for (const member of stores) built.write(member.op.value, fromBlock(blocks.get(member) as Block));
      }),
    () => {
      const temporaries: Stored[] = [];
      const temporary = (): Stored => {
        const tile = context.newTile(shape);
        temporaries.push(tile);
        return tile;
      };
      const loaded = loads.map((member) => {
        const tile = kept.get(member.results[0]) ?? temporary();
        const block = blocks.get(member) as Block;
        const { dtype } = context.type(member.results[0]);
        loadInto(context, viewedBlock(block, member.op.fill, dtype, shape), tile);
        return { id: member.results[0], tile };
      });
      const stored = stores.map((member) => ({ member, tile: kept.get(member.op.value) ?? temporary() }));
      nest((built) => {
        for (const { id, tile } of loaded) built.read(id, fromTile(context, tile));
        for (const { member, tile } of stored)
          if (!kept.has(member.op.value)) built.write(member.op.value, fromTile(context, tile));
      });
      for (const { member, tile } of stored) storeFrom(context, blocks.get(member) as Block, tile);
      for (const { buffer } of temporaries) context.reclaim(buffer);
    },
  );
}
