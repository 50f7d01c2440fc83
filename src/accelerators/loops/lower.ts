/**
 * Lowers tile kernels to vector loops. A tile is a buffer in scratch memory; instructions over one shape become one
 * loop nest, in which values stay in registers and are stored only where something else reads them; products read
 * their operands from views where that is fast.
 */
import type { Instruction, Kernel, Op, OpName, ValueId } from '../../tile/ir.ts';
import { elementCount } from '../../tile/ir.ts';
import { mapBounds } from './bounds.ts';
import { floatBits } from './code.ts';
import { joins, lowerDot } from './dot.ts';
import { groupEpilogue } from './epilogue.ts';
import { groups, uses } from './group.ts';
import { inlineLoops } from './inline.ts';
import type { LoopFunction, LoopTarget, VecReg } from './ir.ts';
import { lowerLoop } from './loop.ts';
import { castIsFree, emitCast, emitIntegerMap, emitMap } from './map.ts';
import { isStorable, lowerGather, lowerLoad, lowerScatter, lowerStore } from './memory.ts';
import { lowerGroup } from './nest.ts';
import { lowerArgmax, lowerReduce, lowerScan } from './reduce.ts';
import { lowerBroadcast, lowerReshape, lowerTranspose } from './shape.ts';
import type { Integer, Value } from './values.ts';
import { Context, isIntegerScalar } from './values.ts';

type OpOf<P extends OpName> = Extract<Op, { op: P }>;

/** All instructions, those of loop bodies included. */
function* instructionsOf(body: readonly Instruction[]): Generator<Instruction> {
  for (const instruction of body) {
    yield instruction;
    if (instruction.op.op === 'loop') yield* instructionsOf(instruction.op.body);
  }
}

/** What in the kernel this lowering cannot do (a sentence), or null. */
export function unsupported(kernel: Kernel, target: LoopTarget): string | null {
  const name = `kernel '${kernel.name}' on ${target.name}`;
  for (const { op } of instructionsOf(kernel.body))
    if (op.op === 'atomicAdd') return `${name}: 'atomicAdd' is not supported; use a reduction in two kernels`;
  const view = kernel.views.find(({ dtype }) => !isStorable(dtype));
  if (view !== undefined) return `${name}: view '${view.name}' holds ${view.dtype}, which is not supported`;
  for (const { op, results } of instructionsOf(kernel.body)) {
    const id = results.find((result) => !isStorable(kernel.types[result].dtype));
    if (id !== undefined)
      return `${name}: '${op.op}' yields ${kernel.types[id].dtype}, which is not supported`;
  }
  return null;
}

function lowerConstant(context: Context, op: OpOf<'constant'>, result: ValueId): void {
  const type = context.type(result);
  const { dtype } = type;
  if (isIntegerScalar(type)) context.define(result, { at: 'integer', value: op.value | 0 });
  else {
    const bits = dtype === 'f32' ? floatBits(op.value) : dtype === 'bool' ? -op.value : op.value | 0;
    context.define(result, { at: 'constant', bits });
  }
}

function lowerIota(context: Context, op: OpOf<'iota'>, result: ValueId): void {
  const { code } = context;
  const { shape } = context.type(result);
  const tile = context.newTile([shape[op.axis]]);
  const iota = code.iota();
  const base = context.pointer(tile);
  code.for(0, shape[op.axis], code.lanes, (index) => {
    code.store(code.bin('iadd', iota, code.splat(index)), { base, index, scale: 4, displacement: 0 });
  });
  const strides = shape.map((size, axis) => (axis === op.axis && size > 1 ? 1 : 0));
  context.define(result, { ...tile, strides });
}

/** An elementwise instruction on values that may be registers or tiles. */
function lowerLanes(
  context: Context,
  args: readonly ValueId[],
  result: ValueId,
  compute: (lanes: readonly VecReg[]) => VecReg,
): void {
  const { code } = context;
  const type = context.type(result);
  const values = args.map((id) => context.value(id));
  const sources = values.map((value, i) =>
    value.at === 'scratch' || value.at === 'constant'
      ? value
      : context.source(value, context.type(args[i]).dtype),
  );
  const lanesOf = (source: (typeof sources)[number]) =>
    'at' in source && source.at === 'constant' ? code.bits(source.bits) : source;
  if (values.every(({ at }) => at !== 'scratch')) {
    const lanes = compute(sources.map((source) => lanesOf(source) as VecReg));
    context.define(result, context.scalarFromLanes(lanes, type));
    return;
  }
  const out = context.resultTile(type.shape, args);
  context.elementwise(type.shape, sources.map(lanesOf), out, compute);
  context.define(result, out);
}

