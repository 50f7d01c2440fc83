/**
 * Cases for the assembler's table and the text that GNU objdump should print for them. The text is written from the
 * operands alone, with names and rules of this file, so that a mistake in the assembler cannot cancel itself.
 */

import { type Row, resolveAtom, type Variant, variantsOf } from '../../src/accelerators/cpu/forms.ts';
import {
  type AnyMemory,
  broadcast,
  byte,
  dword,
  type Label,
  type Memory,
  masked,
  mem,
  type Operand,
  qword,
  rip,
  rowMem,
  vectorMem,
  word,
  zeroed,
} from '../../src/accelerators/cpu/operands.ts';
import {
  k,
  type Register,
  r8,
  r12,
  r13,
  r16,
  r32,
  r64,
  rax,
  rbp,
  rcx,
  rsp,
  tmm,
  xmm,
  ymm,
  zmm,
} from '../../src/accelerators/cpu/registers.ts';

const general = ['ax', 'cx', 'dx', 'bx', 'sp', 'bp', 'si', 'di'];
const generalText: Readonly<Record<string, (n: number) => string>> = {
  r64: (n) => (n < 8 ? `r${general[n]}` : `r${n}`),
  r32: (n) => (n < 8 ? `e${general[n]}` : `r${n}d`),
  r16: (n) => (n < 8 ? general[n] : `r${n}w`),
  r8: (n) => ['al', 'cl', 'dl', 'bl', 'spl', 'bpl', 'sil', 'dil'][n] ?? `r${n}b`,
  mask: (n) => `k${n}`,
};
const registerText = ({ kind, index }: Register) => generalText[kind]?.(index) ?? `${kind}${index}`;

const hex = (value: number) => `${value < 0 ? '-' : '+'}0x${Math.abs(value).toString(16)}`;

function memoryText({ base, index, scale, disp, label, kind }: AnyMemory): string {
  const size =
    { m8: 'BYTE PTR ', m16: 'WORD PTR ', m32: 'DWORD PTR ', m64: 'QWORD PTR ' }[kind as string] ?? '';
  const repeat = kind === 'broadcast' ? '{bcst}' : '';
  if (label) return `${size}[rip=0x${(label.offset + disp).toString(16)}]${repeat}`;
  if (!base && !index) return `${size}ds:0x${BigInt.asUintN(64, BigInt(disp)).toString(16)}`;
  let text = base ? registerText(base) : '';
  if (index) text += `${base ? '+' : ''}${registerText(index)}*${scale}`;
  // objdump writes a displacement of zero where the encoding cannot omit it.
  const forced = !base || base.index === 5 || base.index === 13;
  return `${size}[${text}${disp !== 0 || forced ? hex(disp) : ''}]${repeat}`;
}

const widths: Readonly<Record<string, number>> = { r64: 64, m64: 64, r32: 32, m32: 32, r8: 8, m8: 8 };

function operandText(operand: Operand, width: number): string {
  if (typeof operand === 'number' || typeof operand === 'bigint') {
    return `0x${BigInt.asUintN(width, BigInt(operand)).toString(16)}`;
  }
  if (operand.kind === 'masked') return `${operandText(operand.operand, width)}{k${operand.mask.index}}`;
  if (operand.kind === 'zeroed') return `${operandText(operand.operand, width)}{k${operand.mask.index}}{z}`;
  if (operand.kind === 'label') return `0x${operand.offset.toString(16)}`;
  return 'scale' in operand ? memoryText(operand) : registerText(operand);
}

/** The line that objdump should print; call it once all labels are bound. */
export function expectedText(mnemonic: string, signature: string, operands: readonly Operand[]): string {
  const kinds = operands.map((operand) => (typeof operand === 'object' ? operand.kind : ''));
  const width = kinds.reduce((found, kind) => found || (widths[kind] ?? 0), 0) || 64;
  const name = signature.includes('i64') ? 'movabs' : mnemonic;
  return [name, operands.map((operand) => operandText(operand, width)).join(',')].join(' ').trim();
}

/** objdump's line in the notation of `expectedText`: versions differ in how they mark sizes and broadcasts. */
export function normalized(line: string, sized: boolean): string {
  const broadcasts = line.includes(' BCST ') || /\{1to\d+\}/.test(line);
  const [code, target] = line.split('# ');
  let text = code
    .trim()
    .replace('{evex} ', '')
    .replace(/\s+/g, ' ')
    .replace(/\{1to\d+\}/, '')
    .replace(/\w+ BCST /, '');
  if (target) text = text.replace(/\[rip[+-]0x[0-9a-f]+\]/, `[rip=${target.trim()}]`);
  if (!sized) text = text.replace(/\w+ PTR /, '');
  return broadcasts ? text.replace(']', ']{bcst}') : text;
}

