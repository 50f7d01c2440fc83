/** Integers, control flow and register allocation as machine code, against the interpreter. */

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { generate, unsupported } from '../../src/accelerators/cpu/codegen.ts';
import type { Instr, IntBinary, IntReg, VecReg } from '../../src/accelerators/loops/ir.ts';
import { assertEqual, noise } from './loop-cases.ts';
import { isas, lanesOf, loopFunction, Names, runBoth, runnable, viewBytes } from './loop-runner.ts';

for (const isa of isas) {
  test(`${isa}: this machine runs it`, {
    skip: runnable.includes(isa) ? false : 'the processor lacks it',
  }, () => {
    const [base, value] = [new Names().i(), { id: 9, class: 'i' } as const];
    const outcome = runBoth(
      isa,
      loopFunction(isa, 1, [
        { o: 'viewBase', dst: base, index: 0 },
        { o: 'iconst', dst: value, value: 77 },
        { o: 'istore', src: value, type: 'u8', to: { base, displacement: 0 } },
      ]),
      [],
    );
    assert.equal(outcome.machine[0].getUint8(0), 77);
  });
}

for (const isa of runnable) {
  const lanes = lanesOf[isa];

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

    test('what only lives through the innermost loop is spilled around it, not in it', () => {
      const n = new Names();
      const [p, q, i, j] = [n.i(), n.i(), n.i(), n.i()];
      const through = Array.from({ length: 10 }, () => n.v());
      const sums = Array.from({ length: isa === 'avx512' ? 28 : 12 }, () => n.v());
      const x = n.v();
      const at = (base: IntReg, displacement: number) => ({ base, displacement });
      const body: Instr[] = [
        { o: 'viewBase', dst: p, index: 0 },
        { o: 'viewBase', dst: q, index: 1 },
        {
          o: 'for',
          index: i,
          lo: 0,
          hi: 3,
          step: 1,
          body: [
            ...[...through, ...sums].map(
              (dst, s): Instr => ({ o: 'vload', dst, type: 'i32', from: at(p, 64 * s) }),
            ),
            {
              o: 'for',
              index: j,
              lo: 0,
              hi: 4,
              step: 1,
              body: [
                { o: 'vload', dst: x, type: 'i32', from: { base: p, index: j, scale: 8, displacement: 0 } },
                ...sums.map((dst): Instr => ({ o: 'vbin', fn: 'iadd', dst, a: dst, b: x })),
                ...sums.map((dst): Instr => ({ o: 'vbin', fn: 'xor', dst, a: dst, b: x })),
              ],
            },
            ...[...through, ...sums].map(
              (src, s): Instr => ({ o: 'vstore', src, type: 'i32', to: at(q, 64 * s) }),
            ),
          ],
        },
      ];
      const outcome = runBoth(isa, loopFunction(isa, 2, body), [noise(33)]);
      assertEqual(outcome, 1, 'i32', 'through');
      // One store and one reload each, in the outer loop where they weigh 10, of as many as there is no room for.
      const excess = through.length + sums.length + 1 - (isa === 'avx512' ? 32 : 16);
      assert.equal(outcome.spillWeight, excess * 2 * 10);
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
