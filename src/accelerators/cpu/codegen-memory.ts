/** Vector loads and stores, with conversion between the types of memory and 32-bit lanes. */

import type { IntReg, MemoryType } from '../loops/ir.ts';
import type { Emitter, Isa, Rules } from './codegen-emitter.ts';
import type { NodeOf } from './codegen-nodes.ts';
import { emitTranspose, transposeNeeds } from './codegen-transpose.ts';
import { bf16Temps, roundToBf16 } from './codegen-unary.ts';
import { memoryForm } from './codegen-vector.ts';
import type { Mnemonic } from './instructions.ts';
import { broadcast, type Memory, masked, type Operand, zeroed } from './operands.ts';
import type { Needs } from './regalloc.ts';
import type { VectorRegister } from './registers.ts';

/** The types that loads and stores support here. */
export type SupportedType = Exclude<MemoryType, 'f8e4m3' | 'f8e5m2'>;

/** How one type is loaded and stored. Registers are numbers; `d` may be an operand under a mask. */
interface TypeRule {
  /** Vector temporaries that stores take. */
  readonly temps: { readonly [I in Isa]: number };
  /** Loads and widens elements, from memory or packed in a register, to register `index`, written as `d`. */
  load(e: Emitter, d: Operand, index: number, from: Operand): void;
  /** Every lane of register `index` = the element in memory. */
  repeat(e: Emitter, index: number, memory: Memory): void;
  /** AVX-512: stores under a mask, or whole, to `memory`. AVX2: stores whole. */
  store(e: Emitter, memory: Memory, mask: ((memory: Memory) => Operand) | undefined, a: number): void;
  /** Stores lane 0. */
  storeFirst(e: Emitter, memory: Memory, a: number): void;
  /** AVX2, types of less than 32 bits: how elements are stored packed, and one at a time. */
  readonly narrow?: Narrow;
}

interface Narrow {
  readonly bytes: number;
  /** Packs the lanes of a, narrowed, side by side into the low bits of the register whose number it returns. */
  pack(e: Emitter, a: number): number;
  readonly storePacked: Mnemonic;
  readonly insert: Mnemonic;
  readonly extract: Mnemonic;
}

const none = { avx512: 0, avx2: 0 };

const word: TypeRule = {
  temps: none,
  load: (e, d, _index, memory) => e.op('vmovups', d, memory),
  repeat: (e, index, memory) => e.op('vbroadcastss', e.v(index), memory),
  store: (e, memory, mask, a) => e.op('vmovups', mask ? mask(memory) : memory, e.v(a)),
  storeFirst: (e, memory, a) => e.op('vmovss', memory, e.x(a)),
};

const narrow16 = { bytes: 2, storePacked: 'vmovdqu', insert: 'vpinsrw', extract: 'vpextrw' } as const;
const narrow8 = { bytes: 1, storePacked: 'vmovq', insert: 'vpinsrb', extract: 'vpextrb' } as const;

/** Temporary 0: a rounded to bf16, in the low half of each lane. */
function bf16InLanes(e: Emitter, a: number): number {
  const [t] = e.vectorTemps;
  roundToBf16(e, a, e.vectorTemps);
  e.op('vpsrld', e.v(t), e.v(t), 16);
  return t;
}

/** AVX2: the low 16 bits of lanes, which are all that is set, side by side in temporary 0. */
function packWords(e: Emitter, from: number): number {
  const [t, u] = e.vectorTemps;
  e.op('vextracti128', e.x(u), e.y(from), 1);
  e.op('vpackusdw', e.x(t), e.x(from), e.x(u));
  return t;
}

const bf16: TypeRule = {
  temps: bf16Temps,
  load(e, d, index, memory) {
    e.op('vpmovzxwd', d, memory);
    e.op('vpslld', e.v(index), e.v(index), 16);
  },
  repeat(e, index, memory) {
    e.op('vpbroadcastw', e.v(index), memory);
    e.op('vpslld', e.v(index), e.v(index), 16);
  },
  store(e, memory, mask, a) {
    if (e.isa === 'avx512') e.op('vpmovdw', mask ? mask(memory) : memory, e.v(bf16InLanes(e, a)));
    else e.op('vmovdqu', memory, e.x(packWords(e, bf16InLanes(e, a))));
  },
  storeFirst: (e, memory, a) => e.op('vpextrw', memory, e.x(bf16InLanes(e, a)), 0),
  narrow: { ...narrow16, pack: (e, a) => packWords(e, bf16InLanes(e, a)) },
};

const nearestEven = 0;

