/** Operands of `dot`: read where they lie as far as that is fast; else b is packed into panels, and a into padded rows. */
import { rowsConflict, worthPacking } from '../../kernels/operands.ts';
import type { Op } from '../../tile/ir.ts';
import type { Arithmetic } from './arithmetic.ts';
import { isNear, presentRows, wholeRows, wordsMissing } from './edges.ts';
import type { IntReg, LoopTarget, MemoryType, VecReg } from './ir.ts';
import { emitMap } from './map.ts';
import { loadInto } from './memory.ts';
import { packPairs, pairedAlongRows, pairedRows, pairPanels, unpairedPanels } from './pairs.ts';
import type { Source } from './panels.ts';
import { packPanels, packPanelsTransposed } from './panels.ts';
import { copyRows, paddedRows } from './rows.ts';
import type { Context, Stored } from './values.ts';
import type { Unpacking, Viewed } from './views.ts';
import { elementBytes, viewedStrides } from './views.ts';

type DotOp = Extract<Op, { op: 'dot' }>;

/** An operand of register tiles. Steps are in bytes. */
export interface Operand {
  readonly base: IntReg;
  readonly type: MemoryType;
  /** From one register tile's first row (a) to the next row; from one register tile (b) to the next beside it. */
  readonly step: number;
  /** Along k; with pairs, from one pair to the next. */
  readonly k: number;
  /** It lies in a view's memory. */
  readonly inMemory?: boolean;
  /** Of b: the rows lie apart that become pairs when they are read; k is from row to row. */
  readonly apart?: boolean;
  /** Of b: an element holds two rows of bf16, the first in its low half; k is from pair to pair. */
  readonly halves?: boolean;
  /** Of b: what becomes of its elements when they are read. */
  readonly unpacking?: readonly Unpacking[];
}

export interface Ready {
  readonly operand: Operand;
  /** Scratch to give back afterwards. */
  readonly owned: Stored | null;
}

/** `rows`: of a register tile, which are read beside each other. */
export function operandA(
  context: Context,
  op: DotOp,
  [m, rows]: readonly [number, number],
  depth: number,
  arithmetic: Arithmetic,
): Ready {
  if (arithmetic === 'pairs') return pairsOfA(context, op, [m, rows], depth);
  const value = context.viewed(op.a);
  const [alongM, alongK] = op.transA ? [1, 0] : [0, 1];
  if (value !== null) {
    const bytes = viewedStrides(value);
    const { base, type, inside } = value.block;
    const size: readonly [number, number] = op.transA ? [depth, m] : [m, depth];
    const readable =
      (type === 'f32' || type === 'i32') &&
      (op.transA || !rowsConflict(rows, bytes[0], false, context.code.target.cacheWays));
    const steps = { type, step: bytes[alongM], k: bytes[alongK] };
    if (readable && inside === 1) return { operand: { base, ...steps, inMemory: true }, owned: null };
    if (readable && bytes[1] === 4 && wordsMissing(value) === 'rows' && isNear(bytes[0], 4 * size[1])) {
      const made = wholeRows(context, value, bytes[0], size, (to) =>
        presentRows(context, value, bytes[0], size, to),
      );
      return { operand: { base: made.base, ...steps }, owned: made.owned };
    }
    const tile = paddedRows(context, ...size);
    loadInto(context, value, tile);
    return { operand: scratchOperand(context, tile, alongM, alongK), owned: tile };
  }
  const { tile, copied } = context.dense(op.a);
  return { operand: scratchOperand(context, tile, alongM, alongK), owned: copied ? tile : null };
}

