/** Host memory for kernels' views, and the table of cases' shape. */
import type { DType } from '../../src/numerics/dtype.ts';
import { byteLength, DTYPES } from '../../src/numerics/dtype.ts';
import type { Tolerance } from '../../src/numerics/error.ts';
import { bf16ToF32, f32ToBf16 } from '../../src/numerics/float.ts';
import { Random } from '../../src/numerics/random.ts';
import type { Kernel } from '../../src/tile/ir.ts';
import { viewExtent } from '../../src/tile/ir.ts';

/** One kernel with its inputs by view name, and what its outputs must be. Views not named begin at `NaN` where only written, else at 0. */
export interface Case {
  readonly name: string;
  readonly kernel: Kernel;
  readonly inputs: { readonly [view: string]: ArrayLike<number> };
  /** By view name; float64. */
  readonly expected: { readonly [view: string]: ArrayLike<number> };
  readonly tolerance: Tolerance;
}

export function encode(dtype: DType, values: ArrayLike<number>): ArrayBufferView {
  if (dtype === 'bf16') return f32ToBf16(Float32Array.from(values));
  if (dtype === 'f32') return Float32Array.from(values);
  if (dtype === 'i32') return Int32Array.from(values);
  if (dtype === 'u32') return Uint32Array.from(values);
  if (dtype === 'i8') return Int8Array.from(values);
  throw new TypeError(`no test buffer of ${dtype}`);
}

export function decode(dtype: DType, data: ArrayBufferView): number[] {
  const count = data.byteLength / (DTYPES[dtype].bits / 8);
  if (dtype === 'bf16') return [...bf16ToF32(new Uint16Array(data.buffer, data.byteOffset, count))];
  if (dtype === 'f32') return [...new Float32Array(data.buffer, data.byteOffset, count)];
  if (dtype === 'i32') return [...new Int32Array(data.buffer, data.byteOffset, count)];
  if (dtype === 'u32') return [...new Uint32Array(data.buffer, data.byteOffset, count)];
  if (dtype === 'i8') return [...new Int8Array(data.buffer, data.byteOffset, count)];
  throw new TypeError(`no test buffer of ${dtype}`);
}

/** One buffer a view. What a kernel must write begins as NaN (integers: -1), so that a skipped element is seen. */
export function buffersOf(kernel: Kernel, inputs: Case['inputs']): ArrayBufferView[] {
  for (const name of Object.keys(inputs)) {
    if (!kernel.views.some((view) => view.name === name))
      throw new Error(`kernel '${kernel.name}' has no view '${name}'`);
  }
  return kernel.views.map((view) => {
    const given = inputs[view.name];
    const extent = viewExtent(view);
    if (given !== undefined) {
      const data = encode(view.dtype, given);
      if (data.byteLength < byteLength(view.dtype, extent))
        throw new Error(
          `case of '${kernel.name}': view '${view.name}' needs ${extent} elements, not ${given.length}`,
        );
      return data;
    }
    if (view.access === 'read')
      throw new Error(`case of '${kernel.name}' gives nothing for view '${view.name}'`);
    return encode(
      view.dtype,
      new Array<number>(extent).fill(DTYPES[view.dtype].kind === 'float' ? Number.NaN : -1),
    );
  });
}

/** Normal numbers, rounded to what `dtype` holds, so that references see the same inputs. */
export function normals(seed: number, count: number, dtype: 'f32' | 'bf16' = 'f32', scale = 1): number[] {
  const random = new Random(seed);
  const values = Float32Array.from({ length: count }, () => scale * random.normal());
  return [...(dtype === 'bf16' ? bf16ToF32(f32ToBf16(values)) : values)];
}
