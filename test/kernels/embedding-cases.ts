/** Rows of a table, and the table in other layouts and types. */
import { convertKernel } from '../../src/kernels/convert.ts';
import { embedding, embeddingBackward } from '../../src/kernels/embedding.ts';
import { packTransposed } from '../../src/kernels/panels.ts';
import { transpose } from '../../src/kernels/transpose.ts';
import type { Case } from './buffers.ts';
import { normals } from './buffers.ts';
import { panels, turned, words } from './layouts.ts';
import { exact, type Storage, TOLERANCE } from './storage.ts';

export function embeddingCases(type: Storage): Case[] {
  const ids = [3, 0, 3, -1, 6, 99, 3];
  const table = normals(28, 7 * 70, type);
  const dx = normals(29, ids.length * 70, type);
  const dtable = new Float64Array(7 * 70);
  ids.forEach((id, t) => {
    if (id >= 0 && id < 7) for (let c = 0; c < 70; c++) dtable[id * 70 + c] += dx[t * 70 + c];
  });
  const e = { tokens: ids.length, vocabulary: 7, columns: 70, tableType: type, type };
  return [
    {
      name: `embedding ${type}`,
      kernel: embedding(e),
      inputs: { ids, table },
      expected: { x: ids.flatMap((id) => Array.from({ length: 70 }, (_, c) => table[id * 70 + c] ?? 0)) },
      tolerance: exact,
    },
    {
      name: `embedding backward ${type}`,
      kernel: embeddingBackward(e),
      inputs: { ids, dx },
      expected: { dtable },
      tolerance: TOLERANCE.f32,
    },
    {
      name: `transpose ${type}`,
      kernel: transpose({ rows: 7, columns: 70, type }),
      inputs: { x: table },
      expected: { y: turned(table, 7, 70) },
      tolerance: exact,
    },
    {
      name: `embedding in panels ${type}`,
      kernel: embedding({ ...e, vocabulary: 8, panel: 4 }),
      inputs: { ids, table: panels(turned(table, 7, 70), 70, 7, 4, type) },
      expected: { x: ids.flatMap((id) => Array.from({ length: 70 }, (_, c) => table[id * 70 + c] ?? 0)) },
      tolerance: exact,
    },
    ...([70, 69] as const).flatMap((rows) => {
      const x = table.slice(0, 7 * rows);
      const y = panels(turned(x, 7, rows), rows, 7, 4, type);
      const twoBytes = type === 'bf16' && rows % 2 === 0;
      const pack = { columns: 7, rows, width: 4, yType: type };
      return [
        {
          name: `pack ${rows} rows of ${type}`,
          kernel: packTransposed({ ...pack, type }),
          inputs: { x: twoBytes ? words(x) : x },
          expected: { y: twoBytes ? words(y) : y },
          tolerance: exact,
        },
        {
          name: `pack ${rows} rows f32 as ${type}`,
          kernel: packTransposed({ ...pack, type: 'f32' }),
          inputs: { x },
          expected: { y },
          tolerance: exact,
        },
      ];
    }),
    {
      name: `convert ${type}`,
      kernel: convertKernel({ size: 490, from: type, to: type === 'f32' ? 'bf16' : 'f32' }),
      inputs: { x: table },
      expected: { y: table },
      tolerance: TOLERANCE.bf16,
    },
  ];
}
