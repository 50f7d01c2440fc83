/** Norms of rows, forward and backward. */
import { rmsNorm, rmsNormBackward, rmsNormWeightPartial } from '../../src/kernels/norm.ts';
import type { Case } from './buffers.ts';
import { normals } from './buffers.ts';
import { rmsNormReference } from './references.ts';
import { type Storage, TOLERANCE } from './storage.ts';

export function normCases(type: Storage): Case[] {
  const tolerance = TOLERANCE[type];
  const [rows, columns, eps] = [71, 37, 1e-6];
  const [x, weight, dy] = [
    normals(21, rows * columns, type),
    normals(22, columns, type),
    normals(23, rows * columns, type),
  ];
  const o = { rows, columns, eps, xType: type, yType: type, weightType: type };
  const r = rmsNormReference(x, weight, rows, columns, eps, dy);
  const partial = [0, 64].flatMap((from) =>
    Array.from({ length: columns }, (_, c) => {
      let sum = 0;
      for (let row = from; row < Math.min(rows, from + 64); row++) sum += r.contributions[row * columns + c];
      return sum;
    }),
  );
  return [
    { name: `rmsNorm ${type}`, kernel: rmsNorm(o), inputs: { x, weight }, expected: { y: r.y }, tolerance },
    {
      name: `rmsNorm dx ${type}`,
      kernel: rmsNormBackward(o),
      inputs: { x, weight, dy },
      expected: { dx: r.dx },
      tolerance,
    },
    {
      name: `rmsNorm dweight ${type}`,
      kernel: rmsNormWeightPartial(o),
      inputs: { x, dy },
      expected: { partial },
      tolerance: { atol: 2e-5, rtol: 1e-5 },
    },
  ];
}
