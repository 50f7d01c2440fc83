/** Builds a kernel around a few operations and runs it on the interpreter. */
import type { DType } from '../../src/numerics/dtype.ts';
import type { KernelBuilder } from '../../src/tile/builder.ts';
import { buildKernel } from '../../src/tile/builder.ts';
import { interpret } from '../../src/tile/interpret.ts';
import type { Tile } from '../../src/tile/tile.ts';

export interface Argument {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: ArrayBufferView;
}

export const f32 = (values: readonly number[], shape: readonly number[] = [values.length]): Argument => ({
  dtype: 'f32',
  shape,
  data: new Float32Array(values),
});
export const i32 = (values: readonly number[], shape: readonly number[] = [values.length]): Argument => ({
  dtype: 'i32',
  shape,
  data: new Int32Array(values),
});
export const u32 = (values: readonly number[], shape: readonly number[] = [values.length]): Argument => ({
  dtype: 'u32',
  shape,
  data: new Uint32Array(values),
});

/** Loads every argument whole, applies `body`, stores what it returns, and gives that back as numbers. */
export function evaluate(
  body: (k: KernelBuilder, ...tiles: Tile[]) => Tile,
  ...inputs: Argument[]
): number[] {
  let result: Tile | null = null;
  const kernel = buildKernel('evaluate', (k) => {
    const views = inputs.map((input, index) => k.input(`x${index}`, input.dtype, input.shape));
    const tiles = views.map((view, index) =>
      k.load(
        view,
        view.shape.map(() => 0),
        inputs[index].shape,
      ),
    );
    result = body(k, ...tiles);
    if (result.dtype === 'bool') result = result.cast('i32');
    if (result.shape.length === 0) result = result.reshape([1]);
    const out = k.output('out', result.dtype, result.shape);
    k.store(
      out,
      result.shape.map(() => 0),
      result,
    );
  });
  const { dtype, shape } = result as unknown as Tile;
  const count = shape.reduce((product, size) => product * size, 1);
  const out =
    dtype === 'f32'
      ? new Float32Array(count)
      : dtype === 'u32'
        ? new Uint32Array(count)
        : dtype === 'i32'
          ? new Int32Array(count)
          : dtype === 'i8'
            ? new Int8Array(count)
            : dtype === 'bf16' || dtype === 'f16'
              ? new Uint16Array(count)
              : new Uint8Array(count);
  interpret(kernel, [...inputs.map((input) => input.data), out]);
  return [...out];
}
