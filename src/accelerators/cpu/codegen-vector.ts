/** Lanewise vector arithmetic as AVX2 and AVX-512 instructions. A rule writes its destination after its last read. */

import type { HorizontalFn, VecBinary } from '../loops/ir.ts';
import { VANISHING } from '../loops/ir.ts';
import type { Emitter, Isa, Rule, Rules } from './codegen-emitter.ts';
import type { NodeOf, VecCompare } from './codegen-nodes.ts';
import { bitsOf, unaryRules, unordered } from './codegen-unary.ts';
import type { Mnemonic } from './instructions.ts';
import { masked, type Operand, zeroed } from './operands.ts';
import { k } from './registers.ts';

const k1 = k(1);
/** A predicate of vcmpps. */
const notLessOrEqual = 0x16;
/** What vrangeps takes: the greater of two numbers, with its own sign. */
const greaterOfTwo = 5;

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

/** The instruction for the greater of two numbers gives the other one for a NaN, which a sum brings back. */
const maximumOfRange: BinaryRule = {
  temps: 1,
  emit(e, d, a, b, [t]) {
    e.op('vcmpps', k1, e.v(a), e.v(b), unordered);
    e.op('vrangeps', e.v(t), e.v(a), e.v(b), greaterOfTwo);
    e.op('vaddps', masked(e.v(t), k1), e.v(a), e.v(b));
    e.moveVector(d, t);
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

/** ternlog's truth table of c ? b : a. */
const chooseByThird = 0xd8;

const binary: { readonly [I in Isa]: { readonly [F in VecBinary]: BinaryRule } } = {
  avx512: {
    ...everywhere,
    fmax: maximumOfRange,
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
  | 'vdot2'
  | 'vdot4'
  | 'vscale'
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
    needs: ({ fn }, isa) => ({ vector: unaryRules[isa][fn].temps }),
    emit: (e, { dst, fn, a }) => unaryRules[e.isa][fn].emit(e, e.number(dst), e.number(a), e.vectorTemps),
  },
  vfma: { emit: emitFma },
  vdot2: {
    needs: () => ({ vector: 3 }),
    emit(e, { dst, a, b, c }) {
      const [x, y, sum] = e.vectorTemps.map((index) => e.v(index));
      const [u, v] = [e.v(e.number(a)), e.v(e.number(b))];
      e.op('vmovaps', sum, e.v(e.number(c)));
      e.op('vandps', x, u, e.splat(0xffff0000 | 0));
      e.op('vandps', y, v, e.splat(0xffff0000 | 0));
      e.op('vfmadd231ps', sum, x, y);
      e.op('vpslld', x, u, 16);
      e.op('vpslld', y, v, 16);
      e.op('vfmadd231ps', sum, x, y);
      e.op('vmovaps', e.v(e.number(dst)), sum);
    },
  },
  vdot4: {
    needs: () => ({ vector: 3 }),
    // The bytes become 16-bit lanes, first those in even places, then those in odd ones.
    emit(e, { dst, a, b, c }) {
      const [x, y, z] = e.vectorTemps.map((index) => e.v(index));
      const [u, s] = [e.v(e.number(a)), e.v(e.number(b))];
      e.op('vandps', x, u, e.splat(0x00ff00ff));
      e.op('vpsllw', y, s, 8);
      e.op('vpsraw', y, y, 8);
      e.op('vpmaddwd', x, x, y);
      e.op('vpsrlw', y, u, 8);
      e.op('vpsraw', z, s, 8);
      e.op('vpmaddwd', y, y, z);
      e.op('vpaddd', x, x, y);
      e.op('vpaddd', e.v(e.number(dst)), e.v(e.number(c)), x);
    },
  },
  vscale: {
    emit(e, { dst, a, n }) {
      e.op('vcmpps', k1, e.v(e.number(n)), e.splat(bitsOf(VANISHING)), notLessOrEqual);
      e.op('vscalefps', zeroed(e.v(e.number(dst)), k1), e.v(e.number(a)), e.v(e.number(n)));
    },
  },
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

/** Extensions of AVX-512 that have an instruction for what otherwise takes several. */
export interface Extensions {
  readonly vnni: boolean;
  readonly bf16: boolean;
}

/** An instruction that adds to its destination. */
function accumulating(mnemonic: 'vpdpbusd' | 'vdpbf16ps'): Rule<NodeOf<'vdot2'> | NodeOf<'vdot4'>> {
  return {
    needs: ({ dst, c }) => ({ vector: dst === c ? 0 : 1 }),
    emit(e, { dst, a, b, c }) {
      const d = e.number(dst);
      // The destination may share a register with a or b, whose last use this is.
      const sum = dst === c ? d : e.vectorTemps[0];
      e.moveVector(sum, e.number(c));
      e.op(mnemonic, e.v(sum), e.v(e.number(a)), e.v(e.number(b)));
      e.moveVector(d, sum);
    },
  };
}

export const extensionRules: { readonly [X in keyof Extensions]: Partial<Rules<'vdot2' | 'vdot4'>> } = {
  vnni: { vdot4: accumulating('vpdpbusd') },
  bf16: { vdot2: accumulating('vdpbf16ps') },
};
