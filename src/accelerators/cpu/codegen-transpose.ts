/**
 * Transposition of blocks of 32-bit elements in registers. Rows are loaded by quarters: the 128-bit lanes of one
 * register take four columns of rows i, i + 4, i + 8 and i + 12, so that only shuffles within such lanes are left,
 * and each register that comes out is one whole column.
 */

import type { Emitter, Isa } from './codegen-emitter.ts';
import type { NodeOf } from './codegen-nodes.ts';
import type { Operand } from './operands.ts';
import type { Needs } from './regalloc.ts';

type Transpose = NodeOf<'vtranspose'>;

const quad = 4;
const elementBytes = 4;
/** Four rows and the four results of the first round of shuffles. */
const shuffleTemps = 8;

export function transposeNeeds({ rows, columns }: Transpose, _isa: Isa): Partial<Needs> {
  const whole = rows >= quad && columns >= quad;
  const rest = rows % quad !== 0 || columns % quad !== 0;
  return { vector: whole ? shuffleTemps : 0, general: rest ? 1 : 0 };
}

/** Blocks of 16, 8 or 4 rows by 4 columns with shuffles, then what is left one element at a time. */
export function emitTranspose(e: Emitter, node: Transpose): void {
  const { rows, columns } = node;
  const wholeColumns = columns - (columns % quad);
  let row = 0;
  for (const height of [16, 8, 4]) {
    for (; height <= e.lanes && row + height <= rows; row += height) {
      for (let column = 0; column < wholeColumns; column += quad) emitBlock(e, node, row, column, height);
      emitElements(e, node, row, row + height, wholeColumns, columns);
    }
  }
  emitElements(e, node, row, rows, 0, columns);
}

function emitElements(
  e: Emitter,
  { from, fromStride, to, toStride }: Transpose,
  firstRow: number,
  endRow: number,
  firstColumn: number,
  endColumn: number,
): void {
  const [temp] = e.generalTemps;
  for (let r = firstRow; r < endRow; r++) {
    for (let c = firstColumn; c < endColumn; c++) {
      e.op('mov', e.d(temp), e.memory(from, r * fromStride + c * elementBytes));
      e.op('mov', e.memory(to, c * toStride + r * elementBytes), e.d(temp));
    }
  }
}

function emitBlock(e: Emitter, node: Transpose, row: number, column: number, height: number): void {
  const { from, fromStride, to, toStride } = node;
  const [a, b, c, d, ab, ab2, cd, cd2] = e.vectorTemps;
  const wide = (index: number): Operand =>
    height === 16 ? e.v(index) : height === 8 ? e.y(index) : e.x(index);
  [a, b, c, d].forEach((register, i) => {
    for (let part = 0; part < height / quad; part++) {
      const memory = e.memory(from, (row + i + part * quad) * fromStride + column * elementBytes);
      if (part === 0) e.op('vmovups', e.x(register), memory);
      else if (height === 8) e.op('vinsertf128', e.y(register), e.y(register), memory, part);
      else e.op('vinsertf32x4', e.v(register), e.v(register), memory, part);
    }
  });
  // [a0 b0 a1 b1], [a2 b2 a3 b3] and the same of c and d; then pairs of those are one column each.
  e.op('vunpcklps', wide(ab), wide(a), wide(b));
  e.op('vunpckhps', wide(ab2), wide(a), wide(b));
  e.op('vunpcklps', wide(cd), wide(c), wide(d));
  e.op('vunpckhps', wide(cd2), wide(c), wide(d));
  e.op('vunpcklpd', wide(a), wide(ab), wide(cd));
  e.op('vunpckhpd', wide(b), wide(ab), wide(cd));
  e.op('vunpcklpd', wide(c), wide(ab2), wide(cd2));
  e.op('vunpckhpd', wide(d), wide(ab2), wide(cd2));
  [a, b, c, d].forEach((register, i) => {
    e.op('vmovups', e.memory(to, (column + i) * toStride + row * elementBytes), wide(register));
  });
}
