/** The registers of x86-64 as typed values: a register of the wrong class is a compile error. */

export type RegisterKind = 'r8' | 'r16' | 'r32' | 'r64' | 'xmm' | 'ymm' | 'zmm' | 'mask' | 'tmm';

export interface Register<K extends RegisterKind = RegisterKind> {
  readonly kind: K;
  /** The number that the machine encodes: 0 to 15 for general registers, 0 to 31 for vectors, 0 to 7 for masks and tiles. */
  readonly index: number;
}

export type Gpr8 = Register<'r8'>;
export type Gpr16 = Register<'r16'>;
export type Gpr32 = Register<'r32'>;
export type Gpr64 = Register<'r64'>;
export type Xmm = Register<'xmm'>;
export type Ymm = Register<'ymm'>;
export type Zmm = Register<'zmm'>;
export type VectorRegister = Xmm | Ymm | Zmm;
export type MaskRegister = Register<'mask'>;
export type Tmm = Register<'tmm'>;

const limits: Readonly<Record<RegisterKind, number>> = {
  r8: 16,
  r16: 16,
  r32: 16,
  r64: 16,
  xmm: 32,
  ymm: 32,
  zmm: 32,
  mask: 8,
  tmm: 8,
};

function register<K extends RegisterKind>(kind: K, index: number): Register<K> {
  if (!Number.isInteger(index) || index < 0 || index >= limits[kind]) {
    throw new RangeError(`register ${kind} ${index} does not exist: use 0 to ${limits[kind] - 1}`);
  }
  return Object.freeze({ kind, index });
}

/** The low byte of general register `index`. 4 to 7 are spl, bpl, sil, dil: the old high halves ah to bh are not offered. */
export const r8 = (index: number): Gpr8 => register('r8', index);
/** The low 16 bits of general register `index`. */
export const r16 = (index: number): Gpr16 => register('r16', index);
/** The low 32 bits of general register `index`; a write clears the upper half. */
export const r32 = (index: number): Gpr32 => register('r32', index);
/** General register `index`. */
export const r64 = (index: number): Gpr64 => register('r64', index);
/** 128-bit vector register; 16 to 31 need AVX-512VL. */
export const xmm = (index: number): Xmm => register('xmm', index);
/** 256-bit vector register; 16 to 31 need AVX-512VL. */
export const ymm = (index: number): Ymm => register('ymm', index);
/** 512-bit vector register (AVX-512F). */
export const zmm = (index: number): Zmm => register('zmm', index);
/** AVX-512 mask register; k0 cannot predicate (its code means "no mask"). */
export const k = (index: number): MaskRegister => register('mask', index);

/** Tile register of AMX: rows of bytes, as many of each as the configuration says. */
export const tmm = (index: number): Tmm => register('tmm', index);

const wide = (index: number): Gpr64 => r64(index);
export const rax = wide(0);
export const rcx = wide(1);
export const rdx = wide(2);
export const rbx = wide(3);
export const rsp = wide(4);
export const rbp = wide(5);
export const rsi = wide(6);
export const rdi = wide(7);
export const r8q = wide(8);
export const r9 = wide(9);
export const r10 = wide(10);
export const r11 = wide(11);
export const r12 = wide(12);
export const r13 = wide(13);
export const r14 = wide(14);
export const r15 = wide(15);
export const eax = r32(0);
export const ecx = r32(1);
export const edx = r32(2);
export const ebx = r32(3);
export const esi = r32(6);
export const edi = r32(7);
export const al = r8(0);
export const cl = r8(1);

const legacyNames = ['ax', 'cx', 'dx', 'bx', 'sp', 'bp', 'si', 'di'] as const;

function generalName(kind: 'r8' | 'r16' | 'r32' | 'r64', index: number): string {
  if (index >= 8) return `r${index}${{ r8: 'b', r16: 'w', r32: 'd', r64: '' }[kind]}`;
  const base = legacyNames[index];
  if (kind === 'r8') return index < 4 ? `${base[0]}l` : `${base}l`;
  return { r16: '', r32: 'e', r64: 'r' }[kind] + base;
}

/** The register's name in Intel syntax, for messages. */
export function registerName(register: Register): string {
  switch (register.kind) {
    case 'r8':
    case 'r16':
    case 'r32':
    case 'r64':
      return generalName(register.kind, register.index);
    case 'mask':
      return `k${register.index}`;
    default:
      return `${register.kind}${register.index}`;
  }
}
