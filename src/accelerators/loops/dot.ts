/**
 * dot: register tiles of the result, k ascending with one accumulator an element. Operands are read where they lie
 * as far as that is fast; else b is packed into panels as wide as a register tile, and a into padded rows.
 */
import { fitsWideTile } from '../../kernels/operands.ts';
import type { Instruction, Op, ValueId } from '../../tile/ir.ts';
import { fetchAhead, fetchNextTile } from './ahead.ts';
import type { Arithmetic } from './arithmetic.ts';
import { addProducts, arithmeticOf, matrixOf } from './arithmetic.ts';
import { type Code, evenPieces } from './code.ts';
import type { ProductEpilogue } from './epilogue.ts';
import { finish, streamsAt } from './epilogue.ts';
import type { IntOperand, IntReg, LoopTarget, VecReg } from './ir.ts';
import { matrixProduct } from './matrix.ts';
import { depthOf, matrixA, matrixB } from './matrix-operands.ts';
import type { Operand } from './operands.ts';
import { operandA, operandB, unpack } from './operands.ts';
import { halfOf, pairOf } from './pairs.ts';
import type { SumRows } from './sums.ts';
import { placeSums } from './sums.ts';
import type { Context, Stored } from './values.ts';
import { elementBytes } from './views.ts';

type DotOp = Extract<Op, { op: 'dot' }>;
type StoreOp = Extract<Op, { op: 'store' }>;

/** What a register tile adds up: a · b of each, one after the other. */
interface Term {
  readonly a: Operand;
  readonly b: Operand;
}

interface Product {
  readonly terms: readonly Term[];
  /** Steps in bytes from row to row; null: all elements are `bits`. */
  readonly acc: number | null;
  readonly bits: number;
  readonly out: number;
  readonly depth: number;
  /** One column: elements are stored one by one, as rows are not padded. */
  readonly narrow: boolean;
  /** b is read once, from memory. */
  readonly streams: boolean;
  /** a comes from memory, and what multiplies it takes no longer than that. */
  readonly waits: boolean;
  /** What becomes of the sums instead of being stored. */
  readonly epilogue: ProductEpilogue | null;
  readonly arithmetic: Arithmetic;
}

/** Where a register tile begins: its first element of each operand and of the sums. */
interface Corner {
  readonly a: readonly IntReg[];
  /** The same register where terms read the same memory. */
  readonly b: readonly IntReg[];
  /** Null where sums begin with a constant. */
  readonly acc: IntReg | null;
  /** Null where an epilogue takes the sums. */
  readonly out: IntReg | null;
  /** Of the epilogue's streams. */
  readonly streams: readonly IntReg[];
}

/** Columns up to which each row of a is used so little that its way from memory counts. */
const FEW_COLUMNS = 256;
/** Vectors of a row of a register tile. */
const WIDEST = 8;
/** Sums of a register tile of integers up to which additions take longer to finish than to begin. */
const FEW_SUMS = 4;
/** Sums do not depend on the order of additions. */
const EXACT: ReadonlySet<Arithmetic> = new Set<Arithmetic>(['integer', 'quads']);

