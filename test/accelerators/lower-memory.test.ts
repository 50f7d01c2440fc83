/** Loads and stores in loops: at the borders of views, by rows, and in their order. */
import { test } from 'node:test';
import { buildKernel } from '../../src/tile/builder.ts';
import { compare, randomBuffers } from './lowered.ts';

/** Row, column, and limits of rows and columns. */
const BLOCKS: readonly (readonly [number, number, number | null, number | null])[] = [
  [0, 0, null, null],
  [-2, -3, null, null],
  [4, 30, null, null],
  [-9, 0, null, null],
  [2, 3, 4, 20],
  [0, 50, 0, 5],
  [1, -30, 9, 9],
  [0, 0, -4, 100],
  [2147483647, -2147483648, null, null],
];

test('blocks at the borders of views', () => {
  for (const dtype of ['f32', 'bf16', 'bool', 'i8'] as const)
    for (const [row, column, rowLimit, columnLimit] of BLOCKS) {
      const kernel = buildKernel(`block_${dtype}_${row}_${column}`, (k) => {
        const at = k.input('at', 'i32', [4]);
        const x = k.input('x', dtype, [6, 37], { strides: [41, 1] });
        const columns = k.input('columns', dtype, [6, 37], { strides: [1, 6] });
        const out = k.output('out', dtype, [6, 37], { strides: [41, 1] });
        const outColumns = k.output('outColumns', dtype, [6, 37], { strides: [1, 7] });
        const whole = k.output('whole', dtype, [3, 4, 20]);
        const scalar = (i: number) => k.loadScalar(at, [i]);
        const limits = [rowLimit === null ? null : scalar(2), columnLimit === null ? null : scalar(3)];
        const block = { limits, fill: dtype === 'f32' ? 2.5 : 1 };
        const a = k.load(x, [scalar(0), scalar(1)], [4, 20], block);
        const b = k.load(columns, [row, column], [4, 20], { limits });
        k.store(whole, [0, 0, 0], a.reshape([1, 4, 20]));
        k.store(whole, [1, 0, 0], b.reshape([1, 4, 20]));
        k.store(out, [row, column], a, { limits });
        k.store(outColumns, [scalar(0), scalar(1)], a, { limits });
      });
      const buffers = randomBuffers(kernel);
      buffers[0] = Int32Array.of(row, column, rowLimit ?? 0, columnLimit ?? 0);
      compare(kernel, buffers);
    }
});

test('gather and scatter skip rows outside the view', () => {
  for (const column of [0, -3, 20]) {
    const kernel = buildKernel('rows', (k) => {
      const index = k.input('index', 'i32', [7]);
      const x = k.input('x', 'bf16', [5, 33]);
      const out = k.output('out', 'f32', [7, 24]);
      const target = k.output('target', 'bf16', [5, 33]);
      const rows = k.load(index, [0], [7]);
      const found = k.gather(x, rows, column, 24, 0.3);
      k.store(out, [0, 0], found.cast('f32'));
      k.scatter(target, rows, column, found);
      k.store(out, [5, 0], k.gather(x, k.load(index, [2], [1]), 1, 24).cast('f32'));
    });
    const buffers = randomBuffers(kernel);
    buffers[0] = Int32Array.of(3, -1, 0, 5, 3, 4, 2 ** 31 - 1);
    compare(kernel, buffers);
  }
});

test('groups: memory is read before it is written, and after what was written before', () => {
  // Views that share memory element for element, as the memory plan lets them.
  const shape = [6, 40];
  for (const limit of [null, 37]) {
    const kernel = buildKernel(`groups_${limit}`, (k) => {
      const a = k.inout('a', 'f32', shape);
      const b = k.inout('b', 'f32', [8, 48]);
      const flags = k.output('flags', 'bool', shape);
      const sums = k.output('sums', 'f32', [6, 1]);
      const limits = { limits: [null, limit === null ? null : k.constant(limit, 'i32')] };
      const x = k.load(a, [0, 0], shape, limits);
      const y = k.load(b, [1, 2], shape, limits);
      const z = x.mul(y);
      k.store(a, [0, 0], z, limits);
      k.store(b, [1, 2], x.add(z), limits);
      const again = k.load(b, [0, 2], shape);
      k.store(flags, [0, 0], again.lt(z));
      k.store(sums, [0, 0], again.add(x).sum());
      k.store(b, [2, 2], again.mul(2), limits);
      k.store(b, [1, 1], again.mul(3), limits);
    });
    compare(kernel, randomBuffers(kernel));
  }
});
