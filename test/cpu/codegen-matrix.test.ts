/** Matrix registers in machine code, compared with the interpreter of loops. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Instr, MatrixShape } from '../../src/accelerators/loops/ir.ts';
import { f32ToBf16 } from '../../src/numerics/float.ts';
import { Random } from '../../src/numerics/random.ts';
import { hasMatrixRegisters, loopFunction, Names, runBoth, viewBytes } from './loop-runner.ts';

const normals = (count: number, seed: number) => {
  const random = new Random(seed, 'codegen-matrix', 0);
  return Float32Array.from({ length: count }, () => random.normal());
};
const floats = (count: number, seed: number) => new Uint8Array(normals(count, seed).buffer);
const numbers = (count: number, seed: number) => new Uint8Array(f32ToBf16(normals(count, seed)).buffer);
const bytes = (count: number, seed: number) => {
  const random = new Random(seed, 'codegen-matrix', 1);
  return Uint8Array.from({ length: count }, () => Math.floor(256 * random.float()));
};

/** Rows, and elements of a row of a, of b's columns. */
const SIZES = [
  [16, 16, 16],
  [1, 16, 16],
  [7, 3, 16],
  [16, 1, 5],
  [13, 11, 9],
] as const;
const stride = 100;

describe('matrix registers', { skip: hasMatrixRegisters ? false : 'this processor has no AMX' }, () => {
  for (const of of ['pairs', 'quads'] as const)
    for (const begin of ['mzero', 'mload'] as const)
      test(`products of ${of} after ${begin}`, () => {
        for (const [rows, elements, columns] of SIZES) {
          const names = new Names();
          const [a, b, c, step] = [names.i(), names.i(), names.i(), names.i()];
          const shapes: MatrixShape[] = [
            { rows, bytes: 4 * columns },
            { rows, bytes: 4 * elements },
            { rows: elements, bytes: 4 * columns },
          ];
          const body: Instr[] = [
            ...[a, b, c].map((dst, index): Instr => ({ o: 'viewBase', dst, index })),
            { o: 'iconst', dst: step, value: stride },
            { o: 'mshape', shapes },
            begin === 'mzero'
              ? { o: 'mzero', register: 0 }
              : { o: 'mload', register: 0, from: { base: c, displacement: 8 }, stride: step },
            { o: 'mload', register: 1, from: { base: a, displacement: 4 }, stride: step },
            { o: 'mload', register: 2, from: { base: b, displacement: 0 }, stride: step },
            { o: 'mdot', of, sum: 0, a: 1, b: 2 },
            { o: 'mdot', of, sum: 0, a: 1, b: 2 },
            { o: 'mstore', register: 0, to: { base: c, displacement: 8 }, stride: step },
          ];
          const make = of === 'pairs' ? numbers : bytes;
          const sums = of === 'pairs' ? floats(viewBytes / 4, 3) : bytes(viewBytes, 3);
          const contents = [make(viewBytes / 2, 1), make(viewBytes / 2, 2), sums];
          const { machine, interpreter } = runBoth('avx512', loopFunction('avx512', 3, body), contents);
          const words = ({ buffer }: DataView<ArrayBuffer>) => new Uint32Array(buffer);
          assert.deepEqual(words(machine[2]), words(interpreter[2]), `${rows} x ${elements} x ${columns}`);
          assert.notDeepEqual(new Uint8Array(machine[2].buffer), sums, 'nothing was written');
        }
      });

  test('shapes change between products', () => {
    const names = new Names();
    const [from, to, step] = [names.i(), names.i(), names.i()];
    const body: Instr[] = [
      { o: 'viewBase', dst: from, index: 0 },
      { o: 'viewBase', dst: to, index: 1 },
      { o: 'iconst', dst: step, value: 64 },
      ...[3, 16, 5].flatMap((rows, index): Instr[] => [
        { o: 'mshape', shapes: [{ rows, bytes: 4 * rows }] },
        { o: 'mload', register: 0, from: { base: from, displacement: 0 }, stride: step },
        { o: 'mstore', register: 0, to: { base: to, displacement: 1024 * index }, stride: step },
      ]),
    ];
    const { machine, interpreter } = runBoth('avx512', loopFunction('avx512', 2, body), [bytes(1024, 4)]);
    assert.deepEqual(new Uint8Array(machine[1].buffer), new Uint8Array(interpreter[1].buffer));
  });
});
