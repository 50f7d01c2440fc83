/** Vector loads and stores as machine code, on both vector extensions, against the interpreter. */

import { describe, test } from 'node:test';
import type { Instr, MemoryType } from '../../src/accelerators/loops/ir.ts';
import { assertEqual, floats, integers, noise, pairs, type View } from './loop-cases.ts';
import { lanesOf, loopFunction, Names, runBoth, runnable, viewBytes } from './loop-runner.ts';

for (const isa of runnable) {
  const lanes = lanesOf[isa];

  describe(`${isa}: memory`, () => {
    const types: readonly Exclude<MemoryType, 'f8e4m3' | 'f8e5m2'>[] = [
      'f32',
      'i32',
      'u32',
      'bf16',
      'f16',
      'i8',
      'u8',
      'u16',
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
}
