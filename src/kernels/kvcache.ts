/** Writes the keys and values of new tokens into the cache that attention reads. */
import type { KernelBuilder, ViewHandle } from '../tile/builder.ts';
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import { elementCount } from '../tile/ir.ts';
import type { Tile } from '../tile/tile.ts';
import type { Storage } from './common.ts';
import { loadF32, memoized } from './common.ts';

export interface CacheShape {
  readonly slots: number;
  readonly kvHeads: number;
  /** Positions a slot. */
  readonly maxLength: number;
  readonly headDim: number;
}

/**
 * Of keys and of values: a token's key is in one piece, and so are those of a head one after the other. Attention turns
 * blocks of them; were they held turned, to write one would mean to touch as many cache lines as it has elements.
 */
export const cacheShape = ({ slots, kvHeads, maxLength, headDim }: CacheShape): number[] => [
  slots,
  kvHeads,
  maxLength,
  headDim,
];

export interface CacheWriteOptions extends CacheShape {
  readonly tokens: number;
  /** Type of the new rows. */
  readonly type?: Storage;
  readonly cacheType?: Storage;
}

/** A cache as kernels write it: a block of tokens at a time, each to its slot and position. */
export interface CacheWriter {
  /** From `column` on, columns of each token's key or value. f32 [block, columns], rounded to the cache's type. */
  writeKeys(column: number, tile: Tile): void;
  writeValues(column: number, tile: Tile): void;
}

/** Declares keys and values. Tokens whose slot or position is negative or too large are skipped. */
export function cacheWriter(
  k: KernelBuilder,
  { slots, kvHeads, maxLength, headDim }: CacheShape,
  cacheType: Storage,
  views: { readonly slot: ViewHandle; readonly position: ViewHandle },
  at: { readonly token: Tile; readonly block: number; readonly head: Tile },
): CacheWriter {
  const rows = [slots * kvHeads * maxLength, headDim];
  if (elementCount(rows) >= 2 ** 31)
    throw new RangeError(
      `a cache of ${slots} sequences of ${maxLength} tokens has ${elementCount(rows)} keys' elements in a layer, and 2^31 are too many: use fewer sequences at once, or shorter ones`,
    );
  const [keys, values] = ['keys', 'values'].map((name) => k.output(name, cacheType, rows));
  const slot = k.load(views.slot, [at.token], [at.block], { fill: -1 });
  const position = k.load(views.position, [at.token], [at.block], { fill: -1 });
  const inside = slot.ge(0).and(slot.lt(slots)).and(position.ge(0)).and(position.lt(maxLength));
  const row = inside.select(slot.mul(kvHeads).add(at.head).mul(maxLength).add(position), -1);
  return {
    writeKeys: (column, tile) => k.scatter(keys, row, column, tile.cast(cacheType)),
    writeValues: (column, tile) => k.scatter(values, row, column, tile.cast(cacheType)),
  };
}

/**
 * cache[slot[t], head, position[t]] = new[t, head], for keys and values. Tokens whose slot or position is negative
 * or too large are skipped. Views: newKeys, newValues [tokens, kvHeads * headDim], slot, position i32 [tokens],
 * keys, values (`cacheShape`).
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
      const slot = k.input('slot', 'i32', [tokens]);
      const position = k.input('position', 'i32', [tokens]);
      const block = Math.min(tokens, 8);
      k.grid(ceilDiv(tokens, block), kvHeads);
      const token = k.programId(0).mul(block);
      const head = k.programId(1);
      const cache = cacheWriter(k, o, cacheType, { slot, position }, { token, block, head });
      const [newKeys, newValues] = fresh.map((view) =>
        loadF32(k, view, [token, head, 0], [block, 1, headDim]).reshape([block, headDim]),
      );
      cache.writeKeys(0, newKeys);
      cache.writeValues(0, newValues);
    },
  );
});
