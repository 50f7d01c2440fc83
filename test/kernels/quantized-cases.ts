/** Cases of quantized matrices, with plain definitions of how they are quantized. */
import assert from 'node:assert/strict';
import type { QuantizedType } from '../../src/kernels/quantized.ts';
import {
  quantizeColumns,
  quantizedEmbedding,
  quantizedMatmul,
  quantizedMatmuls,
  quantizedShape,
} from '../../src/kernels/quantized.ts';
import { quantizeNormedRows, quantizeRows } from '../../src/kernels/quantized-rows.ts';
import { bf16BitsToF32, f32ToBf16Bits } from '../../src/numerics/float.ts';
import type { Case } from './buffers.ts';
import { normals } from './buffers.ts';

const { fround } = Math;
const PANEL = 32;
const bf16 = (x: number) => bf16BitsToF32(f32ToBf16Bits(x));

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
    const scale = bf16(exact);
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

const quad = (list: readonly number[], at: number) => list.slice(4 * at, 4 * at + 4);
const quadsOf = (values: readonly number[]): number[] =>
  Array.from({ length: values.length / 4 }, (_, at) => word(quad(values, at)));

function wordsOf(type: QuantizedType, values: readonly number[]): number[] {
  const raised = values.map((value) => value + (type === 'int8' ? 128 : 8));
  if (type === 'int8') return quadsOf(raised);
  const half = values.length / 8;
  return Array.from({ length: half }, (_, at) =>
    word(quad(raised, at).map((low, place) => low | (quad(raised, at + half)[place] << 4))),
  );
}

/** Rows as `quantizeRows` makes them. */
export function rowsOf(x: readonly number[], columns: number, group: number) {
  const list = groupsOf(x, group, rowGroup);
  const groups = columns / group;
  const byGroup = Array.from({ length: groups }, (_, g) => list.filter((_, at) => at % groups === g)).flat();
  const made = {
    values: list.flatMap(({ values }) => values),
    scales: byGroup.map(({ scale }) => scale),
    sums: byGroup.map(({ values }) => values.reduce((a, b) => a + b, 0)),
  };
  return { list, made, quads: quadsOf(made.values) };
}

/** Values of different sizes, a group of zeros, and one that has the largest size twice, with both signs. */
function values(seed: number, count: number): number[] {
  const list = [...normals(seed, count)].map((x, i) => x * 2 ** (((i >> 5) % 9) - 4));
  list.fill(0, 32, 64);
  list[0] = 3.5;
  list[1] = -3.5;
  return list.map(fround);
}

/** Rows that are computed on the way into their groups. */
function computedRowCases(): Case[] {
  const cases: Case[] = [];
  for (const [rows, columns, group] of [
    [3, 96, 32],
    [2, 640, 64],
  ] as const) {
    const [a, b] = [values(55, rows * columns), values(56, rows * columns).map(bf16)];
    const { made } = rowsOf(
      a.map((x, i) => fround(x * b[i])),
      columns,
      group,
    );
    cases.push({
      name: `quantize products ${rows}x${columns} by ${group}`,
      kernel: quantizeRows({
        rows,
        columns,
        group,
        prologue: {
          key: 'product',
          inputs: [
            { name: 'a', dtype: 'f32' },
            { name: 'b', dtype: 'bf16' },
          ],
          apply: ([left, right]) => left.mul(right),
        },
      }),
      inputs: { a, b },
      expected: made,
      tolerance: {},
    });
  }
  const eps = 1e-6;
  for (const [rows, columns, group, xType] of [
    [1, 64, 32, 'f32'],
    [3, 288, 32, 'bf16'],
    [2, 1280, 128, 'f32'],
  ] as const) {
    const x = values(57, rows * columns).map(xType === 'bf16' ? bf16 : fround);
    const weight = values(58, columns);
    const normed = x.map((value, i) => {
      const from = i - (i % columns);
      const square = x.slice(from, from + columns).reduce((sum, other) => sum + other * other, 0);
      return (value * weight[i % columns]) / Math.sqrt(square / columns + eps);
    });
    const { made } = rowsOf(normed, columns, group);
    // A device's root may be one step off: no value lies where that decides how it is rounded.
    for (const [i, value] of normed.entries()) {
      const exact =
        value / made.scales[(Math.floor(i / group) % (columns / group)) * rows + Math.floor(i / columns)];
      assert.ok(!(Math.abs(exact - Math.floor(exact) - 0.5) < 1e-4), `${exact} is too near a half`);
    }
    cases.push({
      name: `quantize normed rows ${rows}x${columns} by ${group} ${xType}`,
      kernel: quantizeNormedRows({ rows, columns, group, eps, xType }),
      inputs: { x, weight },
      expected: made,
      tolerance: { rtol: 1e-6 },
    });
  }
  cases.push({
    name: 'quantize normed rows Inf and NaN',
    kernel: quantizeNormedRows({ rows: 2, columns: 64, group: 32, eps }),
    inputs: {
      x: Array.from({ length: 128 }, (_, i) => (i === 3 ? Infinity : i === 100 ? Number.NaN : 1)),
      weight: new Array<number>(64).fill(1),
    },
    // Beside Inf the others are nothing; beside NaN nothing is left.
    expected: {
      values: new Array<number>(128).fill(0),
      scales: [Number.NaN, Number.NaN, 0, Number.NaN],
      sums: [0, 0, 0, 0],
    },
    tolerance: {},
  });
  return cases;
}

