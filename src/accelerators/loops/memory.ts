/** load, store, gather and scatter: blocks of views to and from row-major scratch. */
import type { DType } from '../../numerics/dtype.ts';
import { byteLength } from '../../numerics/dtype.ts';
import type { Op, ValueId } from '../../tile/ir.ts';
import { elementCount } from '../../tile/ir.ts';
import type { Bounds } from './bounds.ts';
import { floatBits } from './code.ts';
import type { Address, IntOperand, IntReg, MemoryType, VecReg } from './ir.ts';
import { AT_ONCE, fillRow } from './rows.ts';
import type { Context, Stored } from './values.ts';
import type { Block, Viewed } from './views.ts';
import { viewedBlock } from './views.ts';

const MEMORY: { readonly [D in DType]?: MemoryType } = {
  f32: 'f32',
  bf16: 'bf16',
  f16: 'f16',
  i32: 'i32',
  u32: 'u32',
  i8: 'i8',
  bool: 'u8',
};

/** The element types this lowering reads and writes. */
export const isStorable = (dtype: DType): boolean => MEMORY[dtype] !== undefined;

/** A bool's lanes have all bits set or none; its byte is 0 or 1. */
export function fromMemory(context: Context, lanes: VecReg, dtype: DType): VecReg {
  if (dtype !== 'bool') return lanes;
  return context.code.un('not', context.code.bin('ieq', lanes, context.code.bits(0)));
}
export function toMemory(context: Context, lanes: VecReg, dtype: DType): VecReg {
  return dtype === 'bool' ? context.code.bin('and', lanes, context.code.bits(1)) : lanes;
}

function range(
  context: Context,
  offset: IntOperand,
  size: number,
  limit: IntOperand,
  bounds: Bounds | undefined,
): readonly [IntOperand, IntOperand] {
  const { code } = context;
  const fits = typeof limit === 'number' && bounds !== undefined && bounds[0] >= 0;
  if (fits && bounds[1] + size <= limit) return [0, size];
  // Offsets and limits far outside must not overflow 32-bit registers.
  const from = code.int('max', offset, -(2 ** 30));
  const end = code.int('sub', code.int('max', limit, 0), from);
  return [code.int('max', code.int('sub', 0, from), 0), code.int('min', end, size)];
}

function locate(
  context: Context,
  viewIndex: number,
  shape: readonly number[],
  offsets: readonly IntOperand[],
  limits: readonly (IntOperand | null)[],
  bounds: readonly (Bounds | undefined)[] = [],
): Block {
  const { code } = context;
  const view = context.kernel.views[viewIndex];
  const ranges = shape.map((size, axis) => {
    const bound = view.shape[axis];
    const limit = limits[axis];
    return range(
      context,
      offsets[axis],
      size,
      limit === null ? bound : code.int('min', limit, bound),
      bounds[axis],
    );
  });
  const base = code.newInt();
  code.emit({ o: 'viewBase', dst: base, index: viewIndex });
  let start: IntOperand = 0;
  let inside: IntOperand = 1;
  shape.forEach((size, axis) => {
    const scaled = code.int('mul', offsets[axis], view.strides[axis] * byteLength(view.dtype, 1));
    start = code.int('add', start, scaled);
    const [begin, end] = ranges[axis];
    for (const fits of [code.int('eq', begin, 0), code.int('eq', end, size)])
      inside = inside === 1 ? fits : fits === 1 ? inside : code.int('and', inside, fits);
  });
  return {
    view,
    shape,
    type: MEMORY[view.dtype] as MemoryType,
    base: code.pointer(base, start),
    ranges,
    inside,
  };
}

type Move = (view: Address, scratch: Address, count: IntOperand | null, single: boolean) => void;

/** Walks the part of a block within `ranges` row by row; `move` handles a vector, `count` lanes of it, or one element. */
function walk(
  context: Context,
  block: Block,
  scratch: { readonly base: IntReg; readonly strides: readonly number[] },
  ranges: Block['ranges'],
  move: Move,
): void {
  const { code } = context;
  const { view, shape, base } = block;
  const bytes = byteLength(view.dtype, 1);
  let last = shape.length - 1;
  while (last > 0 && shape[last] === 1) last--;
  const order = [...shape.keys()].filter((axis) => axis !== last);
  const step = view.strides[last] * bytes;
  const scratchStep = 4 * scratch.strides[last];
  context.nest(
    order.map((axis) => shape[axis]),
    [
      { base, strides: order.map((axis) => view.strides[axis] * bytes) },
      { base: scratch.base, strides: order.map((axis) => 4 * scratch.strides[axis]) },
    ],
    ([from, to]) => {
      const [begin, end] = ranges[last];
      const at = (pointer: IntReg, index: IntOperand, stride: number): Address => ({
        base: code.pointer(pointer, code.int('mul', index, stride)),
        displacement: 0,
      });
      if (step !== bytes && shape[last] > 1) {
        code.for(begin, end, 1, (index) =>
          move(at(from, index, step), at(to, index, scratchStep), null, true),
        );
        return;
      }
      if (begin === 0 && end === shape[last]) {
        code.strips(end, AT_ONCE * code.lanes, (start, width) => {
          const [read, write] = [at(from, start, bytes).base, at(to, start, scratchStep).base];
          for (let column = 0; column < width; column += code.lanes)
            move(
              { base: read, displacement: bytes * column },
              { base: write, displacement: scratchStep * column },
              column + code.lanes > width ? width - column : null,
              false,
            );
        });
      } else {
        code.for(begin, end, code.lanes, (index) =>
          move(at(from, index, bytes), at(to, index, scratchStep), code.int('sub', end, index), false),
        );
      }
    },
    order.map((axis) => ranges[axis]),
  );
}

