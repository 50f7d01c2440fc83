/** Lanewise vector arithmetic as AVX2 and AVX-512 instructions. A rule writes its destination after its last read. */

import type { HorizontalFn, VecBinary, VecUnary } from '../loops/ir.ts';
import type { Emitter, Isa, Rules } from './codegen-emitter.ts';
import type { NodeOf, VecCompare } from './codegen-nodes.ts';
import type { Mnemonic } from './instructions.ts';
import { masked, type Operand, zeroed } from './operands.ts';
import { k } from './registers.ts';

const bitsOf = (value: number): number => new Int32Array(Float32Array.of(value).buffer)[0];
const k1 = k(1);
const k2 = k(2);

/** d = a fn b on numbers of machine registers; `temps` of them are free to use. */
interface BinaryRule {
  readonly temps: number;
  emit(e: Emitter, d: number, a: number, b: number, temps: readonly number[]): void;
  /** The instruction, where there is one that takes any second operand. */
  readonly mnemonic?: Mnemonic;
}

const simple = (mnemonic: Mnemonic): BinaryRule => ({
  temps: 0,
  mnemonic,
  emit: (e, d, a, b) => e.op(mnemonic, e.v(d), e.v(a), e.v(b)),
});

/**
 * Minimum where NaN wins and -0 < +0. The instruction gives its second operand for a NaN and for two zeros: the two
 * orders differ in those cases only, and their union is right in all.
 */
const minimum: BinaryRule = {
  temps: 1,
  emit(e, d, a, b, [t]) {
    e.op('vminps', e.v(t), e.v(a), e.v(b));
    e.op('vminps', e.v(d), e.v(b), e.v(a));
    e.op('vorps', e.v(d), e.v(d), e.v(t));
  },
};

/** Maximum likewise: what differs (a sign, or anything next to a NaN) is subtracted from the union of both orders. */
const maximum: BinaryRule = {
  temps: 1,
  emit(e, d, a, b, [t]) {
    e.op('vmaxps', e.v(t), e.v(a), e.v(b));
    e.op('vmaxps', e.v(d), e.v(b), e.v(a));
    e.op('vxorps', e.v(d), e.v(d), e.v(t));
    e.op('vorps', e.v(t), e.v(t), e.v(d));
    e.op('vsubps', e.v(d), e.v(t), e.v(d));
  },
};

/** The products of even and of odd lanes, as 64-bit numbers in temporaries 0 and 1. */
function wideProducts(e: Emitter, a: number, b: number, [even, odd, other]: readonly number[]): void {
  e.op('vpmuludq', e.v(even), e.v(a), e.v(b));
  e.op('vpsrlq', e.v(odd), e.v(a), 32);
  e.op('vpsrlq', e.v(other), e.v(b), 32);
  e.op('vpmuludq', e.v(odd), e.v(odd), e.v(other));
}

/** A comparison to a mask of lanes: instruction and predicate. */
const predicates: { readonly [F in VecCompare]: readonly [Mnemonic, number] } = {
  flt: ['vcmpps', 0x11],
  fle: ['vcmpps', 0x12],
  feq: ['vcmpps', 0x00],
  fne: ['vcmpps', 0x04],
  ilt: ['vpcmpd', 1],
  ile: ['vpcmpd', 2],
  ieq: ['vpcmpd', 0],
  ult: ['vpcmpud', 1],
  ule: ['vpcmpud', 2],
};
const ordered = 0x07;
const unordered = 0x03;
const greaterEqual = 0x1d;
const greater = 0x1e;

function compareToMask(e: Emitter, fn: VecCompare, a: number, b: number): void {
  const [mnemonic, predicate] = predicates[fn];
  e.op(mnemonic, k1, e.v(a), e.v(b), predicate);
}

const maskCompare = (fn: VecCompare): BinaryRule => ({
  temps: 0,
  emit(e, d, a, b) {
    compareToMask(e, fn, a, b);
    e.op('vpmovm2d', e.v(d), k1);
  },
});
const floatCompare = (fn: 'flt' | 'fle' | 'feq' | 'fne'): BinaryRule => ({
  temps: 0,
  emit: (e, d, a, b) => e.op('vcmpps', e.v(d), e.v(a), e.v(b), predicates[fn][1]),
});

