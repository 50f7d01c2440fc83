/** The instruction table: every mnemonic with the operands it takes, as types and as encodable forms. */

import { expandRow, type Form, type InstructionTable, type OperandsOf } from './forms.ts';
import { integerInstructions } from './instructions-integer.ts';
import { matrixInstructions } from './instructions-matrix.ts';
import { movementInstructions } from './instructions-movement.ts';
import { vectorInstructions } from './instructions-vector.ts';

type Table = typeof integerInstructions &
  typeof vectorInstructions &
  typeof movementInstructions &
  typeof matrixInstructions;

export type Mnemonic = keyof Table;
/** The operand tuples that an instruction takes; for a union of mnemonics, those of any of them. */
export type Operands<M extends Mnemonic> = M extends Mnemonic ? OperandsOf<Table[M][number][0]> : never;

/** All rows, by mnemonic. */
export const instructionTable: Readonly<Record<Mnemonic, InstructionTable[string]>> = {
  ...integerInstructions,
  ...vectorInstructions,
  ...movementInstructions,
  ...matrixInstructions,
};

/** The forms of each mnemonic in order of preference: shorter encodings come first. */
export const instructionForms: ReadonlyMap<string, readonly Form[]> = new Map(
  Object.entries<InstructionTable[string]>(instructionTable).map(([name, rows]) => [
    name,
    rows.flatMap(expandRow),
  ]),
);
