/** Lanewise vector instructions as machine code, on both vector extensions, against the interpreter. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { HorizontalFn, Instr, VecBinary, VecReg, VecUnary } from '../../src/accelerators/loops/ir.ts';
import { VANISHING } from '../../src/accelerators/loops/ir.ts';
import { assertEqual, elementwise, floats, integers, noise, pairs } from './loop-cases.ts';
import { extensions, lanesOf, loopFunction, Names, runBoth, runnable, viewBytes } from './loop-runner.ts';

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

for (const isa of runnable) {
  const lanes = lanesOf[isa];

  describe(`${isa}: lanewise`, () => {
    for (const fn of allBinary) {
      test(fn, () => {
        const float = (floatBinary as readonly string[]).includes(fn);
        const inputs = float || (floatCompare as readonly string[]).includes(fn) ? floats : integers;
        const [a, b] = pairs(inputs);
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
          assertEqual(outcome, 2, float ? 'f32' : 'i32', `${fn}, ${where}`);
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

    for (const o of ['vdot2', 'vdot4'] as const) {
      test(`${o} in every arrangement of registers, with extensions where they are there and without`, () => {
        // What is not normal may count as 0.
        const halves = pairs(integers.map((bits) => (bits & 0xbfffbfff) | 0x20002000));
        const [a, b] = o === 'vdot2' ? halves : pairs(integers);
        for (const used of [{}, extensions]) {
          for (const where of ['new', 'a', 'b', 'c', 'square', 'all'] as const) {
            const program = elementwise(isa, (n, va, vb) => {
              const c = n.v();
              const code: Instr[] = [
                { o: 'vbin', dst: c, fn: o === 'vdot2' ? 'fsub' : 'isub', a: vb, b: va },
              ];
              const dst = { new: n.v(), a: va, b: vb, c, square: c, all: va }[where];
              if (where === 'square') code.push({ o, dst, a: va, b: va, c });
              else if (where === 'all') code.push({ o, dst, a: va, b: va, c: va });
              else code.push({ o, dst, a: va, b: vb, c });
              return { dst, code };
            });
            const type = o === 'vdot2' ? 'f32' : 'i32';
            assertEqual(runBoth(isa, program, [a, b], [0, 1], used), 2, type, `${o} ${where}`);
          }
        }
      });
    }

    if (isa === 'avx512')
      test('vscale in every arrangement of registers', () => {
        const exponents = [-300, VANISHING, VANISHING + 1, -150, -149, -127, -126, -1, 0, 1, 127, 128, 300];
        const all = [...exponents, Number.NaN, Number.NEGATIVE_INFINITY];
        const count = viewBytes / 4;
        const a = Float32Array.from({ length: count }, (_, i) => floats[i % floats.length]);
        const n = Float32Array.from(
          { length: count },
          (_, i) => all[Math.floor(i / floats.length) % all.length],
        );
        const inputs = [a, n].map(({ buffer }) => new Uint8Array(buffer));
        assert.ok(count >= floats.length * all.length);
        for (const where of ['new', 'a', 'n'] as const) {
          const program = elementwise(isa, (names, va, vn) => {
            const dst = { new: names.v(), a: va, n: vn }[where];
            return { dst, code: [{ o: 'vscale', dst, a: va, n: vn }] };
          });
          assertEqual(runBoth(isa, program, inputs), 2, 'f32', `vscale, ${where}`);
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
}
