/** What the kernels share: storage types, memoization, and loads and stores that compute in f32. */
import type { DType } from '../numerics/dtype.ts';
import type { BlockOptions, KernelBuilder, ViewHandle } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Operand, Tile } from '../tile/tile.ts';

/** Element types in which activations and weights are held; arithmetic is in f32. */
export type Storage = 'f32' | 'bf16';

/**
 * Remembers kernels by the text of their options. Options are plain data; where they hold a function, they
 * also hold a `key` that stands for it.
 */
export function memoized<O>(build: (options: O) => Kernel): (options: O) => Kernel {
  const known = new Map<string, Kernel>();
  return (options) => {
    const key = JSON.stringify(options);
    const found = known.get(key);
    if (found !== undefined) return found;
    const kernel = build(options);
    known.set(key, kernel);
    return kernel;
  };
}

/** Loads a block; floats of any width come as f32. */
export function loadF32(
  k: KernelBuilder,
  view: ViewHandle,
  offsets: readonly Operand[],
  shape: readonly number[],
  options: BlockOptions & { fill?: number } = {},
): Tile {
  const tile = k.load(view, offsets, shape, options);
  return tile.dtype === 'bf16' || tile.dtype === 'f16' ? tile.cast('f32') : tile;
}

/** Stores a tile, rounded to the view's element type. */
export function storeAs(
  k: KernelBuilder,
  view: ViewHandle,
  offsets: readonly Operand[],
  value: Tile,
  options: BlockOptions = {},
): void {
  k.store(view, offsets, value.cast(view.view.dtype), options);
}

/** The text of a type list in a kernel's name. */
export function typeSuffix(...types: readonly DType[]): string {
  return types.every((type) => type === types[0]) ? types[0] : types.join('_');
}
