/** Loops: carried values live in places of their own, which the end of the body fills with the next values. */
import type { Instruction, Op, ValueId } from '../../tile/ir.ts';
import { indexBounds } from './bounds.ts';
import { keepOperands } from './dot.ts';
import type { IntReg, VecReg } from './ir.ts';
import type { Context, Integer, Splat, Stored, Value } from './values.ts';
import { denseLayout, isIntegerScalar } from './values.ts';

type Place = (Integer & { readonly value: IntReg }) | (Splat & { readonly value: VecReg }) | Stored;

/** The place of a carried value, holding its first value. */
function enter(context: Context, id: ValueId, takeOver: boolean): Place {
  const { code } = context;
  const type = context.type(id);
  const value = context.value(id);
  if (isIntegerScalar(type)) {
    const place: Place = { at: 'integer', value: code.newInt() };
    code.emit({ o: 'imove', dst: place.value, a: code.register(context.integer(id)) });
    return place;
  }
  if (type.shape.length === 0) {
    const place: Place = { at: 'vector', value: code.newVec() };
    code.move(place.value, context.lanes(value, type.dtype) as VecReg);
    return place;
  }
  const { strides } = denseLayout(type.shape);
  if (
    takeOver &&
    value.at === 'scratch' &&
    value.buffer.users === 1 &&
    value.strides.every((stride, axis) => stride === strides[axis])
  ) {
    value.buffer.held = true;
    context.drop(id);
    return value;
  }
  const place = context.newTile(type.shape);
  place.buffer.held = true;
  context.elementwise(type.shape, [context.source(value, type.dtype)], place, ([lanes]) => lanes);
  return place;
}

/** Copies the next values to their places; all are read before any is written. */
function advance(context: Context, places: readonly Place[], yields: readonly ValueId[]): void {
  const { code } = context;
  const values = yields.map((id) => context.value(id));
  const isPlace = (value: Value, other: number) =>
    places.some(
      (place, i) =>
        i !== other &&
        value.at === place.at &&
        (place.at === 'scratch'
          ? (value as Stored).buffer === place.buffer
          : (value as Integer | Splat).value === place.value),
    );
  const temporaries: Stored[] = [];
  const sources = values.map((value, i): Value => {
    if (!isPlace(value, i)) return value;
    if (value.at === 'integer') {
      const dst = code.newInt();
      code.emit({ o: 'imove', dst, a: code.register(value.value) });
      return { at: 'integer', value: dst };
    }
    if (value.at === 'vector') {
      const dst = code.newVec();
      code.move(dst, value.value);
      return { at: 'vector', value: dst };
    }
    const { shape, dtype } = context.type(yields[i]);
    const copy = context.newTile(shape);
    context.elementwise(shape, [context.source(value, dtype)], copy, ([lanes]) => lanes);
    temporaries.push(copy);
    return copy;
  });
  places.forEach((place, i) => {
    const value = sources[i];
    const { shape, dtype } = context.type(yields[i]);
    if (place.at === 'integer') {
      const next = (value as Integer).value;
      if (next !== place.value) code.emit({ o: 'imove', dst: place.value, a: code.register(next) });
    } else if (place.at === 'vector') code.move(place.value, context.lanes(value, dtype) as VecReg);
    else if (
      value.at !== 'scratch' ||
      value.buffer !== place.buffer ||
      value.strides.some((s, axis) => s !== place.strides[axis])
    )
      context.elementwise(shape, [context.source(value, dtype)], place, ([lanes]) => lanes);
  });
  for (const { buffer } of temporaries) context.reclaim(buffer);
}

export function lowerLoop(
  context: Context,
  op: Extract<Op, { op: 'loop' }>,
  results: readonly ValueId[],
  block: (
    body: readonly Instruction[],
    yields: readonly ValueId[],
    own: readonly ValueId[],
    end: () => void,
  ) => void,
): void {
  const lo = context.integer(op.lo);
  const hi = context.integer(op.hi);
  const bounds = indexBounds(context.bounds(op.lo), context.bounds(op.hi), op.step);
  const release = keepOperands(context, op.body);
  const unique = (id: ValueId) => op.init.filter((other) => other === id).length === 1;
  const places = op.init.map((id) => enter(context, id, context.dying.has(id) && unique(id)));
  op.params.forEach((id, i) => {
    context.define(id, places[i]);
  });
  context.code.for(lo, hi, op.step, (index) => {
    context.define(op.index, { at: 'integer', value: index, bounds });
    block(op.body, op.yields, op.params, () => advance(context, places, op.yields));
  });
  release();
  results.forEach((id, i) => {
    const place = places[i];
    if (place.at === 'scratch') place.buffer.held = false;
    context.define(id, place);
  });
}
