/**
 * The rules a kernel obeys before any accelerator sees it. Everything downstream (interpreter, lowerings) relies
 * on them and checks nothing again.
 */
import type { DType } from '../numerics/dtype.ts';
import { DTYPES } from '../numerics/dtype.ts';
import type { Instruction, Kernel, MapFn, Op, OpName, TileType, ValueId, View } from './ir.ts';
import { MAP_ARITY, operands } from './ir.ts';

/** A kernel that breaks a rule of the tile language. The message names kernel, instruction and fault. */
export class KernelError extends Error {
  override readonly name = 'KernelError';
}

const NUMBERS: readonly DType[] = ['f32', 'i32', 'u32'];
const INTEGERS: readonly DType[] = ['i32', 'u32'];
const BITS: readonly DType[] = ['i32', 'u32', 'bool'];
const REALS: readonly DType[] = ['f32'];
const ARITHMETIC: readonly DType[] = ['f32', 'i32', 'u32', 'bool'];

/** Element types each function accepts (for `select`: the type of its branches). */
export const MAP_TYPES: { readonly [F in MapFn]: readonly DType[] } = {
  neg: NUMBERS,
  abs: NUMBERS,
  not: BITS,
  floor: REALS,
  sqrt: REALS,
  rsqrt: REALS,
  exp: REALS,
  exp2: REALS,
  log: REALS,
  log2: REALS,
  tanh: REALS,
  sigmoid: REALS,
  sin: REALS,
  cos: REALS,
  add: NUMBERS,
  sub: NUMBERS,
  mul: NUMBERS,
  div: NUMBERS,
  rem: INTEGERS,
  min: NUMBERS,
  max: NUMBERS,
  and: BITS,
  or: BITS,
  xor: BITS,
  shl: INTEGERS,
  shr: INTEGERS,
  mulhi: ['u32'],
  lt: NUMBERS,
  le: NUMBERS,
  gt: NUMBERS,
  ge: NUMBERS,
  eq: ARITHMETIC,
  ne: ARITHMETIC,
  fma: REALS,
  select: ARITHMETIC,
};

export const COMPARISONS: ReadonlySet<MapFn> = new Set<MapFn>(['lt', 'le', 'gt', 'ge', 'eq', 'ne']);

const isFp8 = (dtype: DType) => dtype === 'f8e4m3' || dtype === 'f8e5m2';

/** Element type of a dot's result, or null where the pair of operand types is not supported. */
export function dotResult(a: DType, b: DType): 'f32' | 'i32' | null {
  if (isFp8(a) && isFp8(b)) return 'f32';
  if (a === 'i32' && b === 'u32') return 'i32';
  if (a !== b) return null;
  if (a === 'i8') return 'i32';
  return a === 'f32' || a === 'bf16' || a === 'f16' ? 'f32' : null;
}

/** Whether `cast` converts between the two: float to float, int to int, f32 with int, bool to f32, i32, u32. */
export function castable(from: DType, to: DType): boolean {
  const a = DTYPES[from].kind;
  const b = DTYPES[to].kind;
  if (b === 'bool') return false;
  if (a === 'bool') return DTYPES[to].arithmetic;
  return a === b || (a === 'float' ? from : to) === 'f32';
}

const sameShape = (a: readonly number[], b: readonly number[]) =>
  a.length === b.length && a.every((size, axis) => size === b[axis]);
const sameType = (a: TileType, b: TileType) => a.dtype === b.dtype && sameShape(a.shape, b.shape);
const count = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1);
const text = (type: TileType) => `${type.dtype}[${type.shape.join(', ')}]`;

/** What a rule sees of one instruction. */
interface Context {
  readonly kernel: Kernel;
  readonly results: readonly TileType[];
  readonly type: (id: ValueId) => TileType;
  readonly expect: (condition: boolean, message: () => string) => void;
}

type Rules = { readonly [P in OpName]: (op: Extract<Op, { op: P }>, context: Context) => void };

