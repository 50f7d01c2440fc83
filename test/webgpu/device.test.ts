/** What only the WebGPU device has: features that may be absent, and the device's clock. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { WebGpuDevice, webgpuFactory } from '../../src/accelerators/webgpu/device.ts';
import { buildKernel } from '../../src/tile/builder.ts';
import { elementCount } from '../../src/tile/ir.ts';

const { available, reason, info } = await webgpuFactory.probe();
const SIZE = 64;

/** x = x * scale + 1, a row a program. */
const scale = (by: number) =>
  buildKernel(`scale${by}`, (k) => {
    const x = k.inout('x', 'f32', [SIZE, SIZE]);
    k.grid(SIZE);
    const at = [k.programId(), 0];
    k.store(x, at, k.load(x, at, [1, SIZE]).mul(by).add(1));
  });

async function scaled(device: WebGpuDevice) {
  const buffer = device.allocate(4 * SIZE * SIZE);
  const executable = await device.compile(
    [2, 3].map((by) => ({ kernel: scale(by), bindings: [{ buffer, byteOffset: 0 }] })),
  );
  const run = async () => {
    device.write(buffer, new Float32Array(SIZE * SIZE));
    await executable.run(3);
    return new Float32Array((await device.read(buffer)).buffer);
  };
  const release = () => {
    executable.dispose();
    device.free(buffer);
  };
  return { run, release };
}

describe('features of WebGPU', { skip: available ? false : reason }, () => {
  test('those that are used are listed, and can be done without', async () => {
    await using all = await WebGpuDevice.open();
    assert.deepEqual(all.info.features, info!.features);
    await using none = await WebGpuDevice.open({ features: [] });
    assert.deepEqual([none.info.features, none.trace], [[], undefined]);
    const results = [];
    for (const device of [all, none]) {
      const { run, release } = await scaled(device);
      results.push(await run());
      release();
    }
    assert.deepEqual(results[0], results[1]);
    await assert.rejects(WebGpuDevice.open({ features: ['tensor-cores'] }), /no feature 'tensor-cores'/u);
  });

  test('a trace has every launch in order, and the same results', async (context) => {
    await using device = await WebGpuDevice.open();
    if (device.trace === undefined) {
      context.skip('this device has no timestamp-query');
      return;
    }
    const { run, release } = await scaled(device);
    const expected = await run();
    const { value, launches } = await device.trace(run);
    assert.deepEqual(value, expected);
    assert.ok(expected[0] > 0);
    assert.deepEqual(
      launches.map(({ launch }) => launch.kernel.name),
      [1, 2, 3].flatMap(() => ['scale2', 'scale3']),
    );
    let last = 0;
    for (const { launch, parts } of launches) {
      const [{ began, ended, busy, programs }] = parts;
      assert.ok(began >= last && ended >= began && busy === ended - began, `${last} ${began} ${ended}`);
      assert.equal(programs, elementCount(launch.kernel.grid));
      last = began;
    }
    assert.ok(last > 0 && last < 60e6, `${last} microseconds`);
    await assert.rejects(
      device.trace(() => device.trace!(async () => {})),
      /traces already/u,
    );
    assert.deepEqual(await run(), expected);
    release();
  });
});

test('atomic additions of many programs all count', { skip: available ? false : reason }, async () => {
  await using device = await WebGpuDevice.open();
  for (const dtype of ['f32', 'i32'] as const) {
    const kernel = buildKernel(`count_${dtype}`, (k) => {
      const sums = k.inout('sums', dtype, [8]);
      k.grid(300);
      const four = k
        .iota([4])
        .cast(dtype)
        .add(k.programId().cast(dtype).broadcast([4]));
      k.atomicAdd(sums, [k.programId().rem(5)], four);
    });
    const expected = new Array<number>(8).fill(0);
    for (let id = 0; id < 300; id++) for (let i = 0; i < 4; i++) expected[(id % 5) + i] += id + i;
    const buffer = device.allocate(32);
    const executable = await device.compile([{ kernel, bindings: [{ buffer, byteOffset: 0 }] }]);
    await executable.run();
    const { buffer: bytes } = await device.read(buffer);
    assert.deepEqual([...(dtype === 'f32' ? new Float32Array(bytes) : new Int32Array(bytes))], expected);
    executable.dispose();
    device.free(buffer);
  }
});
