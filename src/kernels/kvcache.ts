/** Writes the keys and values of new tokens into the cache that attention reads. */
import type { KernelBuilder, ViewHandle } from '../tile/builder.ts';
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Tile } from '../tile/tile.ts';
import type { Storage } from './common.ts';
import { loadF32, memoized } from './common.ts';

export interface CacheWriteOptions {
  readonly tokens: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly slots: number;
  readonly maxLength: number;
  /** Type of the new rows. */
  readonly type?: Storage;
  readonly cacheType?: Storage;
}

/** Rows of the cache, as a matrix [slots * heads * maxLength, headDim], for a block of tokens; -1: none. */
export function cacheRows(
  k: KernelBuilder,
  views: { readonly slot: ViewHandle; readonly position: ViewHandle },
  at: { readonly token: Tile; readonly block: number; readonly head: Tile },
  size: { readonly slots: number; readonly heads: number; readonly maxLength: number },
): Tile {
  const slot = k.load(views.slot, [at.token], [at.block], { fill: -1 });
  const position = k.load(views.position, [at.token], [at.block], { fill: -1 });
  const inside = slot.ge(0).and(slot.lt(size.slots)).and(position.ge(0)).and(position.lt(size.maxLength));
  const row = slot.mul(size.heads).add(at.head).mul(size.maxLength).add(position);
  return inside.select(row, -1);
}

/**
 * cache[slot[t], head, position[t]] = new[t, head], for keys and values. Tokens whose slot or position is negative
 * or too large are skipped. Views: newKeys, newValues [tokens, kvHeads * headDim], slot, position i32 [tokens],
 * keys, values [slots, kvHeads, maxLength, headDim].
 */
export const cacheWrite: (options: CacheWriteOptions) => Kernel = memoized((o: CacheWriteOptions): Kernel => {
  const { tokens, kvHeads, headDim, slots, maxLength, type = 'f32', cacheType = 'f32' } = o;
  return buildKernel(
    `cache_write_${tokens}x${kvHeads}x${headDim}_${slots}x${maxLength}_${type}_${cacheType}`,
    (k) => {
      const fresh = [
        k.input('newKeys', type, [tokens, kvHeads, headDim]),
        k.input('newValues', type, [tokens, kvHeads, headDim]),
      ];
      const slotView = k.input('slot', 'i32', [tokens]);
      const positionView = k.input('position', 'i32', [tokens]);
      const cacheShape = [slots * kvHeads * maxLength, headDim];
      const cache = [k.output('keys', cacheType, cacheShape), k.output('values', cacheType, cacheShape)];
      const block = Math.min(tokens, 8);
      k.grid(ceilDiv(tokens, block), kvHeads);
      const token = k.programId(0).mul(block);
      const head = k.programId(1);
      const rows = cacheRows(
        k,
        { slot: slotView, position: positionView },
        { token, block, head },
        { slots, heads: kvHeads, maxLength },
      );
      fresh.forEach((view, index) => {
        const tile = loadF32(k, view, [token, head, 0], [block, 1, headDim]).reshape([block, headDim]);
        k.scatter(cache[index], rows, 0, tile.cast(cacheType));
      });
    },
  );
});
