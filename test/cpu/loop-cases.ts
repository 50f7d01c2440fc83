/** Values and comparisons that the tests of code generation share. */

import assert from 'node:assert/strict';
import type { Isa } from '../../src/accelerators/cpu/codegen.ts';
import type { Instr, IntReg, VecReg } from '../../src/accelerators/loops/ir.ts';
import { lanesOf, loopFunction, Names, type Outcome, viewBytes } from './loop-runner.ts';

export const floats = Float32Array.of(
  ...[0, -0, 1, -1, 0.5, -0.5, 1.5, 2.5, 3.25, -7.75, Number.NaN, 1 / 0, -1 / 0, 1e-40, -1e-40, 3.4e38],
  ...[1.2e-38, 2 ** 31, -(2 ** 31), 2147483520, 2 ** 32, 4294967040, 3e9, -3e9, 65519, 65520, 5.9e-8, 2.9e-8],
  ...[8388607.5, 16777216, 1.00390625, 1.01171875],
);
export const integers = Int32Array.of(
  ...[0, 1, -1, 2, 3, 7, 15, 16, 31, 32, 33, 63, 64, 255, 256, -2, -31, -32, -256, 0x7fff, 0x8000, 0xffff],
  ...[0x10000, 0x7fffffff, -0x80000000, 0x12345678, -0x12345678, 0x55555555, 123456789, 0x01000001, -0x7f],
);

/** All pairs of the values, one in each of two arrays, repeated to fill a view. 32 values at most. */
export function pairs(values: Int32Array | Float32Array): [Uint8Array, Uint8Array] {
  const [a, b] = [new Int32Array(viewBytes / 4), new Int32Array(viewBytes / 4)];
  const bits = new Int32Array(values.buffer);
  for (let i = 0; i < a.length; i++) {
    a[i] = bits[i % bits.length];
    b[i] = bits[Math.floor(i / bits.length) % bits.length];
  }
  return [new Uint8Array(a.buffer), new Uint8Array(b.buffer)];
}

export const noise = (seed: number): Uint8Array => {
  let state = seed;
  return Uint8Array.from(
    { length: viewBytes },
    () => (state = (Math.imul(state, 1664525) + 1013904223) | 0) >>> 24,
  );
};

export type View = 'f32' | 'i32' | 'bf16' | 'f16' | 'u8';
export const isNaNBits: { readonly [V in View]: (view: DataView, at: number) => boolean } = {
  f32: (view, at) => Number.isNaN(view.getFloat32(at, true)),
  bf16: (view, at) => (view.getUint16(at, true) & 0x7fff) > 0x7f80,
  f16: (view, at) => (view.getUint16(at, true) & 0x7fff) > 0x7c00,
  i32: () => false,
  u8: () => false,
};
const viewSizes: { readonly [V in View]: 1 | 2 | 4 } = { f32: 4, i32: 4, bf16: 2, f16: 2, u8: 1 };

/** Compares a view element by element; of floating-point numbers, any NaN is like any other. */
export function assertEqual(
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
export function elementwise(
  isa: Isa,
  body: (n: Names, a: VecReg, b: VecReg) => { dst: VecReg; code: Instr[] },
) {
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
