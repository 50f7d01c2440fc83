/** Every instruction of the loop IR as machine code, on both vector extensions, against the interpreter. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { generate, type Isa, unsupported } from '../../src/accelerators/cpu/codegen.ts';
import type {
  HorizontalFn,
  Instr,
  IntBinary,
  IntReg,
  MemoryType,
  VecBinary,
  VecReg,
  VecUnary,
} from '../../src/accelerators/loops/ir.ts';
import { lanesOf, loopFunction, Names, type Outcome, runBoth, viewBytes } from './loop-runner.ts';

const isas: readonly Isa[] = ['avx512', 'avx2'];

const floats = Float32Array.of(
  ...[
    0,
    -0,
    1,
    -1,
    0.5,
    -0.5,
    1.5,
    2.5,
    3.25,
    -7.75,
    Number.NaN,
    1 / 0,
    -1 / 0,
    1e-40,
    -1e-40,
    3.4e38,
    -3.4e38,
  ],
  ...[1.2e-38, 2 ** 31, -(2 ** 31), 2147483520, 2 ** 32, 4294967040, 3e9, -3e9, 65519, 65520, 5.9e-8, 2.9e-8],
  ...[8388607.5, 16777216, 1.00390625, 1.01171875, 3.39e38],
);
const integers = Int32Array.of(
  ...[0, 1, -1, 2, 3, 7, 15, 16, 31, 32, 33, 63, 64, 255, 256, -2, -31, -32, -256, 0x7fff, 0x8000, 0xffff],
  ...[0x10000, 0x7fffffff, -0x80000000, 0x12345678, -0x12345678, 0x55555555, 123456789, 0x01000001, -0x7f],
);

/** All pairs of the values, one in each of two arrays, as many as fit into a view. */
function pairs<T extends Int32Array | Float32Array>(values: T): [Uint8Array, Uint8Array, number] {
  const [a, b] = [new Int32Array(viewBytes / 4), new Int32Array(viewBytes / 4)];
  const bits = new Int32Array(values.buffer);
  const count = Math.min(a.length, bits.length ** 2);
  for (let i = 0; i < a.length; i++) {
    a[i] = bits[i % bits.length];
    b[i] = bits[Math.floor(i / bits.length) % bits.length];
  }
  return [new Uint8Array(a.buffer), new Uint8Array(b.buffer), count];
}

const noise = (seed: number): Uint8Array => {
  let state = seed;
  return Uint8Array.from(
    { length: viewBytes },
    () => (state = (Math.imul(state, 1664525) + 1013904223) | 0) >>> 24,
  );
};

type View = 'f32' | 'i32' | 'bf16' | 'f16' | 'u8';
const isNaNBits: { readonly [V in View]: (view: DataView, at: number) => boolean } = {
  f32: (view, at) => Number.isNaN(view.getFloat32(at, true)),
  bf16: (view, at) => (view.getUint16(at, true) & 0x7fff) > 0x7f80,
  f16: (view, at) => (view.getUint16(at, true) & 0x7fff) > 0x7c00,
  i32: () => false,
  u8: () => false,
};
const viewSizes: { readonly [V in View]: 1 | 2 | 4 } = { f32: 4, i32: 4, bf16: 2, f16: 2, u8: 1 };

/** Compares a view element by element; of floating-point numbers, any NaN is like any other. */
function assertEqual(
  outcome: Outcome,
  index: number,
  type: View,
  message: string,
  skip?: (i: number) => boolean,
) {
  const size = viewSizes[type];
  const [actual, expected] = [outcome.machine[index], outcome.interpreter[index]];
  const read = { 1: 'getUint8', 2: 'getUint16', 4: 'getUint32' } as const;
  for (let at = 0; at < viewBytes; at += size) {
    if (isNaNBits[type](actual, at) && isNaNBits[type](expected, at)) continue;
    const [x, y] = [actual[read[size]](at, true), expected[read[size]](at, true)];
    if (x !== y && !skip?.(at / size)) {
      assert.fail(`${message}: element ${at / size} is 0x${x.toString(16)} and not 0x${y.toString(16)}`);
    }
  }
}

/** A loop over whole vectors of three views: out[i] = body(a[i], b[i]). */
function elementwise(isa: Isa, body: (n: Names, a: VecReg, b: VecReg) => { dst: VecReg; code: Instr[] }) {
  const n = new Names();
  const [p, q, r, i, a, b] = [n.i(), n.i(), n.i(), n.i(), n.v(), n.v()];
  const { dst, code } = body(n, a, b);
  const at = (base: IntReg) => ({ base, index: i, scale: 4, displacement: 0 }) as const;
  return loopFunction(isa, 3, [
    { o: 'viewBase', dst: p, index: 0 },
    { o: 'viewBase', dst: q, index: 1 },
    { o: 'viewBase', dst: r, index: 2 },
    {
      o: 'for',
      index: i,
      lo: 0,
      hi: viewBytes / 4,
      step: lanesOf[isa],
      body: [
        { o: 'vload', dst: a, type: 'f32', from: at(p) },
        { o: 'vload', dst: b, type: 'f32', from: at(q) },
        ...code,
        { o: 'vstore', src: dst, type: 'f32', to: at(r) },
      ],
    },
  ]);
}

