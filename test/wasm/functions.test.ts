/** Every lanewise and every integer function against a plain definition. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { HorizontalFn, IntBinary, VecBinary, VecUnary } from '../../src/accelerators/loops/ir.ts';
import {
  bf16BitsToF32,
  bitsToF32,
  f16BitsToF32,
  f32ToBf16Bits,
  f32ToBits,
  f32ToF16Bits,
} from '../../src/numerics/float.ts';
import { FREE, i, interestingWords, mapVectors, prepare, v } from './harness.ts';

const f = bitsToF32;
const bits = f32ToBits;
const mask = (condition: boolean) => (condition ? 0xffffffff : 0);
const float = (fn: (a: number, b: number) => number) => (a: number, b: number) => bits(fn(f(a), f(b)));
const compare = (fn: (a: number, b: number) => boolean) => (a: number, b: number) => mask(fn(f(a), f(b)));
const nanOr = (fn: (a: number, b: number) => number) =>
  float((a, b) => (Number.isNaN(a) || Number.isNaN(b) ? Number.NaN : fn(a, b)));

interface Reference {
  readonly result: 'float' | 'bits';
  readonly of: (a: number, b: number) => number;
}
const floats = (of: Reference['of']): Reference => ({ result: 'float', of });
const words = (of: Reference['of']): Reference => ({ result: 'bits', of });

const BINARY: { readonly [F in VecBinary]: Reference } = {
  fadd: floats(float((a, b) => a + b)),
  fsub: floats(float((a, b) => a - b)),
  fmul: floats(float((a, b) => a * b)),
  fdiv: floats(float((a, b) => a / b)),
  fmin: floats(nanOr(Math.min)),
  fmax: floats(nanOr(Math.max)),
  fminfast: floats(float((a, b) => (a < b ? a : b))),
  fmaxfast: floats(float((a, b) => (a > b ? a : b))),
  iadd: words((a, b) => a + b),
  isub: words((a, b) => a - b),
  imul: words(Math.imul),
  umulhi: words((a, b) => Number((BigInt(a) * BigInt(b)) >> 32n)),
  imin: words((a, b) => Math.min(a | 0, b | 0)),
  imax: words((a, b) => Math.max(a | 0, b | 0)),
  umin: words(Math.min),
  umax: words(Math.max),
  and: words((a, b) => a & b),
  or: words((a, b) => a | b),
  xor: words((a, b) => a ^ b),
  andnot: words((a, b) => ~a & b),
  ishl: words((a, b) => (b < 32 ? a << b : 0)),
  ishr: words((a, b) => (a | 0) >> Math.min(b, 31)),
  ushr: words((a, b) => (b < 32 ? a >>> b : 0)),
  flt: words(compare((a, b) => a < b)),
  fle: words(compare((a, b) => a <= b)),
  feq: words(compare((a, b) => a === b)),
  fne: words(compare((a, b) => a !== b)),
  ilt: words((a, b) => mask((a | 0) < (b | 0))),
  ile: words((a, b) => mask((a | 0) <= (b | 0))),
  ieq: words((a, b) => mask(a === b)),
  ult: words((a, b) => mask(a < b)),
  ule: words((a, b) => mask(a <= b)),
};

const saturate = (low: number, high: number) => (a: number) => {
  const value = f(a);
  return Number.isNaN(value) ? 0 : Math.min(high, Math.max(low, Math.trunc(value)));
};
function nearestEven(value: number): number {
  if (!Number.isFinite(value) || Math.abs(value) >= 2 ** 23) return value;
  const below = Math.floor(value);
  const rest = value - below;
  const rounded = rest > 0.5 || (rest === 0.5 && below % 2 !== 0) ? below + 1 : below;
  return rounded === 0 && (value < 0 || Object.is(value, -0)) ? -0 : rounded;
}

const UNARY: { readonly [F in VecUnary]: Reference } = {
  fneg: words((a) => a ^ 0x80000000),
  fabs: words((a) => a & 0x7fffffff),
  fsqrt: floats((a) => bits(Math.sqrt(f(a)))),
  ffloor: floats((a) => bits(Math.floor(f(a)))),
  fround: floats((a) => bits(nearestEven(f(a)))),
  not: words((a) => ~a),
  itof: floats((a) => bits(a | 0)),
  utof: floats((a) => bits(a)),
  ftoi: words(saturate(-(2 ** 31), 2 ** 31 - 1)),
  ftou: words(saturate(0, 2 ** 32 - 1)),
  roundbf16: floats((a) => bits(bf16BitsToF32(f32ToBf16Bits(f(a))))),
  roundf16: floats((a) => bits(f16BitsToF32(f32ToF16Bits(f(a))))),
};

const hex = (word: number) => '0x' + (word >>> 0).toString(16).padStart(8, '0');

function check(name: string, { result, of }: Reference, rows: number[][], found: Uint32Array): void {
  rows.forEach((row, index) => {
    const [a, b] = row as [number, number];
    const expected = of(a, b) >>> 0;
    const actual = found[index]!;
    if (actual === expected) return;
    if (result === 'float' && Number.isNaN(f(actual)) && Number.isNaN(f(expected))) return;
    // Which zero wins is not fixed.
    if (/^f(min|max)$/.test(name) && f(actual) === 0 && f(expected) === 0) return;
    assert.fail(`${name}(${row.map(hex)}) is ${hex(actual)}, not ${hex(expected)}`);
  });
}

test('functions of two vectors', () => {
  const some = interestingWords(40);
  const rows = some.flatMap((a) => some.map((b) => [a, b]));
  for (let count = 0; count < 40; count++) rows.push([0x89abcdef, count]);
  for (const [fn, reference] of Object.entries(BINARY) as [VecBinary, Reference][]) {
    check(fn, reference, rows, mapVectors([{ o: 'vbin', fn, dst: v(3), a: v(0), b: v(1) }], rows));
    // The result may replace an argument.
    const replaced = mapVectors(
      [
        { o: 'vbin', fn, dst: v(1), a: v(0), b: v(1) },
        { o: 'vmove', dst: v(3), a: v(1) },
      ],
      rows,
    );
    check(fn, reference, rows, replaced);
  }
});

test('functions of one vector', () => {
  const rows = interestingWords(20000).map((a) => [a]);
  for (const [fn, reference] of Object.entries(UNARY) as [VecUnary, Reference][]) {
    check(fn, reference, rows, mapVectors([{ o: 'vun', fn, dst: v(3), a: v(0) }], rows));
  }
});

test('shifts by a constant', () => {
  const rows = interestingWords(20).map((a) => [a]);
  for (const fn of ['ishl', 'ishr', 'ushr'] as const) {
    for (const by of [0, 1, 16, 31]) {
      const reference = words((a) => BINARY[fn].of(a, by));
      check(fn, reference, rows, mapVectors([{ o: 'vshift', fn, dst: v(3), a: v(0), by }], rows));
    }
    assert.throws(() => mapVectors([{ o: 'vshift', fn, dst: v(3), a: v(0), by: 32 }], rows), /vshift by 32/);
  }
});

test('select, constants, iota, splat, first', () => {
  const rows = interestingWords(8).flatMap((a) => [
    [0xffffffff, a, 7],
    [0, a, 7],
  ]);
  const selected = mapVectors([{ o: 'vselect', dst: v(3), mask: v(0), a: v(1), b: v(2) }], rows);
  rows.forEach(([m, a, b], index) => {
    assert.equal(selected[index], m === 0 ? b : a);
  });
  const four = [[1], [2], [3], [4]];
  assert.deepEqual([...mapVectors([{ o: 'viota', dst: v(3) }], four)], [0, 1, 2, 3]);
  assert.deepEqual(
    [...mapVectors([{ o: 'vconst', dst: v(3), bits: 0x87654321 }], four)],
    Array(4).fill(0x87654321),
  );
  const first = mapVectors(
    [
      { o: 'vfirst', dst: i(5), a: v(0) },
      { o: 'ibin', fn: 'sub', dst: i(5), a: i(5), b: 3 },
      { o: 'vsplat', dst: v(3), a: i(5) },
    ],
    four,
  );
  assert.deepEqual([...first], Array(4).fill(0xfffffffe));
});

test('multiply-add rounds twice without fma, whichever argument it replaces', () => {
  const some = interestingWords(4);
  const rows = some.flatMap((a) => some.flatMap((b) => [0, 0x3f800000, 0xbf801000, a].map((c) => [a, b, c])));
  for (const target of [0, 1, 2, 3]) {
    const found = mapVectors(
      [
        { o: 'vfma', dst: v(target), a: v(0), b: v(1), c: v(2) },
        { o: 'vmove', dst: v(3), a: v(target) },
      ],
      rows,
    );
    rows.forEach(([a, b, c], index) => {
      const expected = Math.fround(Math.fround(f(a!) * f(b!)) + f(c!));
      const actual = f(found[index]!);
      assert.ok(
        Object.is(actual, expected),
        `${hex(a!)} * ${hex(b!)} + ${hex(c!)}: ${actual}, not ${expected}`,
      );
    });
  }
});

test('dot2 adds the products of pairs of bf16, the high ones first', () => {
  const some = interestingWords(8).map((word) => ((word & 0xbfffbfff) | 0x20002000) >>> 0);
  const rows = some.flatMap((a) => some.flatMap((b) => [0, 0x3f800000, 0xbf801000].map((c) => [a, b, c])));
  while (rows.length % 4 !== 0) rows.push([0, 0, 0]);
  const { fround } = Math;
  for (const target of [0, 1, 2, 3]) {
    const found = mapVectors(
      [
        { o: 'vdot2', dst: v(target), a: v(0), b: v(1), c: v(2) },
        { o: 'vmove', dst: v(3), a: v(target) },
      ],
      rows,
    );
    rows.forEach(([a, b, c], index) => {
      const high = fround(fround(f(a! & 0xffff0000) * f(b! & 0xffff0000)) + f(c!));
      const expected = fround(fround(f(a! << 16) * f(b! << 16)) + high);
      const actual = f(found[index]!);
      assert.ok(
        Object.is(actual, expected),
        `${hex(a!)} · ${hex(b!)} + ${hex(c!)}: ${actual}, not ${expected}`,
      );
    });
  }
});

test('dot4 multiplies unsigned with signed bytes, whichever argument it replaces', () => {
  const some = interestingWords(8);
  const rows = some.flatMap((a) => some.flatMap((b) => [0, 0x7fffffff, a].map((c) => [a, b, c])));
  while (rows.length % 4 !== 0) rows.push([0, 0, 0]);
  for (const target of [0, 1, 2, 3]) {
    const found = mapVectors(
      [
        { o: 'vdot4', dst: v(target), a: v(0), b: v(1), c: v(2) },
        { o: 'vmove', dst: v(3), a: v(target) },
      ],
      rows,
    );
    rows.forEach(([a, b, c], index) => {
      const products = [0, 8, 16, 24].map((at) => ((a! >>> at) & 0xff) * ((b! << (24 - at)) >> 24));
      const expected = products.reduce((sum, product) => sum + product, c! | 0) >>> 0;
      assert.equal(found[index], expected, `${hex(a!)} · ${hex(b!)} + ${hex(c!)}`);
    });
  }
});

test('horizontal functions combine pairwise, in every lane', () => {
  const combine: { readonly [F in HorizontalFn]: VecBinary } = {
    fadd: 'fadd',
    fmin: 'fmin',
    fmax: 'fmax',
    iadd: 'iadd',
    imin: 'imin',
    imax: 'imax',
    umin: 'umin',
    umax: 'umax',
  };
  const rows = interestingWords(400).map((a) => [a]);
  while (rows.length % 4 !== 0) rows.push([0]);
  for (const [fn, binary] of Object.entries(combine) as [HorizontalFn, VecBinary][]) {
    const found = mapVectors([{ o: 'vhorizontal', fn, dst: v(3), a: v(0) }], rows);
    const { of, result } = BINARY[binary];
    for (let row = 0; row < rows.length; row += 4) {
      const [a, b, c, d] = [0, 1, 2, 3].map((lane) => rows[row + lane]![0]!) as [
        number,
        number,
        number,
        number,
      ];
      const expected = of(of(a, c) >>> 0, of(b, d) >>> 0) >>> 0;
      for (let lane = 0; lane < 4; lane++) {
        const actual = found[row + lane]!;
        const same =
          result === 'bits' ? actual === expected : f(actual) === f(expected) || Number.isNaN(f(expected));
        assert.ok(same && (result === 'bits' || Number.isNaN(f(expected)) === Number.isNaN(f(actual))), fn);
      }
    }
  }
});

const INTEGER: { readonly [F in IntBinary]: (a: number, b: number) => number } = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: Math.imul,
  div: (a, b) => (b === 0 ? 0 : Math.trunc(a / b)),
  rem: (a, b) => (b === 0 ? 0 : a % b),
  and: (a, b) => a & b,
  or: (a, b) => a | b,
  xor: (a, b) => a ^ b,
  shl: (a, b) => (b >>> 0 < 32 ? a << b : 0),
  shr: (a, b) => a >> Math.min(b >>> 0, 31),
  min: Math.min,
  max: Math.max,
  lt: (a, b) => Number(a < b),
  le: (a, b) => Number(a <= b),
  gt: (a, b) => Number(a > b),
  ge: (a, b) => Number(a >= b),
  eq: (a, b) => Number(a === b),
  ne: (a, b) => Number(a !== b),
};

test('integer functions, of registers and of constants', () => {
  const some = [0, 1, -1, 2, 3, -7, 31, 32, 33, 100, 2 ** 31 - 1, -(2 ** 31), 12345];
  for (const [fn, reference] of Object.entries(INTEGER) as [IntBinary, (a: number, b: number) => number][]) {
    for (const constant of [undefined, ...some]) {
      const b = constant ?? i(1);
      const execution = prepare(
        [
          { o: 'viewBase', dst: i(9), index: 0 },
          { o: 'iload', dst: i(0), type: 'i32', from: { base: i(9), displacement: 0 } },
          { o: 'iload', dst: i(1), type: 'i32', from: { base: i(9), displacement: 4 } },
          { o: 'ibin', fn, dst: i(0), a: i(0), b },
          { o: 'iwrap', dst: i(0), a: i(0) },
          { o: 'istore', src: i(0), type: 'i32', to: { base: i(9), displacement: 8 } },
        ],
        { views: [FREE] },
      );
      for (const x of some) {
        for (const y of constant === undefined ? some : [constant]) {
          execution.data.setInt32(FREE, x, true);
          execution.data.setInt32(FREE + 4, y, true);
          execution.run();
          const found = execution.data.getInt32(FREE + 8, true);
          assert.equal(
            found,
            reference(x, y) | 0,
            `${fn}(${x}, ${constant === undefined ? y : `constant ${y}`})`,
          );
        }
      }
    }
  }
});