const f16: TypeRule = {
  temps: { avx512: 1, avx2: 1 },
  load: (e, d, _index, memory) => e.op('vcvtph2ps', d, memory),
  repeat(e, index, memory) {
    e.op('vpbroadcastw', e.half(index), memory);
    e.op('vcvtph2ps', e.v(index), e.half(index));
  },
  store: (e, memory, mask, a) => e.op('vcvtps2ph', mask ? mask(memory) : memory, e.v(a), nearestEven),
  storeFirst: (e, memory, a) => e.op('vpextrw', memory, e.x(packHalves(e, a)), 0),
  narrow: { ...narrow16, pack: packHalves },
};

function packHalves(e: Emitter, a: number): number {
  const [t] = e.vectorTemps;
  e.op('vcvtps2ph', e.half(t), e.v(a), nearestEven);
  return t;
}

/** AVX2: of each lane the bits that `mask` has among the low 16, side by side in temporary 0. */
function packMasked(e: Emitter, a: number, mask: number): number {
  const [t] = e.vectorTemps;
  e.op('vpand', e.v(t), e.v(a), e.splat(mask));
  return packWords(e, t);
}

/** AVX2: the low bytes of lanes side by side in temporary 0. */
function packBytes(e: Emitter, a: number): number {
  const t = packMasked(e, a, 0xff);
  e.op('vpackuswb', e.x(t), e.x(t), e.x(t));
  return t;
}

function integerBytes(extend: 'vpmovsxbd' | 'vpmovzxbd', shiftBack: 'vpsrad' | 'vpsrld'): TypeRule {
  return {
    temps: { avx512: 0, avx2: 2 },
    load: (e, d, _index, memory) => e.op(extend, d, memory),
    repeat(e, index, memory) {
      e.op('vpbroadcastb', e.v(index), memory);
      e.op(shiftBack, e.v(index), e.v(index), 24);
    },
    store(e, memory, mask, a) {
      if (e.isa === 'avx512') e.op('vpmovdb', mask ? mask(memory) : memory, e.v(a));
      else e.op('vmovq', memory, e.x(packBytes(e, a)));
    },
    storeFirst: (e, memory, a) => e.op('vpextrb', memory, e.x(a), 0),
    narrow: { ...narrow8, pack: packBytes },
  };
}

const words: TypeRule = {
  temps: { avx512: 0, avx2: 2 },
  load: (e, d, _index, memory) => e.op('vpmovzxwd', d, memory),
  repeat(e, index, memory) {
    e.op('vpbroadcastw', e.v(index), memory);
    e.op('vpsrld', e.v(index), e.v(index), 16);
  },
  store(e, memory, mask, a) {
    if (e.isa === 'avx512') e.op('vpmovdw', mask ? mask(memory) : memory, e.v(a));
    else e.op('vmovdqu', memory, e.x(packLowWords(e, a)));
  },
  storeFirst: (e, memory, a) => e.op('vpextrw', memory, e.x(a), 0),
  narrow: { ...narrow16, pack: packLowWords },
};

/** AVX2: the low words of lanes side by side in temporary 0. */
function packLowWords(e: Emitter, a: number): number {
  return packMasked(e, a, 0xffff);
}

const types: { readonly [T in SupportedType]: TypeRule } = {
  f32: word,
  i32: word,
  u32: word,
  bf16,
  f16,
  i8: integerBytes('vpmovsxbd', 'vpsrad'),
  u8: integerBytes('vpmovzxbd', 'vpsrld'),
  u16: words,
};

/** The type of memory that a node needs and that there is no code for; undefined where all is well. */
export function unsupportedType(node: { readonly o: string; readonly type?: string }): string | undefined {
  return node.o.startsWith('v') && node.type !== undefined && !(node.type in types) ? node.type : undefined;
}

const ruleOf = (type: MemoryType): TypeRule => types[type as SupportedType];

/** AVX2: all ones in the lanes below `count`, in vector temporary 0. */
function laneMask(e: Emitter, count: IntReg): VectorRegister {
  const [t] = e.vectorTemps;
  e.spreadCount(count, e.generalTemps[0], t);
  e.op(
    'vpcmpgtd',
    e.v(t),
    e.v(t),
    e.table((lane) => lane),
  );
  return e.v(t);
}

/** AVX2: a whole access where count reaches all lanes, which is most often the case, and else the careful one. */
function wholeOrPart(e: Emitter, { count }: { count: IntReg }, whole: () => void, part: () => void): void {
  const partial = e.asm.label('partial');
  const end = e.asm.label('access end');
  e.op('cmp', e.q(e.number(count)), e.lanes);
  e.op('jl', partial);
  whole();
  e.op('jmp', end);
  e.asm.bind(partial);
  part();
  e.asm.bind(end);
}

