/** What fusion, memory plan and in-place updates must and must not do. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { openDevice } from '../../src/accelerators/registry.ts';
import { quantizedTypes } from '../../src/kernels/quantized.ts';
import type { HostArray, Tensor } from '../../src/tensor/index.ts';
import { adamwHyper, compile, Graph, gradients, ParameterStore, printGraph } from '../../src/tensor/index.ts';
import { placeBlocks } from '../../src/tensor/memory.ts';
import type { TensorType } from '../../src/tensor/types.ts';
import { cacheStates } from './cache.ts';
import { QuantizedGraph } from './quantized.ts';
import { random } from './random.ts';
import { evaluateGraph, type Values } from './reference.ts';
import { feedsFor, runGraph } from './suite.ts';

const device = await openDevice('interpreter');
const names = async (g: Graph, outputs: Record<string, Tensor>) => {
  using store = new ParameterStore(device);
  for (const node of g.nodes)
    if (node.primitive === 'parameter') {
      const { name, type } = node.attributes as { name: string; type: TensorType };
      store.create(name, type.dtype, type.shape);
    }
  using program = await compile(g, device, store, { outputs });
  return program.launches.map((launch) => launch.name);
};

describe('fusion', () => {
  it('makes one kernel of a tree of elementwise functions with broadcasts and constants', async () => {
    const g = new Graph();
    const x = g.parameter('x', 'f32', [4, 6]);
    const y = g.mul(g.add(g.exp(x), g.parameter('b', 'f32', [6])), g.add(g.tanh(x), 0.5));
    assert.equal((await names(g, { y })).length, 1);
  });
  it('puts bias, activation and residual into the matmul, and SwiGLU into the second of its two', async () => {
    const g = new Graph();
    const x = g.parameter('x', 'f32', [4, 6]);
    const product = g.matmul(x, g.parameter('w', 'f32', [6, 6]));
    const y = g.add(g.tanh(g.add(product, g.parameter('b', 'f32', [6]))), x);
    assert.equal((await names(g, { y })).length, 1);
    const z = g.swiglu(
      g.matmul(x, g.parameter('wg', 'f32', [6, 5])),
      g.matmul(x, g.parameter('wu', 'f32', [6, 5])),
    );
    assert.equal((await names(g, { z })).length, 2);
    assert.equal((await names(g, { z, product })).length, 3, 'an output of its own keeps its memory');
  });
  for (const type of quantizedTypes) {
    it(`makes 8 kernels of a layer with ${type} matrices, with the same bits`, async () => {
      const g = new Graph();
      const quantized = new QuantizedGraph(g, type);
      const outputs = Object.fromEntries(
        quantized.layer(g.parameter('x', 'f32', [5, 96])).map((y, i) => [`${i}`, y]),
      );
      const kernels = await names(g, outputs);
      assert.deepEqual(
        kernels.map((name) => name.replace(/_\d+x/u, ' ').replace(/_[0-9a-f]{6,8}$/u, '')),
        [
          `quantize_normed_rows 96_32_f32_f32`,
          `matmul 64+7+40x96_${type}_32`,
          'quantize_rows 64_64_exp',
          `matmul 96x64_${type}_64_f32_add`,
          'quantize_normed_rows 96_32_f32_f32',
          `matmul 160+160x96_${type}_32`,
          'quantize_rows 160_32_sigmoid_mul_mul',
          `matmul 96x160_${type}_32_f32_add`,
        ],
      );
      const feeds = feedsFor(g, { inputs: quantized.values });
      const [fused, apart] = [
        await runGraph(device, g, feeds, outputs),
        await runGraph(device, g, feeds, outputs, { fuse: false }),
      ];
      assert.deepEqual(fused, apart);
    });
    it(`does not compute products early with ${type} matrices that change in between, or that are computed`, async () => {
      const g = new Graph();
      const quantized = new QuantizedGraph(g, type);
      const rows = quantized.rows(g.parameter('x', 'f32', [2, 96]));
      const { words, scales } = quantized.matrix('w', 96, 40);
      const product = (held: Tensor) =>
        g.quantizedMatmul(rows, { words: held, scales }, { type, columns: 40 });
      const before = product(words);
      const computed = product(g.map('xor', words, 5));
      const after = product(g.assign(words, g.map('xor', words, 3)));
      const outputs = { before, computed, after };
      const feeds = feedsFor(g, { inputs: quantized.values });
      const [fused, apart] = [
        await runGraph(device, g, feeds, outputs),
        await runGraph(device, g, feeds, outputs, { fuse: false }),
      ];
      assert.deepEqual(fused, apart);
      assert.notDeepEqual(fused.get('before'), fused.get('after'));
    });
  }
  it('keeps norms and values that something else needs, whatever is quantized', async () => {
    const g = new Graph();
    const quantized = new QuantizedGraph(g, 'int8');
    const x = g.parameter('x', 'f32', [2, 64]);
    const h = g.rmsNorm(x, g.parameter('norm', 'f32', [64]), 1e-3);
    const heads = g.rmsNorm(x, g.parameter('head', 'f32', [32]), 1e-3);
    const s = g.exp(x);
    const outputs = {
      ...Object.fromEntries([h, heads, s].map((y, i) => [`${i}`, quantized.product(y, `w${i}`, 5)])),
      h,
      s,
    };
    const kernels = await names(g, outputs);
    assert.equal(kernels.filter((name) => /^quantize_rows_2x64_64_f32$/u.test(name)).length, 3);
    const feeds = feedsFor(g, { inputs: quantized.values });
    assert.deepEqual(
      await runGraph(device, g, feeds, outputs),
      await runGraph(device, g, feeds, outputs, { fuse: false }),
    );
  });
  it('joins elementwise work to a row reduction and drops what nothing needs', async () => {
    const g = new Graph();
    const x = g.parameter('x', 'f32', [4, 6]);
    g.exp(g.matmul(x, g.parameter('unused', 'f32', [6, 3])));
    const total = g.sum(g.mul(x, x), 1);
    assert.equal((await names(g, { total })).length, 1);
  });
  // Of norms and of what comes of them: rounded at every step, or where attention takes over.
  for (const [normType, dtype] of [
    ['f32', 'f32'],
    ['bf16', 'bf16'],
    ['f32', 'bf16'],
  ] as const)
    it(`normalises and rotates queries and keys, and caches keys, in one kernel, with the same bits, ${normType} and ${dtype}`, async () => {
      const g = new Graph();
      const type = (x: Tensor) => g.cast(x, dtype);
      const at = g.input('at', 'i32', [12]);
      const shapes: Record<string, readonly number[]> = {};
      const parameter = (name: string, ...shape: number[]) => {
        shapes[name] = shape;
        return g.parameter(name, 'f32', shape);
      };
      const rotated = (name: string, width: number) =>
        g.rope(
          g.rmsNorm(g.cast(parameter(name, 12, width), normType), parameter(`${name}w`, 6), 1e-3, {
            type: normType,
          }),
          at,
          { headDim: 6, theta: 50, maxPositions: 20, type: dtype },
        );
      const { keys, values } = cacheStates(g, dtype, { slots: 2, kvHeads: 2, maxLength: 20, headDim: 6 });
      const slots = g.input('slots', 'i32', [12]);
      const q = rotated('q', 24);
      const next = g.cacheWrite(keys, values, rotated('k', 12), type(parameter('v', 12, 12)), slots, at);
      const shape = { sequences: 2, heads: 4, kvHeads: 2, headDim: 6 };
      const start = g.input('start', 'i32', [2]);
      const attended = g.cast(g.attention(q, next.keys, next.values, shape, { start }), 'f32');
      // In training: no cache.
      const alone = g.cast(rotated('other', 12), 'f32');
      const rounded = g.cast(
        g.matmul(
          g.cast(g.rmsNorm(parameter('x', 2, 8), parameter('xw', 8), 1e-3), dtype),
          type(parameter('y', 8, 3)),
        ),
        'f32',
      );
      const outputs = { attended, alone, rounded };
      const inputs = {
        at: [3, 4, 5, 6, 7, 8, 0, 1, -1, 3, 4, 5],
        slots: [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 5, 1],
        start: [3, 0],
      };
      const feeds = feedsFor(g, { inputs });
      const [fused, apart] = [
        await runGraph(device, g, feeds, outputs),
        await runGraph(device, g, feeds, outputs, { fuse: false }),
      ];
      assert.deepEqual(fused, apart);
      for (const name of Object.keys(outputs))
        assert.ok((fused.get(name) as Float32Array).some((value) => value !== 0));
      using store = new ParameterStore(device);
      for (const [name, shape] of Object.entries(shapes)) store.create(name, 'f32', shape);
      using program = await compile(g, device, store, { outputs });
      const kernels = program.launches.map(({ name }) => name);
      assert.deepEqual(
        kernels
          .filter((name) => /norm|rope|cache_write|key_value/u.test(name))
          .map((name) => name.replace(/_\d.*/u, ''))
          .sort(),
        ['normed_rope', 'query_key_value', 'rmsnorm_forward'],
      );
      const casts = kernels.filter((name) => name.startsWith('cast'));
      // Of parameters and results, which are nobody's epilogue; not of the norm, nor of what goes into the cache.
      const casted = normType === 'f32' ? 3 : 6;
      assert.equal(casts.length, dtype === 'f32' ? 0 : casted, kernels.join(', '));
    });
  it('lets products end in rounding what is needed in memory, and reads that in two bytes', async () => {
    const g = new Graph();
    const shapes = { x: [6, 8], wg: [8, 20], wu: [8, 20], wd: [20, 8] };
    const parameters = Object.entries(shapes).map(([name, shape]) => g.parameter(name, 'f32', shape));
    const narrow = (x: Tensor) => g.cast(x, 'bf16');
    const [x, wg, wu, wd] = parameters.map(narrow);
    const [gate, up] = [wg, wu].map((w) => narrow(g.matmul(x, w)));
    const hidden = narrow(g.swiglu(g.cast(gate, 'f32'), g.cast(up, 'f32')));
    const y = g.matmul(hidden, wd);
    const grads = gradients(g, g.sum(g.mul(y, y)), parameters);
    const outputs = Object.fromEntries([y, ...grads].map((tensor, index) => [`out${index}`, tensor]));
    const feeds = feedsFor(g, {});
    const [fused, apart] = [
      await runGraph(device, g, feeds, outputs),
      await runGraph(device, g, feeds, outputs, { fuse: false }),
    ];
    assert.deepEqual(fused, apart);
    using store = new ParameterStore(device);
    for (const [name, shape] of Object.entries(shapes)) store.create(name, 'f32', shape);
    using program = await compile(g, device, store, { outputs });
    const wide = program.launches.flatMap(({ name, views }) =>
      views.filter((view) => /f32.*(\[6, 20\]|\[120\])/u.test(view)).map((view) => `${name}: ${view}`),
    );
    // What comes back to the activation, once written and once read.
    assert.equal(wide.length, 2, wide.join('; '));
    assert.ok(
      wide[0].includes('_nt_') && wide[0].includes(': c ') && wide[1].includes(': in0 '),
      wide.join('; '),
    );
  });
  it('does not move work over a use in between', async () => {
    const g = new Graph();
    const x = g.parameter('x', 'f32', [4, 4]);
    const a = g.exp(x);
    const y = g.add(a, g.matmul(g.tanh(a), x));
    const feeds = feedsFor(g, {});
    const found = (await runGraph(device, g, feeds, { y })).get('y') as Float32Array;
    const [wanted] = evaluateGraph(g, new Map(feeds), [y]);
    wanted.forEach((value, i) => {
      assert.ok(Math.abs(found[i] - value) < 1e-5);
    });
  });
  it('computes equal expressions once and folds constants', () => {
    const g = new Graph();
    const x = g.parameter('x', 'f32', [3]);
    assert.equal(g.exp(x), g.exp(x));
    assert.equal(g.mul(x, 1), x);
    const folded = g.add(g.constant(2), g.mul(g.constant(3), 4));
    assert.deepEqual(folded.node.attributes, { value: 14, type: { dtype: 'f32', shape: [1] } });
    assert.notEqual(g.add(x, 0), x, 'x + 0 is not x for -0');
    const constants = [0, -0, Number.NaN, Infinity, -Infinity].map((value) => g.constant(value, 'f32', [2]));
    assert.equal(new Set(constants).size, constants.length, 'numbers that JSON does not tell apart');
    assert.equal(g.constant(-0, 'f32', [2]), constants[1]);
  });
  it('prints graphs', () => {
    const g = new Graph();
    g.sum(g.exp(g.input('x', 'f32', [2, 3])), 1);
    assert.equal(
      printGraph(g),
      '%0 = input() {name: "x"} : f32[2, 3]\n%1 = map(%0) {fn: "exp"} : f32[2, 3]\n%2 = reduce(%1) {fn: "sum", axis: 1} : f32[2, 1]',
    );
  });
});