/** rows x vectors of the result. */
function registerTile(context: Context, p: Product, corner: Corner, rows: number, vectors: number): void {
  const { code } = context;
  const width = 4 * code.lanes;
  const at = (base: IntReg, stride: number, row: number, vector: number) => ({
    base,
    displacement: stride * row + width * vector,
  });
  const each = <T>(make: (row: number, vector: number) => T): T[][] =>
    Array.from({ length: rows }, (_, row) =>
      Array.from({ length: vectors }, (_, vector) => make(row, vector)),
    );
  const sums = each((row, vector): VecReg => {
    if (p.acc === null || corner.acc === null) return code.bits(p.bits);
    const from = at(corner.acc, p.acc, row, vector);
    return p.narrow ? code.broadcast(from) : code.load(from);
  });
  // Where there are few sums, a second set halves what waits for one another.
  const others = EXACT.has(p.arithmetic) && rows * vectors <= FEW_SUMS ? each(() => code.bits(0)) : null;
  const moving = (start: IntReg): IntReg => {
    const dst = code.newInt();
    code.emit({ o: 'imove', dst, a: start });
    return dst;
  };
  const pa = corner.a.map(moving);
  const movingB = new Map([...new Set(corner.b)].map((start) => [start, moving(start)]));
  const pb = corner.b.map((start) => movingB.get(start) as IntReg);
  const { pairs, swapped } = { pairs: p.arithmetic === 'pairs', swapped: p.arithmetic === 'swapped' };
  /** A step along k: of one element, or of a pair; `both`: it has a second one. */
  const loaded = new Map<string, VecReg>();
  const step = (u: number, both: boolean) => {
    p.terms.forEach(({ a, b }, term) => {
      const load = (row: number, vector: number) => {
        const from = {
          base: pb[term],
          displacement: b.k * (b.halves ? row >> 1 : row) + elementBytes(b.type) * code.lanes * vector,
        };
        const key = `${from.base.id} ${from.displacement}`;
        const lanes = loaded.get(key) ?? code.load(from, b.type);
        loaded.set(key, lanes);
        return b.halves ? halfOf(context, lanes, row % 2) : unpack(context, b.unpacking ?? [], lanes);
      };
      const columns = Array.from({ length: vectors }, (_, vector) =>
        b.apart
          ? pairOf(context, load(2 * u, vector), both ? load(2 * u + 1, vector) : null)
          : load(u, vector),
      );
      for (let row = 0; row < rows; row++) {
        const element = code.broadcast({ base: pa[term], displacement: a.k * u + a.step * row }, a.type);
        const sum = ((u + term) % 2 === 1 && others !== null ? others : sums)[row];
        addProducts(context, p.arithmetic, element, columns, sum);
      }
    });
  };
  const [{ a, b }] = p.terms;
  const advance = (steps: number) => {
    const forward = (pointer: IntReg, by: number) =>
      code.emit({ o: 'ibin', dst: pointer, fn: 'add', a: pointer, b: by });
    for (const pointer of pa) forward(pointer, a.k * steps);
    const rows = b.apart ? 2 * steps : b.halves ? steps / 2 : steps;
    for (const pointer of movingB.values()) forward(pointer, b.k * rows);
  };
  const alone = (pairs || swapped) && p.depth % 2 !== 0;
  const total = pairs ? Math.floor(p.depth / 2) : alone ? p.depth - 1 : p.depth;
  const atOnce = code.target.dotTile.round / (rows * vectors * p.terms.length);
  const unroll =
    [8, 4, 2].find((count) => count <= atOnce && total % count === 0) ?? (swapped || b.halves ? 2 : 1);
  const round = () => {
    loaded.clear();
    if (p.streams) for (const pointer of movingB.values()) fetchAhead(code, pointer, unroll * b.k);
    if (p.waits) fetchNextTile(code, pa[0], { ...a, rows, depth: unroll });
    for (let u = 0; u < unroll; u++) step(swapped ? u ^ 1 : u, true);
  };
  if (total === unroll && !alone) round();
  else if (total > 0)
    code.for(0, total, unroll, () => {
      round();
      advance(unroll);
    });
  loaded.clear();
  if (alone) step(0, false);
  others?.forEach((list, row) => {
    list.forEach((other, vector) => {
      const dst = sums[row][vector];
      code.emit({ o: 'vbin', dst, fn: 'iadd', a: dst, b: other });
    });
  });
  if (p.epilogue !== null) {
    finish(context, p.epilogue, corner.streams, sums);
    return;
  }
  const out = corner.out as IntReg;
  sums.forEach((list, row) => {
    list.forEach((sum, vector) => {
      const to = at(out, p.out, row, vector);
      if (p.narrow) code.storeFirst(sum, to);
      else code.store(sum, to);
    });
  });
}