/** AVX2, elements of less than 32 bits: one by one while they last, so that no other byte is touched. */
function eachElement(e: Emitter, { count }: { count: IntReg }, visit: (lane: number) => void): void {
  const end = e.asm.label('elements end');
  for (let lane = 0; lane < e.lanes - 1; lane++) {
    e.op('cmp', e.q(e.number(count)), lane);
    e.op('jle', end);
    visit(lane);
  }
  e.asm.bind(end);
}

function emitLoadPart(e: Emitter, node: NodeOf<'vloadpart'>): void {
  const { dst, type, from, count } = node;
  const { load, narrow } = ruleOf(type);
  const d = e.number(dst);
  if (e.isa === 'avx512') {
    load(e, zeroed(e.v(d), e.maskBelow(count)), d, e.memory(from));
    return;
  }
  wholeOrPart(
    e,
    node,
    () => load(e, e.v(d), d, e.memory(from)),
    () => {
      if (!narrow) {
        e.op('vmaskmovps', e.v(d), laneMask(e, count), e.memory(from));
        return;
      }
      const t = e.x(e.vectorTemps[0]);
      e.op('vxorps', t, t, t);
      eachElement(e, node, (lane) => e.op(narrow.insert, t, t, e.memory(from, lane * narrow.bytes), lane));
      load(e, e.v(d), d, t);
    },
  );
}

function emitStorePart(e: Emitter, node: NodeOf<'vstorepart'>): void {
  const { src, type, to, count } = node;
  const { store, narrow } = ruleOf(type);
  const a = e.number(src);
  if (e.isa === 'avx512') {
    const mask = e.maskBelow(count);
    store(e, e.memory(to), (memory) => masked(memory, mask), a);
  } else if (!narrow) {
    wholeOrPart(
      e,
      node,
      () => e.op('vmovups', e.memory(to), e.v(a)),
      () => e.op('vmaskmovps', e.memory(to), laneMask(e, count), e.v(a)),
    );
  } else {
    const packed = e.x(narrow.pack(e, a));
    wholeOrPart(
      e,
      node,
      () => e.op(narrow.storePacked, e.memory(to), packed),
      () =>
        eachElement(e, node, (lane) => e.op(narrow.extract, e.memory(to, lane * narrow.bytes), packed, lane)),
    );
  }
}

/** The mask of a partial access is built with one temporary of each class. */
function partNeeds({ o, type }: NodeOf<'vloadpart' | 'vstorepart'>, isa: Isa): Partial<Needs> {
  return { general: 1, vector: Math.max(1, o === 'vstorepart' ? ruleOf(type).temps[isa] : 0) };
}
const storeNeeds = ({ type }: NodeOf<'vstore' | 'vstorefirst'>, isa: Isa): Partial<Needs> => ({
  vector: ruleOf(type).temps[isa],
});

const loaded = (from: Memory, repeated: boolean): Operand => (repeated ? broadcast(from) : from);

type MemoryNode =
  | 'vload'
  | 'vloadpart'
  | 'vbroadcast'
  | 'vstore'
  | 'vstorepart'
  | 'vstorefirst'
  | 'vbinload'
  | 'vfmaload'
  | 'vtranspose';

export const memoryRules: Rules<MemoryNode> = {
  vload: {
    emit(e, { dst, type, from }) {
      const d = e.number(dst);
      ruleOf(type).load(e, e.v(d), d, e.memory(from));
    },
  },
  vloadpart: { needs: partNeeds, emit: emitLoadPart },
  vbroadcast: {
    emit: (e, { dst, type, from }) => ruleOf(type).repeat(e, e.number(dst), e.memory(from)),
  },
  vstore: {
    needs: storeNeeds,
    emit: (e, { src, type, to }) => ruleOf(type).store(e, e.memory(to), undefined, e.number(src)),
  },
  vstorepart: { needs: partNeeds, emit: emitStorePart },
  vstorefirst: {
    needs: storeNeeds,
    emit: (e, { src, type, to }) => ruleOf(type).storeFirst(e, e.memory(to), e.number(src)),
  },
  vbinload: {
    emit(e, { dst, fn, a, from, repeated }) {
      const operand = loaded(e.memory(from), repeated);
      e.op(memoryForm(e.isa, fn)!, e.v(e.number(dst)), e.v(e.number(a)), operand);
    },
  },
  vfmaload: {
    emit(e, { dst, a, c, from, repeated }) {
      const d = e.number(dst);
      const operand = loaded(e.memory(from), repeated);
      if (d === e.number(a) && d !== e.number(c)) {
        e.op('vfmadd132ps', e.v(d), e.v(e.number(c)), operand);
      } else {
        e.moveVector(d, e.number(c));
        e.op('vfmadd231ps', e.v(d), e.v(e.number(a)), operand);
      }
    },
  },
  vtranspose: { needs: transposeNeeds, emit: emitTranspose },
};
