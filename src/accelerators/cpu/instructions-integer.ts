/** General-purpose instructions. The notation of the rows is explained in `forms.ts`. */

import type { InstructionTable, Row } from './forms.ts';

/** Condition codes: what `jcc`, `setcc` and `cmovcc` put in the low four bits of the opcode. */
export const conditions = [
  'o',
  'no',
  'b',
  'ae',
  'e',
  'ne',
  'be',
  'a',
  's',
  'ns',
  'p',
  'np',
  'l',
  'ge',
  'le',
  'g',
] as const;
export type Condition = (typeof conditions)[number];

type PerCondition<P extends string, R extends readonly Row[]> = {
  readonly [C in Condition as `${P}${C}`]: R;
};

/** The same rows for each condition; a `c` as the low digit of the opcode becomes the condition's code. */
function perCondition<P extends string, const R extends readonly Row[]>(
  prefix: P,
  rows: R,
): PerCondition<P, R> {
  const entries = conditions.map((condition, code) => {
    const withCode = rows.map(([signature, encoding]) => [
      signature,
      encoding.replace(/([0-9A-F])c\b/, (_, high: string) => high + code.toString(16).toUpperCase()),
    ]);
    return [prefix + condition, withCode];
  });
  return Object.fromEntries(entries) as PerCondition<P, R>;
}

export const integerInstructions = {
  mov: [
    ['r, r', 'mr 89'],
    ['r, m', 'rm 8B'],
    ['m, r', 'mr 89'],
    ['m, r8', 'mr 88'],
    ['m, r16', 'mr 66 89'],
    ['r32, d32', 'oi B8'],
    ['r64, i32', 'mi w1 C7 /0'],
    ['r64, i64', 'oi w1 B8'],
    ['s, i', 'mi C7 /0'],
    ['m8, i8', 'mi C6 /0'],
  ],
  movsxd: [['r64, r32/m', 'rm w1 63']],
  movsx: [
    ['r, r8/m8', 'rm 0f BE'],
    ['r, r16/m16', 'rm 0f BF'],
  ],
  movzx: [
    ['r, r8/m8', 'rm 0f B6'],
    ['r, r16/m16', 'rm 0f B7'],
  ],
  lea: [['r, m', 'rm 8D']],
  add: [
    ['r, r', 'mr 01'],
    ['r, m', 'rm 03'],
    ['m, r', 'mr 01'],
    ['r/s, i8', 'mi 83 /0'],
    ['r/s, i', 'mi 81 /0'],
  ],
  or: [
    ['r, r', 'mr 09'],
    ['r, m', 'rm 0B'],
    ['m, r', 'mr 09'],
    ['r/s, i8', 'mi 83 /1'],
    ['r/s, i', 'mi 81 /1'],
  ],
  and: [
    ['r, r', 'mr 21'],
    ['r, m', 'rm 23'],
    ['m, r', 'mr 21'],
    ['r/s, i8', 'mi 83 /4'],
    ['r/s, i', 'mi 81 /4'],
  ],
  sub: [
    ['r, r', 'mr 29'],
    ['r, m', 'rm 2B'],
    ['m, r', 'mr 29'],
    ['r/s, i8', 'mi 83 /5'],
    ['r/s, i', 'mi 81 /5'],
  ],
  xor: [
    ['r, r', 'mr 31'],
    ['r, m', 'rm 33'],
    ['m, r', 'mr 31'],
    ['r/s, i8', 'mi 83 /6'],
    ['r/s, i', 'mi 81 /6'],
  ],
  cmp: [
    ['r, r', 'mr 39'],
    ['r, m', 'rm 3B'],
    ['m, r', 'mr 39'],
    ['r/s, i8', 'mi 83 /7'],
    ['r/s, i', 'mi 81 /7'],
    ['r8/m8, i8', 'mi 80 /7'],
  ],
  test: [
    ['r, r', 'mr 85'],
    ['m, r', 'mr 85'],
    ['r/s, i', 'mi F7 /0'],
    ['r8, r8', 'mr 84'],
  ],
  imul: [
    ['r, r/m', 'rm 0f AF'],
    ['r, r/m, i8', 'rmi 6B'],
    ['r, r/m, i', 'rmi 69'],
  ],
  mul: [['r/s', 'm F7 /4']],
  idiv: [['r/s', 'm F7 /7']],
  div: [['r/s', 'm F7 /6']],
  cdq: [['', '- 99']],
  cqo: [['', '- w1 99']],
  neg: [['r/s', 'm F7 /3']],
  not: [['r/s', 'm F7 /2']],
  inc: [['r/s', 'm FF /0']],
  dec: [['r/s', 'm FF /1']],
  shl: [
    ['r/s, u8', 'mi C1 /4'],
    ['r/s, cl', 'mc D3 /4'],
  ],
  shr: [
    ['r/s, u8', 'mi C1 /5'],
    ['r/s, cl', 'mc D3 /5'],
  ],
  sar: [
    ['r/s, u8', 'mi C1 /7'],
    ['r/s, cl', 'mc D3 /7'],
  ],
  rol: [
    ['r/s, u8', 'mi C1 /0'],
    ['r/s, cl', 'mc D3 /0'],
  ],
  bzhi: [['r, r/m, r', 'rmv V np.0f38.wr F5']],
  shlx: [['r, r/m, r', 'rmv V 66.0f38.wr F7']],
  mulx: [['r, r, r/m', 'rvm V f2.0f38.wr F6']],
  tzcnt: [['r, r/m', 'rm f3.0f BC']],
  lzcnt: [['r, r/m', 'rm f3.0f BD']],
  popcnt: [['r, r/m', 'rm f3.0f B8']],
  xchg: [
    ['r, r', 'mr 87'],
    ['m, r', 'mr 87'],
  ],
  'lock xadd': [['m, r', 'mr lock 0f C1']],
  'lock cmpxchg': [['m, r', 'mr lock 0f B1']],
  'lock add': [
    ['m, r', 'mr lock 01'],
    ['s, i8', 'mi lock 83 /0'],
    ['s, i', 'mi lock 81 /0'],
  ],
  'lock sub': [
    ['m, r', 'mr lock 29'],
    ['s, i8', 'mi lock 83 /5'],
    ['s, i', 'mi lock 81 /5'],
  ],
  'lock inc': [['s', 'm lock FF /0']],
  'lock dec': [['s', 'm lock FF /1']],
  push: [['r64', 'o 50']],
  pop: [['r64', 'o 58']],
  jmp: [
    ['rel8', 'j EB'],
    ['rel32', 'j E9'],
    ['r64/m64', 'm FF /4'],
  ],
  call: [
    ['rel32', 'j E8'],
    ['r64/m64', 'm FF /2'],
  ],
  ret: [['', '- C3']],
  mfence: [['', '- 0f AE F0']],
  sfence: [['', '- 0f AE F8']],
  pause: [['', '- f3 90']],
  syscall: [['', '- 0f 05']],
  rdtsc: [['', '- 0f 31']],
  cpuid: [['', '- 0f A2']],
  xgetbv: [['', '- 0f 01 D0']],
  ud2: [['', '- 0f 0B']],
  prefetcht0: [['m', 'm 0f 18 /1']],
  prefetchnta: [['m', 'm 0f 18 /0']],
  ...perCondition('j', [
    ['rel8', 'j 7c'],
    ['rel32', 'j 0f 8c'],
  ]),
  ...perCondition('set', [['r8/m8', 'm 0f 9c']]),
  ...perCondition('cmov', [['r, r/m', 'rm 0f 4c']]),
} as const satisfies InstructionTable;
