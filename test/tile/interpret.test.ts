import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fmaf } from '../../src/numerics/fma.ts';
import { buildKernel } from '../../src/tile/builder.ts';
import { interpret } from '../../src/tile/interpret.ts';
import { evaluate, f32, i32, u32 } from './helpers.ts';

const { fround } = Math;

test('f32 arithmetic is rounded after every operation', () => {
  const a = fround(0.1);
  const b = fround(0.7);
  assert.deepEqual(
    evaluate((_, x, y) => x.mul(y).add(x), f32([a]), f32([b])),
    [fround(fround(a * b) + a)],
  );
  assert.deepEqual(
    evaluate((_, x, y) => x.fma(y, x), f32([a]), f32([b])),
    [fmaf(a, b, a)],
  );
  assert.deepEqual(
    evaluate((_, x) => x.rsqrt(), f32([2, 0, -1])),
    [fround(1 / fround(Math.SQRT2)), Infinity, NaN],
  );
  assert.deepEqual(
    evaluate((_, x) => x.sigmoid(), f32([0, -200, 200])),
    [0.5, 0, 1],
  );
  assert.deepEqual(
    evaluate((_, x) => x.floor(), f32([-1.5, 1.5])),
    [-2, 1],
  );
  assert.deepEqual(
    evaluate((_, x) => x.exp2(), f32([3, -Infinity])),
    [8, 0],
  );
});

test('min and max keep NaN, comparisons with NaN are false', () => {
  const x = f32([NaN, 1, 2]);
  const y = f32([1, NaN, 3]);
  assert.deepEqual(
    evaluate((_, a, b) => a.max(b), x, y),
    [NaN, NaN, 3],
  );
  assert.deepEqual(
    evaluate((_, a, b) => a.min(b), x, y),
    [NaN, NaN, 2],
  );
  assert.deepEqual(
    evaluate((_, a, b) => a.lt(b), x, y),
    [0, 0, 1],
  );
  assert.deepEqual(
    evaluate((_, a, b) => a.ne(b), x, y),
    [1, 1, 1],
  );
  assert.deepEqual(
    evaluate((_, a) => a.maximum(), x),
    [NaN],
  );
  assert.deepEqual(
    evaluate((_, a) => a.argmax(), y),
    [1],
  );
  assert.deepEqual(
    evaluate((_, a) => a.argmax(), f32([1, 5, 5])),
    [1],
  );
  assert.deepEqual(
    evaluate((_, a) => a.lt(2).select(a, 7), x),
    [7, 1, 7],
  );
});

test('integers wrap, division truncates, by zero gives 0', () => {
  assert.deepEqual(
    evaluate((_, a) => a.add(1), i32([0x7fffffff])),
    [-0x80000000],
  );
  assert.deepEqual(
    evaluate((_, a) => a.mul(a), u32([0xffffffff])),
    [1],
  );
  assert.deepEqual(
    evaluate((_, a) => a.neg(), u32([1])),
    [0xffffffff],
  );
  assert.deepEqual(
    evaluate((_, a, b) => a.div(b), i32([-7, 7, -0x80000000]), i32([2, 0, -1])),
    [-3, 0, -0x80000000],
  );
  assert.deepEqual(
    evaluate((_, a, b) => a.rem(b), i32([-7, 7]), i32([2, 0])),
    [-1, 0],
  );
  assert.deepEqual(
    evaluate((_, a) => a.mulhi(0xd2511f53), u32([0xdeadbeef])),
    [Number((0xdeadbeefn * 0xd2511f53n) >> 32n)],
  );
  assert.deepEqual(
    evaluate((_, a) => a.not(), i32([0])),
    [-1],
  );
});

test('shifts by 32 and more', () => {
  assert.deepEqual(
    evaluate((_, a, b) => a.shl(b), i32([1, 1, 1]), i32([31, 32, -1])),
    [-0x80000000, 0, 0],
  );
  assert.deepEqual(
    evaluate((_, a, b) => a.shr(b), i32([-8, -8, 8]), i32([1, 40, 40])),
    [-4, -1, 0],
  );
  assert.deepEqual(
    evaluate((_, a, b) => a.shr(b), u32([0x80000000, 0x80000000]), u32([31, 32])),
    [1, 0],
  );
});

