/** Operations that move elements: broadcast, reshape, transpose, and copies. */
import type { Op, ValueId } from '../../tile/ir.ts';
import { elementCount } from '../../tile/ir.ts';
import type { IntOperand } from './ir.ts';
import { scratchSource } from './operands.ts';
import { transposeRows } from './rows.ts';
import type { Context, Stored } from './values.ts';
import { isIntegerScalar, mergeAxes } from './values.ts';
import { joinsPairs, viewedAxes } from './views.ts';

export function lowerTranspose(
  context: Context,
  op: Extract<Op, { op: 'transpose' }>,
  result: ValueId,
): void {
  const { shape } = context.type(op.arg);
  const value = context.value(op.arg);
  if (value.at !== 'scratch') {
    context.define(result, value);
    return;
  }
  if (shape.includes(1)) {
    context.define(result, { ...value, strides: [value.strides[1], value.strides[0]] });
    return;
  }
  const inRows = value.strides[1] === 1 && value.strides[0] >= shape[1];
  const { tile, copied } = inRows ? { tile: value, copied: false } : context.dense(op.arg);
  const out = context.newTile(context.type(result).shape);
  transposeRows(
    context,
    scratchSource(context, tile),
    [shape[0], shape[1]],
    context.pointer(out),
    4 * out.strides[0],
  );
  if (copied) context.reclaim(tile.buffer);
  context.define(result, out);
}

export function lowerBroadcast(
  context: Context,
  op: Extract<Op, { op: 'broadcast' }>,
  result: ValueId,
): void {
  const { dtype } = context.type(op.arg);
  const { shape } = context.type(result);
  const value = context.value(op.arg);
  if (value.at === 'scratch') context.define(result, value);
  else if (shape.length === 0 || value.at !== 'integer') context.define(result, value);
  else context.define(result, { at: 'vector', value: context.lanes(value, dtype) as never });
}

/** Elements in row-major order, one by one: for shapes that share no factors. */
function copyLinear(
  context: Context,
  from: Stored,
  fromShape: readonly number[],
  out: Stored,
  shape: readonly number[],
): void {
  const { code } = context;
  const source = context.pointer(from);
  const target = context.pointer(out);
  const place = (index: IntOperand, tile: Stored, sizes: readonly number[]): IntOperand => {
    let rest = index;
    let sum: IntOperand = 0;
    for (let axis = sizes.length - 1; axis >= 0; axis--) {
      if (sizes[axis] === 1) continue;
      sum = code.int('add', sum, code.int('mul', code.int('rem', rest, sizes[axis]), 4 * tile.strides[axis]));
      rest = code.int('div', rest, sizes[axis]);
    }
    return sum;
  };
  code.for(0, elementCount(shape), 1, (index) => {
    const lanes = code.broadcast({
      base: code.pointer(source, place(index, from, fromShape)),
      displacement: 0,
    });
    code.storeFirst(lanes, { base: code.pointer(target, place(index, out, shape)), displacement: 0 });
  });
}

/** Splits both shapes into common factors, or null where there are none; strides follow. */
function commonFactors(
  from: readonly number[],
  fromStrides: readonly number[],
  to: readonly number[],
  toStrides: readonly number[],
): { sizes: number[]; from: number[]; to: number[] } | null {
  const a = from.map((size, axis) => ({ size, stride: fromStrides[axis] })).filter(({ size }) => size > 1);
  const b = to.map((size, axis) => ({ size, stride: toStrides[axis] })).filter(({ size }) => size > 1);
  const result = { sizes: [] as number[], from: [] as number[], to: [] as number[] };
  while (a.length > 0 && b.length > 0) {
    const x = a[a.length - 1];
    const y = b[b.length - 1];
    const size = Math.min(x.size, y.size);
    if (x.size % size !== 0 || y.size % size !== 0) return null;
    result.sizes.unshift(size);
    result.from.unshift(x.stride);
    result.to.unshift(y.stride);
    for (const list of [a, b]) {
      const last = list.pop() as { size: number; stride: number };
      if (last.size > size) list.push({ size: last.size / size, stride: last.stride * size });
    }
  }
  return result;
}

/** Whether elements lie one behind the other in row-major order. */
function isGapless(shape: readonly number[], own: readonly number[]): boolean {
  const { sizes, strides } = mergeAxes(shape, [own]);
  return sizes.length === 1 && strides[0][0] === 1;
}

export function lowerReshape(context: Context, op: Extract<Op, { op: 'reshape' }>, result: ValueId): void {
  const { code } = context;
  const from = context.type(op.arg);
  const to = context.type(result);
  const viewed = context.viewed(op.arg);
  if (viewed !== null) {
    const { shape } = viewed.block;
    const [rows, , last] = [...shape.keys()].filter((axis) => shape[axis] > 1);
    context.define(
      result,
      joinsPairs(shape, to.shape)
        ? { ...viewed, axes: [rows, last], paired: true }
        : { ...viewed, axes: viewedAxes(shape, to.shape) },
    );
    return;
  }
  const value = context.value(op.arg);
  if (to.shape.length === 0) {
    if (value.at === 'integer') context.define(result, value);
    else {
      const lanes =
        value.at === 'scratch'
          ? code.broadcast({ base: context.pointer(value), displacement: 0 })
          : context.lanes(value, from.dtype);
      context.define(result, context.scalarFromLanes(lanes as never, to));
    }
    return;
  }
  if (value.at !== 'scratch') {
    const scalar = value.at === 'integer' || isIntegerScalar(from);
    context.define(
      result,
      scalar ? { at: 'vector', value: context.lanes(value, from.dtype) as never } : value,
    );
    return;
  }
  const kept = (shape: readonly number[]) => [...shape.keys()].filter((axis) => shape[axis] > 1);
  const [before, after] = [kept(from.shape), kept(to.shape)];
  if (before.length === after.length && before.every((axis, i) => from.shape[axis] === to.shape[after[i]])) {
    const strides = to.shape.map((_, axis) => {
      const i = after.indexOf(axis);
      return i < 0 ? 0 : value.strides[before[i]];
    });
    context.define(result, { ...value, strides });
    return;
  }
  if (context.turned.has(result) && isGapless(from.shape, value.strides)) {
    context.define(result, { ...value, strides: [to.shape[1], 1] });
    return;
  }
  const { tile, copied } = context.dense(op.arg);
  const out = context.newTile(to.shape);
  const factors = commonFactors(from.shape, tile.strides, to.shape, out.strides);
  if (factors === null) copyLinear(context, tile, from.shape, out, to.shape);
  else {
    const inner = factors.sizes[factors.sizes.length - 1];
    const bytes = (strides: readonly number[]) => strides.slice(0, -1).map((stride) => 4 * stride);
    context.nest(
      factors.sizes.slice(0, -1),
      [
        { base: context.pointer(tile), strides: bytes(factors.from) },
        { base: context.pointer(out), strides: bytes(factors.to) },
      ],
      ([source, target]) => {
        const whole = inner - (inner % code.lanes);
        const move = (index: IntOperand, count: number) => {
          const read = { base: code.pointer(source, code.int('mul', index, 4)), displacement: 0 };
          const write = { base: code.pointer(target, code.int('mul', index, 4)), displacement: 0 };
          if (count === code.lanes) code.store(code.load(read), write);
          else code.storePart(code.loadPart(read, count), write, count);
        };
        if (whole > 0) code.for(0, whole, code.lanes, (index) => move(index, code.lanes));
        if (whole < inner) move(whole, inner - whole);
      },
    );
  }
  if (copied) context.reclaim(tile.buffer);
  context.define(result, out);
}