function pairsOfA(context: Context, op: DotOp, [m, rows]: readonly [number, number], depth: number): Ready {
  const pairs = Math.ceil(depth / 2);
  const value = context.viewed(op.a);
  const inside = value !== null && value.block.inside === 1;
  const strides = value === null ? [] : viewedStrides(value);
  const [alongM, alongK] = op.transA ? [1, 0] : [0, 1];
  if (inside && !op.transA && strides[1] === 2 && depth % 2 === 0) {
    const source: Source = { base: value.block.base, type: 'i32', strides: [strides[0], 4] };
    if (!rowsConflict(rows, strides[0], true, context.code.target.cacheWays))
      return { operand: { base: source.base, type: 'i32', step: strides[0], k: 4 }, owned: null };
    return copyOfRows(context, source, [m, pairs]);
  }

  // Pairs of rows [depth, m], or, of rows [m, depth], at every other element.
  const out = op.transA ? paddedRows(context, pairs, m) : paddedRows(context, m, 2 * pairs);
  const [stride] = out.strides;
  const operand: Operand = {
    base: context.pointer(out),
    type: 'i32',
    step: 4 * (op.transA ? 1 : stride),
    k: 4 * (op.transA ? stride : 2),
  };
  const pairUp = (source: Source) => {
    if (op.transA) pairedRows(context, source, [depth, m], operand.base, 4 * stride);
    else pairedAlongRows(context, source, [m, depth], operand.base, 4 * stride);
  };
  if (inside && op.transA && strides[alongM] === 2)
    pairUp({ base: value.block.base, type: 'bf16', strides: [strides[alongK], 2] });
  else {
    const { tile, temporary } = asRows(context, op.a, value);
    pairUp(scratchSource(context, tile));
    if (temporary) context.reclaim(tile.buffer);
  }
  return { operand, owned: out };
}

/** Rows of 32-bit elements, at distances at which they do not fall into one set of the cache. */
function copyOfRows(context: Context, from: Source, [rows, columns]: readonly [number, number]): Ready {
  const tile = paddedRows(context, rows, columns);
  const base = context.pointer(tile);
  const stride = 4 * tile.strides[0];
  copyRows(context, from, [rows, columns], base, stride);
  return { operand: { base, type: 'i32', step: stride, k: 4 }, owned: tile };
}

/** The value as rows of 32-bit elements in scratch; `temporary`: to give back afterwards. */
export function asRows(
  context: Context,
  id: number,
  value: Viewed | null,
): { tile: Stored; temporary: boolean } {
  if (value === null) {
    const { tile, copied } = context.dense(id);
    return { tile, temporary: copied };
  }
  const tile = context.newTile(context.type(id).shape);
  loadInto(context, value, tile);
  return { tile, temporary: true };
}

function scratchOperand(context: Context, tile: Stored, outer: number, k: number): Operand {
  const { strides } = tile;
  return { base: context.pointer(tile), type: 'i32', step: 4 * strides[outer], k: 4 * strides[k] };
}

export function scratchSource(context: Context, tile: Stored): Source {
  return { base: context.pointer(tile), type: 'i32', strides: tile.strides.map((stride) => 4 * stride) };
}