test('the order of a sum is the one the language fixes', () => {
  const values = Array.from({ length: 37 }, (_, i) => fround(Math.sin(i) * 10 ** (i % 5)));
  const partial = new Float32Array(16);
  values.forEach((value, i) => {
    partial[i % 16] += value;
  });
  for (const half of [8, 4, 2, 1]) for (let j = 0; j < half; j++) partial[j] += partial[j + half];
  assert.deepEqual(
    evaluate((_, a) => a.sum(), f32(values)),
    [partial[0]],
  );
  const ascending = new Float32Array(1);
  for (const value of values) ascending[0] += value;
  assert.deepEqual(
    evaluate((_, a) => a.sum(0), f32(values, [37, 1])),
    [ascending[0]],
  );
  assert.notEqual(partial[0], ascending[0]);
  const scanned = evaluate((_, a) => a.cumsum(), f32(values));
  assert.equal(scanned[36], ascending[0]);
});

test('dot accumulates in ascending k, fused, whatever the transposes', () => {
  const a = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6].map(fround);
  const b = [1.1, 2.1, 3.1, 4.1, 5.1, 6.1].map(fround);
  const expected = [0, 1].flatMap((i) =>
    [0, 1].map((j) => {
      let sum = 10;
      for (let k = 0; k < 3; k++) sum = fmaf(a[i * 3 + k], b[k * 2 + j], sum);
      return sum;
    }),
  );
  const product = (transA: boolean, transB: boolean) =>
    evaluate(
      (k, x, y) =>
        k.dot(transA ? x.transpose() : x, transB ? y.transpose() : y, k.constant(10, 'f32', [2, 2]), {
          transA,
          transB,
        }),
      f32(a, [2, 3]),
      f32(b, [3, 2]),
    );
  for (const transA of [false, true])
    for (const transB of [false, true]) assert.deepEqual(product(transA, transB), expected);
  const bytes = { dtype: 'i8', shape: [1, 2], data: new Int8Array([-128, 127]) } as const;
  assert.deepEqual(
    evaluate((k, x) => k.dot(x, x, null, { transB: true }), bytes),
    [128 * 128 + 127 * 127],
  );
});

test('shape operations', () => {
  const x = f32([1, 2, 3, 4, 5, 6], [2, 3]);
  assert.deepEqual(
    evaluate((_, a) => a.transpose(), x),
    [1, 4, 2, 5, 3, 6],
  );
  assert.deepEqual(
    evaluate((_, a) => a.sum(1).broadcast([2, 2]), x),
    [6, 6, 15, 15],
  );
  assert.deepEqual(
    evaluate((_, a) => a.sum(0).broadcast([2, 3]), x),
    [5, 7, 9, 5, 7, 9],
  );
  assert.deepEqual(
    evaluate((k) => k.iota([2, 3], 0)),
    [0, 0, 0, 1, 1, 1],
  );
  assert.deepEqual(
    evaluate((k) => k.iota([2, 3])),
    [0, 1, 2, 0, 1, 2],
  );
});

test('casts', () => {
  assert.deepEqual(
    evaluate((_, a) => a.cast('i32'), f32([-1.9, NaN, 3e9, -Infinity])),
    [-1, 0, 0x7fffffff, -0x80000000],
  );
  assert.deepEqual(
    evaluate((_, a) => a.cast('u32'), f32([-1.9, NaN, 5e9])),
    [0, 0, 0xffffffff],
  );
  assert.deepEqual(
    evaluate((_, a) => a.cast('i8'), f32([-1.9, 300, -300])),
    [-1, 127, -128],
  );
  assert.deepEqual(
    evaluate((_, a) => a.cast('i8'), i32([300, -129])),
    [44, 127],
  );
  assert.deepEqual(
    evaluate((_, a) => a.cast('f32'), i32([16777217, -3])),
    [16777216, -3],
  );
  assert.deepEqual(
    evaluate((_, a) => a.cast('bf16'), f32([1, 3.4e38])),
    [0x3f80, 0x7f80],
  );
  assert.deepEqual(
    evaluate((_, a) => a.cast('f8e4m3'), f32([448, 1e9, -Infinity])),
    [0x7e, 0x7e, 0xfe],
  );
  assert.deepEqual(
    evaluate((_, a) => a.lt(2).cast('f32'), f32([1, 2])),
    [1, 0],
  );
});