/** Rows and matrices quantized, and their products in float64. */
function product(type: QuantizedType, m: number, n: number, k: number, seed = 53) {
  const { group, groups } = quantizedShape(type, k);
  const left = rowsOf(values(52, m * k), k, group);
  const { words, scales, byColumn } = quantized(type, values(seed, n * k), n, k);
  const c = Array.from({ length: m * n }, (_, i) => {
    const [row, column] = [Math.floor(i / n), i % n];
    let sum = 0;
    for (let g = 0; g < groups; g++) {
      const [x, y] = [left.list[row * groups + g], byColumn[column][g]];
      sum += x.values.reduce((total, value, at) => total + value * y.values[at], 0) * x.scale * y.scale;
    }
    return sum;
  });
  const { quads, made } = left;
  return { left: { quads, rowScales: made.scales, sums: made.sums }, words, scales, c };
}

function productCases(type: QuantizedType): Case[] {
  const cases: Case[] = [];
  const tolerance = { atol: 1e-4, rtol: 1e-5 };
  for (const [m, n, k] of [
    [1, 5, 32],
    [1, 33, 128],
    [17, 40, 96],
    [70, 64, 192],
  ] as const) {
    const { left, words, scales, c } = product(type, m, n, k);
    cases.push({
      name: `matmul ${type} ${m}x${n}x${k}`,
      kernel: quantizedMatmul({ type, m, n, k, blockRows: 16 }),
      inputs: { ...left, words, scales },
      expected: { c },
      tolerance,
    });
  }
  for (const [m, n, k] of [
    [1, 40, 96],
    [19, 33, 128],
  ] as const) {
    const { left, words, scales, c } = product(type, m, n, k);
    const [full, row, column] = [values(59, m * n), values(60, n).map(bf16), values(61, m)];
    cases.push({
      name: `matmul ${type} ${m}x${n}x${k} with epilogue`,
      kernel: quantizedMatmul({
        type,
        m,
        n,
        k,
        blockRows: 16,
        epilogue: {
          key: 'sum',
          inputs: [
            { name: 'full', dtype: 'f32', kind: 'full' },
            { name: 'row', dtype: 'bf16', kind: 'row' },
            { name: 'column', dtype: 'f32', kind: 'column' },
          ],
          apply: (acc, [a, b, d]) => a.add(acc).add(b).add(d),
        },
      }),
      inputs: { ...left, words, scales, full, row, column },
      expected: { c: c.map((x, i) => x + full[i] + row[i % n] + column[Math.floor(i / n)]) },
      tolerance,
    });
  }
  for (const [m, k, ...columns] of [
    [1, 128, 64, 5, 33],
    [19, 96, 40, 96],
    [2, 192, 32, 32, 32],
  ]) {
    const parts = columns.map((n, index) => product(type, m, n, k, 62 + index));
    // A row that has NaN is NaN in all of them, and no other.
    const last = m === 2 ? m - 1 : m;
    const rowScales = parts[0].left.rowScales.map((x, i) => (i % m < last ? x : Number.NaN));
    const named = (name: string, of: (part: (typeof parts)[number], index: number) => number[]) =>
      Object.fromEntries(parts.map((part, index) => [`${name}${index}`, of(part, index)]));
    cases.push({
      name: `matmuls ${type} ${m}x${columns.join('+')}x${k}`,
      kernel: quantizedMatmuls({ type, m, columns, k, blockRows: 16 }),
      inputs: {
        ...parts[0].left,
        rowScales,
        ...named('words', ({ words }) => words),
        ...named('scales', ({ scales }) => scales),
      },
      expected: named('c', ({ c }, index) => c.map((x, i) => (i < last * columns[index] ? x : Number.NaN))),
      tolerance,
    });
  }
  return cases;
}

export function quantizedCases(): Case[] {
  const cases: Case[] = [];
  for (const [rows, columns, group] of [
    [3, 128, 32],
    [2, 256, 128],
  ] as const) {
    const x = values(51, rows * columns);
    const { made } = rowsOf(x, columns, group);
    cases.push({
      name: `quantize rows ${rows}x${columns} by ${group}`,
      kernel: quantizeRows({ rows, columns, group }),
      inputs: { x },
      expected: made,
      tolerance: {},
    });
  }
  cases.push({
    name: 'quantize rows Inf and NaN',
    kernel: quantizeRows({ rows: 1, columns: 64, group: 32 }),
    inputs: { x: Array.from({ length: 64 }, (_, i) => (i === 3 ? Infinity : i === 40 ? Number.NaN : 1)) },
    // 0 for Inf and NaN; a scale that makes any sum with them NaN.
    expected: {
      values: new Array<number>(64).fill(0),
      scales: [Infinity, Number.NaN],
      sums: [0, 0],
    },
    tolerance: {},
  });
  cases.push(...computedRowCases());
  for (const type of ['int8', 'int4'] as const) {
    cases.push(...productCases(type));
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
