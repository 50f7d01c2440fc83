/** Tile registers: AMX-TILE, AMX-BF16 and AMX-INT8. The notation of the rows is explained in `forms.ts`. */

import type { InstructionTable } from './forms.ts';

export const matrixInstructions = {
  ldtilecfg: [['m', 'm V np.0f38.w0 49 /0']],
  tilerelease: [['', '- V np.0f38.w0 49 C0']],
  tilezero: [['t', 'z V f2.0f38.w0 49']],
  tileloadd: [['t, rows', 'rm V f2.0f38.w0 4B']],
  tilestored: [['rows, t', 'mr V f3.0f38.w0 4B']],
  tdpbf16ps: [['t, t, t', 'rmv V f3.0f38.w0 5C']],
  tdpbsud: [['t, t, t', 'rmv V f3.0f38.w0 5E']],
} as const satisfies InstructionTable;
