/** Operands other than registers: memory, gather addresses, masks, broadcasts, labels. */

import {
  type Gpr64,
  type MaskRegister,
  type Register,
  registerName,
  type VectorRegister,
} from './registers.ts';

/** A place in the code, created by `Assembler.label()`. `offset` is -1 until the label is bound. */
export class Label {
  readonly kind = 'label';
  readonly name: string;
  offset = -1;

  constructor(name: string) {
    this.name = name;
  }
}

export type Scale = 1 | 2 | 4 | 8;

interface Address<Index> {
  readonly base?: Gpr64;
  readonly index?: Index;
  readonly scale: Scale;
  /** Bytes, a signed 32-bit number. */
  readonly disp: number;
  /** RIP-relative: the address of the label plus `disp`; excludes base and index. */
  readonly label?: Label;
}

export type SizedMemoryKind = 'm8' | 'm16' | 'm32' | 'm64';

/** Memory whose size follows from the instruction. */
export interface Memory extends Address<Gpr64> {
  readonly kind: 'mem';
}
/** Memory of a stated size, for instructions that do not determine it. */
export interface SizedMemory<K extends SizedMemoryKind = SizedMemoryKind> extends Address<Gpr64> {
  readonly kind: K;
}
/** One element of memory repeated over the vector (EVEX {1toN}). */
export interface Broadcast extends Address<Gpr64> {
  readonly kind: 'broadcast';
}
export type VectorMemoryKind = 'vmx' | 'vmy' | 'vmz';
/** Addresses of a gather or scatter: base + index[i] * scale + disp. */
export interface VectorMemory<K extends VectorMemoryKind = VectorMemoryKind> extends Address<VectorRegister> {
  readonly kind: K;
}
/** Rows of a tile register: from base + disp on, index bytes apart. */
export interface RowMemory extends Address<Gpr64> {
  readonly kind: 'rows';
  readonly base: Gpr64;
  readonly index: Gpr64;
}
export type AnyMemory = Memory | SizedMemory | Broadcast | VectorMemory | RowMemory;

/** An operand written only where the mask has ones; the other elements keep their value. */
export interface Masked<T> {
  readonly kind: 'masked';
  readonly operand: T;
  readonly mask: MaskRegister;
}
/** A destination whose elements are zeroed where the mask has zeros. */
export interface Zeroed<T> {
  readonly kind: 'zeroed';
  readonly operand: T;
  readonly mask: MaskRegister;
}

export type PlainOperand = Register | AnyMemory | Label | number | bigint;
export type Operand = PlainOperand | Masked<Register | Memory | VectorMemory> | Zeroed<Register>;

function checkAddress(scale: number, disp: number): void {
  if (scale !== 1 && scale !== 2 && scale !== 4 && scale !== 8) {
    throw new RangeError(`memory operand: scale ${scale} is not 1, 2, 4 or 8`);
  }
  if (!Number.isInteger(disp) || disp < -(2 ** 31) || disp >= 2 ** 31) {
    throw new RangeError(
      `memory operand: displacement ${disp} is not a signed 32-bit integer; add it to the base register instead`,
    );
  }
}

export interface MemoryFields {
  readonly base?: Gpr64;
  readonly index?: Gpr64;
  readonly scale?: Scale;
  readonly disp?: number;
}

/**
 * A memory operand: `mem(base, disp)`, `mem(base, index, scale, disp)` or `mem({ base, index, scale, disp })`.
 * Displacements are bytes. Throws RangeError when rsp is the index, or scale or displacement is out of range.
 */
export function mem(base: Gpr64, disp?: number): Memory;
export function mem(base: Gpr64, index: Gpr64, scale?: Scale, disp?: number): Memory;
export function mem(fields: MemoryFields): Memory;
export function mem(
  first: Gpr64 | MemoryFields,
  second?: number | Gpr64,
  scale: Scale = 1,
  disp = 0,
): Memory {
  if (!('kind' in first)) {
    const { base, index, scale: fieldScale = 1, disp: fieldDisp = 0 } = first;
    return address(base, index, fieldScale, fieldDisp);
  }
  if (typeof second === 'object') return address(first, second, scale, disp);
  return address(first, undefined, 1, second ?? 0);
}