function checkScalar({ type, expect }: Context, id: ValueId, what: string): void {
  const found = type(id);
  expect(
    found.dtype === 'i32' && found.shape.length === 0,
    () => `${what} must be an i32 scalar, not ${text(found)}`,
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
    () => `view '${view.name}' has ${view.shape.length} dimensions, but the block is ${text(block)}`,
  );
  expect(
    block.dtype === view.dtype,
    () => `view '${view.name}' holds ${view.dtype}, but the block is ${text(block)}; cast it`,
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

function checkRows(context: Context, view: View, rows: ValueId, column: ValueId, block: TileType): void {
  const { expect } = context;
  const index = context.type(rows);
  expect(
    view.shape.length === 2,
    () => `view '${view.name}' must have 2 dimensions, not ${view.shape.length}`,
  );
  expect(
    index.dtype === 'i32' && index.shape.length === 1,
    () => `rows must be i32 of one dimension, not ${text(index)}`,
  );
  checkScalar(context, column, 'column');
  expect(
    block.dtype === view.dtype,
    () => `view '${view.name}' holds ${view.dtype}, but the block is ${text(block)}; cast it`,
  );
  expect(
    block.shape.length === 2 && block.shape[0] === index.shape[0],
    () => `${index.shape[0]} rows need a block [${index.shape[0]}, columns], not ${text(block)}`,
  );
}

function expectResult({ expect, results }: Context, wanted: TileType): void {
  expect(sameType(results[0], wanted), () => `the result must be ${text(wanted)}, not ${text(results[0])}`);
}

function expectDType({ expect }: Context, found: TileType, allowed: readonly DType[], what: string): void {
  expect(
    allowed.includes(found.dtype),
    () => `${what} must be ${allowed.join(' or ')}, not ${text(found)}; cast it`,
  );
}

const RULES: Rules = {
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
      () => `${op.value} is not an integer, but the constant is ${text(result)}`,
    );
    context.expect(
      result.dtype !== 'bool' || op.value === 0 || op.value === 1,
      () => `a bool constant is 0 or 1, not ${op.value}`,
    );
  },
  iota: (op, context) => {
    const [result] = context.results;
    context.expect(result.dtype === 'i32', () => `iota yields i32, not ${text(result)}`);
    context.expect(
      Number.isInteger(op.axis) && op.axis >= 0 && op.axis < result.shape.length,
      () => `axis ${op.axis} is outside ${text(result)}`,
    );
  },
  load: (op, context) => {
    const view = checkView(context, op.view, 'read');
    checkBlock(context, view, op.offsets, context.results[0]);
    checkLimits(context, view, op.limits);
    context.expect(
      DTYPES[view.dtype].kind === 'float' || Number.isInteger(op.fill),
      () => `fill ${op.fill} is not an integer, but view '${view.name}' holds ${view.dtype}`,
    );
  },
  store: (op, context) => {
    const view = checkView(context, op.view, 'write');
    checkBlock(context, view, op.offsets, context.type(op.value));
    checkLimits(context, view, op.limits);
  },
  gather: (op, context) => {
    const view = checkView(context, op.view, 'read');
    checkRows(context, view, op.rows, op.column, context.results[0]);
    context.expect(
      DTYPES[view.dtype].kind === 'float' || Number.isInteger(op.fill),
      () => `fill ${op.fill} is not an integer, but view '${view.name}' holds ${view.dtype}`,
    );
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
      () => `operands must have 2 dimensions, not ${text(a)} and ${text(b)}`,
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
        `inner sizes differ: ${ka} of ${text(a)}${op.transA ? ' transposed' : ''} and ${kb} of ${text(b)}${op.transB ? ' transposed' : ''}`,
    );
    const wanted: TileType = { dtype: dtype as DType, shape: [m, n] };
    if (op.acc !== null) {
      const acc = context.type(op.acc);
      expect(sameType(acc, wanted), () => `the accumulator must be ${text(wanted)}, not ${text(acc)}`);
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
        () => `argument ${text(arg)} and result ${text(result)} of '${op.fn}' differ in shape; broadcast it`,
      );
    const valued = op.fn === 'select' ? args.slice(1) : args;
    if (op.fn === 'select')
      expect(args[0].dtype === 'bool', () => `the condition of 'select' must be bool, not ${text(args[0])}`);
    for (const arg of valued) {
      expectDType(context, arg, MAP_TYPES[op.fn], `an argument of '${op.fn}'`);
      expect(
        arg.dtype === valued[0].dtype,
        () => `arguments of '${op.fn}' differ in type: ${text(valued[0])} and ${text(arg)}`,
      );
    }
    expectResult(context, { dtype: COMPARISONS.has(op.fn) ? 'bool' : valued[0].dtype, shape: result.shape });
  },
  reduce: (op, context) => {
    const arg = context.type(op.arg);
    expectDType(context, arg, NUMBERS, `the argument of reduce '${op.fn}'`);
    context.expect(
      Number.isInteger(op.axis) && op.axis >= 0 && op.axis < arg.shape.length,
      () => `axis ${op.axis} is outside ${text(arg)}`,
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
      () => `${text(arg)} does not broadcast to ${text(result)}`,
    );
    expectResult(context, { dtype: arg.dtype, shape: result.shape });
  },
  reshape: (op, context) => {
    const arg = context.type(op.arg);
    const [result] = context.results;
    context.expect(
      count(arg.shape) === count(result.shape),
      () => `${text(arg)} has ${count(arg.shape)} elements, ${text(result)} has ${count(result.shape)}`,
    );
    expectResult(context, { dtype: arg.dtype, shape: result.shape });
  },
  transpose: (op, context) => {
    const arg = context.type(op.arg);
    context.expect(arg.shape.length === 2, () => `needs 2 dimensions, not ${text(arg)}`);
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
          () => `carried value ${position} begins as ${text(wanted)}, but its ${what} is ${text(found)}`,
        );
      }
    });
  },
};