test('blocks: offsets, limits, fill, strides; stores skip what is outside', () => {
  const kernel = buildKernel('blocks', (k) => {
    const x = k.input('x', 'f32', [3, 2], { strides: [1, 3] });
    const out = k.inout('out', 'f32', [4, 4]);
    const tile = k.load(x, [-1, 0], [4, 4], { limits: [2, null], fill: 9 });
    k.store(out, [1, -1], tile, { limits: [null, 2] });
  });
  const out = new Float32Array(16);
  interpret(kernel, [new Float32Array([1, 2, 3, 10, 20, 30]), out]);
  assert.deepEqual([...out], [0, 0, 0, 0, 9, 9, 0, 0, 10, 9, 0, 0, 20, 9, 0, 0]);
});

test('gather, scatter and atomicAdd', () => {
  const kernel = buildKernel('rows', (k) => {
    const x = k.input('x', 'f32', [2, 3]);
    const rows = k.input('rows', 'i32', [3]);
    const out = k.inout('out', 'f32', [2, 2]);
    const index = k.load(rows, [0], [3]);
    const tile = k.gather(x, index, 1, 2, -5);
    k.scatter(out, k.iota([3]).mul(0), 0, tile);
    k.atomicAdd(out, [1, 0], k.constant(1.5, 'f32', [1, 2]));
    k.atomicAdd(out, [1, 1], k.constant(1.5, 'f32', [1, 2]));
  });
  const out = new Float32Array(4);
  interpret(kernel, [new Float32Array([1, 2, 3, 4, 5, 6]), new Int32Array([1, -1, 0]), out]);
  assert.deepEqual([...out], [2, 3, 1.5, 3]);
});

test('i4 is packed two a byte, low half first', () => {
  const kernel = buildKernel('nibbles', (k) => {
    const x = k.input('x', 'i4', [1, 4]);
    const out = k.output('out', 'i4', [1, 4]);
    const f = k.output('f', 'f32', [1, 4]);
    const tile = k.load(x, [0, 0], [1, 4]);
    k.store(f, [0, 0], tile.cast('f32'));
    k.store(out, [0, 0], tile.cast('f32').mul(-2).cast('i4'));
  });
  const out = new Uint8Array(2);
  const f = new Float32Array(4);
  interpret(kernel, [new Uint8Array([0x8f, 0x37]), out, f]);
  assert.deepEqual([...f], [-1, -8, 7, 3]);
  assert.deepEqual([...out], [0x72, 0xa8]);
});

test('loops carry values; zero iterations give the initial ones', () => {
  const triangle = (hi: number) =>
    evaluate(
      (k) =>
        k.loop({ lo: 1, hi, step: 2 }, [k.constant(0, 'i32'), k.constant(1, 'i32')] as const, (i, [a, b]) => [
          b,
          a.add(i),
        ])[0],
    );
  assert.deepEqual(triangle(0), [0]);
  assert.deepEqual(triangle(6), [4]);
});

test('programs: axis 0 varies fastest, a range can be run alone', () => {
  const kernel = buildKernel('grid', (k) => {
    k.grid(2, 3);
    const out = k.output('out', 'i32', [3, 2]);
    const [x, y] = [k.programId(0), k.programId(1)];
    k.store(out, [y, x], y.mul(10).add(x).reshape([1, 1]));
  });
  const out = new Int32Array(6).fill(-1);
  interpret(kernel, [out], { programs: [1, 4] });
  assert.deepEqual([...out], [-1, 1, 10, 11, -1, -1]);
  assert.throws(() => interpret(kernel, [new Int32Array(5)]), /view 'out' needs 24 bytes/);
  assert.throws(() => interpret(kernel, []), /has 1 views, but 0 buffers/);
});
