/** Reductions, argmax and prefix sums. Along the last axis the 16 partial results of a row are made by 16 threads. */
import type { Instruction, ReduceFn } from '../../tile/ir.ts';
import { elementCount } from '../../tile/ir.ts';
import { add, constant, div, int, mul, op, read, rem } from './code.ts';
import type { Context } from './context.ts';
import type { Elements, OpOf } from './element.ts';
import type { Expr, Scalar, ThreadArray } from './ir.ts';
import { Index, share } from './layout.ts';
import { emitMap } from './map.ts';

const PARTS = 16;

const join = (fn: ReduceFn, type: Scalar, a: Expr, b: Expr) =>
  emitMap(fn === 'sum' ? 'add' : fn, type, [a, b]);

/** Puts a value that is computed from a row of partial results in its place. */
function define(
  context: Context,
  instruction: Instruction,
  partials: readonly ThreadArray[],
  element: (row: Expr) => Expr,
): void {
  const [result] = instruction.results;
  const touched = (row: Expr) => {
    for (const array of partials) context.touch(array, 'read other');
    return element(row);
  };
  if (context.facts.isSingle(result)) {
    context.phase(() => {
      context.place(result).single = context.code.let(touched(int(0)));
    });
  } else context.join(instruction, context.layout(result), (index) => touched(index.linear()), { result });
}

export function lowerReduce(context: Context, elements: Elements, instruction: Instruction): void {
  const reduce = instruction.op as OpOf<'reduce'>;
  const [result] = instruction.results;
  const { code } = context;
  const { shape } = context.type(reduce.arg);
  const type = context.scalarType(reduce.arg);
  const size = shape[reduce.axis];
  if (context.facts.isSingle(reduce.arg)) {
    const value = context.single(reduce.arg);
    context.place(result).single =
      reduce.fn === 'sum' ? code.let(join('sum', type, constant(type, 0), value)) : value;
    return;
  }
  context.closeNest();
  if (reduce.axis !== shape.length - 1) {
    const along = (start: readonly Expr[]) => {
      const at = (k: Expr) =>
        elements.element(
          reduce.arg,
          new Index(
            code,
            shape,
            start.map((x, axis) => (axis === reduce.axis ? k : x)),
          ),
        );
      const sum = code.declare(reduce.fn === 'sum' ? constant(type, 0) : at(int(0)));
      code.for(int(reduce.fn === 'sum' ? 0 : 1), int(size), 1, (k) =>
        code.assign(sum, join(reduce.fn, type, sum, at(k))),
      );
      return sum;
    };
    if (context.facts.isSingle(result))
      context.phase(() => {
        context.place(result).single = along(shape.map(() => int(0)));
      });
    else
      context.join(
        instruction,
        context.layout(result),
        (index) => along(index.coordinates(context.type(result).shape)),
        { result, others: [reduce.arg] },
      );
    return;
  }

  const rows = elementCount(shape) / size;
  const parts = Math.min(PARTS, size);
  const partial = context.newArray(type, rows * parts, 'shared');
  eachPart(context, rows, parts, (item, row, part) => {
    const at = (i: Expr) => elements.element(reduce.arg, new Index(code, [rows, size], [row, i]));
    const sum = code.declare(reduce.fn === 'sum' ? constant(type, 0) : at(part));
    const first = reduce.fn === 'sum' ? part : add(part, int(parts));
    code.for(first, int(size), parts, (i) => code.assign(sum, join(reduce.fn, type, sum, at(i))));
    context.touch(partial, 'write other');
    code.write(partial, item, sum);
  });
  define(context, instruction, [partial], (row) => {
    const base = code.let(mul(row, parts));
    const values = Array.from({ length: parts }, (_, j) => code.let(read(partial, add(base, int(j)))));
    for (let half = PARTS / 2; half >= 1; half /= 2)
      for (let j = 0; j < half && j + half < values.length; j++)
        values[j] = code.let(join(reduce.fn, type, values[j], values[j + half]));
    return values[0];
  });
}

