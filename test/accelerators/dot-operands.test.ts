/** Operands of products: blocks that reach beyond their views, and those that a loop finds ready. */
import { test } from 'node:test';
import { buildKernel } from '../../src/tile/builder.ts';
import { compare, randomBuffers, TARGETS } from './lowered.ts';

/** First slot and first row of blocks of `[1, 24, width]` in views of `[3, 40, width]`. */
const PLACES: readonly (readonly [number, number])[] = [
  [0, 0],
  [2, 16],
  [1, 30],
  [1, 39],
  [0, -7],
  [2, -23],
  [0, 40],
  [1, -24],
  [3, 5],
  [-1, 5],
  [2, 2 ** 30],
];
const ROWS = 24;

for (const dtype of ['f32', 'bf16'] as const)
  test(`rows of ${dtype} beyond an edge count as zeros, and nothing behind it is read`, () => {
    for (const width of [32, 20, 7])
      for (const apart of [width, width + 12])
        for (const [slot, row] of PLACES) {
          const kernel = buildKernel(`edges_${dtype}_${width}_${apart}_${slot}_${row}`, (k) => {
            const at = k.input('at', 'i32', [2]);
            const strides = { strides: [40 * apart, apart, 1] };
            const [x, y] = ['x', 'y'].map((name) => k.input(name, dtype, [3, 40, width], strides));
            const left = k.input('left', dtype, [5, ROWS]);
            const scores = k.output('scores', 'f32', [ROWS, ROWS]);
            const sums = k.output('sums', 'f32', [5, width]);
            const squares = k.output('squares', 'f32', [width, width]);
            const [s, r] = [0, 1].map((i) => k.loadScalar(at, [i]));
            const load = (view: typeof x) => k.load(view, [s, r, 0], [1, ROWS, width]).reshape([ROWS, width]);
            k.store(scores, [0, 0], k.dot(load(x), load(y), null, { transB: true }));
            k.store(sums, [0, 0], k.dot(k.load(left, [0, 0], [5, ROWS]), load(y)));
            k.store(squares, [0, 0], k.dot(load(x), load(y), null, { transA: true }));
          });
          const buffers = randomBuffers(kernel);
          buffers[0] = Int32Array.of(slot, row);
          compare(kernel, buffers);
        }
  });

test('a loop multiplies what was there before it, however often it runs', () => {
  for (const dtype of ['f32', 'bf16'] as const)
    for (const rounds of [0, 1, 3])
      for (const transB of [false, true])
        for (const [m, n, depth] of [
          [2, 33, 12],
          [40, 20, 32],
          [17, 70, 9],
        ]) {
          const kernel = buildKernel(`kept_${dtype}_${rounds}_${transB}_${m}_${n}_${depth}`, (k) => {
            const count = k.input('count', 'i32', [1]);
            const a = k.input('a', dtype, [m, depth]);
            const b = k.input('b', dtype, transB ? [n, depth] : [depth, n]);
            const many = k.input('many', dtype, [3, depth, n]);
            const others = k.input('others', dtype, [3, m, depth]);
            const c = k.output('c', 'f32', [m, n]);
            const d = k.output('d', 'f32', [m, n]);
            const product = k.output('product', 'f32', [m, m]);
            // Tiles of their own, as something else reads them too.
            const rows = k.load(a, [0, 0], [m, depth]);
            const columns = k.load(b, [0, 0], transB ? [n, depth] : [depth, n]);
            k.store(product, [0, 0], k.dot(rows, rows, null, { transB: true }));
            const [first, second] = k.loop(
              { hi: k.loadScalar(count, [0]) },
              [k.zeros([m, n]), k.zeros([m, n])] as const,
              (index, [x, y]) => {
                const right = k.load(many, [index, 0, 0], [1, depth, n]).reshape([depth, n]);
                const left = k.load(others, [index, 0, 0], [1, m, depth]).reshape([m, depth]);
                return [k.dot(rows, right, x), k.dot(left, columns, y, { transB })] as const;
              },
            );
            k.store(c, [0, 0], first);
            k.store(d, [0, 0], second);
          });
          const buffers = randomBuffers(kernel);
          buffers[0] = Int32Array.of(rounds);
          compare(kernel, buffers);
        }
});

test('many rows go by in bands, whether a product is long or short along k', () => {
  const [m, n] = [150, 70];
  for (const depth of [32, 96, 300])
    for (const [a, b] of [
      ['bf16', 'bf16'],
      ['i32', 'u32'],
    ] as const) {
      const kernel = buildKernel(`bands_${a}_${depth}`, (k) => {
        const [x, y] = [k.input('x', a, [m, depth]), k.input('y', b, [depth, n])];
        const c = k.output('c', a === 'i32' ? 'i32' : 'f32', [m, n]);
        k.store(c, [0, 0], k.dot(k.load(x, [0, 0], [m, depth]), k.load(y, [0, 0], [depth, n])));
      });
      const matrix = TARGETS.filter(({ matrixRegisters }) => matrixRegisters);
      compare(kernel, randomBuffers(kernel), {}, matrix);
    }
});