describe('memory plan', () => {
  it('never overlaps blocks that live at the same time, and shares the rest', () => {
    for (let seed = 0; seed < 50; seed++) {
      const next = random(seed);
      const blocks = Array.from({ length: 40 }, () => {
        const first = Math.floor(next() * 30);
        return { bytes: 1 + Math.floor(next() * 500), first, last: first + Math.floor(next() * 6) };
      });
      const { offsets, bytes } = placeBlocks(blocks);
      blocks.forEach((a, i) => {
        assert.equal(offsets[i] % 64, 0);
        assert.ok(offsets[i] + a.bytes <= bytes);
        blocks.slice(0, i).forEach((b, j) => {
          const together = a.first <= b.last && b.first <= a.last;
          const overlap = offsets[i] < offsets[j] + b.bytes && offsets[j] < offsets[i] + a.bytes;
          assert.ok(!(together && overlap), `seed ${seed}: blocks ${i} and ${j}`);
        });
      });
      assert.ok(bytes < blocks.reduce((sum, block) => sum + block.bytes, 0));
    }
  });
});

describe('states', () => {
  it('are updated in place, run after run, in the order of recording', async () => {
    const g = new Graph();
    const count = g.state('count', 'f32', [3]);
    const before = g.mul(count, 10);
    const next = g.assign(count, g.add(count, 1));
    const twice = g.assign(next, g.mul(next, 2));
    const after = g.sub(twice, before);
    using store = new ParameterStore(device);
    using program = await compile(g, device, store, { outputs: { before, after, twice } });
    await program.run(2);
    assert.deepEqual([...(await program.read('before'))], [20, 20, 20]);
    assert.deepEqual([...(await program.read('after'))], [-14, -14, -14]);
    assert.deepEqual([...(await store.read('count'))], [6, 6, 6]);
    assert.deepEqual([...(await program.read('twice'))], [6, 6, 6]);
  });
  it('rows are scattered, a later one wins, others stay', async () => {
    const g = new Graph();
    const state = g.state('s', 'f32', [4, 2]);
    g.scatterRows(state, g.literal(Int32Array.of(2, -1, 0, 2)), g.input('v', 'f32', [4, 2]));
    using store = new ParameterStore(device);
    store.create('s', 'f32', [4, 2], Float32Array.of(1, 1, 2, 2, 3, 3, 4, 4));
    using program = await compile(g, device, store);
    program.write('v', Float32Array.of(10, 11, 12, 13, 14, 15, 16, 17));
    await program.run();
    assert.deepEqual([...(await store.read('s'))], [14, 15, 2, 2, 16, 17, 4, 4]);
  });
  it('adamw follows the definition for three steps, in one kernel a parameter', async () => {
    const g = new Graph();
    const p = g.parameter('p', 'f32', [5]);
    const target = g.input('target', 'f32', [5]);
    const difference = g.sub(p, target);
    const loss = g.sum(g.mul(difference, difference));
    const [gradient] = gradients(g, loss, [p]);
    const [m, v] = [g.state('m', 'f32', [5]), g.state('v', 'f32', [5])];
    g.adamw(p, gradient, m, v, g.input('hyper', 'f32', [7]));
    using store = new ParameterStore(device);
    const start = [0.5, -1, 2, 0.1, 0];
    store.create('p', 'f32', [5], Float32Array.from(start));
    using program = await compile(g, device, store, { outputs: { loss } });
    program.write('target', Float32Array.of(1, 1, 1, 1, 1));
    const [lr, beta1, beta2, eps, weightDecay] = [0.05, 0.9, 0.99, 1e-6, 0.1];
    const wanted = start.map((x) => ({ p: Math.fround(x), m: 0, v: 0 }));
    for (let step = 1; step <= 3; step++) {
      program.write('hyper', adamwHyper({ learningRate: lr, beta1, beta2, eps, weightDecay, step }));
      await program.run();
      for (const w of wanted) {
        const grad = 2 * (w.p - 1);
        w.m = beta1 * w.m + (1 - beta1) * grad;
        w.v = beta2 * w.v + (1 - beta2) * grad * grad;
        w.p -=
          lr * (w.m / (1 - beta1 ** step) / (Math.sqrt(w.v / (1 - beta2 ** step)) + eps) + weightDecay * w.p);
      }
    }
    const found = await store.read('p');
    wanted.forEach((w, i) => {
      assert.ok(Math.abs(found[i] - w.p) < 1e-5, `${found[i]} instead of ${w.p}`);
    });
    const moments = program.launches.filter(
      (launch) => launch.views.filter((view) => view.startsWith('out')).length === 3,
    );
    assert.equal(moments.length, 1, 'parameter and moments in one kernel');
  });
});

