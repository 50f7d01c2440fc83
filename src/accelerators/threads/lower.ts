/**
 * From tiles to threads: one program of the grid is one workgroup. Single values are in every thread; the elements of a
 * tile are shared out among the threads, and go through workgroup memory where a thread needs those of another.
 */
import type { DType } from '../../numerics/dtype.ts';
import type { Instruction, Kernel, OpName, ValueId } from '../../tile/ir.ts';
import { operands } from '../../tile/ir.ts';
import { allocate } from './allocate.ts';
import { Code, int, op as operation, thread } from './code.ts';
import type { Place } from './context.ts';
import { Context } from './context.ts';
import { lowerDot } from './dot.ts';
import type { OpOf } from './element.ts';
import { Elements } from './element.ts';
import { factsOf } from './facts.ts';
import { withCallees } from './functions.ts';
import type { Expr, Stmt, ThreadArray, ThreadProgram } from './ir.ts';
import { Index, share } from './layout.ts';
import { lowerArgmax, lowerReduce, lowerScan } from './reduce.ts';

export interface ThreadTarget {
  /** For messages. */
  readonly name: string;
  /** Threads of a workgroup, at most; a power of two. */
  readonly threads: number;
  /** Workgroup memory. */
  readonly sharedBytes: number;
  /** Words of private arrays a thread, at most. */
  readonly privateWords: number;
}

/** How the views of one launch lie in memory. */
export interface Memory {
  readonly overlaps: (a: number, b: number) => boolean;
  /** The first view that has the same elements at the same places. */
  readonly canonical: (view: number) => number;
}

const STORABLE: readonly DType[] = ['f32', 'bf16', 'f16', 'i32', 'u32', 'i8', 'bool'];

/** Why a kernel cannot be lowered, or null. */
export function unsupported(kernel: Kernel, { name }: ThreadTarget): string | null {
  const view = kernel.views.find(({ dtype }) => !STORABLE.includes(dtype));
  if (view !== undefined)
    return `kernel '${kernel.name}' on ${name}: view '${view.name}' holds ${view.dtype}, which is not supported`;
  const type = kernel.types.find(({ dtype }) => !STORABLE.includes(dtype));
  if (type !== undefined)
    return `kernel '${kernel.name}' on ${name}: tiles of ${type.dtype} are not supported`;
  return null;
}

/** The kernel as code of threads. Throws an Error for what `unsupported` names. */
export function lower(kernel: Kernel, target: ThreadTarget, memory: Memory): ThreadProgram {
  const reason = unsupported(kernel, target);
  if (reason !== null) throw new Error(reason);
  const facts = factsOf(kernel, target.threads, memory.overlaps);
  const code = new Code();
  const context = new Context(kernel, facts, code, {
    overlaps: memory.overlaps,
    privateWords: target.privateWords,
  });
  const makers = new Map<ValueId, Instruction>();
  const collect = (body: readonly Instruction[]): void => {
    for (const instruction of body) {
      for (const id of instruction.results) makers.set(id, instruction);
      if (instruction.op.op === 'loop') collect(instruction.op.body);
    }
  };
  collect(kernel.body);
  const lowering: Lowering = { context, elements: new Elements(context, makers), memory };
  const body = code.block(() => {
    lowerBlock(lowering, kernel.body);
    context.closeNest();
  });
  const { shared, scratch } = allocate(context.lifetimes, target.sharedBytes / 4);
  return {
    name: kernel.name,
    threads: facts.threads,
    grid: kernel.grid,
    views: kernel.views.map(({ dtype }, view) => ({
      dtype,
      written: kernel.views.some((_, other) => memory.overlaps(view, other) && isStored(kernel.body, other)),
    })),
    privates: context.privates,
    sharedWords: shared,
    scratchWords: scratch,
    barriers: context.barriers,
    functions: withCallees(calledIn(body)),
    body,
  };
}

function isStored(body: readonly Instruction[], view: number): boolean {
  return body.some(({ op }) =>
    op.op === 'loop'
      ? isStored(op.body, view)
      : (op.op === 'store' || op.op === 'scatter' || op.op === 'atomicAdd') && op.view === view,
  );
}

/** Names of the functions that statements call. */
function calledIn(statements: readonly Stmt[]): Set<string> {
  const names = new Set<string>();
  const visit = (node: unknown): void => {
    if (typeof node !== 'object' || node === null) return;
    if ('e' in node && node.e === 'call' && 'name' in node) names.add(String(node.name));
    for (const part of Object.values(node)) visit(part);
  };
  visit(statements);
  return names;
}

