/**
 * The language of the instruction table, and its two readings: as TypeScript types of the operands, and as the
 * expanded forms that the encoder matches.
 *
 * A row is `[signature, encoding]`.
 *
 * Signature: operands separated by `, `, alternatives by `/`. Atoms are kinds of operands (`fixedAtoms`) or kinds that
 * vary together over the lengths of one instruction (`varyingAtoms`). `{k}` allows a merging mask on the operand, `{z}`
 * also a zeroing one, `{K}` requires a merging one. `b` is a broadcast element.
 *
 * Encoding: `order [lock] [V|E|VE] [prefix.map.w[.l1]] opcode... [/digit] [nN]`. The order says where each operand goes:
 * `r` ModRM.reg, `m` ModRM.rm, `v` VEX.vvvv, `i` immediate, `s` register in the immediate's upper half, `o` low bits of
 * the opcode, `j` relative jump, `z` ModRM.reg beside an rm of 0, `c` implied, `-` no operands. V is VEX, E is EVEX, neither is a legacy encoding. W is `w0`, `w1`, `wig1`
 * (ignored in VEX, 1 in EVEX) or `wr` (1 for 64-bit registers). N is the unit of EVEX's one-byte displacement: a number of
 * bytes or a part of the vector's length; a broadcast uses 4 or 8 (by W) instead.
 */

import type {
  Broadcast,
  Label,
  Masked,
  Memory,
  Operand,
  RowMemory,
  SizedMemory,
  VectorMemory,
  Zeroed,
} from './operands.ts';
import type { Gpr8, Gpr16, Gpr32, Gpr64, MaskRegister, Tmm, Xmm, Ymm, Zmm } from './registers.ts';

export type Row = readonly [signature: string, encoding: string];
export type InstructionTable = Readonly<Record<string, readonly Row[]>>;

/** What a TypeScript caller passes for each fixed atom. */
interface AtomType {
  x: Xmm;
  y: Ymm;
  z: Zmm;
  k: MaskRegister;
  t: Tmm;
  r8: Gpr8;
  r16: Gpr16;
  r32: Gpr32;
  r64: Gpr64;
  cl: Gpr8;
  m: Memory;
  m8: SizedMemory<'m8'>;
  m16: SizedMemory<'m16'>;
  m32: SizedMemory<'m32'>;
  m64: SizedMemory<'m64'>;
  b: Broadcast;
  rows: RowMemory;
  vmx: VectorMemory<'vmx'>;
  vmy: VectorMemory<'vmy'>;
  vmz: VectorMemory<'vmz'>;
  rel8: Label;
  rel32: Label;
  i8: number;
  u8: number;
  i32: number;
  d32: number;
  i64: number | bigint;
}
export type FixedAtom = keyof AtomType;

/** Operand lengths that an instruction's forms range over: general 32 and 64 bits, or x, y and z vectors. */
export const variants = ['dword', 'qword', 'x', 'y', 'z'] as const;
export type Variant = (typeof variants)[number];

/** Atoms that stand for one fixed atom per variant; a missing variant means that the form has no such length. */
export const varyingAtoms = {
  r: { dword: 'r32', qword: 'r64' },
  /** Sized memory of the instruction's operand size. */
  s: { dword: 'm32', qword: 'm64' },
  /** A full-width immediate: any 32-bit pattern, or sign-extended to 64 bits. */
  i: { dword: 'd32', qword: 'i32' },
  v: { x: 'x', y: 'y', z: 'z' },
  w: { x: 'x', y: 'y' },
  u: { y: 'y', z: 'z' },
  /** The register that holds half of the vector. */
  h: { x: 'x', y: 'x', z: 'y' },
  /** The register that holds a quarter of the vector. */
  q: { x: 'x', y: 'x', z: 'x' },
  /** Gather addresses with a full-width index. */
  g: { x: 'vmx', y: 'vmy', z: 'vmz' },
} as const satisfies Record<string, Partial<Record<Variant, FixedAtom>>>;
type VaryingAtom = keyof typeof varyingAtoms;

