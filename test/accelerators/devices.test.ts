/** The device contract, on every accelerator that is available. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Binding, Device, DeviceBuffer } from '../../src/accelerators/device.ts';
import { deviceNames, listDevices, openDevice } from '../../src/accelerators/registry.ts';
import { buildKernel } from '../../src/tile/builder.ts';

const rows = 37;
const columns = 24;
const elements = rows * columns;

/** x = x * scale + 1, a row a program. */
const scaleKernel = (scale: number) =>
  buildKernel(`scale${scale}`, (k) => {
    const x = k.inout('x', 'f32', [rows, columns]);
    k.grid(rows);
    const at = [k.programId(), 0];
    k.store(x, at, k.load(x, at, [1, columns]).mul(scale).add(1));
  });

/** to[i] = the sum of all of from, plus i: every program needs what every program of the launch before wrote. */
const cells = 16;
const mixKernel = buildKernel('mix', (k) => {
  const from = k.input('from', 'f32', [cells]);
  const to = k.output('to', 'f32', [cells]);
  k.grid(cells);
  const sum = k.load(from, [0], [cells]).sum();
  const id = k.programId();
  k.store(to, [id], sum.add(id.cast('f32').broadcast([1])));
});

const productKernel = buildKernel('product', (k) => {
  const [m, n, depth] = [20, 33, 50];
  const a = k.input('a', 'f32', [m, depth]);
  const b = k.input('b', 'f32', [depth, n]);
  const c = k.output('c', 'f32', [m, n]);
  k.store(c, [0, 0], k.dot(k.load(a, [0, 0], [m, depth]), k.load(b, [0, 0], [depth, n])));
});

const whole = (buffer: DeviceBuffer): Binding => ({ buffer, byteOffset: 0 });
const floats = async (device: Device, buffer: DeviceBuffer) =>
  new Float32Array((await device.read(buffer)).buffer);

describe('registry', () => {
  test('lists every device with a description or a reason', async () => {
    const probes = await listDevices();
    assert.deepEqual(
      probes.map(({ name }) => name),
      deviceNames,
    );
    for (const { available, reason } of probes) assert.equal(available, reason === '');
    assert.ok(probes.some(({ name, available }) => name === 'interpreter' && available));
  });

  test('says what exists when asked for something else', async () => {
    await assert.rejects(
      openDevice('tpu'),
      /no device 'tpu': use auto or one of cpu, wasm, webgpu, interpreter/,
    );
    await assert.rejects(openDevice('toString'), /no device 'toString'/);
  });
});

const available = (await listDevices()).filter((probe) => probe.available).map(({ name }) => name);

