/** Products: sizes, transposes, epilogues, panels. */
import { biasEpilogue, gateEpilogue, matmul, residualEpilogue } from '../../src/kernels/matmul.ts';
import type { Case } from './buffers.ts';
import { normals } from './buffers.ts';
import { panels } from './layouts.ts';
import { matmulReference, sigmoid } from './references.ts';
import { exact, STORAGES } from './storage.ts';

export function matmulCases(): Case[] {
  const cases: Case[] = [];
  for (const type of STORAGES) {
    for (const [m, n, k] of [
      [1, 1, 1],
      [1, 33, 70],
      [5, 17, 19],
      [67, 9, 31],
    ] as const) {
      for (const [transA, transB] of [
        [false, false],
        [false, true],
        [true, false],
        [true, true],
      ] as const) {
        const a = normals(1, m * k, type);
        const b = normals(2, k * n, type);
        cases.push({
          name: `matmul ${m}x${n}x${k} ${type}${transA ? ' aT' : ''}${transB ? ' bT' : ''}`,
          kernel: matmul({
            m,
            n,
            k,
            transA,
            transB,
            aType: type,
            bType: type,
            cType: type,
            blocks: { m: Math.min(m, 16), n: Math.min(n, 16), k: Math.min(k, 16) },
          }),
          inputs: { a, b },
          expected: { c: matmulReference(a, b, m, n, k, transA, transB) },
          tolerance: type === 'f32' ? { atol: 1e-5, rtol: 1e-5 } : { atol: 1e-3, rtol: 2 ** -8 },
        });
      }
    }
  }
  const [m, n, k] = [6, 10, 12];
  const [a, b, extra, row] = [normals(3, 2 * m * k), normals(4, 2 * k * n), normals(5, m * n), normals(6, n)];
  const product = matmulReference(a, b, m, n, k);
  const plain = { m, n, k, blocks: { m: 4, n: 8, k: 8 } };
  const tolerance = { atol: 1e-5, rtol: 1e-5 };
  cases.push(
    {
      name: 'matmul residual',
      kernel: matmul({ ...plain, epilogue: residualEpilogue('f32') }),
      inputs: { a, b, residual: extra },
      expected: { c: product.map((x, i) => x + extra[i]) },
      tolerance,
    },
    {
      name: 'matmul bias',
      kernel: matmul({ ...plain, epilogue: biasEpilogue('f32') }),
      inputs: { a, b, bias: row },
      expected: { c: product.map((x, i) => x + row[i % n]) },
      tolerance,
    },
    {
      name: 'matmul gate',
      kernel: matmul({ ...plain, epilogue: gateEpilogue('f32') }),
      inputs: { a, b, gate: extra },
      expected: { c: product.map((x, i) => x * extra[i] * sigmoid(extra[i])) },
      tolerance,
    },
    {
      name: 'matmul accumulate',
      kernel: matmul({ ...plain, accumulate: true }),
      inputs: { a, b, c: extra },
      expected: { c: product.map((x, i) => x + extra[i]) },
      tolerance,
    },
    {
      name: 'matmul batch',
      kernel: matmul({ ...plain, batch: 2 }),
      inputs: { a, b },
      expected: { c: [...product, ...matmulReference(a.slice(m * k), b.slice(k * n), m, n, k)] },
      tolerance,
    },
    {
      name: 'matmul f32 by bf16',
      kernel: matmul({ ...plain, bType: 'bf16' }),
      inputs: { a, b: normals(4, k * n, 'bf16') },
      expected: { c: matmulReference(a, normals(4, k * n, 'bf16'), m, n, k) },
      tolerance,
    },
    ...([1, 67] as const).map((rows) => ({
      name: `matmul ${rows} rows by panels`,
      kernel: matmul({
        m: rows,
        n: 75,
        k,
        panel: 32,
        bType: 'bf16',
        blocks: { m: Math.min(rows, 16), n: 64, k: 16 },
        epilogue: biasEpilogue('f32'),
      }),
      inputs: {
        a: normals(5, rows * k),
        b: panels(normals(6, k * 75, 'bf16'), k, 75, 32, 'bf16'),
        bias: normals(7, 75),
      },
      expected: {
        c: matmulReference(normals(5, rows * k), normals(6, k * 75, 'bf16'), rows, 75, k).map(
          (value, i) => value + normals(7, 75)[i % 75],
        ),
      },
      tolerance,
    })),
    {
      name: 'matmul Inf and NaN',
      kernel: matmul({ m: 2, n: 2, k: 2 }),
      inputs: { a: [Infinity, 1, 1, 1], b: [1, 0, 2, Number.NaN] },
      expected: { c: [Infinity, Number.NaN, 3, Number.NaN] },
      tolerance: exact,
    },
  );
  return cases;
}