const whole = (shape: readonly number[]): Block['ranges'] => shape.map((size) => [0, size] as const);

/** What the lanes of a tile are that holds `fill`. */
function fillLanes(context: Context, dtype: DType, fill: number): VecReg {
  const type = dtype === 'f32' || dtype === 'bf16' || dtype === 'f16' ? 'f32' : dtype;
  let lanes = context.code.bits(
    type === 'f32' ? floatBits(fill) : type === 'bool' ? -Number(fill !== 0) : fill,
  );
  if (dtype === 'bf16') lanes = context.code.un('roundbf16', lanes);
  if (dtype === 'f16') lanes = context.code.un('roundf16', lanes);
  if (dtype === 'i8') lanes = context.code.bits((fill << 24) >> 24);
  return lanes;
}

function fillTile(
  context: Context,
  tile: Stored,
  shape: readonly number[],
  dtype: DType,
  fill: number,
): void {
  context.elementwise(shape, [fillLanes(context, dtype, fill)], tile, ([value]) => value);
}

function moveIn(context: Context, block: Block): Move {
  const { code } = context;
  const { dtype } = block.view;
  return (view, scratch, count, single) => {
    const lanes = single
      ? code.broadcast(view, block.type)
      : count === null
        ? code.load(view, block.type)
        : code.loadPart(view, count, block.type);
    const value = fromMemory(context, lanes, dtype);
    if (single) code.storeFirst(value, scratch);
    else if (count === null) code.store(value, scratch);
    else code.storePart(value, scratch, count);
  };
}

function moveOut(context: Context, block: Block, repeated: boolean): Move {
  const { code } = context;
  return (view, scratch, count, single) => {
    const lanes = single || repeated ? code.broadcast(scratch) : code.load(scratch);
    const value = toMemory(context, lanes, block.view.dtype);
    if (single) code.storeFirst(value, view, block.type);
    else if (count === null) code.store(value, view, block.type);
    else code.storePart(value, view, count, block.type);
  };
}

type OpOf<P extends Op['op']> = Extract<Op, { op: P }>;

/** Loads a block into memory with the given strides, one an axis of the value. */
export function loadInto(context: Context, value: Viewed, tile: Stored): void {
  const { block, axes, paired, dtype, fill } = value;
  const { shape } = block;
  const [rows] = axes;
  const strides = shape.map((_, axis) => {
    if (paired && axis === rows) return 2 * tile.strides[0];
    if (paired && axis === rows + 1) return tile.strides[0];
    return axes.includes(axis) ? tile.strides[axes.indexOf(axis)] : 0;
  });
  const scratch = { base: context.pointer(tile), strides };
  const move = moveIn(context, block);
  context.code.if(
    block.inside,
    () => walk(context, block, scratch, whole(shape), move),
    () => {
      fillAround(context, block, { ...tile, strides }, dtype, fill);
      walk(context, block, scratch, block.ranges, move);
    },
  );
}

/** Fills what of a block is not in its view: no more than that where it is whole rows. */
function fillAround(context: Context, block: Block, tile: Stored, dtype: DType, fill: number): void {
  const { code } = context;
  const { shape, ranges } = block;
  const [axis, ...others] = [...shape.keys()].filter(
    (each) => ranges[each][0] !== 0 || ranges[each][1] !== shape[each],
  );
  const last = shape.findLastIndex((size) => size > 1);
  if (others.length > 0 || axis >= last || tile.strides[last] !== 1) {
    fillTile(context, tile, shape, dtype, fill);
    return;
  }
  const lanes = fillLanes(context, dtype, fill);
  const order = [...shape.keys()].filter((each) => each !== last);
  const rows = (range: readonly [IntOperand, IntOperand]) =>
    context.nest(
      order.map((each) => shape[each]),
      [{ base: context.pointer(tile), strides: order.map((each) => 4 * tile.strides[each]) }],
      ([row]) => fillRow(code, row, shape[last], lanes),
      order.map((each) => (each === axis ? range : [0, shape[each]])),
    );
  const [begin, end] = ranges[axis];
  const first = code.int('min', begin, shape[axis]);
  rows([0, first]);
  rows([code.int('max', end, first), shape[axis]]);
}