function lowerMap(context: Context, op: OpOf<'map'>, result: ValueId): void {
  const { dtype } = context.type(op.args[op.args.length - 1]);
  const viewed = context.viewed(op.args[0]);
  if (viewed !== null) {
    const bits = context.constantBits(op.args) as number;
    context.define(result, { ...viewed, unpacking: [...viewed.unpacking, { fn: op.fn, dtype, bits }] });
    return;
  }
  const values = op.args.map((id) => context.value(id));
  if (
    isIntegerScalar(context.type(result)) &&
    values.every((value): value is Integer => value.at === 'integer')
  ) {
    const known = op.args.map((id) => context.bounds(id));
    const bounds = mapBounds(op.fn, known);
    const [first] = known;
    const scalar = emitIntegerMap(
      context.code,
      op.fn,
      values.map(({ value }) => value),
      dtype,
      { fits: bounds !== undefined, natural: first !== undefined && first[0] >= 0 },
    );
    if (scalar !== null) {
      context.define(result, { at: 'integer', value: scalar, bounds });
      return;
    }
  }
  lowerLanes(context, op.args, result, (lanes) =>
    emitMap(context.code, op.fn, lanes, dtype, context.constantBits(op.args)),
  );
}

function lowerCast(context: Context, op: OpOf<'cast'>, result: ValueId): void {
  const from = context.type(op.arg).dtype;
  const type = context.type(result);
  const viewed = context.viewed(op.arg);
  if (viewed !== null) {
    context.define(result, viewed);
    return;
  }
  const value = context.value(op.arg);
  const same: Value | null =
    value.at === 'integer'
      ? isIntegerScalar(type) && type.dtype !== 'i8'
        ? value
        : null
      : castIsFree(from, type.dtype) && !isIntegerScalar(type)
        ? value
        : null;
  if (same !== null) context.define(result, same);
  else lowerLanes(context, [op.arg], result, ([lanes]) => emitCast(context.code, lanes, from, type.dtype));
}

type Lower = {
  readonly [P in OpName]: (
    context: Context,
    op: OpOf<P>,
    results: readonly ValueId[],
    program: Program,
  ) => void;
};
type Program = readonly Integer[];

const LOWER: Lower = {
  programId: (context, op, [result], program) => context.define(result, program[op.axis]),
  constant: (context, op, [result]) => lowerConstant(context, op, result),
  iota: (context, op, [result]) => lowerIota(context, op, result),
  load: (context, op, [result]) => lowerLoad(context, op, result),
  store: (context, op) => lowerStore(context, op),
  gather: (context, op, [result]) => lowerGather(context, op, result),
  scatter: (context, op) => lowerScatter(context, op),
  atomicAdd: (context) => {
    throw new Error(`kernel '${context.kernel.name}': 'atomicAdd' is not supported`);
  },
  dot: (context, op, [result]) => {
    lowerDot(context, [op], result);
  },
  map: (context, op, [result]) => lowerMap(context, op, result),
  reduce: (context, op, [result]) => lowerReduce(context, op, result),
  argmax: (context, op, [result]) => lowerArgmax(context, op, result),
  scan: (context, op, [result]) => lowerScan(context, op, result),
  broadcast: (context, op, [result]) => lowerBroadcast(context, op, result),
  reshape: (context, op, [result]) => lowerReshape(context, op, result),
  transpose: (context, op, [result]) => lowerTranspose(context, op, result),
  cast: (context, op, [result]) => lowerCast(context, op, result),
  loop: (context, op, results, program) =>
    lowerLoop(context, op, results, (body, yields, own, end) =>
      lowerBlock(context, body, yields, own, program, end),
    ),
};

