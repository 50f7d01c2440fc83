/** Conversions, roundings and other vector functions of one argument as AVX2 and AVX-512 instructions. */

import type { VecUnary } from '../loops/ir.ts';
import type { Emitter, Isa } from './codegen-emitter.ts';
import type { Mnemonic } from './instructions.ts';
import { masked, zeroed } from './operands.ts';
import { k } from './registers.ts';

export const bitsOf = (value: number): number => new Int32Array(Float32Array.of(value).buffer)[0];
const k1 = k(1);
const k2 = k(2);
/** Predicates of vcmpps. */
const ordered = 0x07;
export const unordered = 0x03;
const greaterEqual = 0x1d;
const greater = 0x1e;

/** ternlog's truth table of the complement of its third operand. */
const negation = 0x55;

/** d = fn a on numbers of machine registers; `temps` of them are free to use. */
interface UnaryRule {
  readonly temps: number;
  emit(e: Emitter, d: number, a: number, temps: readonly number[]): void;
}

const withConstant = (mnemonic: Mnemonic, bits: number): UnaryRule => ({
  temps: 0,
  emit: (e, d, a) => e.op(mnemonic, e.v(d), e.v(a), e.splat(bits)),
});
const plain = (mnemonic: Mnemonic, ...immediate: number[]): UnaryRule => ({
  temps: 0,
  emit: (e, d, a) => e.op(mnemonic, e.v(d), e.v(a), ...immediate),
});

const roundDown = 9;
const roundEven = 8;
const twoTo31 = bitsOf(2 ** 31);
const signBit = 2 ** 31;
const bf16Bits = 0xffff0000;
/** Makes a NaN quiet, and keeps it one when only its upper half is left. */
const quietBit = 0x00400000;

/**
 * Leaves in temporary 0 a vector whose lanes' upper halves are a rounded to bf16, nearest even: half of the last kept
 * place is added in integer arithmetic; NaN is kept. The processor's own conversion would flush subnormals.
 */
export function roundToBf16(e: Emitter, a: number, [t, u]: readonly number[]): void {
  e.op('vpsrld', e.v(t), e.v(a), 16);
  e.op(e.isa === 'avx512' ? 'vpandd' : 'vpand', e.v(t), e.v(t), e.splat(1));
  e.op('vpaddd', e.v(t), e.v(t), e.splat(0x7fff));
  e.op('vpaddd', e.v(t), e.v(t), e.v(a));
  if (e.isa === 'avx512') {
    e.op('vcmpps', k1, e.v(a), e.v(a), unordered);
    e.op('vpord', masked(e.v(t), k1), e.v(a), e.splat(quietBit));
  } else {
    // In lanes with a NaN: all ones, then the NaN alone, made quiet.
    e.op('vcmpps', e.v(u), e.v(a), e.v(a), unordered);
    e.op('vblendvps', e.v(t), e.v(t), e.v(a), e.v(u));
    e.op('vandps', e.v(u), e.v(u), e.splat(quietBit));
    e.op('vorps', e.v(t), e.v(t), e.v(u));
  }
}
export const bf16Temps: { readonly [I in Isa]: number } = { avx512: 1, avx2: 2 };

const roundBf16 = (temps: number): UnaryRule => ({
  temps,
  emit(e, d, a, all) {
    roundToBf16(e, a, all);
    e.op('vandps', e.v(d), e.v(all[0]), e.splat(bf16Bits));
  },
});

const unaryEverywhere = {
  fneg: withConstant('vxorps', signBit),
  fabs: withConstant('vandps', 0x7fffffff),
  fsqrt: plain('vsqrtps'),
  not: withConstant('vxorps', -1),
  itof: plain('vcvtdq2ps'),
  roundf16: {
    temps: 0,
    emit(e, d, a) {
      e.op('vcvtps2ph', e.half(d), e.v(a), 0);
      e.op('vcvtph2ps', e.v(d), e.half(d));
    },
  },
} satisfies Partial<Record<VecUnary, UnaryRule>>;

export const unaryRules: { readonly [I in Isa]: { readonly [F in VecUnary]: UnaryRule } } = {
  avx512: {
    ...unaryEverywhere,
    ffloor: plain('vrndscaleps', roundDown),
    fround: plain('vrndscaleps', roundEven),
    roundbf16: roundBf16(bf16Temps.avx512),
    utof: plain('vcvtudq2ps'),
    // What is out of range converts to 0x80000000: right below, to be complemented above.
    ftoi: {
      temps: 0,
      emit(e, d, a) {
        e.op('vcmpps', k1, e.v(a), e.v(a), ordered);
        e.op('vcmpps', k2, e.v(a), e.splat(twoTo31), greaterEqual);
        e.op('vcvttps2dq', zeroed(e.v(d), k1), e.v(a));
        e.op('vpternlogd', masked(e.v(d), k2), e.v(d), e.v(d), negation);
      },
    },
    // What is out of range converts to all ones: right above; NaN and negative numbers are masked off.
    ftou: {
      temps: 0,
      emit(e, d, a) {
        e.op('vcmpps', k1, e.v(a), e.splat(0), greater);
        e.op('vcvttps2udq', zeroed(e.v(d), k1), e.v(a));
      },
    },
  },
  avx2: {
    ...unaryEverywhere,
    ffloor: plain('vroundps', roundDown),
    fround: plain('vroundps', roundEven),
    roundbf16: roundBf16(bf16Temps.avx2),
    // The halves convert exactly, so that only their sum rounds.
    utof: {
      temps: 1,
      emit(e, d, a, [t]) {
        e.op('vpsrld', e.v(t), e.v(a), 16);
        e.op('vpand', e.v(d), e.v(a), e.splat(0xffff));
        e.op('vcvtdq2ps', e.v(t), e.v(t));
        e.op('vcvtdq2ps', e.v(d), e.v(d));
        e.op('vfmadd231ps', e.v(d), e.v(t), e.splat(bitsOf(65536)));
      },
    },
    ftoi: {
      temps: 1,
      emit(e, d, a, [t]) {
        e.op('vcmpps', e.v(t), e.v(a), e.v(a), ordered);
        e.op('vandps', e.v(t), e.v(t), e.v(a));
        e.op('vcvttps2dq', e.v(d), e.v(t));
        e.op('vcmpps', e.v(t), e.v(t), e.splat(twoTo31), greaterEqual);
        e.op('vxorps', e.v(d), e.v(d), e.v(t));
      },
    },
    // From 2^31 on, 2^31 is subtracted before and joined after the signed conversion; from 2^32 on, all ones.
    ftou: {
      temps: 2,
      emit(e, d, a, [t, u]) {
        e.op('vmaxps', e.v(t), e.v(a), e.splat(0));
        e.op('vsubps', e.v(u), e.v(t), e.splat(twoTo31));
        e.op('vcvttps2dq', e.v(d), e.v(t));
        e.op('vcmpps', e.v(t), e.v(u), e.splat(twoTo31), greaterEqual);
        e.op('vcvttps2dq', e.v(u), e.v(u));
        e.op('vorps', e.v(u), e.v(u), e.v(t));
        e.op('vpsrad', e.v(t), e.v(d), 31);
        e.op('vandps', e.v(u), e.v(u), e.v(t));
        e.op('vorps', e.v(d), e.v(d), e.v(u));
      },
    },
  },
};
