/** Cases of quantized matrices, with plain definitions of how they are quantized. */
import type { QuantizedType } from '../../src/kernels/quantized.ts';
import {
  quantizeColumns,
  quantizedEmbedding,
  quantizedMatmul,
  quantizedShape,
} from '../../src/kernels/quantized.ts';
import { quantizeRows } from '../../src/kernels/quantized-rows.ts';
import { bf16BitsToF32, f32ToBf16Bits } from '../../src/numerics/float.ts';
import type { Case } from './buffers.ts';
import { normals } from './buffers.ts';

const { fround } = Math;
const PANEL = 32;

/** Four bytes as an i32, the first in the low byte. */
const word = (bytes: readonly number[]): number =>
  bytes.reduce((sum, byte, place) => sum | ((byte & 0xff) << (8 * place)), 0);

const whole = (x: number, low: number, high: number): number => {
  const nearest = Math.floor(fround(x + 0.5));
  return Number.isNaN(nearest) ? 0 : Math.min(high, Math.max(low, nearest));
};

interface Group {
  readonly values: readonly number[];
  readonly scale: number;
}

function groupsOf(values: readonly number[], size: number, quantize: (group: readonly number[]) => Group) {
  return Array.from({ length: values.length / size }, (_, i) =>
    quantize(values.slice(i * size, (i + 1) * size)),
  );
}

function rowGroup(values: readonly number[]): Group {
  const scale = fround(Math.max(...values.map(Math.abs)) * fround(1 / 127));
  const factor = scale === 0 ? 0 : fround(1 / scale);
  return { values: values.map((x) => whole(fround(x * factor), -127, 127)), scale };
}

function columnGroup(type: QuantizedType) {
  return (values: readonly number[]): Group => {
    const [top, bottom] = [Math.max(...values), Math.min(...values)];
    const exact =
      type === 'int8'
        ? fround(Math.max(top, -bottom) * fround(1 / 127))
        : fround((-bottom > top ? bottom : top) * -0.125);
    const scale = bf16BitsToF32(f32ToBf16Bits(exact));
    const factor = scale === 0 ? 0 : fround(1 / scale);
    const [low, high] = type === 'int8' ? [-127, 127] : [-8, 7];
    return { values: values.map((x) => whole(fround(x * factor), low, high)), scale };
  };
}

/** A matrix by columns: [columns, rows] as a checkpoint holds it, quantized. */
function quantized(type: QuantizedType, x: readonly number[], columns: number, rows: number) {
  const { group, groups, words } = quantizedShape(type, rows);
  const panels = Math.ceil(columns / Math.min(PANEL, columns));
  const width = Math.min(PANEL, columns);
  const none: Group = { values: new Array<number>(group).fill(0), scale: 0 };
  const byColumn = Array.from({ length: panels * width }, (_, column) =>
    column < columns
      ? groupsOf(x.slice(column * rows, (column + 1) * rows), group, columnGroup(type))
      : new Array<Group>(groups).fill(none),
  );
  const packed = byColumn.map((list) => list.flatMap(({ values }) => wordsOf(type, values)));
  const inPanels = (size: number, at: (column: number, index: number) => number) =>
    Array.from({ length: panels * size * width }, (_, i) =>
      at(Math.floor(i / (size * width)) * width + (i % width), Math.floor(i / width) % size),
    );
  return {
    width,
    byColumn,
    words: inPanels(words, (column, index) => packed[column][index]),
    scales: inPanels(groups, (column, index) => byColumn[column][index].scale),
  };
}

function wordsOf(type: QuantizedType, values: readonly number[]): number[] {
  const quad = (list: readonly number[], at: number) => list.slice(4 * at, 4 * at + 4);
  if (type === 'int8') return Array.from({ length: values.length / 4 }, (_, at) => word(quad(values, at)));
  const raised = values.map((value) => value + 8);
  const half = values.length / 8;
  return Array.from({ length: half }, (_, at) =>
    word(quad(raised, at).map((low, place) => low | (quad(raised, at + half)[place] << 4))),
  );
}