describe('rounding to bf16', () => {
  it('bf16 weights and activations, f32 sums, f32 gradients', async () => {
    const g = new Graph();
    const x = g.parameter('x', 'bf16', [3, 8]);
    const w = g.parameter('w', 'bf16', [8, 4]);
    const product = g.matmul(x, w);
    const rounded = g.cast(g.tanh(product), 'bf16');
    const loss = g.sum(g.cast(rounded, 'f32'));
    const [dx, dw] = gradients(g, loss, [x, w]);
    assert.deepEqual([product.dtype, dx.dtype, dw.dtype], ['f32', 'f32', 'f32']);
    const feeds = feedsFor(g, {});
    for (const name of ['x', 'w'])
      feeds.set(
        name,
        (feeds.get(name) as Values).map((value) => Math.round(value * 64) / 64),
      );
    const found = await runGraph(device, g, feeds, { product, rounded, dw });
    const [wantedProduct, wantedTanh, wantedDw] = evaluateGraph(g, new Map(feeds), [product, rounded, dw]);
    wantedProduct.forEach((value, i) => {
      assert.ok(Math.abs((found.get('product') as HostArray)[i] - value) < 1e-5);
    });
    const largest = Math.max(
      ...wantedTanh.map((value, i) => Math.abs((found.get('rounded') as HostArray)[i] - value)),
    );
    assert.ok(largest < 2 ** -8 && largest > 1e-5, `${largest} is the error of rounding to 8 bits`);
    wantedDw.forEach((value, i) => {
      assert.ok(Math.abs((found.get('dw') as HostArray)[i] - value) < 0.02);
    });
  });
});