interface Lowering {
  readonly context: Context;
  readonly elements: Elements;
  readonly memory: Memory;
}

type Lower = (lowering: Lowering, instruction: Instruction) => void;

function lowerBlock(lowering: Lowering, body: readonly Instruction[]): void {
  for (const instruction of body) LOWER[instruction.op.op](lowering, instruction);
}

/** A single value is computed at once, by every thread; a tile's elements in a nest, unless they are needed nowhere. */
const elementwise: Lower = ({ context, elements, memory }, instruction) => {
  const { op, results } = instruction;
  const [result] = results;
  const { inline, stream, streamOnly, isSingle } = context.facts;
  const { shape } = context.type(result);
  const touches = op.op === 'load' || op.op === 'gather';
  if (isSingle(result)) {
    const compute = () => {
      const index = new Index(
        context.code,
        shape,
        shape.map(() => int(0)),
      );
      context.place(result).single = context.code.let(elements.compute(instruction, index));
    };
    if (!touches) return compute();
    const use = elements.memory(op, 'every thread', memory.canonical);
    if (context.nestConflicts(use)) context.closeNest();
    context.phase(() => {
      context.touchMemory(use);
      compute();
    });
    return;
  }
  if (inline.has(result) || streamOnly.has(result)) return;
  const layout = context.layout(result);
  const fetched = (id: ValueId) => isSingle(id) || inline.has(id) || stream.has(id);
  const others =
    op.op === 'broadcast' && !fetched(op.arg)
      ? [op.arg]
      : op.op === 'transpose' || (op.op === 'reshape' && context.layout(op.arg).key !== layout.key)
        ? [op.arg]
        : op.op === 'gather'
          ? [op.rows]
          : [];
  context.join(instruction, layout, (index) => elements.compute(instruction, index), {
    result,
    others,
    memory: touches ? elements.memory(op, layout.key, memory.canonical) : undefined,
  });
};

/** Writes each element once, or adds it atomically. */
const stored: Lower = ({ context, elements, memory }, instruction) => {
  const op = instruction.op as OpOf<'store'> | OpOf<'atomicAdd'>;
  const { code, facts } = context;
  const { shape } = context.type(op.value);
  const put = (index: Index) => {
    const value = elements.element(op.value, index);
    const { address, inside } = elements.block(op, shape, index.coordinates(shape));
    const s = op.op;
    code.if(inside, () => code.emit({ s, view: op.view, address, value }));
    return null;
  };
  if (!facts.isSingle(op.value)) {
    const layout = context.layout(op.value);
    const use = elements.memory(op, layout.key, memory.canonical);
    context.join(instruction, layout, put, { memory: use });
    return;
  }
  const use = elements.memory(op, 'thread 0', memory.canonical);
  if (context.nestConflicts(use)) context.closeNest();
  context.phase(() => {
    context.touchMemory(use);
    code.if(operation('bool', 'eq', thread, int(0)), () => {
      put(
        new Index(
          code,
          shape,
          shape.map(() => int(0)),
        ),
      );
    });
  });
};

/** A column a thread, rows in ascending order: of two rows for one place the later stays. */
const scatter: Lower = ({ context, elements }, instruction) => {
  const op = instruction.op as OpOf<'scatter'>;
  const { code } = context;
  const { shape } = context.type(op.value);
  context.closeNest();
  context.phase(() => {
    context.touchMemory({ view: op.view, key: `scatter ${op.rows} ${op.value}`, stores: true });
    share(code, shape[1], context.threads, (j) => {
      code.for(int(0), int(shape[0]), 1, (i) => {
        const { address, inside } = elements.row(op, code.let(elements.rowIndex(op.rows, i)), j);
        const value = code.let(elements.element(op.value, new Index(code, shape, [i, j])));
        code.if(inside, () => code.emit({ s: 'store', view: op.view, address, value }));
      });
    });
  });
};

