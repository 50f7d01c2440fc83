/** `runKernel` on plain arrays: every element type, and messages for arrays that do not fit. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Device } from '../../src/accelerators/device.ts';
import { openDevice } from '../../src/accelerators/registry.ts';
import { runKernel } from '../../src/accelerators/run-kernel.ts';
import type { ValueArray } from '../../src/numerics/arrays.ts';
import { decodeValues, encodeValues } from '../../src/numerics/arrays.ts';
import type { DType } from '../../src/numerics/dtype.ts';
import { buildKernel } from '../../src/tile/builder.ts';

const copy = (dtype: DType, count: number) =>
  buildKernel(`copy_${dtype}`, (k) => {
    const x = k.input('x', dtype, [count]);
    const y = k.output('y', dtype, [count]);
    k.store(y, [0], k.load(x, [0], [count]));
  });

/** Of each type: values, and what they become in its memory. */
const VALUES: { readonly [D in DType]: readonly [given: ValueArray, held: ValueArray] } = {
  f32: [Float32Array.of(0.1, -3, 1e30), Float32Array.of(0.1, -3, 1e30)],
  bf16: [Float32Array.of(1.00390625, -3, 256.5), Float32Array.of(1, -3, 256)],
  f16: [Float32Array.of(1.00048828125, -3, 70000), Float32Array.of(1, -3, Number.POSITIVE_INFINITY)],
  f8e4m3: [Float32Array.of(1.0625, -3, 1000), Float32Array.of(1, -3, 448)],
  f8e5m2: [Float32Array.of(1.125, -3, 1e6), Float32Array.of(1, -3, 57344)],
  i32: [Int32Array.of(-5, 7, 2 ** 31 - 1), Int32Array.of(-5, 7, 2 ** 31 - 1)],
  u32: [Uint32Array.of(5, 7, 2 ** 32 - 1), Uint32Array.of(5, 7, 2 ** 32 - 1)],
  i8: [Int8Array.of(-128, 7, 127), Int8Array.of(-128, 7, 127)],
  i4: [Int8Array.of(-8, 7, -1, 3), Int8Array.of(-8, 7, -1, 3)],
  bool: [Uint8Array.of(0, 1, 7), Uint8Array.of(0, 1, 1)],
};

describe('runKernel', () => {
  let device: Device;
  before(async () => {
    device = await openDevice('interpreter');
  });
  after(() => device.close());

  for (const [dtype, [given, held]] of Object.entries(VALUES) as [DType, (typeof VALUES)[DType]][]) {
    test(`${dtype} values survive the way to the device and back, rounded`, async () => {
      const bytes = new Uint8Array(encodeValues(dtype, given).buffer as ArrayBuffer);
      assert.deepEqual(decodeValues(dtype, bytes, given.length), held);
      assert.deepEqual(await runKernel(device, copy(dtype, given.length), [given]), [held]);
      assert.equal(device.allocatedBytes, 0);
    });
  }

  const blend = buildKernel('blend', (k) => {
    const y = k.output('y', 'f32', [4]);
    const x = k.input('x', 'f32', [2]);
    const total = k.inout('total', 'f32', [2]);
    const sum = k.load(total, [0], [2]).add(k.load(x, [0], [2]));
    k.store(total, [0], sum);
    k.store(y, [1], sum.mul(2));
  });

  test('arrays fill what is read, results are what is written, both in the order of declaration', async () => {
    const total = Float32Array.of(10, 20);
    const results = await runKernel(device, blend, [Float32Array.of(1, 2), total]);
    assert.deepEqual(results, [Float32Array.of(0, 22, 44, 0), Float32Array.of(11, 22)]);
    assert.deepEqual(total, Float32Array.of(10, 20));
  });

  test('a view with strides takes the memory that it spans', async () => {
    const column = buildKernel('column', (k) => {
      const x = k.input('x', 'f32', [3], { strides: [2] });
      const y = k.output('y', 'f32', [3]);
      k.store(y, [0], k.load(x, [0], [3]));
    });
    const [y] = await runKernel(device, column, [Float32Array.of(1, 9, 2, 9, 3)]);
    assert.deepEqual(y, Float32Array.of(1, 2, 3));
  });

  test('says which view an array does not fit, and leaves no memory behind', async () => {
    const x = Float32Array.of(1, 2);
    await assert.rejects(
      runKernel(device, blend, [x]),
      new RangeError("kernel 'blend' reads 2 views ('x' f32[2], 'total' f32[2]), but 1 arrays were given"),
    );
    await assert.rejects(
      runKernel(device, blend, [x, Float32Array.of(1)]),
      new RangeError("kernel 'blend', view 'total' f32[2]: has 2 elements, but 1 were given"),
    );
    await assert.rejects(runKernel(device, blend, [x, Int32Array.of(1, 2)]), {
      name: 'TypeError',
      message: "kernel 'blend', view 'total' f32[2]: f32 values are given as Float32Array, not Int32Array",
    });
    await assert.rejects(runKernel(device, blend, [x, [1, 2] as never]), /Float32Array, not Array/);
    await assert.rejects(runKernel(device, blend, [x, undefined as never]), /Float32Array, not undefined/);
    assert.equal(device.allocatedBytes, 0);
  });
});