const RESULTS: { readonly [P in OpName]: 0 | 1 | null } = {
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

const positive = (size: number) => Number.isInteger(size) && size > 0;

/** Throws `KernelError` unless the kernel obeys every rule. */
export function verify(kernel: Kernel): void {
  const at = (where: string, condition: boolean, message: () => string): void => {
    if (!condition) throw new KernelError(`kernel '${kernel.name}'${where}: ${message()}`);
  };
  at('', kernel.name.length > 0, () => 'a kernel needs a name');
  at(
    '',
    kernel.grid.length >= 1 && kernel.grid.length <= 3 && kernel.grid.every(positive),
    () => `the grid must be 1 to 3 positive integers, not [${kernel.grid}]`,
  );
  verifyViews(kernel, at);
  kernel.types.forEach((type, id) => {
    const where = `, value %${id}`;
    at(where, type.shape.every(positive), () => `sizes must be positive integers, not ${text(type)}`);
    at(
      where,
      type.dtype !== 'i4' || (type.shape.length > 0 && type.shape[type.shape.length - 1] % 2 === 0),
      () => `the last dimension of an i4 tile must be even, not ${text(type)}`,
    );
  });

  const everDefined = new Set<ValueId>();
  const visible = new Set<ValueId>();
  const define = (where: string, id: ValueId, scope: ValueId[]) => {
    at(where, Number.isInteger(id) && id >= 0 && id < kernel.types.length, () => `%${id} has no type`);
    at(where, !everDefined.has(id), () => `%${id} is defined a second time`);
    everDefined.add(id);
    visible.add(id);
    scope.push(id);
  };
  const use = (where: string, id: ValueId) => {
    at(where, visible.has(id), () =>
      everDefined.has(id)
        ? `%${id} belongs to a loop body that has ended`
        : `%${id} is used before it is defined`,
    );
  };

  const block = (instructions: readonly Instruction[], path: string): void => {
    const scope: ValueId[] = [];
    instructions.forEach(({ op, results }, position) => {
      const left = results.length > 0 ? `${results.map((id) => `%${id}`).join(', ')} = ` : '';
      const where = `, instruction ${path}${position} (${left}${op.op})`;
      const expect = (condition: boolean, message: () => string) => at(where, condition, message);
      expect(Object.hasOwn(RULES, op.op), () => 'is no operation of the tile language');
      for (const id of operands(op)) use(where, id);
      const wanted = RESULTS[op.op];
      expect(
        wanted === null || results.length === wanted,
        () => `must have ${wanted} results, not ${results.length}`,
      );
      if (op.op === 'loop') {
        const inner: ValueId[] = [];
        for (const id of [op.index, ...op.params]) define(where, id, inner);
        checkScalar({ kernel, results: [], type: (id) => kernel.types[id], expect }, op.index, 'the index');
        const bodyScope = bodyBlock(op.body, `${path}${position}.`);
        for (const id of op.yields) use(where, id);
        for (const id of [...inner, ...bodyScope]) visible.delete(id);
      }
      for (const id of results) define(where, id, scope);
      const context: Context = {
        kernel,
        results: results.map((id) => kernel.types[id]),
        type: (id) => kernel.types[id],
        expect,
      };
      (RULES[op.op] as (op: Op, context: Context) => void)(op, context);
    });
    scopes.push(scope);
  };
  const scopes: ValueId[][] = [];
  const bodyBlock = (instructions: readonly Instruction[], path: string): readonly ValueId[] => {
    block(instructions, path);
    return scopes.pop() as ValueId[];
  };
  bodyBlock(kernel.body, '');
}

function verifyViews(
  kernel: Kernel,
  at: (where: string, condition: boolean, message: () => string) => void,
): void {
  const names = new Set<string>();
  for (const view of kernel.views) {
    const where = `, view '${view.name}'`;
    const last = view.shape.length - 1;
    at(where, !names.has(view.name), () => 'the name is used twice');
    names.add(view.name);
    at(
      where,
      view.shape.length > 0 && view.shape.every(positive),
      () => `sizes must be positive integers, not [${view.shape}]`,
    );
    at(
      where,
      view.strides.length === view.shape.length,
      () => `${view.shape.length} dimensions need as many strides, not ${view.strides.length}`,
    );
    at(
      where,
      view.strides.every((stride) => Number.isInteger(stride) && stride >= 0),
      () => `strides must be integers from 0 on, not [${view.strides}]`,
    );
    at(
      where,
      view.access === 'read' || view.strides.every((stride, axis) => stride > 0 || view.shape[axis] === 1),
      () => 'a stride of 0 repeats elements: such a view can only be read',
    );
    if (view.dtype !== 'i4') continue;
    at(
      where,
      view.shape[last] % 2 === 0,
      () => `the last dimension of an i4 view must be even, not ${view.shape[last]}`,
    );
    at(
      where,
      view.strides.every((stride, axis) => (axis === last ? stride === 1 : stride % 2 === 0)),
      () => `i4 rows are packed: the last stride is 1 and the others are even, not [${view.strides}]`,
    );
  }
}
