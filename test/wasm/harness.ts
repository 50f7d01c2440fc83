/** Runs one loop function on this thread, on a memory of its own. */

import type { Instr, IntOperand, IntReg, LoopFunction, VecReg } from '../../src/accelerators/loops/ir.ts';
import { KERNEL_TYPE } from '../../src/accelerators/wasm/body.ts';
import { generate } from '../../src/accelerators/wasm/codegen.ts';
import { encodeModule } from '../../src/accelerators/wasm/encoder.ts';
import { Random } from '../../src/numerics/random.ts';

export const i = (id: number): IntReg => ({ id, class: 'i' });
export const v = (id: number): VecReg => ({ id, class: 'v' });

export function loopFunction(body: readonly Instr[], more: Partial<LoopFunction> = {}): LoopFunction {
  return { name: 'test', views: 0, lanes: 4, scratchBytes: 0, programs: 1, body, ...more };
}

export function branch(
  a: IntReg,
  cmp: Extract<Instr, { o: 'if' }>['cmp'],
  b: IntOperand,
  whenTrue: readonly Instr[],
  whenFalse: readonly Instr[],
): Instr {
  return { o: 'if', a, cmp, b, then: whenTrue, else: whenFalse };
}

export interface Execution {
  readonly memory: Uint8Array<ArrayBuffer>;
  readonly data: DataView;
  run(scratch?: number, from?: number, to?: number): void;
}

/** Address of the views' pointers; the pages above are free for the test. */
const ARGUMENTS = 65536;
export const FREE = 65536 + 4096;

export function prepare(
  body: readonly Instr[],
  options: { views?: readonly number[]; pages?: number; fma?: boolean } = {},
): Execution {
  const { views = [], pages = 4, fma = false } = options;
  const bytes = encodeModule({
    types: [KERNEL_TYPE],
    memory: { initial: 1, maximum: 65536, shared: false },
    functions: [
      { name: 'test', type: KERNEL_TYPE, body: generate(loopFunction(body), fma), exported: 'test' },
    ],
    tabled: 1,
  });
  const linear = new WebAssembly.Memory({ initial: pages, maximum: 65536 });
  const instance = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory: linear } });
  const kernel = instance.exports.test as (a: number, s: number, f: number, t: number) => void;
  const data = new DataView(linear.buffer);
  views.forEach((address, index) => {
    data.setUint32(ARGUMENTS + 4 * index, address, true);
  });
  return {
    memory: new Uint8Array(linear.buffer),
    data,
    run: (scratch = 0, from = 0, to = 1) => kernel(ARGUMENTS, scratch, from, to),
  };
}

/** Applies `body` (a function of v0, v1, v2 that leaves its result in v3) to rows of arguments, 4 at a time. */
export function mapVectors(
  body: readonly Instr[],
  rows: readonly (readonly number[])[],
  fma = false,
): Uint32Array {
  const count = Math.ceil(rows.length / 4) * 4;
  const arity = rows[0]!.length;
  const pages = 2 + Math.ceil((count * 4 * (arity + 1)) / 65536) + 1;
  const at = (argument: number) => FREE + argument * count * 4;
  const address = (argument: number) => ({
    base: i(0),
    index: i(1),
    scale: 4 as const,
    displacement: at(argument),
  });
  const execution = prepare(
    [
      { o: 'iconst', dst: i(0), value: 0 },
      {
        o: 'for',
        index: i(1),
        lo: 0,
        hi: count,
        step: 4,
        body: [
          ...Array.from(
            { length: arity },
            (_, k): Instr => ({ o: 'vload', dst: v(k), type: 'u32', from: address(k) }),
          ),
          ...body,
          { o: 'vstore', src: v(3), type: 'u32', to: address(arity) },
        ],
      },
    ],
    { pages, fma },
  );
  const words = new Uint32Array(execution.memory.buffer);
  rows.forEach((row, index) => {
    row.forEach((bits, argument) => {
      words[at(argument) / 4 + index] = bits;
    });
  });
  execution.run();
  return words.slice(at(arity) / 4, at(arity) / 4 + rows.length);
}

const SPECIAL = [
  0x00000000, 0x80000000, 0x3f800000, 0xbf800000, 0x3f000000, 0xbf000000, 0x3fc00000, 0x40200000, 0xc0200000,
  0x7f800000, 0xff800000, 0x7fc00000, 0xffc00000, 0x7f800001, 0x7fbfffff, 0xff812345, 0x00000001, 0x80000001,
  0x007fffff, 0x00800000, 0x80800000, 0x7f7fffff, 0xff7fffff, 0x4f000000, 0xcf000000, 0x4effffff, 0x4f800000,
  0x4f7fffff, 0x7fffffff, 0xffffffff, 0x00000020, 0x0000001f, 0x4b000000, 0x4b000001, 0x4affffff, 0x477fe000,
  0x477fefff, 0x477ff000, 0x38800000, 0x387fffff, 0x33000000, 0x33000001, 0x3f808000, 0x3f818000, 0x3f808001,
  0x43dfffff, 0x43e00000, 0x43e80000, 0x475fffff, 0x47600000, 0x3a800000, 0x3b000000, 0x37800001, 0x36ffffff,
];

/** Words that, as floats and as integers, are where mistakes are made, and `random` others. */
export function interestingWords(random: number): number[] {
  const source = new Random(7);
  return [...SPECIAL, ...Array.from({ length: random }, () => source.uint32())];
}