/** Lowers a block; `own` are values that belong to it besides its results, `end` runs after the last instruction. */
function lowerBlock(
  context: Context,
  body: readonly Instruction[],
  yields: readonly ValueId[],
  own: readonly ValueId[],
  program: Program,
  end: () => void,
): void {
  const units = groups(context.kernel, body, context.deferred);
  const last = new Map<ValueId, number>();
  for (const id of own) last.set(id, -1);
  units.forEach(({ members }, position) => {
    for (const { op, results } of members) {
      for (const id of uses(op)) if (last.has(id)) last.set(id, position);
      for (const id of results) last.set(id, position);
    }
  });
  for (const id of yields) if (last.has(id)) last.set(id, units.length);
  const ending: ValueId[][] = Array.from({ length: units.length + 1 }, () => []);
  for (const [id, position] of last) if (position >= 0) ending[position].push(id);
  for (const [id, position] of last) if (position < 0) context.drop(id);
  /** The only instruction that reads a product, where it is the next one. */
  const onlyReader = (position: number): Instruction | null => {
    const [{ results }] = units[position].members;
    const next = units[position + 1];
    return next?.shape === null && last.get(results[0]) === position + 1 ? next.members[0] : null;
  };
  /** The products from `position` on that are computed in one: each adds to the one before. */
  const chainAt = (position: number): readonly Instruction[] => {
    const [first] = units[position].members;
    const next = onlyReader(position);
    return next?.op.op === 'dot' &&
      next.op.acc === first.results[0] &&
      joins(context, first.op as OpOf<'dot'>, next.op)
      ? [first, ...chainAt(position + 1)]
      : [first];
  };
  /** The group behind a product that nothing else reads, if it can be its epilogue. */
  const followerOf = (position: number, product: ValueId) => {
    const next = units[position + 1];
    if (next === undefined || last.get(product) !== position + 1) return null;
    const { shape, members } = next;
    const own = context.type(product).shape;
    const fits = shape?.length === 2 && own[1] > 1 && shape.every((size, axis) => size === own[axis]);
    return fits ? { shape, members } : null;
  };
  /** Units that were lowered with one before them: what adds to a product, or stores it. */
  let done = 0;
  units.forEach(({ members, shape }, position) => {
    if (position >= done) {
      done = position + 1;
      const isDot = shape === null && members[0].op.op === 'dot';
      const chain = isDot ? chainAt(position) : [];
      const end = position + Math.max(1, chain.length) - 1;
      context.dying = new Set(ending.slice(position, end + 1).flat());
      if (shape !== null) lowerGroup(context, shape, members, (id) => last.get(id) !== position);
      else if (isDot) {
        const [result] = chain[chain.length - 1].results;
        const reader = onlyReader(end)?.op;
        const store = reader?.op === 'store' && reader.value === result ? reader : null;
        const products = chain.map(({ op }) => op as OpOf<'dot'>);
        const follower = followerOf(end, result);
        if (follower !== null) context.dying = new Set(ending.slice(position, end + 2).flat());
        const outside = (id: ValueId) => last.get(id) !== end + 1;
        const needed = products.flatMap(({ a, b }) => [a, b]);
        const epilogue =
          follower && groupEpilogue(context, follower.shape, follower.members, outside, result, needed);
        if (epilogue === null) context.dying = new Set(ending.slice(position, end + 1).flat());
        const takesNext = lowerDot(context, products, result, { store, epilogue }) || epilogue !== null;
        done = end + (takesNext ? 2 : 1);
      } else
        for (const { op, results } of members)
          (LOWER[op.op] as (c: Context, op: Op, r: readonly ValueId[], p: Program) => void)(
            context,
            op,
            results,
            program,
          );
    }
    for (const id of ending[position]) context.drop(id);
  });
  end();
  for (const id of ending[units.length]) context.drop(id);
}

/** The kernel as loops over vectors. Throws an Error for what `unsupported` names. */
export function lower(kernel: Kernel, target: LoopTarget): LoopFunction {
  const reason = unsupported(kernel, target);
  if (reason !== null) throw new Error(reason);
  const context = new Context(inlineLoops(kernel), target);
  const { code } = context;
  const [from, to] = [code.newInt(), code.newInt()];
  code.emit({ o: 'parameter', dst: from, which: 'from' });
  code.emit({ o: 'parameter', dst: to, which: 'to' });
  code.for(from, to, 1, (index) => {
    let rest: Integer['value'] = index;
    const program = kernel.grid.map((size, axis): Integer => {
      const value = axis === kernel.grid.length - 1 ? rest : code.int('rem', rest, size);
      rest = code.int('div', rest, size);
      return { at: 'integer', value: size === 1 ? 0 : value, bounds: [0, size - 1] };
    });
    lowerBlock(context, context.kernel.body, [], [], program, () => {});
  });
  return {
    name: kernel.name,
    views: kernel.views.length,
    lanes: target.lanes,
    scratchBytes: context.scratchBytes,
    programs: elementCount(kernel.grid),
    body: code.finish(),
  };
}