type Atom<A, V extends Variant> = A extends FixedAtom
  ? AtomType[A]
  : A extends VaryingAtom
    ? V extends keyof (typeof varyingAtoms)[A]
      ? (typeof varyingAtoms)[A][V] extends infer F extends FixedAtom
        ? AtomType[F]
        : never
      : never
    : never;
type Alternative<A, V extends Variant> = A extends `${infer B}{k}`
  ? Atom<B, V> | Masked<Atom<B, V>>
  : A extends `${infer B}{z}`
    ? Atom<B, V> | Masked<Atom<B, V>> | Zeroed<Atom<B, V>>
    : A extends `${infer B}{K}`
      ? Masked<Atom<B, V>>
      : Atom<A, V>;
type Alternatives<S, V extends Variant> = S extends `${infer A}/${infer Rest}`
  ? Alternative<A, V> | Alternatives<Rest, V>
  : Alternative<S, V>;
type Tuple<S, V extends Variant> = S extends ''
  ? []
  : S extends `${infer A}, ${infer Rest}`
    ? [Alternatives<A, V>, ...Tuple<Rest, V>]
    : [Alternatives<S, V>];
type Distribute<S, V> = V extends Variant ? Tuple<S, V> : never;
/** The tuples of operands that a signature accepts, one per length. */
export type OperandsOf<S> = S extends string ? Distribute<S, Variant> : never;

export type MaskRule = 'none' | 'merge' | 'zero' | 'required';
export type ImmediateAtom = 'i8' | 'u8' | 'i32' | 'd32' | 'i64';
export type OperandKind = Exclude<Operand, number | bigint>['kind'];

/** What one operand position of a form accepts. */
export interface Slot {
  readonly kinds: ReadonlyMap<OperandKind, MaskRule>;
  readonly immediate?: ImmediateAtom;
  readonly relative?: 'rel8' | 'rel32';
  readonly onlyCl: boolean;
}

/** One row of the table at one length and one encoding. */
export interface Form {
  readonly row: number;
  readonly signature: string;
  readonly slots: readonly Slot[];
  readonly order: string;
  readonly encoding: 'legacy' | 'vex' | 'evex';
  readonly lock: boolean;
  readonly prefix: 0 | 1 | 2 | 3;
  readonly map: 0 | 1 | 2 | 3;
  /** 1 or 0; -1 where the bit is ignored. */
  readonly w: 0 | 1 | -1;
  /** 0, 1, 2: 128, 256, 512 bits. */
  readonly length: 0 | 1 | 2;
  readonly opcode: readonly number[];
  readonly digit: number;
  /** Bytes that one step of an EVEX one-byte displacement stands for. */
  readonly disp8Unit: number;
}

const immediateAtoms: ReadonlySet<string> = new Set([
  'i8',
  'u8',
  'i32',
  'd32',
  'i64',
] satisfies ImmediateAtom[]);

type KindAtom = Exclude<FixedAtom, ImmediateAtom | 'rel8' | 'rel32' | 'cl'>;
const atomKinds: { readonly [A in KindAtom]: OperandKind } = {
  x: 'xmm',
  y: 'ymm',
  z: 'zmm',
  k: 'mask',
  t: 'tmm',
  r8: 'r8',
  r16: 'r16',
  r32: 'r32',
  r64: 'r64',
  m: 'mem',
  m8: 'm8',
  m16: 'm16',
  m32: 'm32',
  m64: 'm64',
  b: 'broadcast',
  rows: 'rows',
  vmx: 'vmx',
  vmy: 'vmy',
  vmz: 'vmz',
};

const maskRules: Readonly<Record<string, MaskRule>> = { k: 'merge', z: 'zero', K: 'required' };

/** The fixed atom at this length, or undefined where the form has no such length. */
export function resolveAtom(atom: string, variant: Variant | undefined): string | undefined {
  if (!(atom in varyingAtoms)) return atom;
  const choices: Partial<Record<Variant, string>> = varyingAtoms[atom as VaryingAtom];
  return variant && choices[variant];
}