export function operandB(
  context: Context,
  op: DotOp,
  size: LoopTarget['dotTile'],
  [m, n]: readonly number[],
  depth: number,
  arithmetic: Arithmetic,
): Ready {
  const { code } = context;
  const { lanes } = code;
  const paired = arithmetic === 'pairs';
  const width = size.vectors * lanes;
  const value = context.viewed(op.b);
  const panel = { k: 4 * width, step: 4 * width * (paired ? Math.ceil(depth / 2) : depth) };
  const panels = (): Stored => ({
    at: 'scratch',
    buffer: context.allocate(4 * Math.ceil(n / width) * width * depth),
    strides: [],
  });
  const packed = (tile: Stored): Ready => ({
    operand: { base: context.pointer(tile), type: 'i32', ...panel },
    owned: tile,
  });
  /** Rows in scratch, as they are. */
  const rowsOf = (tile: Stored, axis: number, owned: boolean): Ready => ({
    operand: {
      base: context.pointer(tile),
      type: 'i32',
      step: 4 * width,
      k: 4 * tile.strides[axis],
      apart: paired,
    },
    owned: owned ? tile : null,
  });
  const pack = (source: Source, tile: Stored, inMemory: boolean) => {
    const to = context.pointer(tile);
    // Products of few rows wait for memory.
    const ahead = inMemory && m <= size.rows;
    if (paired) packB(context, op.transB, source, [depth, n], size.vectors, to);
    else if (op.transB) packPanelsTransposed(context, source, [depth, n], size.vectors, to, ahead);
    else packPanels(context, source, [depth, n], size.vectors, to);
  };
  if (value !== null) {
    const { block } = value;
    const strides = viewedStrides(value);
    const bytes = elementBytes(block.type);
    const contiguous = strides[1] === bytes;
    // A panel in memory is what packing would make.
    const isPanel = n === width && strides[0] === n * bytes && bytes === 4;
    const { unpacking } = value;
    if (value.paired && block.inside === 1 && n % lanes === 0) {
      const { base, view } = block;
      const k = bytes * view.strides[value.axes[0]];
      if (paired || !worthPacking(m, code.target.dotTile.rows))
        return {
          operand: { base, type: 'i32', step: 4 * width, k, inMemory: true, halves: !paired },
          owned: null,
        };
      const tile = panels();
      unpairedPanels(
        context,
        { base, type: 'i32', strides: [k, 4] },
        [depth, n],
        size.vectors,
        context.pointer(tile),
      );
      return packed(tile);
    }
    const readable = block.inside === 1 && !op.transB && contiguous && n % lanes === 0;
    // Taking elements out of words costs less than a pass of its own, which writes and reads them once more.
    if (readable && (isPanel || unpacking.length > 0 || !worthPacking(m, code.target.dotTile.rows)))
      return {
        operand: {
          base: block.base,
          type: block.type,
          step: width * bytes,
          k: strides[0],
          inMemory: true,
          apart: paired,
          unpacking,
        },
        owned: null,
      };
    if (unpacking.length > 0) {
      const tile = context.newTile([depth, n]);
      loadInto(context, value, tile);
      context.elementwise([depth, n], [tile], tile, ([lanes]) => unpack(context, unpacking, lanes));
      return rowsOf(tile, 0, true);
    }
    // For few rows, one copy is enough.
    if (!op.transB && !worthPacking(m, code.target.dotTile.rows)) {
      const tile = context.newTile([depth, n]);
      loadInto(context, value, tile);
      return rowsOf(tile, 0, true);
    }
    const tile = panels();
    // Along a row of the transpose, pairs lie as they should.
    const pairsLie = paired && op.transB && depth % 2 === 0;
    const direct = contiguous && (!op.transB || bytes === 4 || pairsLie);
    code.if(
      direct ? block.inside : 0,
      () => {
        pack({ base: block.base, type: block.type, strides }, tile, true);
      },
      () => {
        const rows = context.newTile(context.type(op.b).shape);
        loadInto(context, value, rows);
        pack(scratchSource(context, rows), tile, false);
        context.reclaim(rows.buffer);
      },
    );
    return packed(tile);
  }
  const { tile, copied } = context.dense(op.b);
  const source = scratchSource(context, tile);
  if (op.transB && n > 1 && tile.strides[0] !== 1) {
    const out = panels();
    pack(source, out, false);
    if (copied) context.reclaim(tile.buffer);
    return packed(out);
  }
  return rowsOf(tile, op.transB ? 1 : 0, copied);
}

/**
 * Packs b's rows, or its transpose's (`transB`), of bf16 into panels of pairs, from rows of 32-bit elements or, where
 * along a row of the transpose pairs lie as they should, from those in memory.
 */
export function packB(
  context: Context,
  transB: boolean,
  source: Source,
  [depth, n]: readonly [number, number],
  vectors: number,
  to: IntReg,
): void {
  if (!transB) packPairs(context, source, [depth, n], vectors, to);
  else if (source.type === 'bf16')
    packPanelsTransposed(context, { ...source, type: 'i32' }, [depth / 2, n], vectors, to);
  else {
    packPanelsTransposed(context, source, [depth, n], vectors, to);
    pairPanels(context, to, [depth, n], vectors);
  }
}

/** Lanes of words become elements. */
export function unpack({ code }: Context, unpacking: readonly Unpacking[], words: VecReg): VecReg {
  return unpacking.reduce(
    (lanes, { fn, dtype, bits }) => emitMap(code, fn, [lanes, code.bits(bits)], dtype, bits),
    words,
  );
}
