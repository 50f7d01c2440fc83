/** What lowering must know of a kernel before it writes any code: who uses a value, and how it may be held. */
import type { DType } from '../../numerics/dtype.ts';
import type { Instruction, Kernel, MapFn, Op, TileType, ValueId } from '../../tile/ir.ts';
import { elementCount, operands } from '../../tile/ir.ts';
import type { Layout } from './layout.ts';
import { linearLayout, matrixOf, squareLayout } from './layout.ts';

/** An instruction, or the list of a loop's yields. */
export type User = Instruction | readonly ValueId[];

/** `own`: element for element by the thread that holds it. `other`: any element by any thread. */
export interface Use {
  readonly by: User;
  readonly access: 'own' | 'other';
}

/** Least and greatest value that an i32 scalar can have. */
export type Range = readonly [number, number];
const ANY: Range = [-(2 ** 31), 2 ** 31 - 1];

export interface Facts {
  readonly threads: number;
  readonly type: (id: ValueId) => TileType;
  /** One element: every thread has it in a variable. */
  readonly isSingle: (id: ValueId) => boolean;
  readonly layout: (shape: readonly number[]) => Layout;
  readonly uses: (id: ValueId) => readonly Use[];
  /** Computed anew wherever an element is needed: functions of the position and of single values. */
  readonly inline: ReadonlySet<ValueId>;
  /** Loaded and cheaply changed, from memory that the kernel does not write: `FETCHES` get its elements from there. */
  readonly stream: ReadonlySet<ValueId>;
  /** Of `stream`, those that nothing else uses: they are nowhere held as a whole. */
  readonly streamOnly: ReadonlySet<ValueId>;
  readonly range: (id: ValueId) => Range;
  /** Whether a single value may, as far as the code tells, differ between threads: it comes from memory. */
  readonly fromMemory: ReadonlySet<ValueId>;
  /** Views whose memory the kernel writes. */
  readonly isWritten: (view: number) => boolean;
}

const COSTLY: ReadonlySet<MapFn> = new Set<MapFn>([
  'exp',
  'exp2',
  'log',
  'log2',
  'tanh',
  'sigmoid',
  'sin',
  'cos',
  'sqrt',
  'rsqrt',
]);
/** Operations of an expression that is rather computed again than held. */
const INLINE_SIZE = 16;
/** Operations that use each element of an operand about once and so need not have it held as a whole. */
const FETCHES = new Set<Op['op']>(['dot', 'broadcast', 'reduce', 'argmax']);
const ELEMENTWISE = new Set<Op['op']>(['map', 'cast', 'broadcast', 'reshape', 'transpose']);

/** All instructions in order, those of a loop's body before the loop. */
function* everyInstruction(body: readonly Instruction[]): Generator<Instruction> {
  for (const instruction of body) {
    if (instruction.op.op === 'loop') yield* everyInstruction(instruction.op.body);
    yield instruction;
  }
}