const floatBinary = ['fadd', 'fsub', 'fmul', 'fdiv', 'fmin', 'fmax', 'fminfast', 'fmaxfast'] as const;
const floatCompare = ['flt', 'fle', 'feq', 'fne'] as const;
const integerCompare = ['ilt', 'ile', 'ieq', 'ult', 'ule'] as const;
const integerBinary = [
  ...(['iadd', 'isub', 'imul', 'umulhi', 'imin', 'imax', 'umin', 'umax'] as const),
  ...(['and', 'or', 'xor', 'andnot', 'ishl', 'ishr', 'ushr'] as const),
] as const;
type Listed =
  | (typeof floatBinary)[number]
  | (typeof floatCompare)[number]
  | (typeof integerCompare)[number]
  | (typeof integerBinary)[number];
// A function that is missing above is a compile error here.
const allBinary: readonly Listed[] & (VecBinary extends Listed ? unknown : never) = [
  ...floatBinary,
  ...floatCompare,
  ...integerCompare,
  ...integerBinary,
];
const isFast = (fn: string) => fn === 'fminfast' || fn === 'fmaxfast';

const unaryTypes: { readonly [F in VecUnary]: readonly [input: 'f32' | 'i32', output: 'f32' | 'i32'] } = {
  fneg: ['f32', 'f32'],
  fabs: ['f32', 'f32'],
  fsqrt: ['f32', 'f32'],
  ffloor: ['f32', 'f32'],
  fround: ['f32', 'f32'],
  not: ['i32', 'i32'],
  itof: ['i32', 'f32'],
  utof: ['i32', 'f32'],
  ftoi: ['f32', 'i32'],
  ftou: ['f32', 'i32'],
  roundbf16: ['f32', 'f32'],
  roundf16: ['f32', 'f32'],
};