/** The register tile for [m, n]: few rows leave registers for more vectors of each row of b. */
function tileFor(
  { dotTile, wideTile, vectorRegisters, lanes }: LoopTarget,
  [m, n]: readonly number[],
  unpacked: boolean,
): LoopTarget['dotTile'] {
  if (wideTile !== null && !unpacked && fitsWideTile(wideTile, m, n, lanes))
    return { ...dotTile, ...wideTile };
  // What is unpacked needs registers beside those of the words.
  const rows = unpacked ? Math.max(1, dotTile.rows - 2) : dotTile.rows;
  const columns = Math.ceil(n / lanes);
  if (m >= rows) return { ...dotTile, rows, vectors: Math.min(dotTile.vectors, columns) };
  const fitting = Math.min(WIDEST, Math.floor((vectorRegisters - 1) / (m + (unpacked ? 2 : 1))));
  return { ...dotTile, rows: m, vectors: Math.min(Math.max(dotTile.vectors, fitting), columns) };
}

/** Splits total into pieces of two neighbouring sizes, none above `size`; `piece` gets its start. */
function evenly(
  code: Code,
  total: number,
  size: number,
  piece: (start: IntOperand, size: number) => void,
): void {
  for (const pieces of evenPieces(total, size)) code.each(pieces, (start) => piece(start, pieces.size));
}

/** Whether a product that adds to the result of another can be computed in one with it: their sums have no order. */
export function joins({ code, kernel }: Context, first: DotOp, second: DotOp): boolean {
  const depth = (op: DotOp) => kernel.types[op.a].shape[op.transA ? 0 : 1];
  const dtype = (op: DotOp) => kernel.types[op.a].dtype;
  return (
    EXACT.has(arithmeticOf(code.target, dtype(first))) &&
    dtype(first) === dtype(second) &&
    first.transA === second.transA &&
    depth(first) === depth(second)
  );
}

/** How a product is computed. `of`: what matrix registers take, or null where vectors are multiplied. */
function waysOf({ code, kernel }: Context, op: DotOp, [m]: readonly number[]) {
  const { shape, dtype } = kernel.types[op.a];
  const arithmetic = arithmeticOf(code.target, dtype);
  return { depth: shape[op.transA ? 0 : 1], arithmetic, of: matrixOf(code.target, arithmetic, m) };
}

/**
 * Makes the operands of a loop's products that are there before it ready once instead of each time round. Returns what
 * is to be called behind the loop.
 */
export function keepOperands(context: Context, body: readonly Instruction[]): () => void {
  const { kept, code } = context;
  const releases: (() => void)[] = [];
  const keep = <R extends { readonly owned: Stored | null }>(map: Map<DotOp, R>, op: DotOp, ready: R) => {
    map.set(op, { ...ready, owned: null });
    releases.push(() => {
      map.delete(op);
      if (ready.owned !== null) context.reclaim(ready.owned.buffer);
    });
  };
  for (const { op, results } of body) {
    if (op.op !== 'dot') continue;
    const { shape } = context.type(results[0]);
    const [m, n] = shape;
    const { depth, arithmetic, of } = waysOf(context, op, shape);
    // Products that may be joined with others are made ready together with those.
    if (EXACT.has(arithmetic)) continue;
    if (of !== null) {
      const along = depthOf(of, depth);
      if (context.inScratch(op.a)) keep(kept.matrix.a, op, matrixA(context, op, m, along));
      if (context.inScratch(op.b)) keep(kept.matrix.b, op, matrixB(context, op, n, along));
    } else {
      const size = tileFor(code.target, shape, false);
      if (context.inScratch(op.a))
        keep(kept.vector.a, op, operandA(context, op, [m, size.rows], depth, arithmetic));
      if (context.inScratch(op.b))
        keep(kept.vector.b, op, operandB(context, op, size, shape, depth, arithmetic));
    }
  }
  return () => {
    for (const release of releases) release();
  };
}

/**
 * Lowers products of which each but the first adds to the one before; whether it also did what `store`, the only reader
 * of the result, has to do.
 */
