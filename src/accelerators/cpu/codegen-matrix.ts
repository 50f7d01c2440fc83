/** Matrix registers: the tiles of AMX (Intel SDM volume 1, chapter 18). */

import type { Address, IntReg, MatrixShape } from '../loops/ir.ts';
import type { Emitter, Rules } from './codegen-emitter.ts';
import type { Code, NodeOf } from './codegen-nodes.ts';
import { type RowMemory, rowMem } from './operands.ts';
import { tmm } from './registers.ts';

const bytesAt = 16;
const rowsAt = 48;

/** The operand of ldtilecfg: palette 1, then bytes a row of each tile in 16 bits, and rows in 8. */
export function configuration(shapes: readonly MatrixShape[]): Int32Array<ArrayBuffer> {
  const words = new Int32Array(16);
  const view = new DataView(words.buffer);
  view.setUint8(0, 1);
  shapes.forEach(({ rows, bytes }, register) => {
    view.setUint16(bytesAt + 2 * register, bytes, true);
    view.setUint8(rowsAt + register, rows);
  });
  return words;
}

/** One configuration for all products is loaded at the beginning: that takes as long as ten products of tiles. */
export function configureOnce({ nodes, depths }: Code): void {
  const found = nodes.filter((node): node is NodeOf<'mshape'> => node.o === 'mshape');
  if (new Set(found.map(({ shapes }) => JSON.stringify(shapes))).size !== 1) return;
  const kept = nodes.flatMap((node, n) => (node.o === 'mshape' ? [] : [n]));
  const [entry, ...others] = kept;
  const order = [entry, nodes.indexOf(found[0]), ...others];
  nodes.splice(0, nodes.length, ...order.map((n) => nodes[n]));
  depths.splice(0, depths.length, ...order.map((n) => (n === order[1] ? 0 : depths[n])));
}

const rowsOf = (e: Emitter, { base, displacement }: Address, stride: IntReg): RowMemory =>
  rowMem(e.q(e.number(base)), e.q(e.number(stride)), displacement);

export const matrixRules: Rules<'mshape' | 'mzero' | 'mload' | 'mstore' | 'mdot'> = {
  mshape: { emit: (e, { shapes }) => e.op('ldtilecfg', e.asm.constant(configuration(shapes))) },
  mzero: { emit: (e, { register }) => e.op('tilezero', tmm(register)) },
  mload: {
    emit: (e, { register, from, stride }) => e.op('tileloadd', tmm(register), rowsOf(e, from, stride)),
  },
  mstore: {
    emit: (e, { register, to, stride }) => e.op('tilestored', rowsOf(e, to, stride), tmm(register)),
  },
  mdot: {
    emit: (e, { of, sum, a, b }) => e.op(of === 'pairs' ? 'tdpbf16ps' : 'tdpbsud', tmm(sum), tmm(a), tmm(b)),
  },
};