const everywhere = {
  fadd: simple('vaddps'),
  fsub: simple('vsubps'),
  fmul: simple('vmulps'),
  fdiv: simple('vdivps'),
  fmin: minimum,
  fmax: maximum,
  fminfast: simple('vminps'),
  fmaxfast: simple('vmaxps'),
  iadd: simple('vpaddd'),
  isub: simple('vpsubd'),
  imul: simple('vpmulld'),
  imin: simple('vpminsd'),
  imax: simple('vpmaxsd'),
  umin: simple('vpminud'),
  umax: simple('vpmaxud'),
  and: simple('vandps'),
  or: simple('vorps'),
  xor: simple('vxorps'),
  andnot: simple('vandnps'),
  ishl: simple('vpsllvd'),
  ishr: simple('vpsravd'),
  ushr: simple('vpsrlvd'),
} satisfies Partial<Record<VecBinary, BinaryRule>>;

/** ternlog's truth table of c ? b : a, and of the negation. */
const chooseByThird = 0xd8;
const negation = 0x55;

const binary: { readonly [I in Isa]: { readonly [F in VecBinary]: BinaryRule } } = {
  avx512: {
    ...everywhere,
    umulhi: {
      temps: 3,
      emit(e, d, a, b, temps) {
        wideProducts(e, a, b, temps);
        e.op('vpsrlq', e.v(d), e.v(temps[0]), 32);
        e.op(
          'vpternlogd',
          e.v(d),
          e.v(temps[1]),
          e.table((lane) => -(lane & 1)),
          chooseByThird,
        );
      },
    },
    flt: maskCompare('flt'),
    fle: maskCompare('fle'),
    feq: maskCompare('feq'),
    fne: maskCompare('fne'),
    ilt: maskCompare('ilt'),
    ile: maskCompare('ile'),
    ieq: maskCompare('ieq'),
    ult: maskCompare('ult'),
    ule: maskCompare('ule'),
  },
  avx2: {
    ...everywhere,
    umulhi: {
      temps: 3,
      emit(e, d, a, b, temps) {
        wideProducts(e, a, b, temps);
        e.op('vpsrlq', e.v(d), e.v(temps[0]), 32);
        e.op('vpblendd', e.v(d), e.v(d), e.v(temps[1]), 0xaa);
      },
    },
    flt: floatCompare('flt'),
    fle: floatCompare('fle'),
    feq: floatCompare('feq'),
    fne: floatCompare('fne'),
    ilt: { temps: 0, emit: (e, d, a, b) => e.op('vpcmpgtd', e.v(d), e.v(b), e.v(a)) },
    ile: {
      temps: 0,
      emit(e, d, a, b) {
        e.op('vpcmpgtd', e.v(d), e.v(a), e.v(b));
        e.op('vxorps', e.v(d), e.v(d), e.splat(-1));
      },
    },
    ieq: simple('vpcmpeqd'),
    // a < b where the greater of the two is not a; a <= b where the lesser is.
    ult: {
      temps: 1,
      emit(e, d, a, b, [t]) {
        e.op('vpmaxud', e.v(t), e.v(a), e.v(b));
        e.op('vpcmpeqd', e.v(d), e.v(t), e.v(a));
        e.op('vxorps', e.v(d), e.v(d), e.splat(-1));
      },
    },
    ule: {
      temps: 1,
      emit(e, d, a, b, [t]) {
        e.op('vpminud', e.v(t), e.v(a), e.v(b));
        e.op('vpcmpeqd', e.v(d), e.v(t), e.v(a));
      },
    },
  },
};

/** The single instruction for fn that takes its second operand from memory, if there is one. */
export const memoryForm = (isa: Isa, fn: VecBinary): Mnemonic | undefined => binary[isa][fn].mnemonic;

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
/** Makes a NaN quiet; it is the lowest bit that bf16 keeps of a NaN's payload at least. */
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