/** `overlaps(a, b)`: whether views a and b share memory. */
export function factsOf(
  kernel: Kernel,
  maxThreads: number,
  overlaps: (a: number, b: number) => boolean,
): Facts {
  const type = (id: ValueId) => kernel.types[id];
  const isSingle = (id: ValueId) => elementCount(kernel.types[id].shape) === 1;
  const all = [...everyInstruction(kernel.body)];
  const threads = threadsFor(kernel, all, maxThreads);
  const layout = layouts(kernel, all, threads);

  const written = kernel.views.map((_, view) =>
    all.some(
      ({ op }) =>
        (op.op === 'store' || op.op === 'scatter' || op.op === 'atomicAdd') && overlaps(op.view, view),
    ),
  );
  const isWritten = (view: number) => written[view];

  const { inline, stream } = classes(kernel, isSingle, isWritten);
  const uses = new Map<ValueId, Use[]>();
  const streamOnly = new Set<ValueId>();
  const isStreamed = (id: ValueId) => stream.has(id) || inline.has(id);
  const use = (id: ValueId, by: User, access: Use['access']) => {
    uses.set(id, [...(uses.get(id) ?? []), { by, access }]);
  };
  const sameLayout = (a: ValueId, b: ValueId) => layout(type(a).shape).key === layout(type(b).shape).key;
  // Backwards, so that all users of a value are known before the instruction that makes it.
  const visit = (body: readonly Instruction[]): void => {
    for (const instruction of [...body].reverse()) {
      const { op, results } = instruction;
      const [result] = results;
      if (results.length === 1 && op.op !== 'loop') {
        if (inline.has(result)) continue;
        if (stream.has(result) && !uses.has(result)) {
          streamOnly.add(result);
          continue;
        }
      }
      for (const [id, access] of accesses(op, result, sameLayout))
        if (!(access === 'other' && FETCHES.has(op.op) && isStreamed(id))) use(id, instruction, access);
      if (op.op === 'loop') {
        for (const id of op.yields) use(id, op.yields, 'own');
        visit(op.body);
      }
    }
  };
  visit(kernel.body);
  return {
    threads,
    type,
    isSingle,
    layout,
    uses: (id) => uses.get(id) ?? [],
    inline,
    stream,
    streamOnly,
    isWritten,
    ...scalars(kernel),
  };
}

/** How an instruction gets at the elements of its operands. */
function accesses(
  op: Op,
  result: ValueId,
  sameLayout: (a: ValueId, b: ValueId) => boolean,
): (readonly [ValueId, Use['access']])[] {
  switch (op.op) {
    case 'map':
      return op.args.map((id) => [id, 'own']);
    case 'cast':
      return [[op.arg, 'own']];
    case 'reshape':
      return [[op.arg, sameLayout(op.arg, result) ? 'own' : 'other']];
    case 'dot':
      return [[op.a, 'other'], [op.b, 'other'], ...(op.acc === null ? [] : [[op.acc, 'own'] as const])];
    case 'store':
    case 'atomicAdd':
      return operands(op).map((id) => [id, 'own']);
    case 'loop':
      return operands(op).map((id) => [id, 'own']);
    default:
      return operands(op).map((id) => [id, 'other']);
  }
}

/** A power of two: a thread gets about 8 elements of the largest tile that is computed. */
function threadsFor(kernel: Kernel, all: readonly Instruction[], most: number): number {
  const counts = all.flatMap(({ op, results }) =>
    op.op === 'loop' ? [] : [...results, ...(op.op === 'store' ? [op.value] : [])],
  );
  const largest = Math.max(1, ...counts.map((id) => elementCount(kernel.types[id].shape)));
  return Math.min(most, Math.max(32, 2 ** Math.ceil(Math.log2(largest / 8))));
}

function layouts(
  kernel: Kernel,
  all: readonly Instruction[],
  threads: number,
): (shape: readonly number[]) => Layout {
  const products = new Map<string, Layout>();
  for (const { op, results } of all) {
    if (op.op !== 'dot') continue;
    const [rows, columns] = matrixOf(kernel.types[results[0]].shape);
    products.set(`${rows}x${columns}`, squareLayout(rows, columns, threads));
  }
  return (shape) => {
    const [rows, columns] = matrixOf(shape);
    return products.get(`${rows}x${columns}`) ?? linearLayout(rows * columns, threads);
  };
}

function classes(
  kernel: Kernel,
  isSingle: (id: ValueId) => boolean,
  isWritten: (view: number) => boolean,
): { readonly inline: Set<ValueId>; readonly stream: Set<ValueId> } {
  const size = new Map<ValueId, number>();
  const inline = new Set<ValueId>();
  const stream = new Set<ValueId>();
  for (const { op, results } of everyInstruction(kernel.body)) {
    const [result] = results;
    if (results.length !== 1 || isSingle(result)) continue;
    if (op.op === 'constant' || op.op === 'iota') {
      inline.add(result);
      size.set(result, 1);
    } else if (op.op === 'load' && !isWritten(op.view)) {
      stream.add(result);
      size.set(result, 1);
    } else if (op.op === 'gather' && !isWritten(op.view)) {
      if (!isSingle(op.rows) && !stream.has(op.rows) && !inline.has(op.rows)) continue;
      stream.add(result);
      size.set(result, 1 + (size.get(op.rows) ?? 0));
    } else if (ELEMENTWISE.has(op.op) && !(op.op === 'map' && COSTLY.has(op.fn))) {
      const args = operands(op);
      const total = args.reduce((sum, id) => sum + (size.get(id) ?? 0), 1);
      if (total > INLINE_SIZE || !args.every((id) => isSingle(id) || inline.has(id) || stream.has(id)))
        continue;
      (args.some((id) => stream.has(id)) ? stream : inline).add(result);
      size.set(result, total);
    }
  }
  return { inline, stream };
}

