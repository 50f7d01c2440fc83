/** How products are cut: what the model of the caches makes of sizes, and what comes before it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { matmul } from '../../src/kernels/matmul.ts';
import { rowsConflict } from '../../src/kernels/operands.ts';
import type { Machine, Product } from '../../src/kernels/schedule.ts';
import {
  candidateBlocks,
  chooseBlocks,
  defaultBlocks,
  plainBlocks,
  predictedCost,
  productName,
} from '../../src/kernels/schedule.ts';

const K = 1024;
const machine = (l2: number, { l1 = 32 * K, l3 = 32 * K * K } = {}): Machine => ({
  caches: { l1, l2, l3 },
  cacheWays: 8,
  lanes: 16,
  tile: { rows: 14, vectors: 2 },
  wideTile: null,
  bf16Pairs: true,
  matrixRegisters: false,
});
const LARGE = machine(1024 * K);
const SMALL = machine(256 * K);
/** Such as Intel's: two multiply-adds a cycle. */
const wideMachine = (l2: number, { l1 = 48 * K, l3 = 128 * K * K } = {}): Machine => ({
  ...machine(l2, { l1, l3 }),
  cacheWays: 12,
  wideTile: { rows: 6, vectors: 4 },
});

const wide: Product = { m: 4096, n: 768, k: 256 };
const panels: Product = { m: 512, n: 3072, k: 1024, panel: 32, bType: 'bf16' };
const products: readonly Product[] = [
  wide,
  panels,
  { m: 256, n: 768, k: 4096, transA: true },
  { m: 4096, n: 256, k: 768, transB: true, aType: 'bf16', bType: 'bf16' },
  { m: 16, n: 1024, k: 3072, panel: 32, aType: 'bf16', bType: 'bf16' },
  { m: 1, n: 151936, k: 1024, panel: 32 },
  { m: 7, n: 13, k: 50 },
  { m: 100, n: 24, k: 14336, batch: 3 },
];

test('a small second cache has smaller blocks: what is used again must stay in it', () => {
  for (const product of [wide, panels]) {
    const [large, small] = [LARGE, SMALL].map((machine) => defaultBlocks(product, { machine, parallel: 1 }));
    assert.ok(small.m * small.k < large.m * large.k, productName(product));
    // The rows of a that each panel of b is multiplied with, in f32.
    assert.ok(4 * small.m * small.k < SMALL.caches.l2, productName(product));
  }
});

test('larger caches never cost more', () => {
  for (const of of [machine, wideMachine]) {
    const small = of(256 * K);
    for (const product of products)
      for (const blocks of candidateBlocks(product, { machine: of(1024 * K), parallel: 2 }))
        for (const [less, more] of [
          [of(128 * K), small],
          [small, of(1024 * K)],
          [of(256 * K, { l1: 16 * K }), small],
          [of(256 * K, { l3: 512 * K }), small],
        ])
          assert.ok(predictedCost(product, blocks, less, 2) >= predictedCost(product, blocks, more, 2));
  }
});

test('in wide tiles, long rows are taken along k at once; columns of a transpose are not', () => {
  const [m, n, k] = [1024, 1024, 1024];
  const depth = (product: Product) =>
    defaultBlocks(product, { machine: wideMachine(2048 * K), parallel: 2 }).k;
  assert.equal(depth({ m, n, k }), k);
  assert.equal(depth({ m, n, k, transB: true }), k);
  assert.ok(depth({ m, n, k, transA: true }) <= 256);
});

test('rows are copied that drive each other out of their set of the cache', () => {
  const copied = (ways: number, { rows = 14, paired = false } = {}) =>
    [1024, 2048, 3072, 4096, 6144, 8192].filter((stride) => rowsConflict(rows, stride, paired, ways));
  assert.deepEqual(copied(8), [2048, 4096, 6144, 8192]);
  assert.deepEqual(copied(12), [4096, 8192]);
  assert.deepEqual(copied(8, { paired: true }), [4096, 8192]);
  assert.deepEqual(copied(12, { rows: 11 }), []);
  // The choice of blocks reckons with the same rule.
  const product: Product = { m: 256, n: 256, k: 512 };
  const blocks = { m: 256, n: 256, k: 512 };
  const cost = (cacheWays: number) => predictedCost(product, blocks, { ...LARGE, cacheWays });
  assert.ok(cost(12) < cost(8));
});