for (const name of available) {
  describe(`device ${name}`, () => {
    let device: Device;
    before(async () => {
      device = await openDevice(name, { threads: name === 'interpreter' ? 1 : 2 });
    });
    after(async () => {
      const leaked = device.allocatedBytes;
      await device.close();
      assert.equal(leaked, 0, 'bytes that were not freed');
    });

    /** Runs `body` with buffers of these sizes in bytes, and frees them. */
    async function withBuffers(
      sizes: readonly number[],
      body: (...buffers: DeviceBuffer[]) => Promise<void>,
    ): Promise<void> {
      const buffers = sizes.map((size) => device.allocate(size));
      try {
        await body(...buffers);
      } finally {
        for (const buffer of buffers) device.free(buffer);
      }
    }

    test('memory is zero-filled, written and read in parts, and counted', async () => {
      const before = device.allocatedBytes;
      await withBuffers([100], async (buffer) => {
        assert.equal(device.allocatedBytes, before + 100);
        assert.deepEqual(await device.read(buffer), new Uint8Array(100));
        device.write(buffer, Uint16Array.of(0x0201, 0x0403), 7);
        device.write(buffer, new DataView(Uint8Array.of(9, 8, 7).buffer, 1, 1), 99);
        assert.deepEqual(await device.read(buffer, 6, 6), Uint8Array.of(0, 1, 2, 3, 4, 0));
        assert.deepEqual(await device.read(buffer, 98), Uint8Array.of(0, 8));
      });
      assert.equal(device.allocatedBytes, before);
    });

    test('reads and writes outside a buffer, and of a freed one, are refused', async () => {
      const buffer = device.allocate(16);
      assert.throws(() => device.write(buffer, new Uint8Array(17)), /16 bytes/);
      assert.throws(() => device.write(buffer, new Uint8Array(1), 16), /16 bytes/);
      assert.throws(() => device.write(buffer, new Uint8Array(1), -1), /16 bytes/);
      await assert.rejects(device.read(buffer, 8, 9), /16 bytes/);
      device.free(buffer);
      assert.throws(() => device.free(buffer), /freed/);
      assert.throws(() => device.write(buffer, new Uint8Array(1)), /freed/);
      await assert.rejects(device.read(buffer), /freed/);
    });

    test('launches run in order, as often as asked', async () => {
      await withBuffers([4 * elements], async (buffer) => {
        const executable = await device.compile(
          [2, 3].map((scale) => ({ kernel: scaleKernel(scale), bindings: [whole(buffer)] })),
        );
        await executable.run();
        assert.ok((await floats(device, buffer)).every((value) => value === 4));
        await executable.run(2);
        assert.ok((await floats(device, buffer)).every((value) => value === 172));
        // Not awaited one by one: the device runs one after the other, and a read waits for them.
        const runs = [executable.run(), executable.run()];
        assert.ok((await floats(device, buffer)).every((value) => value === 172 * 36 + 28));
        await Promise.all(runs);
        executable.dispose();
      });
    });

    test('a launch sees what all programs of the one before wrote', async () => {
      await withBuffers([4 * cells, 4 * cells], async (a, b) => {
        const launches = Array.from({ length: 20 }, (_, i) => ({
          kernel: mixKernel,
          bindings: (i % 2 === 0 ? [a, b] : [b, a]).map(whole),
        }));
        const executable = await device.compile(launches);
        const repeat = name === 'interpreter' ? 1 : 500;
        await executable.run(repeat);
        executable.dispose();
        let last = new Float32Array(cells);
        for (let i = 0; i < repeat * launches.length; i++) {
          // In the order of a reduction along the last axis: 16 partial sums, added pairwise.
          const sums = last.slice();
          for (let half = 8; half >= 1; half /= 2) {
            for (let j = 0; j < half; j++) sums[j] = sums[j] + sums[j + half];
          }
          last = last.map((_, id) => sums[0] + id);
        }
        assert.deepEqual(await floats(device, a), last);
      });
    });

    test('matrices are multiplied as the interpreter does', async () => {
      const reference = await openDevice('interpreter');
      const results = await Promise.all(
        [device, reference].map(async (on) => {
          const sizes = [20 * 50, 50 * 33, 20 * 33].map((count) => 4 * count);
          const buffers = sizes.map((size) => on.allocate(size));
          for (const buffer of buffers.slice(0, 2)) {
            const data = Float32Array.from({ length: buffer.byteLength / 4 }, (_, i) => Math.sin(i));
            on.write(buffer, data);
          }
          const executable = await on.compile([{ kernel: productKernel, bindings: buffers.map(whole) }]);
          await executable.run();
          executable.dispose();
          const result = await floats(on, buffers[2]);
          for (const buffer of buffers) on.free(buffer);
          return result;
        }),
      );
      await reference.close();
      results[0].forEach((value, i) => {
        assert.ok(Math.abs(value - results[1][i]) < 1e-4, `element ${i}: ${value} and ${results[1][i]}`);
      });
      assert.ok(results[0].some((value) => Math.abs(value) > 1));
    });

    test('is closed at the end of the block that uses it', async () => {
      let kept: Device;
      {
        await using other = await openDevice(name, { threads: 1 });
        other.allocate(64);
        kept = other;
      }
      assert.throws(() => kept.allocate(64), /closed/);
      assert.equal(kept.allocatedBytes, 0);
    });

    test('bindings are checked before anything runs', async () => {
      await withBuffers([4 * elements + 60], async (buffer) => {
        const kernel = scaleKernel(2);
        const compile = (...bindings: Binding[]) => device.compile([{ kernel, bindings }]);
        await assert.rejects(compile({ buffer, byteOffset: 64 }), /'x'/);
        await assert.rejects(compile({ buffer, byteOffset: -4 }), /'x'/);
        await assert.rejects(compile(), /1 view/);
        const other = await openDevice('interpreter');
        const foreign = other.allocate(4 * elements);
        await assert.rejects(compile(whole(foreign)), /device/);
        await other.close();
        const fits = await compile({ buffer, byteOffset: 60 });
        await fits.run();
        fits.dispose();
        const values = await floats(device, buffer);
        assert.ok(values.every((value, i) => value === (i < 15 ? 0 : 1)));
      });
    });

    test('nothing runs after it was disposed', async () => {
      await withBuffers([4 * elements], async (buffer) => {
        const executable = await device.compile([{ kernel: scaleKernel(2), bindings: [whole(buffer)] }]);
        executable.dispose();
        await assert.rejects(async () => executable.run(), /disposed/);
      });
    });

    test('repeat must be a positive whole number', async () => {
      await withBuffers([4 * elements], async (buffer) => {
        const executable = await device.compile([{ kernel: scaleKernel(2), bindings: [whole(buffer)] }]);
        for (const repeat of [0, -1, 1.5, Number.NaN]) {
          await assert.rejects(async () => executable.run(repeat), /repeat/);
        }
        executable.dispose();
      });
    });

    test('an empty list runs', async () => {
      const executable = await device.compile([]);
      await executable.run(3);
      executable.dispose();
    });
  });
}