/** The block of a load or store. */
export function locateOp(context: Context, op: OpOf<'load' | 'store'>, shape: readonly number[]): Block {
  return locate(
    context,
    op.view,
    shape,
    op.offsets.map((id) => context.integer(id)),
    op.limits.map((id) => (id === null ? null : context.integer(id))),
    op.offsets.map((id) => context.bounds(id)),
  );
}

/** Stores what of a tile lies in the view. */
export function storeFrom(context: Context, block: Block, tile: Stored): void {
  const scratch = { base: context.pointer(tile), strides: tile.strides };
  walk(context, block, scratch, block.ranges, moveOut(context, block, false));
}

export function lowerLoad(context: Context, op: OpOf<'load'>, result: ValueId): void {
  const { shape, dtype } = context.type(result);
  const block = locateOp(context, op, shape);
  const value = viewedBlock(block, op.fill, dtype, shape);
  if (context.deferred.has(result)) {
    context.define(result, value);
    return;
  }
  if (block.inside === 1 && elementCount(shape) === 1) {
    const lanes = context.code.broadcast({ base: block.base, displacement: 0 }, block.type);
    context.define(result, { at: 'vector', value: fromMemory(context, lanes, dtype) });
    return;
  }
  const tile = context.newTile(shape);
  loadInto(context, value, tile);
  context.define(result, tile);
}

/** A value in memory with a stride an axis, and whether its rows repeat one element. */
function readable(context: Context, id: ValueId): { tile: Stored; copied: boolean; repeated: boolean } {
  const value = context.value(id);
  const { shape } = context.type(id);
  if (value.at !== 'scratch') return { ...context.dense(id), repeated: false };
  let last = shape.length - 1;
  while (last > 0 && shape[last] === 1) last--;
  return { tile: value, copied: false, repeated: shape[last] > 1 && value.strides[last] === 0 };
}

export function lowerStore(context: Context, op: OpOf<'store'>): void {
  const { shape } = context.type(op.value);
  const { tile, copied, repeated } = readable(context, op.value);
  const block = locateOp(context, op, shape);
  const scratch = { base: context.pointer(tile), strides: tile.strides };
  const move = moveOut(context, block, repeated);
  context.code.if(
    block.inside,
    () => walk(context, block, scratch, whole(shape), move),
    () => walk(context, block, scratch, block.ranges, move),
  );
  if (copied) context.reclaim(tile.buffer);
}

/** Calls `row` for each row index, with the block of that one row of the view and the row's place in scratch. */
function eachRow(
  context: Context,
  op: { readonly view: number; readonly rows: ValueId; readonly column: ValueId },
  shape: readonly number[],
  tile: Stored,
  move: (block: Block) => Move,
): void {
  const { code } = context;
  const rows = context.dense(op.rows);
  const [count, columns] = shape;
  const index = context.pointer(rows.tile);
  const base = context.pointer(tile);
  code.for(0, count, 1, (i) => {
    const row = code.newInt();
    code.emit({
      o: 'iload',
      dst: row,
      type: 'i32',
      from: { base: index, index: i, scale: 4, displacement: 0 },
    });
    const bound = context.kernel.views[op.view].shape[0];
    const valid = code.int('and', code.int('ge', row, 0), code.int('lt', row, bound));
    code.if(valid, () => {
      const block = locate(context, op.view, [1, columns], [row, context.integer(op.column)], [null, null]);
      const scratch = {
        base: code.pointer(base, code.int('mul', i, 4 * tile.strides[0])),
        strides: [0, tile.strides[1]],
      };
      const { ranges } = block;
      walk(context, block, scratch, [[0, 1], ranges[1]], move(block));
    });
  });
  if (rows.copied) context.reclaim(rows.tile.buffer);
}

export function lowerGather(context: Context, op: OpOf<'gather'>, result: ValueId): void {
  const { shape, dtype } = context.type(result);
  const tile = context.newTile(shape);
  fillTile(context, tile, shape, dtype, op.fill);
  eachRow(context, op, shape, tile, (block) => moveIn(context, block));
  context.define(result, tile);
}

export function lowerScatter(context: Context, op: OpOf<'scatter'>): void {
  const { shape } = context.type(op.value);
  const { tile, copied } = context.dense(op.value);
  eachRow(context, op, shape, tile, (block) => moveOut(context, block, false));
  if (copied) context.reclaim(tile.buffer);
}