function address(base: Gpr64 | undefined, index: Gpr64 | undefined, scale: Scale, disp: number): Memory {
  checkAddress(scale, disp);
  if (index?.index === 4) {
    throw new RangeError('memory operand: rsp cannot be an index; make it the base or copy it first');
  }
  return { kind: 'mem', base, index, scale, disp };
}

/** Memory at `label` plus `disp` bytes, addressed relative to the instruction pointer. */
export function rip(label: Label, disp = 0): Memory {
  checkAddress(1, disp);
  return { kind: 'mem', scale: 1, disp, label };
}

/** The rows that begin at `base` plus `disp` bytes and lie as many bytes apart as `stride` holds. */
export const rowMem = (base: Gpr64, stride: Gpr64, disp = 0): RowMemory => ({
  ...address(base, stride, 1, disp),
  kind: 'rows',
  base,
  index: stride,
});

const vectorMemoryKinds = { xmm: 'vmx', ymm: 'vmy', zmm: 'vmz' } as const;
type VectorMemoryOf<V extends VectorRegister> = VectorMemory<(typeof vectorMemoryKinds)[V['kind']]>;

/** The addresses base + index[i] * scale + disp of a gather or scatter. Throws RangeError as `mem` does. */
export function vectorMem<V extends VectorRegister>(
  base: Gpr64,
  index: V,
  scale: Scale = 4,
  disp = 0,
): VectorMemoryOf<V> {
  checkAddress(scale, disp);
  return { kind: vectorMemoryKinds[index.kind], base, index, scale, disp } as VectorMemoryOf<V>;
}

const sized =
  <K extends SizedMemoryKind>(kind: K) =>
  (memory: Memory): SizedMemory<K> => ({ ...memory, kind });

/** States that `memory` is 1 byte. */
export const byte = sized('m8');
/** States that `memory` is 2 bytes. */
export const word = sized('m16');
/** States that `memory` is 4 bytes. */
export const dword = sized('m32');
/** States that `memory` is 8 bytes. */
export const qword = sized('m64');

/** Repeats the one element at `memory` over the whole vector. */
export const broadcast = (memory: Memory): Broadcast => ({ ...memory, kind: 'broadcast' });

function checkMask(mask: MaskRegister): void {
  if (mask.index === 0) throw new RangeError('k0 cannot predicate an instruction: use k1 to k7');
}

/** `operand` under `mask`: elements whose bit is 0 keep their old value (in memory: are not touched). */
export function masked<T extends VectorRegister | MaskRegister | Memory | VectorMemory>(
  operand: T,
  mask: MaskRegister,
): Masked<T> {
  checkMask(mask);
  return { kind: 'masked', operand, mask };
}

/** `operand` under `mask`: elements whose bit is 0 become zero. */
export function zeroed<T extends VectorRegister>(operand: T, mask: MaskRegister): Zeroed<T> {
  checkMask(mask);
  return { kind: 'zeroed', operand, mask };
}

function describeMemory({ base, index, scale, disp, label, kind }: AnyMemory): string {
  const terms: string[] = [];
  if (label) terms.push(label.name);
  if (base) terms.push(registerName(base));
  if (index) terms.push(`${registerName(index)}*${scale}`);
  if (disp !== 0 || terms.length === 0) terms.push(String(disp));
  const sizes: Partial<Record<AnyMemory['kind'], string>> = {
    m8: 'byte ',
    m16: 'word ',
    m32: 'dword ',
    m64: 'qword ',
    broadcast: 'broadcast ',
  };
  return `${sizes[kind] ?? ''}[${terms.join('+')}]`;
}

/** The operand as a person would write it, for messages. */
export function describeOperand(operand: Operand): string {
  if (typeof operand === 'number' || typeof operand === 'bigint') return String(operand);
  switch (operand.kind) {
    case 'masked':
      return `${describeOperand(operand.operand)}{${registerName(operand.mask)}}`;
    case 'zeroed':
      return `${describeOperand(operand.operand)}{${registerName(operand.mask)}}{z}`;
    case 'label':
      return operand.name;
    case 'mem':
    case 'm8':
    case 'm16':
    case 'm32':
    case 'm64':
    case 'broadcast':
    case 'rows':
    case 'vmx':
    case 'vmy':
    case 'vmz':
      return describeMemory(operand);
    default:
      return registerName(operand);
  }
}
