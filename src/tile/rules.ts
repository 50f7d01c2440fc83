/** The rule of each operation: which operands it takes, and what its result must be. */
import type { DType } from '../numerics/dtype.ts';
import { DTYPES } from '../numerics/dtype.ts';
import type { Kernel, Op, OpName, TileType, ValueId, View } from './ir.ts';
import { elementCount, MAP_ARITY } from './ir.ts';
import {
  ARITHMETIC,
  COMPARISONS,
  castable,
  dotResult,
  MAP_TYPES,
  NUMBERS,
  sameShape,
  sameType,
  typeText,
} from './types.ts';

/** What a rule sees of one instruction. */
export interface Context {
  readonly kernel: Kernel;
  readonly results: readonly TileType[];
  readonly type: (id: ValueId) => TileType;
  readonly expect: (condition: boolean, message: () => string) => void;
}

type Rules = { readonly [P in OpName]: (op: Extract<Op, { op: P }>, context: Context) => void };

export function checkScalar({ type, expect }: Context, id: ValueId, what: string): void {
  const found = type(id);
  expect(
    found.dtype === 'i32' && found.shape.length === 0,
    () => `${what} must be an i32 scalar, not ${typeText(found)}`,
  );
}

function checkView({ kernel, expect }: Context, index: number, use: 'read' | 'write' | 'readwrite'): View {
  const view = kernel.views[index];
  expect(view !== undefined, () => `view ${index} does not exist; the kernel has ${kernel.views.length}`);
  expect(
    view.access === use || view.access === 'readwrite',
    () => `view '${view.name}' is declared '${view.access}' but is used for '${use}'`,
  );
  return view;
}

function checkBlock(context: Context, view: View, offsets: readonly ValueId[], block: TileType): void {
  const { expect } = context;
  expect(
    offsets.length === view.shape.length,
    () => `view '${view.name}' has ${view.shape.length} dimensions, but ${offsets.length} offsets are given`,
  );
  expect(
    block.shape.length === view.shape.length,
    () => `view '${view.name}' has ${view.shape.length} dimensions, but the block is ${typeText(block)}`,
  );
  expect(
    block.dtype === view.dtype,
    () => `view '${view.name}' holds ${view.dtype}, but the block is ${typeText(block)}; cast it`,
  );
  for (const offset of offsets) checkScalar(context, offset, 'an offset');
}

function checkLimits(context: Context, view: View, limits: readonly (ValueId | null)[]): void {
  context.expect(
    limits.length === view.shape.length,
    () => `view '${view.name}' has ${view.shape.length} dimensions, but ${limits.length} limits are given`,
  );
  for (const limit of limits) if (limit !== null) checkScalar(context, limit, 'a limit');
}

function checkFill({ expect }: Context, view: View, fill: number): void {
  expect(
    DTYPES[view.dtype].kind === 'float' || Number.isInteger(fill),
    () => `fill ${fill} is not an integer, but view '${view.name}' holds ${view.dtype}`,
  );
}

function checkRows(context: Context, view: View, rows: ValueId, column: ValueId, block: TileType): void {
  const { expect } = context;
  const index = context.type(rows);
  expect(
    view.shape.length === 2,
    () => `view '${view.name}' must have 2 dimensions, not ${view.shape.length}`,
  );
  expect(
    index.dtype === 'i32' && index.shape.length === 1,
    () => `rows must be i32 of one dimension, not ${typeText(index)}`,
  );
  checkScalar(context, column, 'column');
  expect(
    block.dtype === view.dtype,
    () => `view '${view.name}' holds ${view.dtype}, but the block is ${typeText(block)}; cast it`,
  );
  expect(
    block.shape.length === 2 && block.shape[0] === index.shape[0],
    () => `${index.shape[0]} rows need a block [${index.shape[0]}, columns], not ${typeText(block)}`,
  );
}

function expectResult({ expect, results }: Context, wanted: TileType): void {
  expect(
    sameType(results[0], wanted),
    () => `the result must be ${typeText(wanted)}, not ${typeText(results[0])}`,
  );
}

function expectDType({ expect }: Context, found: TileType, allowed: readonly DType[], what: string): void {
  expect(
    allowed.includes(found.dtype),
    () => `${what} must be ${allowed.join(' or ')}, not ${typeText(found)}; cast it`,
  );
}

