/** Programs and stores: memory, mistakes, kernels of the user. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { openDevice } from '../../src/accelerators/registry.ts';
import {
  compile,
  Graph,
  GraphError,
  gradients,
  ParameterStore,
  type Tensor,
} from '../../src/tensor/index.ts';
import { buildKernel } from '../../src/tile/builder.ts';

const device = await openDevice('interpreter');
const floats = (count: number, start = 0) => Float32Array.from({ length: count }, (_, i) => start + i);

describe('memory', () => {
  it('of programs and stores returns to the device', async () => {
    const start = device.allocatedBytes;
    {
      using store = new ParameterStore(device);
      store.create('w', 'f32', [4, 4], floats(16));
      const g = new Graph();
      const x = g.input('x', 'f32', [4, 4]);
      const y = g.matmul(g.transpose(g.matmul(x, g.parameter('w', 'f32', [4, 4]))), x);
      using program = await compile(g, device, store, { outputs: { y } });
      assert.equal(
        device.allocatedBytes - start,
        program.memory.arena + program.memory.io + program.memory.store,
        'the prediction',
      );
      assert.equal(program.memory.store, 64);
      program.dispose();
      await assert.rejects(program.run(), /disposed/);
      assert.equal(device.allocatedBytes - start, 64);
    }
    assert.equal(device.allocatedBytes, start);
  });
  it('is returned when compiling fails', async () => {
    using store = new ParameterStore(device);
    const g = new Graph();
    const y = g.exp(g.transpose(g.input('x', 'f32', [4, 4])));
    const start = device.allocatedBytes;
    const failing = new Proxy(device, {
      get: (target, key) =>
        key === 'compile'
          ? async () => {
              throw new Error('no such instruction');
            }
          : typeof target[key as keyof typeof target] === 'function'
            ? (target[key as keyof typeof target] as (...args: unknown[]) => unknown).bind(target)
            : target[key as keyof typeof target],
    });
    using other = new ParameterStore(failing);
    await assert.rejects(compile(g, failing, other, { outputs: { y } }), /no such instruction/);
    assert.equal(device.allocatedBytes, start);
    await assert.rejects(compile(g, device, other), /another device/);
    assert.deepEqual(store.list(), []);
  });
  it('of a value that is no longer needed is used again', async () => {
    const g = new Graph();
    let x = g.input('x', 'f32', [16, 16]);
    for (let i = 0; i < 6; i++) x = g.transpose(g.matmul(x, x));
    using store = new ParameterStore(device);
    using program = await compile(g, device, store, { outputs: { x } });
    assert.equal(program.memory.arena, 2 * 1024);
    assert.equal(program.memory.arenaUnshared, 11 * 1024);
  });
});

describe('a program', () => {
  it('says which inputs are missing, unknown or of the wrong size', async () => {
    const g = new Graph();
    const y = g.add(g.input('a', 'f32', [2]), g.input('b', 'f32', [2]));
    g.input('unused', 'i32', [1]);
    using store = new ParameterStore(device);
    using program = await compile(g, device, store, { outputs: { y } });
    program.write('unused', Int32Array.of(1));
    program.write('a', floats(2));
    await assert.rejects(program.run(), /inputs have not been written: 'b'/);
    assert.throws(() => program.write('c', floats(2)), /no input 'c'; it has 'a', 'b', 'unused'/);
    assert.throws(() => program.write('b', floats(3)), /'b' is f32\[2\], 2 values, but 3 were given/);
    assert.throws(() => program.write('unused', floats(1)), /floats were given/);
    program.write('b', floats(2, 5));
    await program.run();
    assert.deepEqual([...(await program.read('y'))], [5, 7]);
    await assert.rejects(program.read('z'), /no output 'z'; it has 'y'/);
  });
  it('needs its parameters in the store, of the type it expects', async () => {
    const g = new Graph();
    const y = g.exp(g.parameter('w', 'f32', [2]));
    using store = new ParameterStore(device);
    await assert.rejects(compile(g, device, store, { outputs: { y } }), /no 'w'; create it first/);
    store.create('w', 'f32', [3]);
    await assert.rejects(
      compile(g, device, store, { outputs: { y } }),
      /'w' is f32\[3\] in the store, but the graph has f32\[2\]/,
    );
  });
  it('shares the store with others', async () => {
    using store = new ParameterStore(device);
    store.create('w', 'f32', [2], floats(2, 1));
    const read = new Graph();
    const doubled = read.mul(read.parameter('w', 'f32', [2]), 2);
    const write = new Graph();
    const w = write.parameter('w', 'f32', [2]);
    write.assign(w, write.add(w, 1));
    using reader = await compile(read, device, store, { outputs: { doubled } });
    using writer = await compile(write, device, store);
    await writer.run(3);
    await reader.run();
    assert.deepEqual([...(await reader.read('doubled'))], [8, 10]);
  });
});

describe('a store', () => {
  it('lists by name, reads back, converts, refuses duplicates', async () => {
    using store = new ParameterStore(device);
    store.create('b', 'bf16', [3], Float32Array.of(1, 1.00390625, -2));
    store.create('a', 'i32', [1], Int32Array.of(7));
    store.create('B', 'f32', [1]);
    assert.deepEqual(
      store.list().map((entry) => entry.name),
      ['B', 'a', 'b'],
    );
    assert.deepEqual([...(await store.read('b'))], [1, 1, -2], 'ties go to even');
    assert.equal((await store.readBytes('b')).length, 6);
    assert.equal(store.bytes, 14);
    assert.throws(() => store.create('a', 'f32', [1]), /already has 'a'/);
    assert.throws(() => store.write('c', floats(1)), /no 'c'/);
    store.writeBytes('B', new Uint8Array([0, 0, 128, 63]));
    assert.deepEqual([...(await store.read('B'))], [1]);
    assert.throws(() => store.writeBytes('B', new Uint8Array(3)), /4 bytes, not 3/);
    store.delete('a');
    assert.equal(store.has('a'), false);
  });
});

describe('mistakes in a graph', () => {
  const g = new Graph();
  const x = g.input('x', 'f32', [3, 4]);
  const ids = g.input('ids', 'i32', [3]);
  const half = g.input('half', 'bf16', [3, 4]);
  const wrong: readonly (readonly [string, () => unknown, RegExp])[] = [
    [
      'shapes that do not broadcast',
      () => g.add(x, g.input('y', 'f32', [3, 3])),
      /f32\[3, 4\], f32\[3, 3\] do not broadcast/,
    ],
    ['inner sizes', () => g.matmul(x, x), /inner sizes .* 4 of f32\[3, 4\] and 3 of f32\[3, 4\]/],
    ['types of a product', () => g.matmul(x, g.input('whole', 'i32', [3, 4]), { transB: true }), /cast both/],
    ['arithmetic on bf16', () => g.exp(half), /must be f32, not bf16\[3, 4\]; cast it/],
    ['mixed arguments', () => g.map('add', ids, g.input('f', 'f32', [3])), /differ in type/],
    ['a condition that is no bool', () => g.where(x, x, x), /condition of 'select' must be bool/],
    ['float ids', () => g.embedding(x, g.input('g', 'f32', [3])), /token ids must be i32/],
    ['a weight that does not divide', () => g.rmsNorm(x, g.input('w', 'f32', [3]), 1e-6), /groups of 3/],
    ['an axis that is not there', () => g.sum(x, 2), /axis 2 does not exist in shape \[3, 4\]/],
    ['reshape', () => g.reshape(x, [5, -1]), /12 elements and cannot become \[5, 2.4\]/],
    ['slice', () => g.slice(x, 2, 5), /rows 2 to 5 are not within f32\[3, 4\]/],
    ['a scalar shape', () => g.input('s', 'f32', []), /a single value is \[1\]/],
    ['a name twice', () => g.state('x', 'f32', [3, 4]), /'x' already belongs to the input f32\[3, 4\]/],
    ['writing what is no state', () => g.assign(g.exp(x), x), /writes a state or parameter/],
    [
      'writing a part',
      () => g.assign(g.slice(g.state('p', 'f32', [3, 4]), 1), g.slice(x, 1)),
      /a whole state/,
    ],
    ['another graph', () => new Graph().exp(x), /another graph/],
    ['a loss that is no scalar', () => gradients(g, x, [x]), /a loss is one f32 value/],
    ['gradient of integers', () => gradients(g, g.sum(x), [ids]), /no gradient with respect to i32/],
  ];
  for (const [what, build, message] of wrong)
    it(what, () => {
      assert.throws(build, (error: Error) => {
        assert.ok(error instanceof GraphError, `${error}`);
        assert.match(error.message, message);
        return true;
      });
    });
  it('use of a state after it was overwritten', () => {
    const state = g.state('counter', 'f32', [1]);
    const view = g.reshape(state, [1, 1]);
    const next = g.assign(state, g.add(state, 1));
    assert.throws(
      () => g.exp(state),
      /state 'counter' has been overwritten by 'assign'.*use the tensor that it returned/,
    );
    assert.throws(() => g.exp(view), /overwritten/);
    assert.equal(g.exp(next).dtype, 'f32');
  });
  it('gradient through what has none', () => {
    const w = g.parameter('grads', 'f32', [2]);
    const updated = g.assign(w, g.exp(w));
    assert.throws(() => gradients(g, g.sum(updated), [w]), /no gradient passes through 'assign'/);
  });
});

describe("a user's kernel", () => {
  const cube = (size: number) =>
    buildKernel('cube', (k) => {
      const x = k.input('x', 'f32', [size]);
      const y = k.output('y', 'f32', [size]);
      k.grid(1);
      const tile = k.load(x, [0], [size]);
      k.store(y, [0], tile.mul(tile).mul(tile));
    });
  const counter = buildKernel('counter', (k) => {
    const by = k.input('by', 'f32', [2]);
    const sum = k.inout('sum', 'f32', [2]);
    const before = k.output('before', 'f32', [2]);
    k.grid(1);
    k.store(before, [0], k.load(sum, [0], [2]));
    k.store(sum, [0], k.load(sum, [0], [2]).add(k.load(by, [0], [2])));
  });

  it('is part of a graph and of its gradient', async () => {
    const g = new Graph();
    const x = g.parameter('x', 'f32', [3]);
    const [y] = g.custom(cube(3), [g.mul(x, 2)], {
      gradient: (graph, { inputs: [u], cotangents: [dy] }) => [
        dy === null ? null : graph.mul(dy, graph.mul(3, graph.mul(u, u))),
      ],
    });
    const [dx] = gradients(g, g.sum(y), [x]);
    using store = new ParameterStore(device);
    store.create('x', 'f32', [3], Float32Array.of(1, 2, -1));
    using program = await compile(g, device, store, { outputs: { y, dx } });
    await program.run();
    assert.deepEqual([...(await program.read('y'))], [8, 64, -8]);
    assert.deepEqual([...(await program.read('dx'))], [24, 96, 24]);
  });
  it('updates states and returns their new versions first', async () => {
    const g = new Graph();
    const state = g.state('sum', 'f32', [2]);
    const [sum, before] = g.custom(counter, [g.literal(Float32Array.of(1, 10)), state]);
    const total = g.add(sum, before);
    assert.throws(() => g.exp(state), /overwritten by 'custom'/);
    using store = new ParameterStore(device);
    using program = await compile(g, device, store, { outputs: { total } });
    await program.run(2);
    assert.deepEqual([...(await program.read('total'))], [3, 30]);
  });
  it('is computed once for equal inputs, unless it writes memory or has another gradient', () => {
    const g = new Graph();
    const x = g.parameter('x', 'f32', [3]);
    const kernel = cube(3);
    const [once] = g.custom(kernel, [x]);
    assert.equal(g.custom(kernel, [x])[0], once);
    assert.notEqual(g.custom(kernel, [g.mul(x, 2)])[0], once);
    assert.notEqual(g.custom(cube(3), [x])[0], once);
    assert.notEqual(g.custom(kernel, [x], { gradient: () => [null] })[0], once);
    const by = g.literal(Float32Array.of(1, 10));
    const [sum, before] = g.custom(counter, [by, g.state('sum', 'f32', [2])]);
    assert.notEqual(g.custom(counter, [by, sum])[1], before);
  });
  it('says what does not fit', () => {
    const g = new Graph();
    const x: Tensor = g.parameter('x', 'f32', [3]);
    assert.throws(() => g.custom(cube(3), []), /reads 1 views \(x\), but has 0 inputs/);
    assert.throws(
      () => g.custom(cube(4), [x]),
      /view 'x' of kernel 'cube' is f32\[4\], but the input is f32\[3\]/,
    );
    const [y] = g.custom(cube(3), [x]);
    assert.throws(() => gradients(g, g.sum(y), [x]), /kernel 'cube' has no gradient/);
  });
});
