/** reduce, argmax and scan, in the orders the tile language fixes. */
import type { DType } from '../../numerics/dtype.ts';
import { isFloat } from '../../numerics/dtype.ts';
import type { Op, ReduceFn, ValueId } from '../../tile/ir.ts';
import { floatBits } from './code.ts';
import type { HorizontalFn, IntOperand, IntReg, VecReg } from './ir.ts';
import type { Context, Stored } from './values.ts';
import { mergeAxes } from './values.ts';

/** Partial sums along the last axis. */
export const PARTIALS = 16;

type Joins = { readonly [F in ReduceFn]: { readonly fn: HorizontalFn; readonly neutral: number } };
const FLOAT: Joins = {
  sum: { fn: 'fadd', neutral: 0 },
  max: { fn: 'fmax', neutral: floatBits(Number.NEGATIVE_INFINITY) },
  min: { fn: 'fmin', neutral: floatBits(Number.POSITIVE_INFINITY) },
};
const SIGNED: Joins = {
  sum: { fn: 'iadd', neutral: 0 },
  max: { fn: 'imax', neutral: -0x80000000 },
  min: { fn: 'imin', neutral: 0x7fffffff },
};
const UNSIGNED: Joins = {
  sum: { fn: 'iadd', neutral: 0 },
  max: { fn: 'umax', neutral: 0 },
  min: { fn: 'umin', neutral: -1 },
};

export function joining(fn: ReduceFn, dtype: DType): Joins[ReduceFn] {
  return (isFloat(dtype) ? FLOAT : dtype === 'u32' ? UNSIGNED : SIGNED)[fn];
}

/**
 * Visits a row of `size` elements in vectors, in groups of `group`: `visit(k, vector, first element, lanes that
 * count or null for all)`, where k is the vector's place in its group.
 */
function eachVector(
  context: Context,
  row: IntReg,
  size: number,
  group: number,
  visit: (k: number, lanes: VecReg, start: IntOperand, mask: VecReg | null) => void,
): void {
  const { code } = context;
  const chunk = group * code.lanes;
  const whole = size - (size % chunk);
  const load = (start: IntOperand, k: number) =>
    code.load({
      base: code.pointer(row, code.int('mul', start, 4)),
      displacement: 4 * k * code.lanes,
    });
  const full = (start: IntOperand) => {
    for (let k = 0; k < group; k++) visit(k, load(start, k), code.int('add', start, k * code.lanes), null);
  };
  if (whole === chunk) full(0);
  else if (whole > 0) code.for(0, whole, chunk, full);
  for (let k = 0; whole + k * code.lanes < size; k++) {
    const rest = size - whole - k * code.lanes;
    const mask = rest >= code.lanes ? null : code.bin('ilt', code.iota(), code.bits(rest));
    visit(k, load(whole, k), whole + k * code.lanes, mask);
  }
}

/** All elements of a row joined, in every lane; a sum in the order of 16 partial sums. */
function joinRow(context: Context, row: IntReg, size: number, { fn, neutral }: Joins[ReduceFn]): VecReg {
  const { code } = context;
  const group = PARTIALS / code.lanes;
  const partials = Array.from({ length: group }, () => code.bits(neutral));
  const begin = code.bits(neutral);
  eachVector(context, row, size, group, (k, lanes, _, mask) => {
    const counted = mask === null ? lanes : code.select(mask, lanes, begin);
    code.emit({ o: 'vbin', dst: partials[k], fn, a: partials[k], b: counted });
  });
  let rest: readonly VecReg[] = partials;
  while (rest.length > 1) {
    const half = rest.length / 2;
    rest = rest.slice(0, half).map((partial, i) => code.bin(fn, partial, rest[i + half]));
  }
  return code.horizontal(fn, rest[0]);
}

const bytes = (strides: readonly number[]): number[] => strides.map((stride) => 4 * stride);

/** Visits the rows along `axis`: their pointer, and that of their one element in `out`. */
function eachRow(
  context: Context,
  shape: readonly number[],
  axis: number,
  from: Stored,
  out: Stored,
  visit: (row: IntReg, element: IntReg) => void,
): void {
  const others = [...shape.keys()].filter((other) => other !== axis);
  context.nest(
    others.map((other) => shape[other]),
    [from, out].map((tile) => ({
      base: context.pointer(tile),
      strides: bytes(others.map((other) => tile.strides[other])),
    })),
    ([row, element]) => visit(row, element),
  );
}

/** One accumulator a column, rows ascending. */
function reduceColumns(
  context: Context,
  shape: readonly number[],
  axis: number,
  from: Stored,
  out: Stored,
  { fn, neutral }: Joins[ReduceFn],
): void {
  const { code } = context;
  const without = <T>(list: readonly T[]) => list.filter((_, other) => other !== axis);
  const { sizes, strides } = mergeAxes(without(shape), [without(from.strides), without(out.strides)]);
  const columns = sizes[sizes.length - 1];
  context.nest(
    sizes.slice(0, -1),
    [from, out].map((tile, i) => ({ base: context.pointer(tile), strides: bytes(strides[i].slice(0, -1)) })),
    ([source, target]) => {
      const step = (index: IntOperand) => {
        const offset = code.int('mul', index, 4);
        const sum = code.newVec();
        code.move(sum, code.bits(neutral));
        const pointer = code.newInt();
        code.emit({ o: 'imove', dst: pointer, a: code.pointer(source, offset) });
        code.for(0, shape[axis], 1, () => {
          const lanes = code.load({ base: pointer, displacement: 0 });
          code.emit({ o: 'vbin', dst: sum, fn, a: sum, b: lanes });
          code.emit({ o: 'ibin', dst: pointer, fn: 'add', a: pointer, b: 4 * from.strides[axis] });
        });
        code.store(sum, { base: code.pointer(target, offset), displacement: 0 });
      };
      if (columns <= code.lanes) step(0);
      else code.for(0, columns, code.lanes, step);
    },
  );
}

