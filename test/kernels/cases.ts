/** Every kernel with inputs and a float64 reference. `suite` in suite.ts runs the table on any device. */
import {
  attention,
  attentionBackwardKeyValue,
  attentionBackwardQuery,
  attentionDelta,
} from '../../src/kernels/attention.ts';
import { convertKernel } from '../../src/kernels/convert.ts';
import { crossEntropy, crossEntropyBackward } from '../../src/kernels/crossentropy.ts';
import { embedding, embeddingBackward } from '../../src/kernels/embedding.ts';
import { cacheWrite } from '../../src/kernels/kvcache.ts';
import { biasEpilogue, gateEpilogue, matmul, residualEpilogue } from '../../src/kernels/matmul.ts';
import { rmsNorm, rmsNormBackward, rmsNormWeightPartial } from '../../src/kernels/norm.ts';
import { packTransposed } from '../../src/kernels/panels.ts';
import { normedRope, queryKeyValue } from '../../src/kernels/qknorm.ts';
import { rope, ropeTable } from '../../src/kernels/rope.ts';
import { sampledLogp, sampledLogpBackward } from '../../src/kernels/sampling.ts';
import { transpose } from '../../src/kernels/transpose.ts';
import type { Tolerance } from '../../src/numerics/error.ts';
import { f32ToBf16 } from '../../src/numerics/float.ts';
import type { Case } from './buffers.ts';
import { decode, encode, normals } from './buffers.ts';
import { quantizedCases } from './quantized-cases.ts';
import { attentionReference, logSoftmax, matmulReference, rmsNormReference, sigmoid } from './references.ts';

type Storage = 'f32' | 'bf16';
const TOLERANCE: { readonly [S in Storage]: Tolerance } = {
  f32: { atol: 2e-6, rtol: 4e-6 },
  bf16: { atol: 1e-3, rtol: 2 ** -8 },
};
const STORAGES: readonly Storage[] = ['f32', 'bf16'];
const exact: Tolerance = {};

/** [rows, columns] transposed. */
const turned = (x: readonly number[] | ArrayLike<number>, rows: number, columns: number): number[] =>
  Array.from({ length: rows * columns }, (_, i) => x[(i % rows) * columns + Math.floor(i / rows)]);

/** A matrix [rows, columns] in panels of `width` columns: see `kernels/panels.ts`. */
const panels = (
  x: ArrayLike<number>,
  rows: number,
  columns: number,
  width: number,
  type: Storage = 'f32',
): number[] =>
  Array.from({ length: Math.ceil(columns / width) * rows * width }, (_, i) => {
    const pair = type === 'bf16' && rows % 2 === 0 ? 2 : 1;
    const column = Math.floor(i / (rows * width)) * width + (Math.floor(i / pair) % width);
    const row = pair * (Math.floor(i / (pair * width)) % (rows / pair)) + (i % pair);
    return column < columns ? x[row * columns + column] : 0;
  });

/** Two bf16 a word. */
const words = (x: readonly number[]): number[] => [
  ...new Uint32Array(f32ToBf16(Float32Array.from(x)).buffer),
];

