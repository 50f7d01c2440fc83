/** Elementwise functions in loops: every one, of every type and shape, and at the numbers where mistakes are made. */
import { test } from 'node:test';
import { check, f32, type Input, random, TARGETS } from './lowered.ts';

const SHAPES = [
  [],
  [1],
  [5],
  [16],
  [37],
  [1, 1],
  [3, 1],
  [1, 19],
  [7, 20],
  [2, 3, 33],
  [3, 5, 1],
  [2, 1, 16],
];

const SPECIAL = [
  0,
  -0,
  1,
  -1,
  0.5,
  -0.5,
  1e-40,
  -1e-40,
  3e38,
  -3e38,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  Number.NaN,
  1e-38,
  88.7,
  -87.4,
  -103.5,
  Math.SQRT1_2,
  2,
  1024,
];

test('elementwise functions of every type and shape', () => {
  for (const shape of SHAPES) {
    check(`float${shape}`, [f32(...shape), f32(...shape), f32(...shape)], (k, a, b, c) => [
      a.add(b).mul(c).sub(a),
      a.div(b).abs().neg(),
      a.min(b).max(c),
      a.fma(b, c),
      k.select(a.lt(b).or(b.ge(c)).xor(a.ne(c)).not(), a, b.abs().sqrt()),
      k.select(a.lt(0).eq(b.lt(0)), a.floor(), 3),
    ]);
    for (const dtype of ['i32', 'u32'] as const)
      check(
        `${dtype}${shape}`,
        [
          { dtype, shape },
          { dtype, shape },
        ],
        (k, a, b) => [
          a.add(b).mul(b).sub(a),
          a.div(b),
          a.rem(b),
          a.div(b.and(7)),
          a.div(1).add(a.div(2)).xor(a.div(64)),
          a.div(3),
          a.min(b).xor(a.max(b)).or(b).not(),
          a.shl(b.and(63)),
          a.shr(b.and(63)),
          a.neg().abs(),
          k.select(a.lt(b), a, b),
          k.select(a.ge(b).and(a.ne(b)), a, 5),
          dtype === 'u32' ? a.mulhi(b) : a.abs(),
        ],
      );
  }
});

test('special numbers', () => {
  const n = SPECIAL.length;
  const data = Float32Array.from({ length: n * n }, (_, i) => SPECIAL[i % n]);
  const other = Float32Array.from({ length: n * n }, (_, i) => SPECIAL[Math.floor(i / n)]);
  const shape = [n, n];
  check(
    'special',
    [
      { dtype: 'f32', shape, data },
      { dtype: 'f32', shape, data: other },
    ],
    (k, a, b) => [
      a.add(b),
      a.div(b),
      a.max(b),
      a.min(b),
      k.select(a.le(b), a, b),
      a.lt(b).cast('i32'),
      a.ne(b).cast('f32'),
      a.cast('i32'),
      a.cast('u32'),
      a.cast('bf16'),
      a.cast('f16').cast('f32'),
      a.sum(),
      a.maximum(),
      a.minimum(0),
      a.argmax(),
      b.argmax(),
      a.cumsum(),
    ],
  );
});

test('transcendental functions', () => {
  const ALL = [...TARGETS, { ...TARGETS[2], name: 'no fused multiply-add', fma: false }];
  const values = [...SPECIAL];
  for (let i = 0; i < 1500; i++) values.push((random() - 0.5) * 2 ** (Math.floor(random() * 40) - 30));
  for (let i = 0; i < 300; i++) values.push((random() - 0.5) * 220, random() * 2 ** (random() * 250 - 140));
  for (let i = -12; i < 12; i++) values.push(i, 2 ** i);
  // Near multiples of pi/2 little is left of the argument.
  for (let i = 1; i < 60000; i += 1 + (i >> 6)) values.push((i * Math.PI) / 2);
  values.push(52516.43359375, 4476.76953125, 1e22, 2 ** 127);
  const data = Float32Array.from(values);
  const input: Input = { dtype: 'f32', shape: [data.length], data };
  for (const fn of ['exp', 'exp2', 'log', 'log2', 'tanh', 'sigmoid'] as const)
    check(
      fn,
      [input],
      (_, x) => [x[fn]()],
      { ulp: fn === 'tanh' || fn === 'sigmoid' || fn === 'log2' ? 3 : 2 },
      ALL,
    );
  for (const fn of ['sin', 'cos'] as const) check(fn, [input], (_, x) => [x[fn]()], { ulp: 2 }, ALL);
  check('exact', [{ dtype: 'f32', shape: [2], data: Float32Array.of(0, -0) }], (_, x) => [
    x.exp(),
    x.cos(),
    x.sin(),
  ]);
});
