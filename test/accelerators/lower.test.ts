/** Whole kernels in loops: control flow, grids, Tandem's own kernels, and what cannot be lowered. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lower, unsupported } from '../../src/accelerators/loops/lower.ts';
import { attention } from '../../src/kernels/attention.ts';
import { matmul } from '../../src/kernels/matmul.ts';
import { rmsNorm } from '../../src/kernels/norm.ts';
import { sample } from '../../src/kernels/sampling.ts';
import { buildKernel } from '../../src/tile/builder.ts';
import { check, compare, f32, randomBuffers, TARGETS } from './lowered.ts';

/** For kernels whose functions the interpreter computes otherwise. */
const CLOSE = { atol: 1e-5, rtol: 1e-5 };

test('loops carry, swap and repeat values', () => {
  for (const trips of [0, 1, 3]) {
    check(`loop${trips}`, [f32(5, 20), f32(5, 20), { dtype: 'i32', shape: [] }], (k, a, b, n) => {
      const [x, y, count, s, t, u] = k.loop(
        { lo: 1, hi: 1 + 2 * trips, step: 2 },
        [a, b, n, n.cast('f32'), k.zeros([5, 20]), a] as const,
        (i, [p, q, c, f, g, h]) =>
          [
            q,
            p.add(i.cast('f32')),
            c.add(i),
            f.mul(0.5),
            k.dot(p, q, null, { transB: true }).sum().add(g),
            h.mul(0.5),
          ] as const,
      );
      return [x, y, count, s, t, u, a];
    });
  }
});

test('programs of a grid and nested loops', () => {
  const kernel = buildKernel('grid', (k) => {
    k.grid(3, 2, 2);
    const out = k.output('out', 'i32', [2, 2, 3]);
    const [x, y, z] = [k.programId(0), k.programId(1), k.programId(2)];
    const [sum] = k.loop(
      { hi: x.add(2) },
      [z.mul(100).add(y.mul(10))] as const,
      (i, [s]) => k.loop({ lo: i, hi: 4 }, [s] as const, (j, [r]) => [r.add(i.mul(j))] as const) as never,
    );
    k.store(out, [z, y, x], sum.reshape([1, 1, 1]));
  });
  compare(kernel, randomBuffers(kernel));
});

test('kernels of the library', () => {
  for (const options of [
    { m: 33, n: 40, k: 70, blocks: { m: 16, n: 32, k: 16 } },
    {
      m: 5,
      n: 24,
      k: 33,
      transA: true,
      transB: true,
      bType: 'bf16' as const,
      blocks: { m: 4, n: 16, k: 16 },
    },
    { m: 8, n: 20, k: 16, batch: 2, accumulate: true, blocks: { m: 8, n: 16, k: 16 } },
  ]) {
    const kernel = matmul(options);
    compare(kernel, randomBuffers(kernel));
  }
  const norm = rmsNorm({ rows: 5, columns: 48, eps: 1e-5 });
  compare(norm, randomBuffers(norm), CLOSE);
  for (const layout of ['cache', 'tokens'] as const) {
    const kernel = attention({
      sequences: 1,
      queryLength: 9,
      heads: 2,
      kvHeads: 1,
      headDim: 16,
      slots: 2,
      maxLength: 70,
      layout,
    });
    const buffers = randomBuffers(kernel).map((data, i) =>
      kernel.views[i].dtype === 'i32' ? new Int32Array(data.byteLength / 4).fill(1) : data,
    );
    compare(kernel, buffers, CLOSE);
  }
  const sampling = sample({ rows: 2, vocabulary: 70 });
  assert.equal(unsupported(sampling, TARGETS[0]), null);
  compare(sampling, randomBuffers(sampling), CLOSE);
});

test('in decode, attention holds a block of keys twice, as it is cut off and turned, and values in its place', () => {
  const [keys, headDim] = [32, 128];
  const options = { sequences: 3, queryLength: 1, heads: 16, kvHeads: 8, headDim, slots: 3, maxLength: 256 };
  for (const target of TARGETS) {
    const { scratchBytes } = lower(attention({ ...options, layout: 'cache' }), target);
    const block = 4 * keys * headDim;
    assert.ok(
      scratchBytes >= 2 * block && scratchBytes < 2.5 * block,
      `${target.name}: ${scratchBytes} bytes`,
    );
  }
});

test('what is not supported is named', () => {
  const add = buildKernel('adds', (k) => {
    const out = k.inout('out', 'f32', [4]);
    k.atomicAdd(out, [0], k.zeros([4]));
  });
  assert.match(String(unsupported(add, TARGETS[0])), /adds.*atomicAdd/);
  assert.throws(() => lower(add, TARGETS[0]), /atomicAdd/);
  const packed = buildKernel('packed', (k) => {
    k.load(k.input('weights', 'i4', [4, 8]), [0, 0], [4, 8]);
  });
  assert.match(String(unsupported(packed, TARGETS[0])), /weights.*i4/);
});

test('a row of bf16 over an edge keeps its place until all columns are done', () => {
  const [depth, size, n] = [90, 64, 40];
  const kernel = buildKernel('edge', (k) => {
    const a = k.input('a', 'bf16', [1, depth]);
    const b = k.input('b', 'bf16', [depth, n]);
    const c = k.output('c', 'f32', [2, n]);
    k.grid(2);
    const from = k.programId(0).mul(size);
    const product = k.dot(k.load(a, [0, from], [1, size]), k.load(b, [from, 0], [size, n]));
    k.store(c, [k.programId(0), 0], product);
  });
  compare(kernel, randomBuffers(kernel));
});
