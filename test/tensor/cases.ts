/** One graph or more for every primitive: forward values and gradients are compared with the reference. */

import type { QuantizedType } from '../../src/kernels/quantized.ts';
import { quantizedTypes } from '../../src/kernels/quantized.ts';
import type { Tensor } from '../../src/tensor/index.ts';
import { Graph } from '../../src/tensor/index.ts';
import type { UnaryFn } from '../../src/tile/ir.ts';
import { cacheStates } from './cache.ts';
import { QuantizedGraph } from './quantized.ts';

export interface Case {
  readonly name: string;
  /** The results to compare. Parameters are filled from `low` to `high`; the gradient is taken for each f32 one. */
  readonly build: (g: Graph) => readonly Tensor[];
  readonly low?: number;
  readonly high?: number;
  /** Values of i32 inputs by name. */
  readonly inputs?: Readonly<Record<string, readonly number[]>>;
  /** False where no gradient is to be tested. */
  readonly gradient?: boolean;
}

const UNARY: readonly UnaryFn[] = ['neg', 'abs', 'exp', 'exp2', 'tanh', 'sigmoid', 'sin', 'cos'];
const POSITIVE: readonly UnaryFn[] = ['sqrt', 'rsqrt', 'log', 'log2'];
/** A case whose matrices are quantized. */
function quantized(name: string, type: QuantizedType, build: (q: QuantizedGraph) => readonly Tensor[]): Case {
  const probe = new QuantizedGraph(new Graph(), type);
  build(probe);
  return {
    name: `${name}, ${type}`,
    build: (g) => build(new QuantizedGraph(g, type)),
    inputs: probe.values,
    gradient: false,
  };
}

const p = (g: Graph, name: string, ...shape: number[]) => g.parameter(name, 'f32', shape);