function matmulCases(): Case[] {
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

function attentionCases(): Case[] {
  const cases: Case[] = [];
  for (const type of STORAGES) {
    for (const layout of ['tokens', 'cache'] as const) {
      const o = {
        sequences: 2,
        queryLength: layout === 'tokens' ? 70 : 5,
        heads: 4,
        kvHeads: 2,
        headDim: 8,
        slots: 3,
        maxLength: 70,
        layout,
        type,
        kvType: type,
      } as const;
      const [slots, start, lengths] =
        layout === 'tokens'
          ? [
              [0, 2],
              [0, 0],
              [70, 37],
            ]
          : [
              [2, 0],
              [62, 3],
              [5, 1],
            ];
      const q = normals(11, o.sequences * o.queryLength * o.heads * o.headDim, type);
      const size = o.slots * o.kvHeads * o.maxLength * o.headDim;
      const [keys, values] = [normals(12, size, type), normals(13, size, type)];
      const gradient = normals(14, q.length, type);
      const r = attentionReference(o, layout, q, keys, values, slots, start, lengths, gradient);
      const where = { slots, start, lengths };
      const tolerance = type === 'f32' ? { atol: 5e-6, rtol: 1e-5 } : { atol: 4e-3, rtol: 2 ** -7 };
      // The delta kernel reads the rounded output.
      const rounded = decode(type, encode(type, r.o));
      const group = o.heads / o.kvHeads;
      const deltaOf = (out: readonly number[]) =>
        Array.from(r.delta, (_, place) => {
          const [sequence, kvHead, t] = [
            Math.floor(place / (o.heads * o.queryLength)),
            Math.floor(place / (o.queryLength * group)) % o.kvHeads,
            Math.floor(place / group) % o.queryLength,
          ];
          const row =
            ((sequence * o.queryLength + t) * o.heads + kvHead * group + (place % group)) * o.headDim;
          let sum = 0;
          for (let d = 0; d < o.headDim; d++) sum += out[row + d] * gradient[row + d];
          return sum;
        });
      cases.push({
        name: `attention ${layout} ${type}`,
        kernel: attention({ ...o, training: true }),
        inputs: { q, keys, values, ...where },
        expected: { o: r.o, lse: r.lse },
        tolerance,
      });
      cases.push({
        name: `attention dq ${layout} ${type}`,
        kernel: attentionBackwardQuery(o),
        inputs: { q, keys, values, do: gradient, lse: r.lse, delta: r.delta, ...where },
        expected: { dq: r.dq },
        tolerance,
      });
      if (layout === 'tokens') {
        cases.push({
          name: `attention delta ${type}`,
          kernel: attentionDelta(o),
          inputs: { do: gradient, o: rounded },
          expected: { delta: deltaOf(rounded) },
          tolerance,
        });
      }
      // Slot 1 belongs to no sequence: it keeps its NaN.
      const unused = (x: Float64Array) =>
        Array.from(x, (value, i) =>
          Math.floor(i / (size / o.slots)) === 3 - slots[0] - slots[1] ? Number.NaN : value,
        );
      cases.push({
        name: `attention dk dv ${layout} ${type}`,
        kernel: attentionBackwardKeyValue(o),
        inputs: { q, keys, values, do: gradient, lse: r.lse, delta: r.delta, ...where },
        expected: { dkeys: unused(r.dkeys), dvalues: unused(r.dvalues) },
        tolerance,
      });
    }
  }
  return cases;
}

function rowCases(): Case[] {
  const cases: Case[] = [];
  for (const type of STORAGES) {
    const tolerance = TOLERANCE[type];
    const [rows, columns, eps] = [71, 37, 1e-6];
    const [x, weight, dy] = [
      normals(21, rows * columns, type),
      normals(22, columns, type),
      normals(23, rows * columns, type),
    ];
    const o = { rows, columns, eps, xType: type, yType: type, weightType: type };
    const r = rmsNormReference(x, weight, rows, columns, eps, dy);
    const partial = [0, 64].flatMap((from) =>
      Array.from({ length: columns }, (_, c) => {
        let sum = 0;
        for (let row = from; row < Math.min(rows, from + 64); row++)
          sum += r.contributions[row * columns + c];
        return sum;
      }),
    );
    cases.push(
      { name: `rmsNorm ${type}`, kernel: rmsNorm(o), inputs: { x, weight }, expected: { y: r.y }, tolerance },
      {
        name: `rmsNorm dx ${type}`,
        kernel: rmsNormBackward(o),
        inputs: { x, weight, dy },
        expected: { dx: r.dx },
        tolerance,
      },
      {
        name: `rmsNorm dweight ${type}`,
        kernel: rmsNormWeightPartial(o),
        inputs: { x, dy },
        expected: { partial },
        tolerance: { atol: 2e-5, rtol: 1e-5 },
      },
    );

    const [tokens, heads, headDim, maxPositions] = [9, 3, 6, 40];
    const { cos, sin } = ropeTable(maxPositions, headDim, 10000);
    const positions = Array.from({ length: tokens }, (_, t) => (t * 7) % maxPositions);
    const q = normals(24, tokens * heads * headDim, type);
    for (const inverse of [false, true]) {
      const y = q.map((value, i) => {
        const d = i % headDim;
        const angle =
          positions[Math.floor(i / (heads * headDim))] *
          10000 ** ((-2 * (d % 3)) / headDim) *
          (inverse ? -1 : 1);
        return value * Math.cos(angle) + (d < 3 ? -q[i + 3] : q[i - 3]) * Math.sin(angle);
      });
      cases.push({
        name: `rope ${type}${inverse ? ' inverse' : ''}`,
        kernel: rope({ tokens, heads, headDim, maxPositions, type, inverse }),
        inputs: { x: q, positions, cos, sin },
        expected: { y },
        tolerance,
      });
    }

    /** Normalised a head at a time, rounded, and rotated. */
    const rotated = (x: readonly number[], weight: readonly number[], count: number) => {
      const norms = rmsNormReference(x, weight, tokens * count, headDim, eps).y;
      const normed = decode(type, encode(type, norms));
      return normed.map((value, i) => {
        const d = i % headDim;
        const angle = positions[Math.floor(i / (count * headDim))] * 10000 ** ((-2 * (d % 3)) / headDim);
        return value * Math.cos(angle) + (d < 3 ? -normed[i + 3] : normed[i - 3]) * Math.sin(angle);
      });
    };
    const queryWeight = normals(29, headDim, 'f32');
    const head = { tokens, heads, headDim, maxPositions, eps, xType: type, type };
    cases.push({
      name: `normedRope ${type}`,
      kernel: normedRope(head),
      inputs: { x: q, weight: queryWeight, positions, cos, sin },
      expected: { y: rotated(q, queryWeight, heads) },
      tolerance,
    });
    const kvHeads = 2;
    const many = normals(33, tokens * 2 * kvHeads * headDim, type);
    const fresh = [
      normals(34, tokens * kvHeads * headDim, type),
      normals(30, tokens * kvHeads * headDim, type),
    ];
    const keyWeight = normals(35, headDim, 'f32');
    const cacheSlots = positions.map((_, t) => (t === 4 ? -1 : t % 2));
    const cached = (rows: readonly number[]) => {
      const cache = new Array<number>(2 * kvHeads * maxPositions * headDim).fill(Number.NaN);
      rows.forEach((value, i) => {
        const [t, h] = [Math.floor(i / (kvHeads * headDim)), Math.floor(i / headDim) % kvHeads];
        const row = (cacheSlots[t] * kvHeads + h) * maxPositions + positions[t];
        if (cacheSlots[t] >= 0) cache[row * headDim + (i % headDim)] = value;
      });
      return cache;
    };
    cases.push({
      name: `queryKeyValue ${type}`,
      kernel: queryKeyValue({
        ...head,
        heads: 2 * kvHeads,
        kvHeads,
        keyEps: eps,
        slots: 2,
        maxLength: maxPositions,
        cacheType: type,
      }),
      inputs: {
        q: many,
        queryWeight,
        k: fresh[0],
        keyWeight,
        positions,
        cos,
        sin,
        v: fresh[1],
        slot: cacheSlots,
      },
      expected: {
        y: rotated(many, queryWeight, 2 * kvHeads),
        keys: cached(rotated(fresh[0], keyWeight, kvHeads)),
        values: cached(fresh[1]),
      },
      tolerance,
    });

    const ids = [3, 0, 3, -1, 6, 99, 3];
    const table = normals(28, 7 * 70, type);
    const dx = normals(29, ids.length * 70, type);
    const dtable = new Float64Array(7 * 70);
    ids.forEach((id, t) => {
      if (id >= 0 && id < 7) for (let c = 0; c < 70; c++) dtable[id * 70 + c] += dx[t * 70 + c];
    });
    const e = { tokens: ids.length, vocabulary: 7, columns: 70, tableType: type, type };
    cases.push(
      {
        name: `embedding ${type}`,
        kernel: embedding(e),
        inputs: { ids, table },
        expected: { x: ids.flatMap((id) => Array.from({ length: 70 }, (_, c) => table[id * 70 + c] ?? 0)) },
        tolerance: exact,
      },
      {
        name: `embedding backward ${type}`,
        kernel: embeddingBackward(e),
        inputs: { ids, dx },
        expected: { dtable },
        tolerance: TOLERANCE.f32,
      },
      {
        name: `transpose ${type}`,
        kernel: transpose({ rows: 7, columns: 70, type }),
        inputs: { x: table },
        expected: { y: Array.from({ length: 490 }, (_, i) => table[(i % 7) * 70 + Math.floor(i / 7)]) },
        tolerance: exact,
      },
      {
        name: `embedding in panels ${type}`,
        kernel: embedding({ ...e, vocabulary: 8, panel: 4 }),
        inputs: { ids, table: panels(turned(table, 7, 70), 70, 7, 4, type) },
        expected: { x: ids.flatMap((id) => Array.from({ length: 70 }, (_, c) => table[id * 70 + c] ?? 0)) },
        tolerance: exact,
      },
      ...([70, 69] as const).flatMap((rows) => {
        const x = table.slice(0, 7 * rows);
        const y = panels(turned(x, 7, rows), rows, 7, 4, type);
        const twoBytes = type === 'bf16' && rows % 2 === 0;
        const pack = { columns: 7, rows, width: 4, yType: type };
        return [
          {
            name: `pack ${rows} rows of ${type}`,
            kernel: packTransposed({ ...pack, type }),
            inputs: { x: twoBytes ? words(x) : x },
            expected: { y: twoBytes ? words(y) : y },
            tolerance: exact,
          },
          {
            name: `pack ${rows} rows f32 as ${type}`,
            kernel: packTransposed({ ...pack, type: 'f32' }),
            inputs: { x },
            expected: { y },
            tolerance: exact,
          },
        ];
      }),
      {
        name: `convert ${type}`,
        kernel: convertKernel({ size: 490, from: type, to: type === 'f32' ? 'bf16' : 'f32' }),
        inputs: { x: table },
        expected: { y: table },
        tolerance: TOLERANCE.bf16,
      },
    );
  }
  const slot = [1, 0, 1, -1];
  const position = [2, 0, 4, 1];
  const [newKeys, newValues] = [normals(31, 4 * 2 * 3), normals(32, 4 * 2 * 3)];
  const written = (fresh: number[]) => {
    const cache = new Array<number>(2 * 2 * 4 * 3).fill(Number.NaN);
    fresh.forEach((x, i) => {
      const [t, h, c] = [Math.floor(i / 6), Math.floor(i / 3) % 2, i % 3];
      if (slot[t] >= 0 && position[t] < 4) cache[((slot[t] * 2 + h) * 4 + position[t]) * 3 + c] = x;
    });
    return cache;
  };
  cases.push({
    name: 'cacheWrite',
    kernel: cacheWrite({ tokens: 4, kvHeads: 2, headDim: 3, slots: 2, maxLength: 4 }),
    inputs: { newKeys, newValues, slot, position },
    expected: { keys: written(newKeys), values: written(newValues) },
    tolerance: exact,
  });
  return cases;
}

function lossCases(): Case[] {
  const [rows, vocabulary] = [4, 1100];
  const logits = normals(41, rows * vocabulary, 'f32', 3);
  logits[5] = Number.NEGATIVE_INFINITY;
  const targets = [7, 1099, -1, 1030];
  const temperature = [1, 0.5, 2, 0];
  const g = [1, -2, 3, 0.5];
  const row = (r: number) => logits.slice(r * vocabulary, (r + 1) * vocabulary);
  const heat = temperature.map((t) => (t > 0 ? t : 1));
  const logs = heat.map((t, r) => logSoftmax(row(r), t));
  const entropy = logs.map(
    (log) => -log.reduce((sum, x) => sum + (x === Number.NEGATIVE_INFINITY ? 0 : Math.exp(x) * x), 0),
  );
  const lse = logs.map((log, r) => row(r)[0] / heat[r] - log[0]);
  const slope = (log: number[], r: number, keep: (i: number) => boolean) =>
    log.map((x, i) =>
      targets[r] < 0 || !keep(i) ? 0 : (g[r] * ((i === targets[r] ? 1 : 0) - Math.exp(x))) / heat[r],
    );
  const tolerance = { atol: 1e-5, rtol: 1e-5 };
  const topK = [50, 0, 3, 9];
  const topP = [1, 0.7, 0.9, 0.5];
  const truncated = heat.map((t, r) => {
    if (temperature[r] === 0) return () => true;
    const order = row(r)
      .map((_, i) => i)
      .sort((i, j) => row(r)[j] - row(r)[i]);
    const first = topK[r] > 0 ? order.slice(0, topK[r]) : order;
    const p = logSoftmax(row(r), t, (i) => first.includes(i)).map(Math.exp);
    const keep = new Set<number>([targets[r]]);
    let mass = 0;
    for (const i of first) {
      if (mass >= topP[r] && topP[r] < 1) break;
      keep.add(i);
      mass += p[i];
    }
    return (i: number) => keep.has(i);
  });
  const cut = truncated.map((keep, r) => logSoftmax(row(r), heat[r], keep));
  const given = { logits, temperature };
  return [
    {
      name: 'crossEntropy',
      kernel: crossEntropy({ rows, vocabulary }),
      inputs: { ...given, targets },
      expected: { logp: logs.map((log, r) => log[targets[r]] ?? 0), entropy, lse },
      tolerance,
    },
    {
      name: 'crossEntropy backward',
      kernel: crossEntropyBackward({ rows, vocabulary }),
      inputs: { ...given, targets, lse, g },
      expected: { dlogits: logs.flatMap((log, r) => slope(log, r, () => true)) },
      tolerance,
    },
    {
      name: 'sampledLogp',
      kernel: sampledLogp({ rows, vocabulary }),
      inputs: { ...given, topK, topP, tokens: targets },
      expected: { logp: cut.map((log, r) => log[targets[r]] ?? 0) },
      tolerance,
    },
    {
      name: 'sampledLogp backward',
      kernel: sampledLogpBackward({ rows, vocabulary }),
      inputs: { ...given, topK, topP, tokens: targets, g },
      expected: { dlogits: cut.flatMap((log, r) => slope(log, r, truncated[r])) },
      tolerance,
    },
  ];
}

export const CASES: readonly Case[] = [
  ...matmulCases(),
  ...attentionCases(),
  ...rowCases(),
  ...lossCases(),
  ...quantizedCases(),
];