export const RULES: Rules = {
  programId: (op, context) => {
    context.expect(
      Number.isInteger(op.axis) && op.axis >= 0 && op.axis < context.kernel.grid.length,
      () => `axis ${op.axis} is outside the grid of ${context.kernel.grid.length} axes`,
    );
    expectResult(context, { dtype: 'i32', shape: [] });
  },
  constant: (op, context) => {
    const [result] = context.results;
    expectDType(context, result, ARITHMETIC, 'a constant');
    context.expect(
      DTYPES[result.dtype].kind === 'float' || Number.isInteger(op.value),
      () => `${op.value} is not an integer, but the constant is ${typeText(result)}`,
    );
    context.expect(
      result.dtype !== 'bool' || op.value === 0 || op.value === 1,
      () => `a bool constant is 0 or 1, not ${op.value}`,
    );
  },
  iota: (op, context) => {
    const [result] = context.results;
    context.expect(result.dtype === 'i32', () => `iota yields i32, not ${typeText(result)}`);
    context.expect(
      Number.isInteger(op.axis) && op.axis >= 0 && op.axis < result.shape.length,
      () => `axis ${op.axis} is outside ${typeText(result)}`,
    );
  },
  load: (op, context) => {
    const view = checkView(context, op.view, 'read');
    checkBlock(context, view, op.offsets, context.results[0]);
    checkLimits(context, view, op.limits);
    checkFill(context, view, op.fill);
  },
  store: (op, context) => {
    const view = checkView(context, op.view, 'write');
    checkBlock(context, view, op.offsets, context.type(op.value));
    checkLimits(context, view, op.limits);
  },
  gather: (op, context) => {
    const view = checkView(context, op.view, 'read');
    checkRows(context, view, op.rows, op.column, context.results[0]);
    checkFill(context, view, op.fill);
  },
  scatter: (op, context) => {
    checkRows(context, checkView(context, op.view, 'write'), op.rows, op.column, context.type(op.value));
  },
  atomicAdd: (op, context) => {
    const view = checkView(context, op.view, 'readwrite');
    const value = context.type(op.value);
    checkBlock(context, view, op.offsets, value);
    expectDType(context, value, NUMBERS, 'an atomically added value');
  },
  dot: (op, context) => {
    const { expect } = context;
    const a = context.type(op.a);
    const b = context.type(op.b);
    expect(
      a.shape.length === 2 && b.shape.length === 2,
      () => `operands must have 2 dimensions, not ${typeText(a)} and ${typeText(b)}`,
    );
    const dtype = dotResult(a.dtype, b.dtype);
    expect(
      dtype !== null,
      () =>
        `no product of ${a.dtype} and ${b.dtype}; cast both to f32, bf16, f16, fp8 or i8, or a to i32 and b to u32 that hold four bytes each`,
    );
    const [m, ka] = op.transA ? [a.shape[1], a.shape[0]] : a.shape;
    const [kb, n] = op.transB ? [b.shape[1], b.shape[0]] : b.shape;
    expect(
      ka === kb,
      () =>
        `inner sizes differ: ${ka} of ${typeText(a)}${op.transA ? ' transposed' : ''} and ${kb} of ${typeText(b)}${op.transB ? ' transposed' : ''}`,
    );
    const wanted: TileType = { dtype: dtype as DType, shape: [m, n] };
    if (op.acc !== null) {
      const acc = context.type(op.acc);
      expect(
        sameType(acc, wanted),
        () => `the accumulator must be ${typeText(wanted)}, not ${typeText(acc)}`,
      );
    }
    expectResult(context, wanted);
  },
  map: (op, context) => {
    const { expect } = context;
    const [result] = context.results;
    expect(
      op.args.length === MAP_ARITY[op.fn],
      () => `'${op.fn}' takes ${MAP_ARITY[op.fn]} arguments, not ${op.args.length}`,
    );
    const args = op.args.map(context.type);
    for (const arg of args)
      expect(
        sameShape(arg.shape, result.shape),
        () =>
          `argument ${typeText(arg)} and result ${typeText(result)} of '${op.fn}' differ in shape; broadcast it`,
      );
    const valued = op.fn === 'select' ? args.slice(1) : args;
    if (op.fn === 'select')
      expect(
        args[0].dtype === 'bool',
        () => `the condition of 'select' must be bool, not ${typeText(args[0])}`,
      );
    for (const arg of valued) {
      expectDType(context, arg, MAP_TYPES[op.fn], `an argument of '${op.fn}'`);
      expect(
        arg.dtype === valued[0].dtype,
        () => `arguments of '${op.fn}' differ in type: ${typeText(valued[0])} and ${typeText(arg)}`,
      );
    }
    expectResult(context, { dtype: COMPARISONS.has(op.fn) ? 'bool' : valued[0].dtype, shape: result.shape });
  },
  reduce: (op, context) => {
    const arg = context.type(op.arg);
    expectDType(context, arg, NUMBERS, `the argument of reduce '${op.fn}'`);
    context.expect(
      Number.isInteger(op.axis) && op.axis >= 0 && op.axis < arg.shape.length,
      () => `axis ${op.axis} is outside ${typeText(arg)}`,
    );
    expectResult(context, {
      dtype: arg.dtype,
      shape: arg.shape.map((size, axis) => (axis === op.axis ? 1 : size)),
    });
  },
  argmax: (op, context) => {
    const arg = context.type(op.arg);
    expectDType(context, arg, NUMBERS, 'the argument');
    context.expect(arg.shape.length > 0, () => 'a scalar has no axis');
    expectResult(context, { dtype: 'i32', shape: [...arg.shape.slice(0, -1), 1] });
  },
  scan: (op, context) => {
    const arg = context.type(op.arg);
    expectDType(context, arg, NUMBERS, 'the argument');
    context.expect(arg.shape.length > 0, () => 'a scalar has no axis');
    expectResult(context, arg);
  },
  broadcast: (op, context) => {
    const arg = context.type(op.arg);
    const [result] = context.results;
    context.expect(
      arg.shape.length === 0 ||
        (arg.shape.length === result.shape.length &&
          arg.shape.every((size, axis) => size === 1 || size === result.shape[axis])),
      () => `${typeText(arg)} does not broadcast to ${typeText(result)}`,
    );
    expectResult(context, { dtype: arg.dtype, shape: result.shape });
  },
  reshape: (op, context) => {
    const arg = context.type(op.arg);
    const [result] = context.results;
    context.expect(
      elementCount(arg.shape) === elementCount(result.shape),
      () =>
        `${typeText(arg)} has ${elementCount(arg.shape)} elements, ${typeText(result)} has ${elementCount(result.shape)}`,
    );
    expectResult(context, { dtype: arg.dtype, shape: result.shape });
  },
  transpose: (op, context) => {
    const arg = context.type(op.arg);
    context.expect(arg.shape.length === 2, () => `needs 2 dimensions, not ${typeText(arg)}`);
    expectResult(context, { dtype: arg.dtype, shape: [arg.shape[1], arg.shape[0]] });
  },
  cast: (op, context) => {
    const arg = context.type(op.arg);
    const [result] = context.results;
    context.expect(
      castable(arg.dtype, result.dtype),
      () => `no cast from ${arg.dtype} to ${result.dtype}; go through f32 (to bool: compare)`,
    );
    expectResult(context, { dtype: result.dtype, shape: arg.shape });
  },
  loop: (op, context) => {
    const { expect, type, results } = context;
    checkScalar(context, op.lo, 'lo');
    checkScalar(context, op.hi, 'hi');
    expect(Number.isInteger(op.step) && op.step > 0, () => `step must be a positive integer, not ${op.step}`);
    for (const [what, length] of [
      ['parameters', op.params.length],
      ['yields', op.yields.length],
      ['results', results.length],
    ] as const) {
      expect(
        length === op.init.length,
        () => `${op.init.length} values are carried, but there are ${length} ${what}`,
      );
    }
    op.init.forEach((id, position) => {
      const wanted = type(id);
      for (const [what, found] of [
        ['parameter', type(op.params[position])],
        ['yield', type(op.yields[position])],
        ['result', results[position]],
      ] as const) {
        expect(
          sameType(wanted, found),
          () =>
            `carried value ${position} begins as ${typeText(wanted)}, but its ${what} is ${typeText(found)}`,
        );
      }
    });
  },
};

/** How many results an operation has; null: any number, as its rule says. */
export const RESULTS: { readonly [P in OpName]: 0 | 1 | null } = {
  programId: 1,
  constant: 1,
  iota: 1,
  load: 1,
  store: 0,
  gather: 1,
  scatter: 0,
  atomicAdd: 0,
  dot: 1,
  map: 1,
  reduce: 1,
  argmax: 1,
  scan: 1,
  broadcast: 1,
  reshape: 1,
  transpose: 1,
  cast: 1,
  loop: null,
};