function memorySamples(labels: Places): Memory[] {
  const samples: Memory[] = [rip(labels.start), rip(labels.end, 64), mem({ disp: 64 }), mem({ disp: -64 })];
  for (const base of [rax, rsp, rbp, r12, r13, r64(9)]) {
    for (const disp of [0, 64, -129, 0x12345678]) samples.push(mem(base, disp));
    samples.push(mem(base, r13, 4, 0), mem(base, r12, 8, 64), mem(base, rbp, 1, -4096));
  }
  // Around the ends of the one-byte displacement for each of its units.
  for (const unit of [1, 2, 4, 8, 16, 32, 64]) {
    for (const steps of [1, 127, 128, -128, -129])
      samples.push(mem(rcx, unit * steps), mem(rax, rcx, 2, unit * steps));
  }
  samples.push(
    mem({ index: rcx, scale: 8 }),
    mem({ index: r13, scale: 2, disp: 64 }),
    mem({ index: r12, disp: -8 }),
  );
  return samples;
}

/** Labels that the cases may refer to: long before, just here, and after. */
export interface Places {
  readonly start: Label;
  readonly here: Label;
  readonly end: Label;
}

type Sampler = (slot: number, numbers: readonly number[], labels: Places) => Operand[];

const registers =
  (make: (index: number) => Operand): Sampler =>
  (slot, numbers) =>
    numbers.map((number) => make(number + slot));
const gathers =
  (make: typeof xmm | typeof ymm | typeof zmm): Sampler =>
  (slot, numbers) =>
    numbers.flatMap((n, i) => [
      vectorMem([rax, rsp, rbp, r13][i % 4], make(n + slot), 4, 0),
      vectorMem(r12, make(n + slot), 8, [508, 512, -512, 3][i % 4]),
    ]);
const addresses =
  (wrap: (memory: Memory) => Operand): Sampler =>
  (_slot, _numbers, labels) =>
    memorySamples(labels).map(wrap);
const rows: Sampler = (_slot, _numbers, labels) =>
  memorySamples(labels).flatMap(({ base, index, disp }) =>
    base && index ? [rowMem(base, index, disp)] : [],
  );
const immediates =
  (...values: (number | bigint)[]): Sampler =>
  () =>
    values;

const samplers: Readonly<Record<string, Sampler>> = {
  x: registers(xmm),
  y: registers(ymm),
  z: registers(zmm),
  t: (slot) => [tmm(slot), tmm(3 + slot)],
  k: (slot) => [k(1 + slot), k(4 + slot)],
  r8: (slot) => [r8(slot), r8(5 + slot), r8(9 + slot)],
  r16: (slot) => [r16(slot), r16(5 + slot), r16(9 + slot)],
  r32: (slot) => [r32(slot), r32(5 + slot), r32(9 + slot)],
  r64: (slot) => [r64(slot), r64(4 + slot), r64(12 + slot)],
  cl: () => [r8(1)],
  m: addresses((memory) => memory),
  m8: addresses(byte),
  m16: addresses(word),
  m32: addresses(dword),
  m64: addresses(qword),
  b: addresses(broadcast),
  rows,
  vmx: gathers(xmm),
  vmy: gathers(ymm),
  vmz: gathers(zmm),
  rel8: (_slot, _numbers, labels) => [labels.here],
  rel32: (_slot, _numbers, labels) => [labels.start, labels.end],
  i8: immediates(-128, -1, 5, 127),
  // Small predicates of comparisons have names of their own in objdump.
  u8: immediates(0xb3, 0xff, 0x2d),
  i32: immediates(-(2 ** 31), 128, 2 ** 31 - 1),
  d32: immediates(-(2 ** 31), -129, 128, 2 ** 32 - 1),
  i64: immediates(2 ** 31, 0x123456789abcdef0n, -(2n ** 63n), 2n ** 64n - 1n),
};

function slotSamples(
  text: string,
  variant: Variant | undefined,
  evex: boolean,
  slot: number,
  labels: Places,
): Operand[] {
  const numbers = evex ? [1, 9, 17, 25] : [1, 9];
  return text.split('/').flatMap((alternative) => {
    const [, name, suffix] = /^(\w+)(?:\{(\w)\})?$/.exec(alternative)!;
    const plain = samplers[resolveAtom(name, variant)!](slot, numbers, labels);
    const mergings = plain.map((operand, i) => masked(operand as Memory, k(1 + (i % 7))));
    if (suffix === 'K') return mergings;
    const zeroings =
      suffix === 'z' ? plain.map((operand, i) => zeroed(operand as never, k(7 - (i % 7)))) : [];
    return suffix ? [...plain, ...mergings, ...zeroings] : plain;
  });
}

/** Operand tuples for a row: every sample of each operand beside the first of the others, and a diagonal through all. */
export function casesOf([signature, encoding]: Row, labels: Places): Operand[][] {
  if (signature === '') return [[]];
  const evex = / V?E /.test(encoding);
  return variantsOf(signature).flatMap((variant) => {
    if (variant === 'z' && !evex) return [];
    const samples = signature.split(', ').map((text, slot) => slotSamples(text, variant, evex, slot, labels));
    const longest = Math.max(...samples.map((list) => list.length));
    const cases: Operand[][] = [];
    for (let i = 0; i < longest; i++) {
      cases.push(samples.map((list, slot) => list[(i * (1 + 2 * slot)) % list.length]));
      for (const [slot, list] of samples.entries()) {
        if (i < list.length) cases.push(samples.map((other, s) => (s === slot ? list[i] : other[0])));
      }
    }
    return cases;
  });
}