/** One element after the other along `axis`, where elements of other axes do not lie side by side. */
function reduceSingly(
  context: Context,
  shape: readonly number[],
  axis: number,
  from: Stored,
  out: Stored,
  { fn, neutral }: Joins[ReduceFn],
): void {
  const { code } = context;
  eachRow(context, shape, axis, from, out, (row, element) => {
    const sum = code.newVec();
    code.move(sum, code.bits(neutral));
    code.for(0, shape[axis], 1, (index) => {
      const place = code.pointer(row, code.int('mul', index, 4 * from.strides[axis]));
      code.emit({ o: 'vbin', dst: sum, fn, a: sum, b: code.broadcast({ base: place, displacement: 0 }) });
    });
    code.storeFirst(sum, { base: element, displacement: 0 });
  });
}

export function lowerReduce(context: Context, op: Extract<Op, { op: 'reduce' }>, result: ValueId): void {
  const { shape, dtype } = context.type(op.arg);
  const { code } = context;
  const join = joining(op.fn, dtype);
  const { tile, copied } = context.dense(op.arg);
  const out = context.newTile(context.type(result).shape);
  // A sum along another axis than the last is taken one by one, even where its elements lie side by side.
  const anyOrder = op.fn !== 'sum' || !isFloat(dtype) || op.axis === shape.length - 1;
  if (tile.strides[op.axis] === 1 && anyOrder)
    eachRow(context, shape, op.axis, tile, out, (row, element) => {
      code.storeFirst(joinRow(context, row, shape[op.axis], join), { base: element, displacement: 0 });
    });
  else {
    const beside = shape.some((size, axis) => size > 1 && axis !== op.axis && tile.strides[axis] === 1);
    (beside ? reduceColumns : reduceSingly)(context, shape, op.axis, tile, out, join);
  }
  if (copied) context.reclaim(tile.buffer);
  context.define(result, out);
}

/** Lanes as signed integers in the same order; f32: NaN above all, -0 equal to 0. */
function sortable(context: Context, lanes: VecReg, dtype: DType): VecReg {
  const { code } = context;
  if (dtype === 'i32') return lanes;
  if (dtype === 'u32') return code.bin('xor', lanes, code.bits(-0x80000000));
  const value = code.bin('fadd', lanes, code.bits(0));
  const flipped = code.bin(
    'xor',
    value,
    code.bin('and', code.shift('ishr', value, 31), code.bits(0x7fffffff)),
  );
  return code.select(code.bin('fne', value, value), code.bits(0x7fffffff), flipped);
}

export function lowerArgmax(context: Context, op: Extract<Op, { op: 'argmax' }>, result: ValueId): void {
  const { code } = context;
  const { shape, dtype } = context.type(op.arg);
  const { tile, copied } = context.dense(op.arg);
  const out = context.newTile(context.type(result).shape);
  const axis = shape.length - 1;
  eachRow(context, shape, axis, tile, out, (row, element) => {
    const best = code.bits(-0x80000000);
    const index = code.iota();
    const iota = code.iota();
    eachVector(context, row, shape[axis], 1, (_, lanes, start, mask) => {
      const key = sortable(context, lanes, dtype);
      const greater = code.bin('ilt', best, key);
      const better = mask === null ? greater : code.bin('and', greater, mask);
      code.move(best, code.select(better, key, best));
      code.move(index, code.select(better, code.bin('iadd', code.splat(start), iota), index));
    });
    const top = code.bin('ieq', best, code.horizontal('imax', best));
    const first = code.horizontal('imin', code.select(top, index, code.bits(0x7fffffff)));
    code.storeFirst(first, { base: element, displacement: 0 });
  });
  if (copied) context.reclaim(tile.buffer);
  context.define(result, out);
}

export function lowerScan(context: Context, op: Extract<Op, { op: 'scan' }>, result: ValueId): void {
  const { code } = context;
  const { shape, dtype } = context.type(op.arg);
  const { tile, copied } = context.dense(op.arg);
  const out = context.newTile(shape);
  const axis = shape.length - 1;
  const { fn } = joining('sum', dtype);
  eachRow(context, shape, axis, tile, out, (row, target) => {
    // -0, not 0: the first element is kept as it is.
    const sum = isFloat(dtype) ? code.f32(-0) : code.bits(0);
    code.for(0, shape[axis], 1, (index) => {
      const lanes = code.broadcast({ base: row, index, scale: 4, displacement: 0 });
      code.emit({ o: 'vbin', dst: sum, fn, a: sum, b: lanes });
      code.storeFirst(sum, { base: target, index, scale: 4, displacement: 0 });
    });
  });
  if (copied) context.reclaim(tile.buffer);
  context.define(result, out);
}
