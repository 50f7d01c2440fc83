/**
 * Queries and keys on their way from projection to attention, in one pass: RMS-normalised a head (QK-norm) and rotated;
 * keys go straight into the cache. Every element is computed as by `rmsNorm`, `rope` and `cacheWrite` one after the other,
 * to the bit.
 */
import type { KernelBuilder, Tile } from '../tile/builder.ts';
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Storage } from './common.ts';
import { loadF32, memoized, storeAs } from './common.ts';
import { cacheRows } from './kvcache.ts';
import { inverseRms } from './norm.ts';
import { rotate } from './rope.ts';

export interface NormedRopeOptions {
  readonly tokens: number;
  readonly heads: number;
  readonly headDim: number;
  readonly maxPositions: number;
  readonly eps: number;
  /** Of what is normalised. */
  readonly xType?: Storage;
  /** Of the norm's result, and of the result. */
  readonly type?: Storage;
}

export interface NormedCacheWriteOptions extends NormedRopeOptions {
  readonly slots: number;
  readonly maxLength: number;
  readonly cacheType?: Storage;
}

const describe = (o: NormedRopeOptions) =>
  `${o.tokens}x${o.heads}x${o.headDim}_${o.xType ?? 'f32'}_${o.type ?? 'f32'}`;

const TOKENS = 8;

/** Declares x, weight, positions, cos and sin, and gives the two rotated halves of a head, f32 [block, headDim / 2] each. */
function normedAndRotated(k: KernelBuilder, o: NormedRopeOptions, token: Tile, block: number) {
  if (o.headDim % 2 !== 0) throw new RangeError(`rope needs an even headDim, not ${o.headDim}`);
  const { tokens, heads, headDim, maxPositions, eps, xType = 'f32', type = 'f32' } = o;
  const half = headDim / 2;
  const x = k.input('x', xType, [tokens, heads, headDim]);
  const weight = k.input('weight', 'f32', [1, headDim]);
  const positions = k.input('positions', 'i32', [tokens]);
  const tables = ['cos', 'sin'].map((name) => k.input(name, 'f32', [maxPositions, half]));
  const rows = k.load(positions, [token], [block]);
  const [cos, sin] = tables.map((table) => k.gather(table, rows, 0, half));
  return (head: Tile): readonly [Tile, Tile] => {
    const part = (from: number, size: number) =>
      loadF32(k, x, [token, head, from], [block, 1, size]).reshape([block, size]);
    const scale = inverseRms(part(0, headDim), { columns: headDim, eps });
    const normed = (from: number) => {
      const y = part(from, half)
        .mul(scale)
        .mul(loadF32(k, weight, [0, from], [1, half]));
      return type === 'f32' ? y : y.cast(type).cast('f32');
    };
    return rotate([normed(0), normed(half)], cos, sin);
  };
}

/** Views: x [tokens, heads, headDim], weight f32 [1, headDim], positions i32 [tokens], cos, sin, y like x. */
export const normedRope: (options: NormedRopeOptions) => Kernel = memoized(
  (o: NormedRopeOptions): Kernel =>
    buildKernel(`normed_rope_${describe(o)}`, (k) => {
      const { tokens, heads, headDim, type = 'f32' } = o;
      const block = Math.min(tokens, TOKENS);
      const token = k.programId(0).mul(block);
      const rotated = normedAndRotated(k, o, token, block);
      const y = k.output('y', type, [tokens, heads, headDim]);
      k.grid(ceilDiv(tokens, block));
      k.loop({ hi: heads }, [] as const, (head) => {
        rotated(head).forEach((tile, part) => {
          storeAs(k, y, [token, head, (part * headDim) / 2], tile.reshape([block, 1, headDim / 2]));
        });
        return undefined;
      });
    }),
);

/**
 * Keys normalised and rotated, and values as they are, into the cache. Views: x (the keys), weight, positions, cos, sin,
 * newValues [tokens, heads, headDim], slot, position i32 [tokens], keys, values [slots, heads, maxLength, headDim].
 */
export const normedCacheWrite: (options: NormedCacheWriteOptions) => Kernel = memoized(
  (o: NormedCacheWriteOptions): Kernel =>
    buildKernel(
      `normed_cache_write_${describe(o)}_${o.slots}x${o.maxLength}_${o.cacheType ?? 'f32'}`,
      (k) => {
        const { tokens, heads, headDim, slots, maxLength, type = 'f32', cacheType = 'f32' } = o;
        const block = Math.min(tokens, TOKENS);
        const token = k.programId(0).mul(block);
        const head = k.programId(1);
        const rotated = normedAndRotated(k, o, token, block);
        const newValues = k.input('newValues', type, [tokens, heads, headDim]);
        const slot = k.input('slot', 'i32', [tokens]);
        const position = k.input('position', 'i32', [tokens]);
        const shape = [slots * heads * maxLength, headDim];
        const [keys, values] = ['keys', 'values'].map((name) => k.output(name, cacheType, shape));
        k.grid(ceilDiv(tokens, block), heads);
        const rows = cacheRows(k, { slot, position }, { token, block, head }, { slots, heads, maxLength });
        rotated(head).forEach((tile, part) => {
          k.scatter(keys, rows, (part * headDim) / 2, tile.cast(type).cast(cacheType));
        });
        const value = loadF32(k, newValues, [token, head, 0], [block, 1, headDim]).reshape([block, headDim]);
        k.scatter(values, rows, 0, value.cast(cacheType));
      },
    ),
);