test('candidates are inside the product, leave little over, and begin with the cheapest', () => {
  for (const product of products) {
    const candidates = candidateBlocks(product, { machine: LARGE, parallel: 2 });
    const costs = candidates.map((blocks) => predictedCost(product, blocks, LARGE, 2));
    assert.deepEqual(
      costs,
      costs.toSorted((a, b) => a - b),
    );
    for (const { m, n, k } of candidates) {
      assert.ok(m <= product.m && k <= product.k && (n <= product.n || n === product.panel));
      assert.ok(Math.ceil(product.k / k) * k < product.k + 16 * Math.ceil(product.k / k));
      assert.ok(product.panel === undefined || n % product.panel === 0);
    }
  }
});

test('many threads have enough programs to share', () => {
  const product: Product = { ...panels, m: 64 };
  const programs = (parallel: number) => {
    const { m, n } = defaultBlocks(product, { machine: LARGE, parallel });
    return Math.ceil(product.m / m) * Math.ceil(product.n / n);
  };
  assert.ok(programs(1) < 96);
  assert.ok(programs(96) >= 96);
});

test('without caches the plain rule holds, and measured blocks come before either', () => {
  for (const product of products) {
    const schedule = { largestBlock: 64, parallel: 4 };
    assert.deepEqual(candidateBlocks(product, schedule), []);
    assert.deepEqual(defaultBlocks(product, schedule), plainBlocks(product, schedule));
    const measured = { m: 5, n: 32, k: 10 };
    assert.equal(chooseBlocks(product, { machine: LARGE, measured: () => measured }), measured);
    assert.deepEqual(
      chooseBlocks(product, { machine: LARGE, parallel: 1, measured: () => undefined }),
      defaultBlocks(product, { machine: LARGE, parallel: 1 }),
    );
  }
  assert.deepEqual(plainBlocks({ m: 512, n: 512, k: 512 }, { largestBlock: 64 }), { m: 64, n: 64, k: 256 });
});

test('a product is thought about once, on each machine', () => {
  const choose = (parallel: number, machine = LARGE) => defaultBlocks({ ...wide }, { machine, parallel });
  assert.equal(choose(2), choose(2));
  assert.notEqual(choose(2), choose(3));
  assert.notEqual(choose(1), choose(1, SMALL));
});

test('a product asks for its blocks by all that they depend on, and kernels in equal blocks are one', () => {
  const asked: string[] = [];
  const measured = (product: Product) => {
    asked.push(productName(product));
    return { m: 16, n: 32, k: 8 };
  };
  const epilogue = {
    key: 'sum',
    inputs: [{ name: 'x', dtype: 'f32', kind: 'full' }] as const,
    apply: (acc: Parameters<NonNullable<Parameters<typeof matmul>[0]['epilogue']>['apply']>[0]) => acc,
  };
  const kernel = matmul({ m: 32, n: 64, k: 16, measured, machineKey: 'this', parallel: 2 });
  assert.deepEqual(kernel.grid, [2, 2]);
  matmul({ m: 32, n: 64, k: 16, transB: true, bType: 'bf16', epilogue, measured });
  matmul({ m: 32, n: 64, k: 16, batch: 2, transA: true, accumulate: true, measured });
  matmul({ m: 32, n: 64, k: 16, panel: 32, measured });
  assert.deepEqual(asked, [
    '32x64x16 n·n f32·f32>f32',
    '32x64x16 n·t f32·bf16>f32 +full f32',
    '2*32x64x16 t·n f32·f32>f32 accumulated',
    '32x64x16 n·panel32 f32·f32>f32',
  ]);
  assert.equal(matmul({ m: 32, n: 64, k: 16, blocks: { m: 16, n: 32, k: 8 } }), kernel);
});
