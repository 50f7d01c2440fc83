/** What is particular to this device; the contract that all devices share is tested in test/accelerators. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WasmDevice, wasmFactory } from '../../src/accelerators/wasm/device.ts';
import { buildKernel } from '../../src/tile/builder.ts';

const [rows, depth, columns] = [70, 50, 45];

/** A block of 16 rows a program. */
const product = () =>
  buildKernel('product', (k) => {
    const a = k.input('a', 'f32', [rows, depth]);
    const b = k.input('b', 'f32', [depth, columns]);
    const c = k.output('c', 'f32', [rows, columns]);
    k.grid(Math.ceil(rows / 16));
    const row = k.programId().mul(16);
    k.store(c, [row, 0], k.dot(k.load(a, [row, 0], [16, depth]), k.load(b, [0, 0], [depth, columns])));
  });

async function withDevice<T>(
  options: Parameters<typeof WasmDevice.open>[0],
  use: (device: WasmDevice) => Promise<T>,
): Promise<T> {
  const device = await WasmDevice.open(options);
  try {
    return await use(device);
  } finally {
    await device.close();
  }
}

test('the probe finds WebAssembly SIMD here', async () => {
  const { info, ...probe } = await wasmFactory.probe();
  assert.deepEqual(probe, { name: 'wasm', available: true, reason: '' });
  await withDevice({}, async (device) => {
    assert.deepEqual(
      { ...info, memory: 0 },
      { ...device.info, memory: 0 },
      'the probe describes what is opened',
    );
  });
});

test('features can be left out, and must exist', async () => {
  await withDevice({ features: ['simd'] }, async ({ info }) => {
    assert.deepEqual([info.threads, info.features], [1, ['simd']]);
    assert.equal(info.description, 'WebAssembly SIMD, memory not shared');
  });
  await withDevice({ threads: 2, features: ['threads'] }, async ({ info }) => {
    assert.deepEqual([info.threads, info.features], [2, ['simd', 'threads']]);
    assert.equal(info.description, 'WebAssembly SIMD');
    assert.ok(info.memory > 2 ** 31);
  });
  await assert.rejects(WasmDevice.open({ features: ['tensor cores'] }), /lacks 'tensor cores'; it has: simd/);
  await assert.rejects(WasmDevice.open({ threads: 2, features: [] }), /2 threads need shared memory/);
  await assert.rejects(WasmDevice.open({ threads: 0 }), /threads is 0: it must be/);
});

test('the result does not depend on threads, on sharing, or on running again', async () => {
  const results: Float32Array[] = [];
  for (const options of [
    { features: [] },
    ...[1, 3].map((threads) => ({ threads, features: ['threads'] })),
  ]) {
    const result = await withDevice(options, async (device) => {
      const sizes = [rows * depth, depth * columns, rows * columns].map((count) => 4 * count);
      const buffers = sizes.map((size) => device.allocate(size));
      for (const buffer of buffers.slice(0, 2)) {
        device.write(
          buffer,
          Float32Array.from({ length: buffer.byteLength / 4 }, (_, i) => Math.cos(i)),
        );
      }
      // Two kernel objects of the same content share their code.
      const launches = [product(), product()].map((kernel) => ({
        kernel,
        bindings: buffers.map((buffer) => ({ buffer, byteOffset: 0 })),
      }));
      const executable = await device.compile(launches);
      await executable.run(20);
      executable.dispose();
      const bytes = await device.read(buffers[2]!);
      for (const buffer of buffers) device.free(buffer);
      assert.equal(device.allocatedBytes, 0);
      return new Float32Array(bytes.buffer);
    });
    results.push(result);
  }
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      let expected = 0;
      for (let k = 0; k < depth; k++) {
        const [a, b] = [Math.fround(Math.cos(r * depth + k)), Math.fround(Math.cos(k * columns + c))];
        expected = Math.fround(expected + Math.fround(a * b));
      }
      for (const result of results) assert.equal(result[r * columns + c], expected, `row ${r}, column ${c}`);
    }
  }
});