function rowsOf(x: readonly number[], group: number) {
  const list = groupsOf(x, group, rowGroup);
  return {
    list,
    quads: list.flatMap(({ values }) => wordsOf('int8', values)),
    scales: list.map(({ scale }) => scale),
    sums: list.map(({ values }) => values.reduce((a, b) => a + b, 0)),
  };
}

/** Values of different sizes, a group of zeros, and one that has the largest size twice, with both signs. */
function values(seed: number, count: number): number[] {
  const list = [...normals(seed, count)].map((x, i) => x * 2 ** (((i >> 5) % 9) - 4));
  list.fill(0, 32, 64);
  list[0] = 3.5;
  list[1] = -3.5;
  return list.map(fround);
}

export function quantizedCases(): Case[] {
  const cases: Case[] = [];
  for (const [rows, columns, group] of [
    [3, 128, 32],
    [2, 256, 128],
  ] as const) {
    const x = values(51, rows * columns);
    const { quads, scales, sums } = rowsOf(x, group);
    cases.push({
      name: `quantize rows ${rows}x${columns} by ${group}`,
      kernel: quantizeRows({ rows, columns, group }),
      inputs: { x },
      expected: { quads, scales, sums },
      tolerance: {},
    });
  }
  cases.push({
    name: 'quantize rows Inf and NaN',
    kernel: quantizeRows({ rows: 1, columns: 64, group: 32 }),
    inputs: { x: Array.from({ length: 64 }, (_, i) => (i === 3 ? Infinity : i === 40 ? Number.NaN : 1)) },
    // 0 for Inf and NaN; a scale that makes any sum with them NaN.
    expected: {
      quads: [...new Array<number>(8).fill(0), ...new Array<number>(8).fill(0)],
      scales: [Infinity, Number.NaN],
      sums: [0, 0],
    },
    tolerance: {},
  });
  for (const type of ['int8', 'int4'] as const) {
    for (const [m, n, k] of [
      [1, 5, 32],
      [1, 33, 128],
      [17, 40, 96],
      [70, 64, 192],
    ] as const) {
      const { group, groups } = quantizedShape(type, k);
      const [a, b] = [values(52, m * k), values(53, n * k)];
      const left = rowsOf(a, group);
      const right = quantized(type, b, n, k);
      const c = Array.from({ length: m * n }, (_, i) => {
        const [row, column] = [Math.floor(i / n), i % n];
        let sum = 0;
        for (let g = 0; g < groups; g++) {
          const [x, y] = [left.list[row * groups + g], right.byColumn[column][g]];
          sum += x.values.reduce((total, value, at) => total + value * y.values[at], 0) * x.scale * y.scale;
        }
        return sum;
      });
      const { quads, scales: rowScales, sums } = left;
      cases.push({
        name: `matmul ${type} ${m}x${n}x${k}`,
        kernel: quantizedMatmul({ type, m, n, k, blockRows: 16 }),
        inputs: {
          quads,
          rowScales,
          words: right.words,
          scales: right.scales,
          ...(type === 'int4' ? { sums } : {}),
        },
        expected: { c },
        tolerance: { atol: 1e-4, rtol: 1e-5 },
      });
    }
    const [columns, rows] = [37, 96];
    const x = values(54, columns * rows);
    const { width, words, scales, byColumn } = quantized(type, x, columns, rows);
    const ids = [36, 0, 31, 32, -1, 37, 1000];
    cases.push(
      {
        name: `quantize columns ${type}`,
        kernel: quantizeColumns({ type, columns, rows, width, xType: 'f32' }),
        inputs: { x },
        expected: { words, scales },
        tolerance: {},
      },
      {
        name: `embedding ${type}`,
        kernel: quantizedEmbedding({ type, tokens: ids.length, vocabulary: columns, columns: rows }),
        inputs: { ids, words, scales },
        expected: {
          x: ids.flatMap((id) =>
            id < 0 || id >= columns
              ? new Array<number>(rows).fill(0)
              : byColumn[id].flatMap(({ values: list, scale }) => list.map((value) => fround(value * scale))),
          ),
        },
        tolerance: {},
      },
    );
  }
  return cases;
}