export const CASES: readonly Case[] = [
  ...UNARY.map((fn): Case => ({ name: `map ${fn}`, build: (g) => [g.map(fn, p(g, 'x', 3, 5))] })),
  ...POSITIVE.map(
    (fn): Case => ({ name: `map ${fn}`, build: (g) => [g.map(fn, p(g, 'x', 3, 5))], low: 0.3, high: 3 }),
  ),
  { name: 'map floor', build: (g) => [g.map('floor', g.mul(p(g, 'x', 7), 3))] },
  ...(['add', 'sub', 'mul', 'div', 'min', 'max'] as const).map(
    (fn): Case => ({
      name: `map ${fn} with broadcasting`,
      build: (g) => [g.map(fn, p(g, 'x', 3, 1, 5), p(g, 'y', 2, 1)), g.map(fn, p(g, 'x', 3, 1, 5), 0.7)],
      low: 0.2,
      high: 2,
    }),
  ),
  { name: 'map fma', build: (g) => [g.map('fma', p(g, 'x', 4, 3), p(g, 'y', 4, 3), p(g, 'z', 1, 3))] },
  {
    name: 'comparisons and select',
    build: (g) => {
      const [x, y] = [p(g, 'x', 4, 3), p(g, 'y', 4, 3)];
      const both = g.map('and', g.compare('lt', x, y), g.map('not', g.compare('gt', x, 0.5)));
      return [
        g.where(both, g.mul(x, y), y),
        g.where(g.compare('ge', x, y), x, 0),
        g.cast(g.compare('ne', x, y), 'f32'),
      ];
    },
  },
  {
    name: 'integers',
    build: (g) => {
      const i = g.input('i', 'i32', [6]);
      const mixed = g.map('xor', g.map('shl', i, 3), g.map('rem', i, 4));
      return [g.map('and', g.add(mixed, g.iota([6])), 255), g.map('or', g.map('shr', i, 1), 1), g.div(i, 3)];
    },
    inputs: { i: [5, 17, 3, 200, 9, 77] },
    gradient: false,
  },
  {
    name: 'iota',
    build: (g) => [g.mul(p(g, 'x', 3, 4), g.cast(g.add(g.iota([3, 4], 0), g.iota([3, 4])), 'f32'))],
  },
  {
    name: 'constant and literal',
    build: (g) => [
      g.mul(g.add(p(g, 'x', 3), g.constant(2, 'f32', [3])), g.literal(Float32Array.of(1, -2, 3))),
    ],
  },
  {
    name: 'outputs without computation',
    build: (g) => [g.constant(3, 'f32', [4]), g.iota([2, 3]), g.literal(Float32Array.of(1, 2)), p(g, 'x', 3)],
    gradient: false,
  },
  {
    name: 'broadcast to memory',
    build: (g) => [g.matmul(g.broadcastTo(p(g, 'x', 1, 3), [4, 3]), p(g, 'y', 3, 2))],
  },
  {
    name: 'reshape',
    build: (g) => [
      g.mul(g.reshape(p(g, 'x', 3, 4), [2, -1]), p(g, 'y', 2, 6)),
      g.reshape(p(g, 'x', 3, 4), [12]),
    ],
  },
  {
    name: 'slice and pad',
    build: (g) => [g.exp(g.slice(p(g, 'x', 5, 3), 1, 4)), g.pad(p(g, 'y', 2, 3), 1, 2)],
  },
  { name: 'transpose', build: (g) => [g.transpose(p(g, 'x', 5, 3))] },
  { name: 'transpose of a large matrix', build: (g) => [g.transpose(p(g, 'x', 37, 35))], gradient: false },
  {
    name: 'stop gradient',
    build: (g) => [g.mul(p(g, 'x', 4), g.stopGradient(p(g, 'c', 4)))],
    gradient: false,
  },
  ...(['sum', 'max', 'min'] as const).flatMap((fn) =>
    [0, 1, 2].map(
      (axis): Case => ({
        name: `reduce ${fn} of axis ${axis}`,
        build: (g) => [g.reduce(fn, p(g, 'x', 3, 4, 5), axis)],
      }),
    ),
  ),
  {
    name: 'reduce a fused product',
    build: (g) => [
      g.sum(g.mul(p(g, 'x', 3, 7), p(g, 'y', 1, 7)), 1),
      g.sum(g.mul(p(g, 'x', 3, 7), p(g, 'z', 3, 1)), 0),
    ],
  },
  { name: 'mean of everything', build: (g) => [g.mean(g.exp(p(g, 'x', 3, 4)))] },
  {
    name: 'long rows',
    build: (g) => [g.sum(g.exp(p(g, 'x', 2, 4133)), 1), g.reduce('max', p(g, 'x', 2, 4133))],
    gradient: false,
  },
  ...[0, 1, 2, 3].map((flags): Case => {
    const [transA, transB] = [(flags & 1) !== 0, (flags & 2) !== 0];
    return {
      name: `matmul${transA ? ' transA' : ''}${transB ? ' transB' : ''}`,
      build: (g) => [
        g.matmul(p(g, 'a', ...(transA ? [5, 3] : [3, 5])), p(g, 'b', ...(transB ? [7, 5] : [5, 7])), {
          transA,
          transB,
        }),
      ],
    };
  }),
  {
    name: 'matmul with epilogue',
    build: (g) => {
      const product = g.matmul(p(g, 'a', 3, 5), p(g, 'b', 5, 7));
      const scaled = g.mul(g.add(product, p(g, 'bias', 7)), p(g, 'scale', 3, 1));
      return [g.add(g.mul(g.tanh(scaled), 0.5), p(g, 'residual', 3, 7))];
    },
  },
  {
    name: 'swiglu of two products',
    build: (g) => {
      const x = p(g, 'x', 3, 4);
      return [g.swiglu(g.matmul(x, p(g, 'gate', 4, 5)), g.matmul(x, p(g, 'up', 4, 5)))];
    },
  },
  {
    name: 'embedding',
    build: (g) => [g.embedding(p(g, 'table', 5, 3), g.input('ids', 'i32', [6]))],
    inputs: { ids: [2, 0, 2, -1, 4, 9] },
  },
  { name: 'rmsNorm', build: (g) => [g.rmsNorm(p(g, 'x', 3, 5), p(g, 'w', 5), 1e-3)] },
  {
    name: 'rmsNorm of heads',
    build: (g) => [g.rmsNorm(p(g, 'x', 67, 6), p(g, 'w', 3), 1e-3)],
    gradient: false,
  },
  { name: 'rmsNorm of heads, gradient', build: (g) => [g.rmsNorm(p(g, 'x', 3, 6), p(g, 'w', 3), 1e-3)] },
  {
    name: 'rope',
    build: (g) => [
      g.rope(p(g, 'x', 4, 12), g.input('at', 'i32', [4]), { headDim: 6, theta: 100, maxPositions: 9 }),
    ],
    inputs: { at: [0, 3, 8, 1] },
  },
  {
    name: 'rope of rmsNorm',
    build: (g) => [
      g.rope(g.rmsNorm(p(g, 'x', 11, 12), p(g, 'w', 6), 1e-3), g.input('at', 'i32', [11]), {
        headDim: 6,
        theta: 100,
        maxPositions: 9,
      }),
    ],
    inputs: { at: [0, 3, 8, 1, 2, 2, 7, 5, 4, 6, 0] },
  },
  {
    name: 'rope of rmsNorm that others need too',
    build: (g) => {
      const normed = g.rmsNorm(p(g, 'x', 2, 4), p(g, 'w', 4), 1e-3);
      const at = g.input('at', 'i32', [2]);
      return [g.rope(normed, at, { headDim: 2, theta: 100, maxPositions: 3 }), g.mul(normed, 2)];
    },
    inputs: { at: [2, 1] },
  },
  {
    name: 'attention of a batch',
    build: (g) => [
      g.attention(p(g, 'q', 6, 8), p(g, 'k', 6, 4), p(g, 'v', 6, 4), {
        sequences: 2,
        heads: 4,
        kvHeads: 2,
        headDim: 2,
      }),
    ],
  },
  {
    name: 'attention with lengths and scale',
    build: (g) => [
      g.attention(
        p(g, 'q', 6, 4),
        p(g, 'k', 6, 2),
        p(g, 'v', 6, 2),
        { sequences: 2, heads: 2, kvHeads: 1, headDim: 2, scale: 1.3 },
        { lengths: g.input('lengths', 'i32', [2]) },
      ),
    ],
    inputs: { lengths: [3, 2] },
  },
  {
    name: 'attention to a cache',
    build: (g) => {
      const { keys, values } = cacheStates(g, 'f32', { slots: 3, kvHeads: 1, maxLength: 5, headDim: 2 });
      const [slots, positions] = [g.input('slots', 'i32', [4]), g.input('positions', 'i32', [4])];
      const next = g.cacheWrite(keys, values, p(g, 'k', 4, 2), p(g, 'v', 4, 2), slots, positions);
      const place = { slots: g.input('slot', 'i32', [2]), start: g.input('start', 'i32', [2]) };
      return [
        g.attention(
          p(g, 'q', 4, 4),
          next.keys,
          next.values,
          { sequences: 2, heads: 2, kvHeads: 1, headDim: 2 },
          place,
        ),
        next.keys,
        next.values,
      ];
    },
    inputs: { slots: [2, 2, 0, 0], positions: [1, 2, 3, 4], slot: [2, 0], start: [1, 3] },
    gradient: false,
  },
  {
    name: 'attention to a cache, queries and keys normalised and rotated',
    build: (g) => {
      const { keys, values } = cacheStates(g, 'f32', { slots: 2, kvHeads: 2, maxLength: 5, headDim: 4 });
      const [slots, positions] = ['slots', 'positions'].map((name) => g.input(name, 'i32', [4]));
      const rotated = (name: string, width: number) =>
        g.rope(g.rmsNorm(p(g, name, 4, width), p(g, `${name}w`, 4), 1e-3), positions, {
          headDim: 4,
          theta: 50,
          maxPositions: 5,
        });
      const q = rotated('q', 16);
      const next = g.cacheWrite(keys, values, rotated('k', 8), p(g, 'v', 4, 8), slots, positions);
      const shape = { sequences: 2, heads: 4, kvHeads: 2, headDim: 4 };
      const place = { slots: g.input('slot', 'i32', [2]), start: g.input('start', 'i32', [2]) };
      return [g.attention(q, next.keys, next.values, shape, place), next.keys, next.values];
    },
    inputs: { slots: [1, 1, 0, 0], positions: [1, 2, 3, 4], slot: [1, 0], start: [1, 3] },
    gradient: false,
  },
  ...quantizedTypes.flatMap((type) => [
    quantized('quantizeRows and quantizedMatmul', type, (q) => {
      const { quads, scales, sums } = q.rows(p(q.g, 'x', 3, 96));
      return [quads, scales, sums, q.product(q.g.mul(p(q.g, 'x', 3, 96), 2), 'w', 40)];
    }),
    quantized('a layer with quantized matrices', type, (q) => q.layer(p(q.g, 'x', 3, 96))),
  ]),
  {
    name: 'tokenLogProbability',
    build: (g) => {
      const { logprob, entropy } = g.tokenLogProbability(
        p(g, 'logits', 4, 7),
        g.input('targets', 'i32', [4]),
        0.7,
      );
      return [logprob, entropy];
    },
    inputs: { targets: [3, 0, -1, 6] },
  },
  {
    name: 'a block of a transformer',
    build: (g) => {
      const ids = g.input('ids', 'i32', [6]);
      const at = g.input('at', 'i32', [6]);
      const table = p(g, 'table', 5, 4);
      const rope = { headDim: 2, theta: 50, maxPositions: 3 };
      const x = g.embedding(table, ids);
      const h = g.rmsNorm(x, p(g, 'norm', 4), 1e-3);
      const q = g.rope(g.rmsNorm(g.matmul(h, p(g, 'wq', 4, 4)), p(g, 'qnorm', 2), 1e-3), at, rope);
      const k = g.rope(g.rmsNorm(g.matmul(h, p(g, 'wk', 4, 2)), p(g, 'knorm', 2), 1e-3), at, rope);
      const v = g.matmul(h, p(g, 'wv', 4, 2));
      const a = g.attention(q, k, v, { sequences: 2, heads: 2, kvHeads: 1, headDim: 2 });
      const y = g.add(x, g.matmul(a, p(g, 'wo', 4, 4)));
      const z = g.add(
        y,
        g.matmul(g.swiglu(g.matmul(y, p(g, 'wg', 4, 5)), g.matmul(y, p(g, 'wu', 4, 5))), p(g, 'wd', 5, 4)),
      );
      const { logprob, entropy } = g.tokenLogProbability(
        g.matmul(z, table, { transB: true }),
        g.input('next', 'i32', [6]),
      );
      return [logprob, entropy];
    },
    inputs: { ids: [1, 2, 3, 4, 0, 1], at: [0, 1, 2, 0, 1, 2], next: [2, 3, -1, 0, 1, -1] },
  },
];
