/** One kernel, run once on JavaScript arrays: for trying kernels out and for tests. */
import type { ValueArray } from '../numerics/arrays.ts';
import { decodeValues, encodeValues } from '../numerics/arrays.ts';
import type { Kernel, View } from '../tile/ir.ts';
import { viewExtent } from '../tile/ir.ts';
import { verify } from '../tile/verify.ts';
import { viewBytes } from './bindings.ts';
import type { Device, DeviceBuffer } from './device.ts';

const viewText = ({ name, dtype, shape }: View) => `'${name}' ${dtype}[${shape.join(', ')}]`;

/**
 * Runs a kernel once. Its memory is allocated for the call and freed after it; a model keeps its own: see `Graph.custom`.
 *
 * @param arrays the contents of the views that the kernel reads (`input` and `inout`), in the order of their
 *   declaration. A view's array has as many elements as its memory, row-major unless the kernel gives strides:
 *   Float32Array for floats of any width (rounded to the view's type), Int32Array for i32, Uint32Array for u32,
 *   Int8Array for i8 and i4, Uint8Array of 0 and 1 for bool.
 * @returns new arrays of the same kinds: the views that the kernel writes (`output` and `inout`), in the order of
 *   their declaration. What it leaves unwritten is 0.
 * @throws RangeError or TypeError that names the view where the arrays do not fit it; KernelError where the kernel is
 *   not well-formed; the device's error where it cannot compile the kernel
 */
export async function runKernel(
  device: Device,
  kernel: Kernel,
  arrays: readonly ValueArray[],
): Promise<ValueArray[]> {
  verify(kernel);
  const contents = contentsOf(kernel, arrays);
  const buffers: DeviceBuffer[] = [];
  try {
    for (const [index] of kernel.views.entries()) buffers.push(device.allocate(viewBytes(kernel, index)));
    for (const [index, bytes] of contents) device.write(buffers[index], bytes);
    const executable = await device.compile([
      { kernel, bindings: buffers.map((buffer) => ({ buffer, byteOffset: 0 })) },
    ]);
    try {
      await executable.run();
      const results: ValueArray[] = [];
      for (const [index, view] of kernel.views.entries()) {
        if (view.access === 'read') continue;
        results.push(decodeValues(view.dtype, await device.read(buffers[index]), viewExtent(view)));
      }
      return results;
    } finally {
      executable.dispose();
    }
  } finally {
    for (const buffer of buffers) device.free(buffer);
  }
}

/** Bytes of each view that the kernel reads, by the view's index. */
function contentsOf(kernel: Kernel, arrays: readonly ValueArray[]): Map<number, ArrayBufferView> {
  const read = [...kernel.views.entries()].filter(([, view]) => view.access !== 'write');
  if (arrays.length !== read.length) {
    const views = read.map(([, view]) => viewText(view)).join(', ');
    throw new RangeError(
      `kernel '${kernel.name}' reads ${read.length} views (${views}), but ${arrays.length} arrays were given`,
    );
  }
  return new Map(
    read.map(([index, view], position) => {
      const values = arrays[position];
      const where = `kernel '${kernel.name}', view ${viewText(view)}`;
      let bytes: ArrayBufferView;
      try {
        bytes = encodeValues(view.dtype, values);
      } catch (error) {
        throw new TypeError(`${where}: ${(error as Error).message}`, { cause: error });
      }
      if (values.length !== viewExtent(view)) {
        throw new RangeError(`${where}: has ${viewExtent(view)} elements, but ${values.length} were given`);
      }
      return [index, bytes];
    }),
  );
}