export function lowerDot(
  context: Context,
  ops: readonly DotOp[],
  result: ValueId,
  { store = null, epilogue = null }: { store?: StoreOp | null; epilogue?: ProductEpilogue | null } = {},
): boolean {
  const { code } = context;
  const { shape } = context.type(result);
  const [m, n] = shape;
  const [op] = ops;
  const { depth, arithmetic, of } = waysOf(context, op, shape);
  if (of !== null) {
    const along = depthOf(of, depth);
    const terms = ops.map((each) => ({
      a: context.kept.matrix.a.get(each) ?? matrixA(context, each, m, along),
      b: context.kept.matrix.b.get(each) ?? matrixB(context, each, n, along),
    }));
    const sums = placeSums(context, op, result, store, epilogue === null);
    matrixProduct(context, {
      of,
      terms: terms.map(({ a, b }) => ({ a: a.operand, b: b.operand })),
      m,
      n,
      elements: along.elements,
      steps: along.steps,
      acc: sums.acc,
      bits: sums.bits,
      out: sums.out,
      epilogue,
    });
    return sums.finish(
      terms.flatMap(({ a, b }) => [a.owned, b.owned]),
      epilogue,
    );
  }
  const unpacked = ops.some(({ b }) => {
    const value = context.viewed(b);
    return value !== null && ((value.paired && arithmetic !== 'pairs') || value.unpacking.length > 0);
  });
  const size = tileFor(code.target, shape, unpacked);
  const ready = ops.map((each) => ({
    a: context.kept.vector.a.get(each) ?? operandA(context, each, [m, size.rows], depth, arithmetic),
    b: context.kept.vector.b.get(each) ?? operandB(context, each, size, shape, depth, arithmetic),
  }));
  const owned = ready.flatMap(({ a, b }) => [a.owned, b.owned]);
  const terms = together(ready.map(({ a, b }) => ({ a: a.operand, b: b.operand })));
  // Nothing is stored where an epilogue takes all sums at once.
  const sums = placeSums(context, op, result, store, epilogue === null || terms.length > 1);
  const { acc, bits, out } = sums;
  terms.forEach((list, index) => {
    const from = index === 0 ? acc : out;
    const last = index === terms.length - 1 ? epilogue : null;
    const product: Product = {
      terms: list,
      streams: m <= size.rows && list.every(({ b }) => b.inMemory && b.k === n * elementBytes(b.type)),
      waits: m > size.rows && list.every(({ a }) => a.inMemory === true) && (op.transA || n <= FEW_COLUMNS),
      epilogue: last,
      acc: from?.row ?? null,
      bits,
      out: out?.row ?? 0,
      depth,
      narrow: n === 1,
      arithmetic,
    };
    code.pieces(Math.ceil(n / code.lanes), size.vectors, (column, vectors) => {
      const along = code.int('mul', column, 4 * code.lanes * size.vectors);
      const panels = new Map(
        list.map(({ b }) => [b.base, code.pointer(b.base, code.int('mul', column, b.step))]),
      );
      evenly(code, m, size.rows, (row, rows) => {
        const place = (rows: SumRows | null) =>
          rows && code.pointer(rows.base, code.int('add', code.int('mul', row, rows.row), along));
        const corner: Corner = {
          a: list.map(({ a }) => code.pointer(a.base, code.int('mul', row, a.step))),
          b: list.map(({ b }) => panels.get(b.base) as IntReg),
          acc: place(from),
          out: place(out),
          streams: last === null ? [] : streamsAt(context, last, row, column, code.lanes * size.vectors),
        };
        registerTile(context, product, corner, rows, vectors);
      });
    });
  });
  return sums.finish(owned, epilogue);
}

/** Terms in lists that one register tile can step through: operands must lie alike. */
function together(terms: readonly Term[]): readonly (readonly Term[])[] {
  const alike = (x: Operand, y: Operand) =>
    x.type === y.type && x.step === y.step && x.k === y.k && x.apart === y.apart;
  const [first] = terms;
  return terms.every(({ a, b }) => alike(a, first.a) && alike(b, first.b))
    ? [terms]
    : terms.map((term) => [term]);
}
