/** What steps take of an accelerator: bounds on launches a layer and on the host's part, and the counting itself. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { listDevices, openDevice } from '../src/accelerators/registry.ts';
import { trafficOf } from '../src/accelerators/traffic.ts';
import type { WebGpuExecutable } from '../src/accelerators/webgpu/program.ts';
import { countSteps } from '../src/bench/counters.ts';
import { OutlineDevice } from '../src/bench/outline.ts';
import { bytesText, counterHeader, counterRow } from '../src/cli/counters.ts';
import type { HeldType } from '../src/inference/weights.ts';
import { cacheWrite } from '../src/kernels/kvcache.ts';
import { matmul } from '../src/kernels/matmul.ts';
import { buildKernel } from '../src/tile/builder.ts';
import { tandem } from './cli/harness.ts';

const MOST_LAUNCHES_A_LAYER: { readonly [T in HeldType]: number } = {
  f32: 11,
  bf16: 11,
  int8: 10,
  int4: 10,
};

for (const { name, available, reason } of await listDevices()) {
  test(`steps on ${name}`, { skip: available ? false : reason }, async () => {
    await using device = await openDevice(name);
    const before = device.allocatedBytes;
    const steps = await countSteps(device);
    assert.equal(device.allocatedBytes, before, 'counting takes no memory of the device');
    assert.deepEqual(
      steps.map(({ step, model, dtype }) => `${step} ${model} ${dtype}`),
      [
        'decode 224k f32',
        'train 224k f32',
        'decode Qwen3-0.6B bf16',
        'decode Qwen3-0.6B int8',
        'decode Qwen3-0.6B int4',
        'train Qwen3-0.6B bf16',
      ],
    );
    for (const { step, model, dtype, counters, launchesPerLayer } of steps) {
      const what = `${step}, ${model}, ${dtype}`;
      if (step === 'train') {
        assert.ok(counters.runs <= 2, `${what}: gradients and optimizer, each handed over whole`);
        continue;
      }
      assert.ok(
        launchesPerLayer <= MOST_LAUNCHES_A_LAYER[dtype],
        `${what}: ${launchesPerLayer} launches a layer`,
      );
      assert.ok(launchesPerLayer > 5, `${what}: ${launchesPerLayer} launches cannot be a layer`);
      // Many steps in one hand-over, and then the tokens and their probabilities.
      assert.equal(counters.runs, 1 / 16, what);
      assert.equal(counters.hostReads, 2 / 16, what);
      if (name === 'webgpu') assert.ok(counters.barriers > 0);
    }
    // Every weight is read once for a token, and nothing of that size besides: 596 million of two bytes.
    const [{ bytesRead }, int8, int4] = steps.slice(2).map(({ counters }) => counters);
    assert.ok(bytesRead > 1.19e9 && bytesRead < 1.5e9, `${bytesRead} bytes`);
    assert.ok(int8.bytesRead < 0.6 * bytesRead, `${int8.bytesRead} bytes of int8`);
    assert.ok(int4.bytesRead < 0.4 * bytesRead, `${int4.bytesRead} bytes of int4`);
  });

  test(`counted launches are those that ${name} runs`, { skip: available ? false : reason }, async () => {
    await using device = await openDevice(name);
    const kernels = [1, 2, 3].map((value) =>
      buildKernel(`fill${value}`, (k) => {
        k.store(k.output('x', 'f32', [4]), [0], k.constant(value, 'f32', [4]));
      }),
    );
    const outline = new OutlineDevice(device);
    const executables = [];
    for (const on of [device, outline]) {
      const buffer = on.allocate(16);
      const launches = kernels.map((kernel) => ({ kernel, bindings: [{ buffer, byteOffset: 0 }] }));
      const executable = await on.compile(launches);
      await executable.run(5);
      executables.push(executable);
      on.free(buffer);
    }
    const { launches, runs, bytesRead, bytesWritten } = outline.counters;
    assert.deepEqual([launches, runs, bytesRead, bytesWritten], [15, 1, 0, 240]);
    if (name === 'webgpu') assert.equal((executables[0] as WebGpuExecutable).dispatches, 3);
    for (const executable of executables) executable.dispose();
  });
}

describe('bytes of a launch', () => {
  test('operands of a product are read once, however often it uses them', () => {
    assert.deepEqual(trafficOf(matmul({ m: 300, n: 6, k: 8 })), {
      read: 4 * (300 * 8 + 8 * 6),
      written: 4 * 300 * 6,
    });
  });
  test('of a cache, the rows that are written', () => {
    const kernel = cacheWrite({ tokens: 2, kvHeads: 3, headDim: 4, slots: 5, maxLength: 100 });
    assert.deepEqual(trafficOf(kernel), { read: 4 * (2 * 24 + 2 * 2), written: 4 * 2 * 24 });
  });
});

describe('tandem bench --counters', () => {
  test('prints rows, for people and as JSON', async () => {
    const { code, out } = await tandem(['bench', '--counters', '--device', 'interpreter', '--json']);
    assert.equal(code, 0);
    const rows = JSON.parse(out);
    assert.equal(rows.length, 6);
    assert.ok(rows.every((row: { device: string }) => row.device === 'interpreter'));
    const row = counterRow(rows[2]);
    assert.match(row, /^decode +Qwen3-0\.6B +batch 1 +bf16 +\d+ +11 /u);
    assert.ok(row.length <= counterHeader.length + 12);
    assert.deepEqual([0, 999, 1234, 5.6e9].map(bytesText), ['0 B', '999 B', '1.23 kB', '5.6 GB']);
  });
});