for (const isa of isas) {
  const lanes = lanesOf[isa];

  describe(`${isa}: lanewise`, () => {
    for (const fn of allBinary) {
      test(fn, () => {
        const float = (floatBinary as readonly string[]).includes(fn);
        const inputs = float || (floatCompare as readonly string[]).includes(fn) ? floats : integers;
        const [a, b] = pairs(inputs);
        const [x, y] = [new Float32Array(a.buffer), new Float32Array(b.buffer)];
        // The fast forms may give either argument next to a NaN, and either zero.
        const skip = (i: number) =>
          isFast(fn) && (Number.isNaN(x[i]) || Number.isNaN(y[i]) || (x[i] === 0 && y[i] === 0));
        // The result in a register of its own, in the first's, in the second's; the second operand used twice more.
        for (const where of ['new', 'a', 'b', 'keep'] as const) {
          const program = elementwise(isa, (n, va, vb) => {
            const dst = where === 'a' ? va : where === 'b' ? vb : n.v();
            const code: Instr[] = [{ o: 'vbin', dst, fn, a: va, b: vb }];
            if (where !== 'keep') return { dst, code };
            const mixed = n.v();
            code.push({ o: 'vbin', dst: mixed, fn: 'xor', a: dst, b: va });
            code.push({ o: 'vbin', dst: mixed, fn: 'xor', a: mixed, b: vb });
            code.push({ o: 'vbin', dst: mixed, fn: 'xor', a: mixed, b: va });
            code.push({ o: 'vbin', dst: mixed, fn: 'xor', a: mixed, b: vb });
            return { dst: mixed, code };
          });
          const outcome = runBoth(isa, program, [a, b]);
          assertEqual(outcome, 2, float ? 'f32' : 'i32', `${fn}, ${where}`, skip);
        }
      });
    }

    for (const [fn, [input, output]] of Object.entries(unaryTypes)) {
      test(fn, () => {
        const [special] = pairs(input === 'f32' ? floats : integers);
        for (const [data, inPlace] of [
          [special, false],
          [special, true],
          [noise(1), false],
        ] as const) {
          const program = elementwise(isa, (n, a) => {
            const dst = inPlace ? a : n.v();
            return { dst, code: [{ o: 'vun', dst, fn: fn as VecUnary, a }] };
          });
          assertEqual(runBoth(isa, program, [data]), 2, output, fn);
        }
      });
    }

    test('vfma rounds once, in every arrangement of registers', () => {
      const [a, b] = pairs(floats);
      const random = Float32Array.from({ length: viewBytes / 4 }, (_, i) => Math.sin(i * 1.7) * 3);
      const cosine = Float32Array.from({ length: viewBytes / 4 }, (_, i) => Math.cos(i * 2.3));
      const data = [
        [a, b],
        [new Uint8Array(random.buffer), new Uint8Array(cosine.buffer)],
      ];
      for (const [x, y] of data) {
        for (const where of ['new', 'a', 'b', 'c', 'square', 'all'] as const) {
          const program = elementwise(isa, (n, va, vb) => {
            const c = n.v();
            const code: Instr[] = [{ o: 'vbin', dst: c, fn: 'fsub', a: vb, b: va }];
            const dst = { new: n.v(), a: va, b: vb, c, square: c, all: va }[where];
            if (where === 'square') code.push({ o: 'vfma', dst, a: va, b: va, c });
            else if (where === 'all') code.push({ o: 'vfma', dst, a: va, b: va, c: va });
            else code.push({ o: 'vfma', dst, a: va, b: vb, c });
            return { dst, code };
          });
          assertEqual(runBoth(isa, program, [x, y]), 2, 'f32', `vfma ${where}`);
        }
      }
    });

    test('vfma and binary functions with a memory operand', () => {
      const [a, b] = pairs(floats);
      const n = new Names();
      const [p, q, r, x, sum] = [n.i(), n.i(), n.i(), n.v(), n.v()];
      const body: Instr[] = [
        { o: 'viewBase', dst: p, index: 0 },
        { o: 'viewBase', dst: q, index: 1 },
        { o: 'viewBase', dst: r, index: 2 },
        { o: 'vload', dst: x, type: 'f32', from: { base: p, displacement: 8 } },
        { o: 'vconst', dst: sum, bits: 0x3f800000 },
      ];
      let at = 0;
      const store = (src: VecReg) => {
        body.push({ o: 'vstore', src, type: 'f32', to: { base: r, displacement: at } });
        at += 4 * lanes;
      };
      for (const repeated of [false, true]) {
        const operand = (displacement: number): VecReg => {
          const dst = n.v();
          body.push({
            o: repeated ? 'vbroadcast' : 'vload',
            dst,
            type: 'f32',
            from: { base: q, displacement },
          });
          return dst;
        };
        for (const side of ['a', 'b'] as const) {
          const m = operand(24 + at);
          body.push({ o: 'vfma', dst: sum, a: side === 'a' ? m : x, b: side === 'a' ? x : m, c: sum });
          store(sum);
          for (const fn of ['fadd', 'fsub', 'fmax', 'iadd', 'ult'] as const) {
            const other = operand(28 + at);
            const dst = n.v();
            body.push({ o: 'vbin', dst, fn, a: side === 'a' ? other : x, b: side === 'a' ? x : other });
            store(dst);
          }
          // What was loaded must not be read after the store that changes it.
          const early = n.v();
          body.push({ o: 'vload', dst: early, type: 'f32', from: { base: r, displacement: 0 } });
          body.push({ o: 'vstore', src: x, type: 'f32', to: { base: r, displacement: 0 } });
          const dst = n.v();
          body.push({ o: 'vbin', dst, fn: 'fadd', a: x, b: early });
          store(dst);
        }
      }
      assertEqual(runBoth(isa, loopFunction(isa, 3, body), [a, b]), 2, 'f32', 'memory operand');
    });

    test('selection by comparison, used once or kept', () => {
      for (const fn of [...floatCompare, ...integerCompare]) {
        const [a, b] = pairs(fn.startsWith('f') ? floats : integers);
        for (const kept of [false, true]) {
          const program = elementwise(isa, (n, va, vb) => {
            const [mask, dst, result] = [n.v(), n.v(), n.v()];
            const code: Instr[] = [
              { o: 'vbin', dst: mask, fn, a: va, b: vb },
              { o: 'vselect', dst, mask, a: va, b: vb },
              { o: 'vbin', dst: result, fn: 'xor', a: dst, b: mask },
            ];
            return kept ? { dst: result, code } : { dst, code: code.slice(0, 2) };
          });
          assertEqual(runBoth(isa, program, [a, b]), 2, 'i32', `select by ${fn}`);
        }
      }
    });

    test('a comparison whose operands change before the selection', () => {
      const [a, b] = pairs(integers);
      const program = elementwise(isa, (n, va, vb) => {
        const [mask, dst] = [n.v(), n.v()];
        return {
          dst,
          code: [
            { o: 'vbin', dst: mask, fn: 'ilt', a: va, b: vb },
            { o: 'vbin', dst: va, fn: 'isub', a: vb, b: va },
            { o: 'vselect', dst, mask, a: va, b: vb },
          ],
        };
      });
      assertEqual(runBoth(isa, program, [a, b]), 2, 'i32', 'select');
    });

    test('shifts by constants', () => {
      const [a] = pairs(integers);
      for (const fn of ['ishl', 'ishr', 'ushr'] as const) {
        for (const by of [0, 1, 13, 31]) {
          const program = elementwise(isa, (n, va) => {
            const dst = n.v();
            return { dst, code: [{ o: 'vshift', dst, fn, a: va, by }] };
          });
          assertEqual(runBoth(isa, program, [a]), 2, 'i32', `${fn} ${by}`);
        }
      }
    });

    test('vconst, vsplat, vfirst, viota, vmove', () => {
      const [a] = pairs(integers);
      for (const bits of [0, -1, 0x3f800000, 0x80000000, 0xffffffff, 12345]) {
        const program = elementwise(isa, (n, va, vb) => {
          const [first, splat, iota, constant, dst] = [n.i(), n.v(), n.v(), n.v(), n.v()];
          return {
            dst,
            code: [
              { o: 'vfirst', dst: first, a: va },
              { o: 'ibin', fn: 'shr', dst: first, a: first, b: 1 },
              { o: 'vsplat', dst: splat, a: first },
              { o: 'viota', dst: iota },
              { o: 'vconst', dst: constant, bits },
              { o: 'vmove', dst: vb, a: splat },
              { o: 'vbin', dst, fn: 'xor', a: vb, b: constant },
              { o: 'vbin', dst, fn: 'iadd', a: dst, b: iota },
            ],
          };
        });
        assertEqual(runBoth(isa, program, [a]), 2, 'i32', `constant ${bits}`);
      }
    });

    test('vhorizontal combines pairwise in the stated order', () => {
      const values = new Float32Array(viewBytes / 4).map((_, i) => Math.sin(i) * 10 ** (i % 9));
      const [special] = pairs(floats);
      const [whole] = pairs(integers);
      const fns: { readonly [F in HorizontalFn]: readonly Uint8Array[] } = {
        fadd: [new Uint8Array(values.buffer), special],
        fmin: [new Uint8Array(values.buffer), special],
        fmax: [new Uint8Array(values.buffer), special],
        iadd: [whole],
        imin: [whole],
        imax: [whole],
        umin: [whole],
        umax: [whole],
      };
      for (const [fn, inputs] of Object.entries(fns) as [HorizontalFn, readonly Uint8Array[]][]) {
        for (const input of inputs) {
          for (const inPlace of [false, true]) {
            const program = elementwise(isa, (n, a) => {
              const dst = inPlace ? a : n.v();
              return { dst, code: [{ o: 'vhorizontal', dst, fn, a }] };
            });
            assertEqual(runBoth(isa, program, [input]), 2, fn[0] === 'f' ? 'f32' : 'i32', fn);
          }
        }
      }
    });
  });

  describe(`${isa}: memory`, () => {
    const types: readonly Exclude<MemoryType, 'f8e4m3' | 'f8e5m2'>[] = [
      'f32',
      'i32',
      'u32',
      'bf16',
      'f16',
      'i8',
      'u8',
    ];
    const sizeOf = (type: MemoryType) => (type.endsWith('8') ? 1 : type.endsWith('16') ? 2 : 4);
    const viewOf = (type: MemoryType): View =>
      type === 'f32' || type === 'bf16' || type === 'f16' ? type : sizeOf(type) === 1 ? 'u8' : 'i32';
    const isFloat = (type: MemoryType) => viewOf(type) !== 'i32' && viewOf(type) !== 'u8';

    for (const type of types) {
      const size = sizeOf(type);
      test(`${type}: load, broadcast, store, store first`, () => {
        const [special] = pairs(isFloat(type) ? floats : integers);
        for (const data of [noise(7), special]) {
          const n = new Names();
          const [p, q, r, s, t, v, w, x] = [n.i(), n.i(), n.i(), n.i(), n.i(), n.v(), n.v(), n.v()];
          const wide = isFloat(type) ? 'f32' : 'i32';
          const body: Instr[] = [p, q, r, s, t].map((dst, index) => ({ o: 'viewBase', dst, index }));
          for (let i = 0; i < 30; i++) {
            const [narrow, full] = [i * lanes * size, i * lanes * 4];
            body.push(
              { o: 'vload', dst: v, type, from: { base: p, displacement: narrow } },
              { o: 'vstore', src: v, type: wide, to: { base: q, displacement: full } },
              { o: 'vbroadcast', dst: x, type, from: { base: p, displacement: narrow + size } },
              { o: 'vstore', src: x, type: wide, to: { base: r, displacement: full } },
              { o: 'vload', dst: w, type: wide, from: { base: p, displacement: full } },
              { o: 'vstore', src: w, type, to: { base: s, displacement: narrow } },
              { o: 'vstorefirst', src: w, type, to: { base: t, displacement: 3 * i * size } },
            );
          }
          const outcome = runBoth(isa, loopFunction(isa, 5, body), [data]);
          assertEqual(outcome, 1, wide, `load ${type}`);
          assertEqual(outcome, 2, wide, `broadcast ${type}`);
          assertEqual(outcome, 3, viewOf(type), `store ${type}`);
          assertEqual(outcome, 4, viewOf(type), `store first ${type}`);
        }
      });

      test(`${type}: partial loads and stores touch nothing else`, () => {
        const wide = isFloat(type) ? 'f32' : 'i32';
        for (let count = -2; count <= lanes + 2; count++) {
          const used = Math.max(0, Math.min(lanes, count)) * size;
          const n = new Names();
          const [p, q, r, c, v, w] = [n.i(), n.i(), n.i(), n.i(), n.v(), n.v()];
          // The elements end where the view does; behind it is a page that may not be touched.
          const body: Instr[] = [
            { o: 'viewBase', dst: p, index: 0 },
            { o: 'viewBase', dst: q, index: 1 },
            { o: 'viewBase', dst: r, index: 2 },
            { o: 'iconst', dst: c, value: count },
            { o: 'vloadpart', dst: v, type, from: { base: p, displacement: viewBytes - used }, count: c },
            { o: 'vstore', src: v, type: wide, to: { base: q, displacement: 0 } },
            { o: 'vload', dst: w, type: wide, from: { base: p, displacement: 128 } },
            { o: 'vstorepart', src: w, type, to: { base: r, displacement: viewBytes - used }, count: c },
            { o: 'vstorepart', src: v, type, to: { base: r, displacement: 64 }, count: c },
          ];
          const [special] = pairs(isFloat(type) ? floats : integers);
          const outcome = runBoth(isa, loopFunction(isa, 3, body), [special, noise(2), noise(3)]);
          assertEqual(outcome, 1, wide, `load ${count} of ${type}`);
          assertEqual(outcome, 2, viewOf(type), `store ${count} of ${type}`);
        }
      });
    }

    test('counts far outside of the lanes, and counts that change', () => {
      const n = new Names();
      const [p, q, c, i, v] = [n.i(), n.i(), n.i(), n.i(), n.v()];
      const body: Instr[] = [
        { o: 'viewBase', dst: p, index: 0 },
        { o: 'viewBase', dst: q, index: 1 },
      ];
      let at = 0;
      for (const value of [
        2 ** 32 + 3,
        -(2 ** 32) + 3,
        -1,
        2 ** 40,
        -(2 ** 30),
        5,
        300,
        256,
        0,
        2 ** 31,
        1,
      ]) {
        body.push(
          { o: 'iconst', dst: c, value },
          { o: 'vloadpart', dst: v, type: 'f32', from: { base: p, displacement: 4 }, count: c },
          { o: 'vstore', src: v, type: 'f32', to: { base: q, displacement: at } },
        );
        at += 4 * lanes;
      }
      const inner: Instr[] = [
        { o: 'vloadpart', dst: v, type: 'f32', from: { base: p, displacement: 4 }, count: i },
        { o: 'vstorepart', src: v, type: 'f32', to: { base: q, displacement: at }, count: i },
        { o: 'vstorepart', src: v, type: 'f32', to: { base: q, displacement: at + 64 }, count: c },
      ];
      body.push({ o: 'for', index: i, lo: 0, hi: 9, step: 2, body: inner });
      assertEqual(runBoth(isa, loopFunction(isa, 2, body), [noise(5)]), 1, 'i32', 'counts');
    });

    test('vtranspose', () => {
      for (const [rows, columns] of [
        ...Array.from({ length: lanes }, (_, i) => [lanes, i + 1]),
        ...Array.from({ length: lanes }, (_, i) => [i + 1, lanes]),
        [1, 1],
        [3, 5],
        [5, 7],
        [4, 4],
        [7, 6],
      ]) {
        const n = new Names();
        const [p, q, i] = [n.i(), n.i(), n.i()];
        const body: Instr[] = [
          { o: 'viewBase', dst: p, index: 0 },
          { o: 'viewBase', dst: q, index: 1 },
          { o: 'iconst', dst: i, value: 3 },
          {
            o: 'vtranspose',
            from: { base: p, index: i, scale: 4, displacement: 4 },
            fromStride: 4 * columns + 12,
            to: { base: q, displacement: 8 },
            toStride: 4 * rows + 4,
            rows,
            columns,
          },
        ];
        const outcome = runBoth(isa, loopFunction(isa, 2, body), [noise(11), noise(12)]);
        assertEqual(outcome, 1, 'i32', `transpose ${rows} x ${columns}`);
      }
    });
  });

  describe(`${isa}: integers`, () => {
    const values = [
      0,
      1,
      -1,
      2,
      3,
      7,
      8,
      -7,
      -8,
      100,
      1000003,
      2 ** 31 - 1,
      -(2 ** 31),
      2 ** 40 + 5,
      -(2 ** 52),
    ];
    const immediates = [0, 1, -1, 2, 8, 1024, 2 ** 30, 3, 10, -3, 12345, 2 ** 31 - 1, -(2 ** 31), 2 ** 35];
    const fns: readonly IntBinary[] = [
      ...(['add', 'sub', 'mul', 'div', 'rem', 'and', 'or', 'xor', 'shl', 'shr', 'min', 'max'] as const),
      ...(['lt', 'le', 'gt', 'ge', 'eq', 'ne'] as const),
    ];

    /** Stores all 64 bits. */
    const keep = (n: Names, base: IntReg, at: number, src: IntReg): Instr[] => {
      const high = n.i();
      return [
        { o: 'istore', src, type: 'i32', to: { base, displacement: at } },
        { o: 'ibin', fn: 'shr', dst: high, a: src, b: 32 },
        { o: 'istore', src: high, type: 'i32', to: { base, displacement: at + 4 } },
      ];
    };

    for (const fn of fns) {
      test(fn, () => {
        const shift = fn === 'shl' || fn === 'shr';
        for (const where of ['new', 'a', 'b', 'same', 'immediate', 'immediate in place'] as const) {
          const n = new Names();
          const base = n.i();
          const body: Instr[] = [{ o: 'viewBase', dst: base, index: 0 }];
          let at = 0;
          const seconds = where.startsWith('immediate') ? immediates : values;
          for (const x of values) {
            for (const y of shift ? [0, 1, 5, 31, 40, 63] : seconds) {
              const [a, b, dst] = [n.i(), n.i(), n.i()];
              body.push({ o: 'iconst', dst: a, value: x });
              if (where === 'immediate' || where === 'immediate in place') {
                const target = where === 'immediate' ? dst : a;
                body.push({ o: 'ibin', fn, dst: target, a, b: y }, ...keep(n, base, at, target));
                if (target !== a) body.push(...keep(n, base, at + 8, a));
              } else {
                body.push({ o: 'iconst', dst: b, value: y });
                const target = { new: dst, a, b, same: a }[where];
                body.push({ o: 'ibin', fn, dst: target, a, b: where === 'same' && !shift ? a : b });
                body.push(...keep(n, base, at, target));
                if (where === 'new') body.push(...keep(n, base, at + 8, a));
              }
              at = (at + 16) % viewBytes;
            }
          }
          assertEqual(runBoth(isa, loopFunction(isa, 1, body), []), 0, 'i32', `${fn}, ${where}`);
        }
      });
    }

    test('division at the edge of 64 bits', () => {
      const n = new Names();
      const [base, a, b, quotient, rest, constant] = [n.i(), n.i(), n.i(), n.i(), n.i(), n.i()];
      const body: Instr[] = [
        { o: 'viewBase', dst: base, index: 0 },
        { o: 'iconst', dst: a, value: -(2 ** 63) },
        { o: 'iconst', dst: b, value: -1 },
        { o: 'ibin', fn: 'div', dst: quotient, a, b },
        { o: 'ibin', fn: 'rem', dst: rest, a, b },
        { o: 'ibin', fn: 'div', dst: constant, a, b: -1 },
        ...keep(n, base, 0, quotient),
        ...keep(n, base, 8, rest),
        ...keep(n, base, 16, constant),
      ];
      assertEqual(runBoth(isa, loopFunction(isa, 1, body), [noise(1)]), 0, 'i32', 'division');
    });

    test('iselect, iwrap, imove, iload, istore', () => {
      const n = new Names();
      const [p, q, i] = [n.i(), n.i(), n.i()];
      const inner: Instr[] = [];
      let at = 0;
      for (const type of ['i32', 'i8', 'u8', 'u16'] as const) {
        const dst = n.i();
        inner.push({ o: 'iload', dst, type, from: { base: p, index: i, scale: 2, displacement: 3 } });
        inner.push(...keep(n, q, at, dst));
        at += 8;
        for (const aliased of ['new', 'a', 'b', 'c'] as const) {
          const [c, a, b, chosen] = [n.i(), n.i(), n.i(), n.i()];
          inner.push({ o: 'ibin', fn: 'and', dst: c, a: dst, b: 1 });
          inner.push({ o: 'imove', dst: a, a: dst });
          inner.push({ o: 'ibin', fn: 'mul', dst: b, a: dst, b: 0x10001 });
          inner.push({ o: 'iwrap', dst: b, a: b });
          const target = { new: chosen, a, b, c }[aliased];
          inner.push({ o: 'iselect', dst: target, c, a, b }, ...keep(n, q, at, target));
          at += 8;
        }
      }
      for (const type of ['i32', 'u8', 'u16'] as const) {
        const to = { base: q, index: i, scale: 4, displacement: 1024 + at } as const;
        inner.push({ o: 'istore', src: i, type, to });
        at += 700;
      }
      const body: Instr[] = [
        { o: 'viewBase', dst: p, index: 0 },
        { o: 'viewBase', dst: q, index: 1 },
        { o: 'for', index: i, lo: 0, hi: 100, step: 1, body: inner },
      ];
      assertEqual(runBoth(isa, loopFunction(isa, 2, body), [noise(21)]), 1, 'i32', 'integers');
    });
  });

  describe(`${isa}: control flow`, () => {
    test('loops that run from never to often, with bounds in registers and constants, and branches', () => {
      for (const [from, to] of [
        [0, 0],
        [3, 2],
        [0, 1],
        [2, 9],
      ] as const) {
        const n = new Names();
        const [base, lo, hi, i, j, sum, last] = [n.i(), n.i(), n.i(), n.i(), n.i(), n.i(), n.i()];
        const body: Instr[] = [
          { o: 'viewBase', dst: base, index: 0 },
          { o: 'parameter', dst: lo, which: 'from' },
          { o: 'parameter', dst: hi, which: 'to' },
          { o: 'iconst', dst: sum, value: 1 },
          { o: 'iconst', dst: last, value: -7 },
          {
            o: 'for',
            index: i,
            lo,
            hi,
            step: 2,
            body: [
              {
                o: 'for',
                index: j,
                lo: i,
                hi: 6,
                step: 1,
                body: [
                  {
                    o: 'if',
                    a: j,
                    cmp: 'gt',
                    b: 3,
                    then: [{ o: 'ibin', fn: 'mul', dst: sum, a: sum, b: 3 }],
                    else: [
                      { o: 'if', a: sum, cmp: 'ne', b: j, then: [{ o: 'imove', dst: last, a: i }], else: [] },
                    ],
                  },
                  { o: 'ibin', fn: 'add', dst: sum, a: sum, b: j },
                ],
              },
              { o: 'istore', src: last, type: 'i32', to: { base, index: i, scale: 4, displacement: 64 } },
            ],
          },
          { o: 'istore', src: sum, type: 'i32', to: { base, displacement: 0 } },
          { o: 'istore', src: last, type: 'i32', to: { base, displacement: 4 } },
          { o: 'istore', src: i, type: 'i32', to: { base, displacement: 8 } },
        ];
        const outcome = runBoth(isa, loopFunction(isa, 1, body), [], [from, to]);
        assertEqual(outcome, 0, 'i32', `from ${from} to ${to}`);
      }
    });

    test('every comparison of a branch', () => {
      const n = new Names();
      const [base, i, b] = [n.i(), n.i(), n.i()];
      const inner: Instr[] = [];
      let at = 0;
      for (const cmp of ['lt', 'le', 'gt', 'ge', 'eq', 'ne'] as const) {
        for (const second of [0, 2, -1, b, 2 ** 33]) {
          const mark = n.i();
          const store = {
            o: 'istore',
            src: mark,
            type: 'u8',
            to: { base, index: i, displacement: at },
          } as const;
          const other = { ...store, to: { ...store.to, displacement: at + 2048 } };
          inner.push({ o: 'ibin', fn: 'add', dst: mark, a: i, b: 77 });
          inner.push({ o: 'if', a: i, cmp, b: second, then: [store], else: [other] });
          at += 10;
        }
      }
      const body: Instr[] = [
        { o: 'viewBase', dst: base, index: 0 },
        { o: 'ibin', fn: 'add', dst: base, a: base, b: 16 },
        { o: 'iconst', dst: b, value: 1 },
        { o: 'for', index: i, lo: -4, hi: 5, step: 1, body: inner },
      ];
      assertEqual(runBoth(isa, loopFunction(isa, 1, body), []), 0, 'u8', 'branches');
    });

    test('scratch memory is the second parameter', () => {
      const n = new Names();
      const [scratch, value] = [n.i(), n.i()];
      const body: Instr[] = [
        { o: 'parameter', dst: scratch, which: 'scratch' },
        { o: 'iconst', dst: value, value: 4711 },
        { o: 'istore', src: value, type: 'i32', to: { base: scratch, displacement: 12 } },
      ];
      const outcome = runBoth(isa, loopFunction(isa, 1, body), []);
      assertEqual(outcome, 1, 'i32', 'scratch');
      assert.equal(outcome.machine[1].getInt32(12, true), 4711);
    });
  });

  describe(`${isa}: register allocation`, () => {
    test('more vectors than registers, in nested loops', () => {
      const n = new Names();
      const [p, q, i, j] = [n.i(), n.i(), n.i(), n.i()];
      const sums = Array.from({ length: 45 }, () => n.v());
      const body: Instr[] = [
        { o: 'viewBase', dst: p, index: 0 },
        { o: 'viewBase', dst: q, index: 1 },
        ...sums.map((dst, s): Instr => ({ o: 'vconst', dst, bits: s })),
        {
          o: 'for',
          index: i,
          lo: 0,
          hi: 5,
          step: 1,
          body: [
            ...sums.map(
              (dst, s): Instr => ({ o: 'vbin', fn: 'iadd', dst, a: dst, b: sums[(s * 7 + 1) % sums.length] }),
            ),
            {
              o: 'for',
              index: j,
              lo: i,
              hi: 6,
              step: 1,
              body: sums.slice(0, 40).flatMap((dst, s): Instr[] => {
                const x = n.v();
                return [
                  {
                    o: 'vload',
                    dst: x,
                    type: 'i32',
                    from: { base: p, index: j, scale: 8, displacement: 8 * s },
                  },
                  { o: 'vbin', fn: 'xor', dst, a: dst, b: x },
                  { o: 'vbin', fn: 'iadd', dst: sums[s + 5], a: x, b: dst },
                ];
              }),
            },
          ],
        },
        ...sums.map(
          (src, s): Instr => ({
            o: 'vstore',
            src,
            type: 'i32',
            to: { base: q, displacement: 4 * lanes * s },
          }),
        ),
      ];
      const outcome = runBoth(isa, loopFunction(isa, 2, body), [noise(31)]);
      assertEqual(outcome, 1, 'i32', 'vectors');
      assert.ok(outcome.spillWeight > 0);
    });

    test('more integers than registers, with divisions and shifts between them', () => {
      const n = new Names();
      const [base, i, j, k] = [n.i(), n.i(), n.i(), n.i()];
      const all = Array.from({ length: 24 }, () => n.i());
      const next = (s: number) => all[(s + 1) % all.length];
      const fns: readonly IntBinary[] = [
        'add',
        'sub',
        'mul',
        'div',
        'rem',
        'xor',
        'min',
        'max',
        'or',
        'and',
        'lt',
      ];
      const mix = (index: IntReg): Instr[] =>
        all.flatMap((dst, s): Instr[] => {
          const count = n.i();
          return [
            { o: 'ibin', fn: fns[s % fns.length], dst, a: next(s), b: dst },
            { o: 'ibin', fn: 'and', dst: count, a: dst, b: 15 },
            { o: 'ibin', fn: s % 2 ? 'shl' : 'shr', dst: count, a: next(s), b: count },
            { o: 'ibin', fn: 'add', dst, a: count, b: index },
            { o: 'iwrap', dst, a: dst },
          ];
        });
      const body: Instr[] = [
        { o: 'viewBase', dst: base, index: 0 },
        ...all.map(
          (dst, s): Instr => ({ o: 'iload', dst, type: 'i32', from: { base, displacement: 4 * s } }),
        ),
        {
          o: 'for',
          index: i,
          lo: 0,
          hi: 4,
          step: 1,
          body: [
            ...mix(i),
            {
              o: 'for',
              index: j,
              lo: i,
              hi: 5,
              step: 1,
              body: [...mix(j), { o: 'for', index: k, lo: 0, hi: j, step: 1, body: mix(k) }],
            },
          ],
        },
        ...all.map(
          (src, s): Instr => ({ o: 'istore', src, type: 'i32', to: { base, displacement: 512 + 4 * s } }),
        ),
      ];
      const outcome = runBoth(isa, loopFunction(isa, 1, body), [noise(32)]);
      assertEqual(outcome, 0, 'i32', 'integers');
      assert.ok(outcome.spillWeight > 0);
    });

    test('a full register tile neither spills nor moves', () => {
      const [rows, vectors] = isa === 'avx512' ? [14, 2] : [6, 2];
      const tile = (fresh: boolean) => {
        const n = new Names();
        const [p, q, r] = [n.i(), n.i(), n.i()];
        const sums = Array.from({ length: rows * vectors }, () => n.v());
        const inner: Instr[] = [];
        let current = sums;
        for (let u = 0; u < 2; u++) {
          const panel = Array.from({ length: vectors }, () => n.v());
          panel.forEach((dst, j) => {
            inner.push({ o: 'vload', dst, type: 'f32', from: { base: q, displacement: 64 * (2 * u + j) } });
          });
          current = current.map((c, s) => {
            const x = n.v();
            const dst = fresh ? n.v() : c;
            const displacement = 4 * Math.floor(s / vectors);
            if (s % vectors === 0)
              inner.push({ o: 'vbroadcast', dst: x, type: 'f32', from: { base: p, displacement } });
            const shared =
              s % vectors === 0 ? x : (inner.findLast(({ o }) => o === 'vbroadcast') as { dst: VecReg }).dst;
            inner.push({ o: 'vfma', dst, a: shared, b: panel[s % vectors], c });
            return dst;
          });
        }
        if (fresh) inner.push(...sums.map((dst, s): Instr => ({ o: 'vmove', dst, a: current[s] })));
        return generate(
          loopFunction(isa, 3, [
            ...[p, q, r].map((dst, index): Instr => ({ o: 'viewBase', dst, index })),
            ...sums.map((dst): Instr => ({ o: 'vconst', dst, bits: 0 })),
            { o: 'for', index: n.i(), lo: 0, hi: 100, step: 1, body: inner },
            ...sums.map(
              (src): Instr => ({ o: 'vstore', src, type: 'f32', to: { base: r, displacement: 0 } }),
            ),
          ]),
          isa,
        );
      };
      const [reused, fresh] = [tile(false), tile(true)];
      assert.equal(reused.spillWeight, 0);
      assert.equal(fresh.spillWeight, 0);
      assert.deepEqual(fresh.code, reused.code);
    });
  });

  test(`${isa}: what is not supported is refused by name`, () => {
    const n = new Names();
    const base = n.i();
    const fn = loopFunction(isa, 1, [
      { o: 'viewBase', dst: base, index: 0 },
      { o: 'vload', dst: n.v(), type: 'f8e4m3', from: { base, displacement: 0 } },
    ]);
    assert.match(unsupported(fn, isa) ?? '', /vload of f8e4m3 is not supported/);
    assert.throws(() => generate(fn, isa), /vload of f8e4m3 is not supported/);
    assert.throws(() => generate({ ...fn, lanes: 4 }, isa), /vectors of 4 lanes/);
  });
}