const loop: Lower = (lowering, instruction) => {
  const { context, elements } = lowering;
  const { code, facts } = context;
  const op = instruction.op as OpOf<'loop'>;
  const tiles = op.params.flatMap((param, position) => {
    if (facts.isSingle(param)) return [];
    const [next, result] = [op.yields[position], instruction.results[position]];
    const inPlace = canOverwrite(context, op, position);
    const users = [param, result, ...(inPlace ? [next] : [])].flatMap((id) => facts.uses(id));
    const layout = context.layout(param);
    const array = users.some(({ access }) => access === 'other')
      ? context.newArray(context.scalarType(param), layout.count, 'shared')
      : context.newOwnArray(context.scalarType(param), layout);
    return [{ param, next, result, init: op.init[position], inPlace, layout, array }];
  });
  const singles = op.params.flatMap((param, position) =>
    facts.isSingle(param)
      ? [{ param, next: op.yields[position], result: instruction.results[position], init: op.init[position] }]
      : [],
  );

  // Those of one layout one after another, so that they share a nest.
  for (const { init, layout, array } of [...tiles].sort((a, b) => a.layout.key.localeCompare(b.layout.key)))
    context.join(instruction, layout, (index) => {
      context.writeAt(array, index, elements.element(init, index), true);
      return null;
    });
  context.closeNest();
  const placeOf = (array: ThreadArray): Place =>
    array.space === 'private' ? { own: array } : { shared: array };
  for (const { param, array } of tiles) Object.assign(context.place(param), placeOf(array));
  const variables = singles.map(({ param, init }) => {
    const variable = code.declare(context.single(init));
    context.place(param).single = variable;
    return variable;
  });
  for (const { next, array, inPlace } of tiles) if (inPlace) context.targets.set(next, array);

  const bounds = {
    lo: context.single(op.lo),
    hi: context.single(op.hi),
    step: op.step,
    fromMemory: facts.fromMemory.has(op.lo) || facts.fromMemory.has(op.hi),
  };
  context.loop(bounds, (index) => {
    context.place(op.index).single = index;
    lowerBlock(lowering, op.body);
    // All of one layout are read before any is written: values may change places.
    const copied = tiles.filter(({ inPlace, param, next }) => !inPlace && next !== param);
    for (const key of new Set(copied.map(({ layout }) => layout.key))) {
      const group = copied.filter(({ layout }) => layout.key === key);
      const values = new Map<ValueId, Expr>();
      for (const { next, param, layout } of group)
        context.join(op.yields, layout, (index) => {
          values.set(param, code.copy(elements.element(next, index)));
          return null;
        });
      for (const { param, array, layout } of group)
        context.join(op.yields, layout, (index) => {
          context.writeAt(array, index, values.get(param) as Expr, true);
          return null;
        });
    }
    context.closeNest();
    const next = singles.map(({ next }) => code.copy(context.single(next)));
    for (const [position, variable] of variables.entries()) code.assign(variable, next[position]);
  });
  for (const { result, array } of tiles) Object.assign(context.place(result), placeOf(array));
  singles.forEach(({ result }, position) => {
    context.place(result).single = variables[position];
  });
};

/**
 * Whether a carried value's next value may be written over it where it is made: then nothing that comes later in the
 * body reads the old one, and the instruction itself reads it element for element.
 */
function canOverwrite({ facts }: Context, op: OpOf<'loop'>, position: number): boolean {
  const [param, next] = [op.params[position], op.yields[position]];
  const at = op.body.findIndex(({ results }) => results.includes(next));
  const maker = op.body[at];
  if (maker === undefined || maker.op.op === 'loop' || maker.op.op === 'scan') return false;
  if (facts.inline.has(next) || facts.stream.has(next)) return false;
  if (op.yields.filter((id) => id === next).length > 1 || op.yields.includes(param)) return false;
  const reads = (instruction: Instruction): boolean =>
    operands(instruction.op).includes(param) ||
    (instruction.op.op === 'loop' &&
      (instruction.op.yields.includes(param) || instruction.op.body.some(reads)));
  if (op.body.slice(at + 1).some(reads)) return false;
  return facts.uses(param).every(({ by, access }) => by !== maker || access === 'own');
}

const LOWER: { readonly [P in OpName]: Lower } = {
  programId: ({ context }, { op, results }) => {
    const { axis } = op as OpOf<'programId'>;
    context.place(results[0]).single = { e: 'program', type: 'i32', axis };
  },
  constant: elementwise,
  iota: elementwise,
  load: elementwise,
  gather: elementwise,
  map: elementwise,
  broadcast: elementwise,
  reshape: elementwise,
  transpose: elementwise,
  cast: elementwise,
  store: stored,
  scatter,
  atomicAdd: stored,
  dot: ({ context, elements }, instruction) => lowerDot(context, elements, instruction),
  reduce: ({ context, elements }, instruction) => lowerReduce(context, elements, instruction),
  argmax: ({ context, elements }, instruction) => lowerArgmax(context, elements, instruction),
  scan: ({ context, elements }, instruction) => lowerScan(context, elements, instruction),
  loop,
};