/** The lengths at which a signature exists; `[undefined]` where it does not vary. */
export function variantsOf(signature: string): (Variant | undefined)[] {
  const atoms = signature.split(/, |\//).map((part) => part.replace(/\{.\}$/, ''));
  if (!atoms.some((atom) => atom in varyingAtoms)) return [undefined];
  return variants.filter((variant) => atoms.every((atom) => resolveAtom(atom, variant) !== undefined));
}

function parseSlot(text: string, variant: Variant | undefined, evex: boolean): Slot {
  const kinds = new Map<OperandKind, MaskRule>();
  let immediate: ImmediateAtom | undefined;
  let relative: 'rel8' | 'rel32' | undefined;
  let onlyCl = false;
  for (const alternative of text.split('/')) {
    const [, name, suffix] = /^(\w+)(?:\{(\w)\})?$/.exec(alternative) ?? [];
    const atom = name && resolveAtom(name, variant);
    if (!atom) throw new Error(`instruction table: no operand "${alternative}" in "${text}"`);
    if (immediateAtoms.has(atom)) immediate = atom as ImmediateAtom;
    else if (atom === 'rel8' || atom === 'rel32') relative = atom;
    else if (atom === 'cl') {
      onlyCl = true;
      kinds.set('r8', 'none');
    } else {
      const kind = atomKinds[atom as KindAtom];
      if (!kind) throw new Error(`instruction table: no operand "${alternative}" in "${text}"`);
      if (evex || kind !== 'broadcast') kinds.set(kind, (evex && suffix && maskRules[suffix]) || 'none');
    }
  }
  return { kinds, immediate, relative, onlyCl };
}

const encodingPattern =
  /^(\S+)( lock)?(?: (VE|V|E))?(?: ((?:np|66|f3|f2)(?:\.\w+)*|0f\w*|w1))?((?: [0-9A-F]{2})+)(?: \/(\d))?(?: n(vl|\d+)(?:\/(\d))?)?$/;
const prefixes = ['np', '66', 'f3', 'f2'];
const maps = ['', '0f', '0f38', '0f3a'];

/** Expands the row at position `row` of an instruction into forms, shortest encoding first. Throws on a malformed row. */
export function expandRow([signature, encoding]: Row, row: number): Form[] {
  const match = encodingPattern.exec(encoding);
  if (!match) throw new Error(`instruction table: malformed encoding "${encoding}"`);
  const [, order, lock, scheme, dotted = '', bytes, digit, unit, divisor] = match;
  const parts = dotted.split('.');
  const opcode = bytes
    .trim()
    .split(' ')
    .map((hex) => Number.parseInt(hex, 16));
  const forms: Form[] = [];
  for (const kind of scheme ? [...scheme] : ['']) {
    const evex = kind === 'E';
    for (const variant of variantsOf(signature)) {
      if (kind === 'V' && variant === 'z') continue;
      const vector =
        variant ??
        (/\bz\b/.test(signature.replaceAll('{z}', '')) ? 'z' : /\by\b/.test(signature) ? 'y' : 'x');
      const length = parts.includes('l1') ? 1 : vector === 'z' ? 2 : vector === 'y' ? 1 : 0;
      const bits = parts.find((part) => /^w/.test(part));
      const w64 = variant === 'qword' && (scheme === undefined || bits === 'wr');
      forms.push({
        row,
        signature,
        slots: signature === '' ? [] : signature.split(', ').map((text) => parseSlot(text, variant, evex)),
        order: order === '-' ? '' : order,
        encoding: kind === '' ? 'legacy' : evex ? 'evex' : 'vex',
        lock: lock !== undefined,
        prefix: Math.max(
          0,
          prefixes.findIndex((name) => parts.includes(name)),
        ) as Form['prefix'],
        map: Math.max(
          0,
          maps.findIndex((name) => name !== '' && parts.includes(name)),
        ) as Form['map'],
        w: w64 || bits === 'w1' || (bits === 'wig1' && evex) ? 1 : bits === 'wig1' ? -1 : 0,
        length,
        opcode,
        digit: digit === undefined ? -1 : Number(digit),
        disp8Unit: unit === 'vl' ? (16 << length) / Number(divisor ?? 1) : Number(unit ?? 0),
      });
    }
  }
  return forms;
}
