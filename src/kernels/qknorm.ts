/**
 * Queries and keys on their way from projection to attention, in one pass: RMS-normalised a head (QK-norm) and rotated;
 * keys go straight into the cache. Every element is computed as by `rmsNorm`, `rope` and `cacheWrite` one after the other,
 * to the bit.
 */
import type { KernelBuilder, ViewHandle } from '../tile/builder.ts';
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Tile } from '../tile/tile.ts';
import type { Storage } from './common.ts';
import { loadF32, memoized, storeAs, typeSuffix } from './common.ts';
import { cacheWriter } from './kvcache.ts';
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
  /** Of the norm's result. */
  readonly type?: Storage;
  /** Of the result. */
  readonly yType?: Storage;
}

export interface QueryKeyValueOptions extends NormedRopeOptions {
  readonly kvHeads: number;
  /** Added to the mean square of a key. */
  readonly keyEps: number;
  readonly slots: number;
  readonly maxLength: number;
  /** Of the values as they come; they are rounded to the cache's type. */
  readonly vType?: Storage;
  readonly cacheType?: Storage;
}

const describe = (o: NormedRopeOptions) =>
  `${o.tokens}x${o.heads}x${o.headDim}_${typeSuffix(o.xType ?? 'f32', o.type ?? 'f32', o.yType ?? 'f32')}`;

const TOKENS = 8;

interface Heads {
  readonly x: ViewHandle;
  readonly weight: ViewHandle;
}

function headViews(
  k: KernelBuilder,
  o: NormedRopeOptions,
  names: readonly [string, string],
  heads: number,
): Heads {
  if (o.headDim % 2 !== 0) throw new RangeError(`rope needs an even headDim, not ${o.headDim}`);
  const { tokens, headDim, xType = 'f32' } = o;
  return {
    x: k.input(names[0], xType, [tokens, heads, headDim]),
    weight: k.input(names[1], 'f32', [1, headDim]),
  };
}

/** Declares positions, cos and sin. `rotated` gives of a head the rotated halves, f32 [block, headDim / 2] each. */
function normedAndRotated(k: KernelBuilder, o: NormedRopeOptions, token: Tile, block: number) {
  const { tokens, headDim, maxPositions, type = 'f32' } = o;
  const half = headDim / 2;
  const positions = k.input('positions', 'i32', [tokens]);
  const tables = ['cos', 'sin'].map((name) => k.input(name, 'f32', [maxPositions, half]));
  const rows = k.load(positions, [token], [block]);
  const [cos, sin] = tables.map((table) => k.gather(table, rows, 0, half));
  const rotated = ({ x, weight }: Heads, head: Tile, eps: number): readonly [Tile, Tile] => {
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
  return { positions, rotated };
}

/** Views: x [tokens, heads, headDim], weight f32 [1, headDim], positions i32 [tokens], cos, sin, y like x. */
export const normedRope: (options: NormedRopeOptions) => Kernel = memoized(
  (o: NormedRopeOptions): Kernel =>
    buildKernel(`normed_rope_${describe(o)}`, (k) => {
      const { tokens, heads, headDim, eps, yType = 'f32' } = o;
      const block = Math.min(tokens, TOKENS);
      const token = k.programId(0).mul(block);
      const views = headViews(k, o, ['x', 'weight'], heads);
      const { rotated } = normedAndRotated(k, o, token, block);
      const y = k.output('y', yType, [tokens, heads, headDim]);
      k.grid(ceilDiv(tokens, block));
      k.loop({ hi: heads }, [] as const, (head) => {
        rotated(views, head, eps).forEach((tile, part) => {
          storeAs(k, y, [token, head, (part * headDim) / 2], tile.reshape([block, 1, headDim / 2]));
        });
        return undefined;
      });
    }),
);

/**
 * Queries normalised and rotated; keys too, into the cache, and values as they are. Views: q [tokens, heads, headDim],
 * queryWeight, k [tokens, kvHeads, headDim], keyWeight, positions, cos, sin, v like k, slot i32 [tokens], y like q,
 * keys, values as in `cacheWrite`.
 */
export const queryKeyValue: (options: QueryKeyValueOptions) => Kernel = memoized(
  (o: QueryKeyValueOptions): Kernel =>
    buildKernel(
      `query_key_value_${describe(o)}_${o.kvHeads}_${o.slots}x${o.maxLength}_${typeSuffix(o.vType ?? 'f32', o.cacheType ?? 'f32')}`,
      (k) => {
        const { tokens, heads, kvHeads, headDim, yType = 'f32', vType = 'f32', cacheType = 'f32' } = o;
        const block = Math.min(tokens, TOKENS);
        const token = k.programId(0).mul(block);
        const kvHead = k.programId(1);
        const queryViews = headViews(k, o, ['q', 'queryWeight'], heads);
        const keyViews = headViews(k, o, ['k', 'keyWeight'], kvHeads);
        const { positions, rotated } = normedAndRotated(k, o, token, block);
        const v = k.input('v', vType, [tokens, kvHeads, headDim]);
        const slot = k.input('slot', 'i32', [tokens]);
        const y = k.output('y', yType, [tokens, heads, headDim]);
        k.grid(ceilDiv(tokens, block), kvHeads);
        const at = { token, block, head: kvHead };
        const cache = cacheWriter(k, o, cacheType, { slot, position: positions }, at);
        rotated(keyViews, kvHead, o.keyEps).forEach((tile, part) => {
          cache.writeKeys((part * headDim) / 2, tile.cast(yType));
        });
        const value = loadF32(k, v, [token, kvHead, 0], [block, 1, headDim]).reshape([block, headDim]);
        cache.writeValues(0, value);
        const group = heads / kvHeads;
        k.loop({ hi: group }, [] as const, (index) => {
          const head = kvHead.mul(group).add(index);
          rotated(queryViews, head, o.eps).forEach((tile, part) => {
            storeAs(k, y, [token, head, (part * headDim) / 2], tile.reshape([block, 1, headDim / 2]));
          });
          return undefined;
        });
      },
    ),
);
