/** Rotary position embedding (Su and others, "RoFormer", 2021), halves rotated against each other. */
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Tile } from '../tile/tile.ts';
import type { Storage } from './common.ts';
import { loadF32, memoized, storeAs, typeSuffix } from './common.ts';

export interface RopeOptions {
  readonly tokens: number;
  readonly heads: number;
  readonly headDim: number;
  readonly maxPositions: number;
  /** Of what is rotated. */
  readonly xType?: Storage;
  /** Of the result. */
  readonly type?: Storage;
  /** Rotates back: the gradient. */
  readonly inverse?: boolean;
}

/** cos and sin of position * theta^(-2i / headDim), each f32 [maxPositions, headDim / 2]. */
export function ropeTable(
  maxPositions: number,
  headDim: number,
  theta: number,
): { readonly cos: Float32Array; readonly sin: Float32Array } {
  const half = headDim / 2;
  const cos = new Float32Array(maxPositions * half);
  const sin = new Float32Array(maxPositions * half);
  const frequencies = Float64Array.from({ length: half }, (_, i) => theta ** ((-2 * i) / headDim));
  for (let position = 0; position < maxPositions; position++) {
    for (let i = 0; i < half; i++) {
      const angle = position * frequencies[i];
      cos[position * half + i] = Math.cos(angle);
      sin[position * half + i] = Math.sin(angle);
    }
  }
  return { cos, sin };
}

/** (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), of tiles of one shape. */
export function rotate([x1, x2]: readonly [Tile, Tile], cos: Tile, sin: Tile): readonly [Tile, Tile] {
  return [x1.mul(cos).sub(x2.mul(sin)), x2.mul(cos).add(x1.mul(sin))];
}

/** The halves of each head `rotate`d. Views: x [tokens, heads * headDim], positions i32 [tokens], cos, sin, y. */
export const rope: (options: RopeOptions) => Kernel = memoized((o: RopeOptions): Kernel => {
  if (o.headDim % 2 !== 0) throw new RangeError(`rope needs an even headDim, not ${o.headDim}`);
  const { tokens, heads, headDim, xType = 'f32', type = 'f32' } = o;
  const name = `rope_${tokens}x${heads}x${headDim}_${typeSuffix(xType, type)}${o.inverse ? '_inverse' : ''}`;
  return buildKernel(name, (k) => {
    const half = headDim / 2;
    const x = k.input('x', xType, [tokens, heads, headDim]);
    const positions = k.input('positions', 'i32', [tokens]);
    const cosTable = k.input('cos', 'f32', [o.maxPositions, half]);
    const sinTable = k.input('sin', 'f32', [o.maxPositions, half]);
    const y = k.output('y', type, [tokens, heads, headDim]);
    const block = Math.min(tokens, 8);
    k.grid(ceilDiv(tokens, block));
    const token = k.programId(0).mul(block);
    const rows = k.load(positions, [token], [block]);
    const cos = k.gather(cosTable, rows, 0, half);
    const forward = k.gather(sinTable, rows, 0, half);
    const sin = o.inverse ? forward.neg() : forward;
    k.loop({ hi: heads }, [] as const, (head) => {
      const part = (from: number) =>
        loadF32(k, x, [token, head, from], [block, 1, half]).reshape([block, half]);
      rotate([part(0), part(half)], cos, sin).forEach((tile, index) => {
        storeAs(k, y, [token, head, index * half], tile.reshape([block, 1, half]));
      });
      return undefined;
    });
  });
});
