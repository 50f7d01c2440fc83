/** What every device checks of a launch before it compiles it: native code cannot check memory when it runs. */
import { byteLength } from '../numerics/dtype.ts';
import type { Kernel } from '../tile/ir.ts';
import { viewExtent } from '../tile/ir.ts';
import type { Device, Launch } from './device.ts';

/** Bytes from view `index`'s base to the end of its last element. */
export function viewBytes({ views }: Kernel, index: number): number {
  return byteLength(views[index].dtype, viewExtent(views[index]));
}

/**
 * Throws RangeError unless each view of the kernel is bound and lies within its buffer, and Error when a buffer
 * is another device's. The kernel is a verified one.
 */
export function checkBindings(device: Device, { kernel, bindings }: Launch): void {
  if (bindings.length !== kernel.views.length) {
    throw new RangeError(
      `kernel '${kernel.name}' has ${kernel.views.length} views, but the launch binds ${bindings.length}`,
    );
  }
  bindings.forEach(({ buffer, byteOffset }, index) => {
    const where = `kernel '${kernel.name}', view '${kernel.views[index].name}'`;
    if (buffer.device !== device) {
      throw new Error(`${where}: the bound buffer was not allocated by this ${device.info.name} device`);
    }
    if (buffer.readOnly && kernel.views[index].access !== 'read') {
      throw new Error(`${where}: the kernel writes it, and the bound buffer is read-only`);
    }
    if (!Number.isSafeInteger(byteOffset) || byteOffset < 0) {
      throw new RangeError(`${where}: the byte offset must be a whole number, 0 or more, not ${byteOffset}`);
    }
    const needed = viewBytes(kernel, index);
    if (byteOffset + needed > buffer.byteLength) {
      throw new RangeError(
        `${where} needs ${needed} bytes from offset ${byteOffset}, but the bound buffer has ${buffer.byteLength} bytes`,
      );
    }
  });
}

/** Throws RangeError unless `repeat` is a whole number from 1 on. */
export function checkRepeat(repeat: number): void {
  if (!Number.isInteger(repeat) || repeat < 1 || repeat > 2 ** 31) {
    throw new RangeError(`repeat must be a whole number from 1 to 2^31, not ${repeat}`);
  }
}
