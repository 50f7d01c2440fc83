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

/** Keys that attention takes at a time. It takes part in the order of its sums. */
export const BLOCK_KEYS = 64;

/** A shorter cache is one block. */
export const keysOfBlock = (maxLength: number): number => Math.min(BLOCK_KEYS, maxLength);

/**
 * Keys of a cache: [slots, kvHeads, blocks of positions, headDim, positions of a block]. So a block is in one piece, and
 * is multiplied as it lies: queries of one token have nothing to spend on transposing it. Values: see `valuesShape`.
 */
export const keysShape = ({ slots, kvHeads, maxLength, headDim }: CacheShape): number[] => {
  const block = keysOfBlock(maxLength);
  return [slots, kvHeads, ceilDiv(maxLength, block), headDim, block];
};
export const valuesShape = ({ slots, kvHeads, maxLength, headDim }: CacheShape): number[] => [
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
  const shape = keysShape({ slots, kvHeads, maxLength, headDim });
  const [, , blocks, , size] = shape;
  const elements = elementCount(shape);
  if (elements >= 2 ** 31)
    throw new RangeError(
      `a cache of ${slots} sequences of ${maxLength} tokens has ${elements} keys' elements in a layer, and 2^31 are too many: use fewer sequences at once, or shorter ones`,
    );
  // A key's elements are `size` apart, and begin at any element.
  const keys = k.output('keys', cacheType, [elements - (headDim - 1) * size, headDim], {
    strides: [1, size],
  });
  const values = k.output('values', cacheType, [slots * kvHeads * maxLength, headDim]);
  const slot = k.load(views.slot, [at.token], [at.block], { fill: -1 });
  const position = k.load(views.position, [at.token], [at.block], { fill: -1 });
  const inside = slot.ge(0).and(slot.lt(slots)).and(position.ge(0)).and(position.lt(maxLength));
  const place = slot.mul(kvHeads).add(at.head);
  const block = place.mul(blocks).add(position.div(size));
  const keyRows = inside.select(block.mul(headDim * size).add(position.rem(size)), -1);
  const valueRows = inside.select(place.mul(maxLength).add(position), -1);
  return {
    writeKeys: (column, tile) => k.scatter(keys, keyRows, column, tile.cast(cacheType)),
    writeValues: (column, tile) => k.scatter(values, valueRows, column, tile.cast(cacheType)),
  };
}

/**
 * cache[slot[t], head, position[t]] = new[t, head], for keys and values. Tokens whose slot or position is negative
 * or too large are skipped. Views: newKeys, newValues [tokens, kvHeads * headDim], slot, position i32 [tokens],
 * keys (`keysShape`), values (`valuesShape`).
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
