/** The order in which products are added up is part of the language: accelerators with fused multiply-add agree to the bit. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { interpreterFactory } from '../../src/accelerators/interpreter.ts';
import { openDevice } from '../../src/accelerators/registry.ts';
import { runKernel } from '../../src/accelerators/run-kernel.ts';
import { matmul } from '../../src/kernels/matmul.ts';
import { hasMatrixRegisters, runnable } from '../cpu/loop-runner.ts';
import { normals } from '../kernels/buffers.ts';

const SHAPES = [
  [1, 40, 33],
  [1, 64, 96],
  [6, 1, 19],
  [17, 40, 50],
  [40, 70, 34],
  [31, 33, 1],
  // Rows of a that are 4096 bytes apart.
  [9, 17, 2048],
] as const;
const float = (values: readonly number[]) => Float32Array.from(values);
const bits = (values: ArrayLike<number>) => [...new Uint32Array(Float32Array.from(values).buffer)];

/** With what the interpreter takes sums as they do. */
const INSTRUCTION_SETS = [
  ...runnable.map((isa) => [isa, []] as const),
  ...(hasMatrixRegisters ? [['amx', ['bf16-blocks']] as const] : []),
];

for (const [isa, features] of INSTRUCTION_SETS)
  describe(`order of sums on ${isa}`, () => {
    for (const type of ['f32', 'bf16'] as const)
      for (const [transA, transB] of [
        [false, false],
        [false, true],
        [true, false],
        [true, true],
      ] as const)
        test(`${type}${transA ? ', a transposed' : ''}${transB ? ', b transposed' : ''}`, async () => {
          await using device = await openDevice('cpu', { features: [isa] });
          await using interpreter = await interpreterFactory.open({ features });
          for (const [m, n, k] of SHAPES)
            for (const blocks of [
              undefined,
              { m: Math.min(m, 16), n: Math.min(n, 32), k: Math.min(k, 16) },
            ]) {
              const kernel = matmul({ m, n, k, transA, transB, aType: type, bType: type, blocks });
              const inputs = [float(normals(1, m * k, type)), float(normals(2, k * n, type))];
              const [found] = await runKernel(device, kernel, inputs);
              const [wanted] = await runKernel(interpreter, kernel, inputs);
              assert.deepEqual(bits(found as Float32Array), bits(wanted as Float32Array), `${m}x${n}x${k}`);
            }
        });

    test('bf16 where the last step along k is not whole', async () => {
      await using device = await openDevice('cpu', { features: [isa] });
      await using interpreter = await interpreterFactory.open({ features });
      for (const [m, n, k] of [
        [1, 48, 96],
        [1, 33, 90],
        [9, 48, 96],
        [40, 40, 100],
      ]) {
        const blocks = { m: Math.min(m, 32), n: 48, k: 64 };
        const kernel = matmul({ m, n, k, aType: 'bf16', bType: 'bf16', blocks });
        const inputs = [float(normals(1, m * k, 'bf16')), float(normals(2, k * n, 'bf16'))];
        const [found] = await runKernel(device, kernel, inputs);
        const [wanted] = await runKernel(interpreter, kernel, inputs);
        assert.deepEqual(bits(found as Float32Array), bits(wanted as Float32Array), `${m}x${n}x${k}`);
      }
    });

    test('bf16 in panels', async () => {
      await using device = await openDevice('cpu', { features: [isa] });
      await using interpreter = await interpreterFactory.open({ features });
      for (const [m, k] of [
        [1, 70],
        [3, 96],
        [20, 70],
        [45, 256],
      ]) {
        const n = 75;
        const kernel = matmul({ m, n, k, panel: 32, aType: 'bf16', bType: 'bf16' });
        const inputs = [float(normals(1, m * k, 'bf16')), float(normals(2, 3 * k * 32, 'bf16'))];
        const [found] = await runKernel(device, kernel, inputs);
        const [wanted] = await runKernel(interpreter, kernel, inputs);
        assert.deepEqual(bits(found as Float32Array), bits(wanted as Float32Array), `${m} rows`);
      }
    });
  });