/** Ranges of integer scalars, and which scalars come from memory. */
function scalars(kernel: Kernel): Pick<Facts, 'range' | 'fromMemory'> {
  const ranges = new Map<ValueId, Range>();
  const fromMemory = new Set<ValueId>();
  const range = (id: ValueId): Range => ranges.get(id) ?? ANY;
  const put = (id: ValueId, [low, high]: Range) => {
    if (low >= ANY[0] && high <= ANY[1]) ranges.set(id, [low, high]);
  };
  const visit = (body: readonly Instruction[]): void => {
    for (const { op, results } of body) {
      const [result] = results;
      const isInt = results.length === 1 && kernel.types[result].dtype === 'i32';
      if (op.op === 'loop') {
        const [low, high] = [range(op.lo), range(op.hi)];
        const last = Math.max(low[0], high[1] - 1);
        const exact = low[0] === low[1] ? low[0] + Math.floor((last - low[0]) / op.step) * op.step : last;
        put(op.index, [low[0], exact]);
        if (fromMemory.has(op.lo) || fromMemory.has(op.hi)) fromMemory.add(op.index);
        for (const id of [...op.params, ...results]) fromMemory.add(id);
        visit(op.body);
        continue;
      }
      if (!['constant', 'programId', 'iota', 'map', 'cast', 'reshape', 'broadcast'].includes(op.op))
        for (const id of results) fromMemory.add(id);
      else if (operands(op).some((id) => fromMemory.has(id))) fromMemory.add(result);
      if (!isInt) continue;
      if (op.op === 'programId') put(result, [0, kernel.grid[op.axis] - 1]);
      else if (op.op === 'constant') put(result, [op.value | 0, op.value | 0]);
      else if (op.op === 'reshape' || op.op === 'broadcast') put(result, range(op.arg));
      else if (op.op === 'map') {
        const found = RANGES[op.fn]?.(...op.args.map(range));
        if (found !== undefined) put(result, found);
      }
    }
  };
  visit(kernel.body);
  return { range, fromMemory };
}

/** Ranges of results from those of arguments; what may leave 32 bits is dropped. */
const RANGES: { readonly [F in MapFn]?: (...args: Range[]) => Range } = {
  add: (a, b) => [a[0] + b[0], a[1] + b[1]],
  sub: (a, b) => [a[0] - b[1], a[1] - b[0]],
  mul: (a, b) => {
    const corners = a.flatMap((x) => b.map((y) => x * y));
    return [Math.min(...corners), Math.max(...corners)];
  },
  min: (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1])],
  max: (a, b) => [Math.max(a[0], b[0]), Math.max(a[1], b[1])],
  div: (a, b) => (b[0] === b[1] && b[0] > 0 ? [Math.trunc(a[0] / b[0]), Math.trunc(a[1] / b[0])] : ANY),
  select: (_, a, b) => [Math.min(a[0], b[0]), Math.max(a[1], b[1])],
};

/** How a value of this element type is held in variables. */
export function carrier(dtype: DType): 'f32' | 'i32' | 'u32' | 'bool' {
  switch (dtype) {
    case 'i32':
    case 'i8':
    case 'i4':
      return 'i32';
    case 'u32':
    case 'bool':
      return dtype;
    default:
      return 'f32';
  }
}