const unary: { readonly [I in Isa]: { readonly [F in VecUnary]: UnaryRule } } = {
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

/** Moves lane j + h to lane j, by h; lanes beyond come round to the front of their block of 2h. */
type Exchange = readonly [h: number, emit: (e: Emitter, d: number, a: number) => void];
const within128: readonly Exchange[] = [
  [2, (e, d, a) => e.op('vpermilps', e.v(d), e.v(a), 0x4e)],
  [1, (e, d, a) => e.op('vpermilps', e.v(d), e.v(a), 0xb1)],
];
const exchanges: { readonly [I in Isa]: readonly Exchange[] } = {
  avx512: [
    [8, (e, d, a) => e.op('vshuff32x4', e.v(d), e.v(a), e.v(a), 0x4e)],
    [4, (e, d, a) => e.op('vshuff32x4', e.v(d), e.v(a), e.v(a), 0xb1)],
    ...within128,
  ],
  avx2: [[4, (e, d, a) => e.op('vperm2f128', e.y(d), e.y(a), e.y(a), 0x01)], ...within128],
};

const horizontalRule = (isa: Isa, fn: HorizontalFn): BinaryRule => binary[isa][fn];

function emitSelect(e: Emitter, { dst, mask, a, b }: NodeOf<'vselect'>): void {
  const d = e.v(e.number(dst));
  if (e.isa === 'avx2') {
    e.op('vblendvps', d, e.v(e.number(b)), e.v(e.number(a)), e.v(e.number(mask)));
  } else {
    e.op('vpmovd2m', k1, e.v(e.number(mask)));
    e.op('vblendmps', masked(d, k1), e.v(e.number(b)), e.v(e.number(a)));
  }
}

/** d = d * x + c and so on: the form is chosen by which operand's register the destination shares. */
function emitFma(e: Emitter, { dst, a, b, c }: NodeOf<'vfma'>): void {
  const d = e.number(dst);
  const [x, y, z] = [e.number(a), e.number(b), e.number(c)];
  if (d === x && d !== z) e.op('vfmadd213ps', e.v(d), e.v(y), e.v(z));
  else if (d === y && d !== z) e.op('vfmadd213ps', e.v(d), e.v(x), e.v(z));
  else {
    e.moveVector(d, z);
    e.op('vfmadd231ps', e.v(d), e.v(x), e.v(y));
  }
}

const shifts = { ishl: 'vpslld', ishr: 'vpsrad', ushr: 'vpsrld' } as const;

type VectorNode =
  | 'vconst'
  | 'vmove'
  | 'vsplat'
  | 'vfirst'
  | 'viota'
  | 'vbin'
  | 'vshift'
  | 'vun'
  | 'vfma'
  | 'vselect'
  | 'vcmpselect'
  | 'vhorizontal';

export const vectorRules: Rules<VectorNode> = {
  vconst: { emit: (e, { dst, bits }) => e.fill(e.number(dst), bits) },
  vmove: { emit: (e, { dst, a }) => e.moveVector(e.number(dst), e.number(a)) },
  vsplat: {
    emit(e, { dst, a }) {
      const d = e.number(dst);
      if (e.isa === 'avx512') e.op('vpbroadcastd', e.v(d), e.d(e.number(a)));
      else {
        e.op('vmovd', e.x(d), e.d(e.number(a)));
        e.op('vpbroadcastd', e.v(d), e.x(d));
      }
    },
  },
  vfirst: {
    emit(e, { dst, a }) {
      const d = e.number(dst);
      e.op('vmovd', e.d(d), e.x(e.number(a)));
      e.op('movsxd', e.q(d), e.d(d));
    },
  },
  viota: {
    emit: (e, { dst }) =>
      e.op(
        'vmovups',
        e.v(e.number(dst)),
        e.table((lane) => lane),
      ),
  },
  vbin: {
    needs: ({ fn }, isa) => ({ vector: binary[isa][fn].temps }),
    emit(e, { dst, fn, a, b }) {
      binary[e.isa][fn].emit(e, e.number(dst), e.number(a), e.number(b), e.vectorTemps);
    },
  },
  vshift: {
    emit: (e, { dst, fn, a, by }) => e.op(shifts[fn], e.v(e.number(dst)), e.v(e.number(a)), by),
  },
  vun: {
    needs: ({ fn }, isa) => ({ vector: unary[isa][fn].temps }),
    emit: (e, { dst, fn, a }) => unary[e.isa][fn].emit(e, e.number(dst), e.number(a), e.vectorTemps),
  },
  vfma: { emit: emitFma },
  vselect: { emit: emitSelect },
  vcmpselect: {
    emit(e, { dst, fn, x, y, a, b }) {
      compareToMask(e, fn, e.number(x), e.number(y));
      const chosen: Operand = masked(e.v(e.number(dst)), k1);
      e.op('vblendmps', chosen, e.v(e.number(b)), e.v(e.number(a)));
    },
  },
  vhorizontal: {
    needs: ({ fn }, isa) => ({ vector: 2 + horizontalRule(isa, fn).temps }),
    emit(e, { dst, fn, a }) {
      const [sum, moved, ...temps] = e.vectorTemps;
      let current = e.number(a);
      for (const [h, exchange] of exchanges[e.isa]) {
        const next = h === 1 ? e.number(dst) : sum;
        exchange(e, moved, current);
        horizontalRule(e.isa, fn).emit(e, next, current, moved, temps);
        current = next;
      }
    },
  },
};