/** A phase that shares out the parts of all rows. */
function eachPart(
  context: Context,
  rows: number,
  parts: number,
  body: (item: Expr, row: Expr, part: Expr) => void,
): void {
  const { code } = context;
  context.phase(() => {
    share(code, rows * parts, context.threads, (item) => {
      body(item, code.let(div(item, parts)), code.let(rem(item, parts)));
    });
  });
}

/** Whether `a` counts as larger than `b`: NaN does than any number. */
function exceeds(type: Scalar, a: Expr, b: Expr): Expr {
  const greater = op('bool', 'gt', a, b);
  if (type !== 'f32') return greater;
  const unordered = (x: Expr) =>
    op(
      'bool',
      'gt',
      op('u32', 'and', op('u32', 'bits', x), constant('u32', 0x7fffffff)),
      constant('u32', 0x7f800000),
    );
  const onlyFirst = op('bool', 'and', unordered(a), op('bool', 'not', unordered(b)));
  return op('bool', 'or', onlyFirst, op('bool', 'and', op('bool', 'not', unordered(b)), greater));
}

export function lowerArgmax(context: Context, elements: Elements, instruction: Instruction): void {
  const { arg } = instruction.op as OpOf<'argmax'>;
  const { code } = context;
  const { shape } = context.type(arg);
  const type = context.scalarType(arg);
  if (context.facts.isSingle(arg)) {
    context.place(instruction.results[0]).single = int(0);
    return;
  }
  context.closeNest();
  const size = shape[shape.length - 1];
  const rows = elementCount(shape) / size;
  const parts = Math.min(PARTS, size);
  const [best, where] = [
    context.newArray(type, rows * parts, 'shared'),
    context.newArray('i32', rows * parts, 'shared'),
  ];
  eachPart(context, rows, parts, (item, row, part) => {
    const at = (i: Expr) => elements.element(arg, new Index(code, [rows, size], [row, i]));
    const value = code.declare(at(part));
    const index = code.declare(part);
    code.for(add(part, int(parts)), int(size), parts, (i) => {
      const found = code.let(at(i));
      code.if(exceeds(type, found, value), () => {
        code.assign(value, found);
        code.assign(index, i);
      });
    });
    for (const array of [best, where]) context.touch(array, 'write other');
    code.write(best, item, value);
    code.write(where, item, index);
  });
  define(context, instruction, [best, where], (row) => {
    const base = code.let(mul(row, parts));
    const value = code.declare(read(best, base));
    const index = code.declare(read(where, base));
    code.for(int(1), int(parts), 1, (j) => {
      const found = code.let(read(best, add(base, j)));
      const place = code.let(read(where, add(base, j)));
      const equal = op(
        'bool',
        'not',
        op('bool', 'or', exceeds(type, found, value), exceeds(type, value, found)),
      );
      const earlier = op('bool', 'and', equal, op('bool', 'lt', place, index));
      code.if(op('bool', 'or', exceeds(type, found, value), earlier), () => {
        code.assign(value, found);
        code.assign(index, place);
      });
    });
    return index;
  });
}

/** A row a thread. */
export function lowerScan(context: Context, elements: Elements, instruction: Instruction): void {
  const { arg } = instruction.op as OpOf<'scan'>;
  const [result] = instruction.results;
  const { code } = context;
  if (context.facts.isSingle(arg)) {
    context.place(result).single = context.single(arg);
    return;
  }
  context.closeNest();
  const { shape } = context.type(arg);
  const type = context.scalarType(arg);
  const size = shape[shape.length - 1];
  const rows = elementCount(shape) / size;
  const sums = context.newArray(type, rows * size, 'shared');
  context.phase(() => {
    context.touch(sums, 'write other');
    share(code, rows, context.threads, (row) => {
      const at = (i: Expr) => elements.element(arg, new Index(code, [rows, size], [row, i]));
      const sum = code.declare(at(int(0)));
      code.write(sums, mul(row, size), sum);
      code.for(int(1), int(size), 1, (i) => {
        code.assign(sum, op(type, 'add', sum, at(i)));
        code.write(sums, add(mul(row, size), i), sum);
      });
    });
  });
  context.place(result).shared = sums;
}
