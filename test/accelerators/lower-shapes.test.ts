/** In loops: what changes the shape or type of a tile, and what sums along its axes. */
import { test } from 'node:test';
import { check, f32 } from './lowered.ts';

test('casts, broadcasts, reshapes and transposes', () => {
  for (const dtype of ['f32', 'bf16', 'f16', 'i32', 'u32', 'i8', 'bool'] as const) {
    for (const shape of [[], [5], [3, 21], [4, 1]]) {
      check(`cast_${dtype}_${shape}`, [{ dtype, shape }], (_, a) => [
        ...(dtype === 'bf16' || dtype === 'f16' ? [] : [a.cast('i32')]).map((x) => x),
        a.cast('f32'),
        ...(dtype === 'i32' || dtype === 'u32' || dtype === 'f32' ? [a.cast('i8')] : []),
        ...(dtype === 'i32' ? [a.cast('u32')] : []),
        a,
      ]);
    }
  }
  check('broadcast', [f32(5, 1), f32(1, 20), f32(), f32(3, 1, 4)], (k, a, b, c, d) => [
    a.add(b),
    k.broadcast(a, [5, 37]),
    k.broadcast(b, [7, 20]),
    k.broadcast(c, [2, 18]),
    k.broadcast(d, [3, 5, 4]),
    a.broadcast([5, 20]).sum(),
    b.broadcast([5, 20]).sum(0),
    b.broadcast([5, 20]).transpose(),
    a.broadcast([5, 20]).reshape([10, 10]),
    k.constant(2, 'f32', [3, 17]).sum(),
    k.iota([4, 19], 0).add(k.iota([4, 19], 1)),
    k.iota([4, 19, 2], 1),
  ]);
  check('shape', [f32(6, 20), f32(4, 6, 32), f32(33, 18), f32(1, 7)], (_, a, b, c, d) => [
    a.reshape([120]),
    a.reshape([2, 3, 20]),
    a.reshape([6, 5, 4]),
    a.reshape([8, 15]),
    a.reshape([24, 5]).reshape([6, 20]),
    b.reshape([24, 32]),
    b.reshape([4, 192]).mul(2),
    a.transpose(),
    c.transpose().add(1),
    d.transpose(),
    d.reshape([7, 1, 1]),
  ]);
  // Short rows that are only turned, from tiles whose rows lie without gaps, with gaps, or repeat; and that others read too.
  check('turned', [f32(1, 64), f32(5, 12), f32(3, 32), f32(2, 1), f32(1, 37)], (_, a, b, c, d, e) => {
    const [shared, halves] = [a.reshape([16, 4]), c.mul(2).reshape([24, 4])];
    return [
      a.reshape([16, 4]).transpose(),
      a.mul(3).reshape([32, 2]).transpose().mul(2),
      b.reshape([15, 4]).transpose(),
      c.reshape([32, 3]).transpose(),
      halves.transpose(),
      halves.transpose().sum(0),
      d.broadcast([2, 16]).reshape([8, 4]).transpose(),
      e.add(1).reshape([37, 1]).transpose(),
      shared.transpose(),
      shared.sum(),
    ];
  });
});

test('reductions keep the order of sums', () => {
  for (const shape of [
    [1],
    [5],
    [16],
    [47],
    [300],
    [3, 1],
    [5, 20],
    [4, 64],
    [1, 33],
    [40, 1],
    [3, 4, 21],
    [3, 17, 1],
    [4, 5, 2],
  ])
    for (const dtype of ['f32', 'i32', 'u32'] as const)
      check(`reduce_${dtype}_${shape}`, [{ dtype, shape }], (_, a) => [
        ...shape.flatMap((_, axis) => [a.sum(axis), a.maximum(axis), a.minimum(axis)]),
        a.argmax(),
        a.cumsum(),
      ]);
});

test('dot in every orientation and odd sizes', () => {
  for (const [m, n, depth] of [
    [1, 1, 1],
    [1, 40, 7],
    [5, 1, 9],
    [7, 33, 12],
    [16, 16, 1],
    [13, 70, 8],
    [1, 1, 20],
    [70, 100, 9],
  ])
    for (const dtype of ['f32', 'bf16', 'i8'] as const)
      for (const transA of [false, true])
        for (const transB of [false, true])
          check(
            `dot_${m}_${n}_${depth}_${dtype}_${transA}_${transB}`,
            [
              { dtype, shape: transA ? [depth, m] : [m, depth] },
              { dtype, shape: transB ? [n, depth] : [depth, n] },
              { dtype: dtype === 'i8' ? 'i32' : 'f32', shape: [m, n] },
            ],
            (k, a, b, c) => [k.dot(a, b, null, { transA, transB }), k.dot(a, b, c, { transA, transB }), c],
          );
});
