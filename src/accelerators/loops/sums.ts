/** Where the sums of a product begin and end. */
import type { Op, ValueId } from '../../tile/ir.ts';
import type { ProductEpilogue } from './epilogue.ts';
import type { IntReg } from './ir.ts';
import { locateOp } from './memory.ts';
import type { Context, Stored } from './values.ts';
import type { Block } from './views.ts';

type DotOp = Extract<Op, { op: 'dot' }>;
type StoreOp = Extract<Op, { op: 'store' }>;

/** Rows of 32-bit elements, `row` bytes apart. */
export interface SumRows {
  readonly base: IntReg;
  readonly row: number;
}

export interface Sums {
  /** Null: all begin with `bits`. */
  readonly acc: SumRows | null;
  readonly bits: number;
  /** Null where nothing is stored. */
  readonly out: SumRows | null;
  /** Gives back scratch and defines the result; whether `store` is done with. */
  finish(owned: readonly (Stored | null)[], epilogue: ProductEpilogue | null): boolean;
}

/** The place in a view where `store` puts a product, if register tiles can write there. */
function destination(context: Context, store: StoreOp, [, n]: readonly number[]): Block | null {
  const { strides, dtype } = context.kernel.views[store.view];
  const { shape } = context.type(store.value);
  if (n % context.code.lanes !== 0 || strides[strides.length - 1] !== 1) return null;
  if (dtype !== 'f32' && dtype !== 'i32') return null;
  const block = locateOp(context, store, shape);
  return block.inside === 1 ? block : null;
}

/** `store`: the only reader of the result, or null; `stored`: sums are kept somewhere, as no epilogue takes all at once. */
export function placeSums(
  context: Context,
  op: DotOp,
  result: ValueId,
  store: StoreOp | null,
  stored: boolean,
): Sums {
  const { shape } = context.type(result);
  const start = op.acc === null ? ({ at: 'constant', bits: 0 } as const) : context.value(op.acc);
  const acc = op.acc === null || start.at === 'constant' ? null : context.dense(op.acc);
  const direct = store === null ? null : destination(context, store, shape);
  const reused = op.acc === null || acc?.copied ? [] : [op.acc];
  const tile = direct === null && stored ? context.resultTile(shape, reused) : null;
  const rowsOf = (tile: Stored): SumRows => ({ base: context.pointer(tile), row: 4 * tile.strides[0] });
  return {
    acc: acc && rowsOf(acc.tile),
    bits: start.at === 'constant' ? start.bits : 0,
    out: direct ? { base: direct.base, row: 4 * direct.view.strides[0] } : tile && rowsOf(tile),
    finish(owned, epilogue) {
      for (const each of [...owned, acc?.copied ? acc.tile : null])
        if (each !== null) context.reclaim(each.buffer);
      if (tile !== null && epilogue === null) context.define(result, tile);
      else if (tile !== null) context.reclaim(tile.buffer);
      return direct !== null;
    },
  };
}
