/** Random programs as machine code and in the interpreter. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Isa } from '../../src/accelerators/cpu/codegen.ts';
import type {
  Address,
  Instr,
  IntReg,
  LoopFunction,
  VecBinary,
  VecReg,
  VecUnary,
} from '../../src/accelerators/loops/ir.ts';
import { Random } from '../../src/numerics/random.ts';
import { assertEqual } from './loop-cases.ts';
import { lanesOf, loopFunction, Names, runBoth, runnable, viewBytes } from './loop-runner.ts';

const floatFns: readonly VecBinary[] = ['fadd', 'fsub', 'fmul', 'fdiv', 'fmin', 'fmax'];
const wholeFns: readonly VecBinary[] = [
  ...([
    'iadd',
    'isub',
    'imul',
    'umulhi',
    'imin',
    'imax',
    'umin',
    'umax',
    'and',
    'or',
    'xor',
    'andnot',
  ] as const),
  ...(['ishl', 'ishr', 'ushr', 'ilt', 'ile', 'ieq', 'ult', 'ule'] as const),
];
const compareFns: readonly VecBinary[] = ['flt', 'fle', 'feq', 'fne', 'ilt', 'ule'];
const floatUnary: readonly VecUnary[] = [
  'fneg',
  'fabs',
  'fsqrt',
  'ffloor',
  'fround',
  'roundbf16',
  'roundf16',
];
const integerFns = [
  'add',
  'sub',
  'mul',
  'div',
  'rem',
  'and',
  'or',
  'xor',
  'min',
  'max',
  'lt',
  'ge',
  'eq',
] as const;
const comparisons = ['lt', 'le', 'gt', 'ge', 'eq', 'ne'] as const;

/** Views: 0 is input, 1 holds floats, 2 whole numbers, 3 bf16. */
const viewCount = 4;
const longest = 400;

/**
 * A random function. Floats and whole numbers have registers and memory of their own, since which NaN an operation
 * gives is left open.
 */
class Program {
  readonly #random: Random;
  readonly #isa: Isa;
  readonly #names = new Names();
  readonly #views: IntReg[];
  readonly #integers: IntReg[];
  readonly #floats: VecReg[];
  readonly #wholes: VecReg[];
  #size = 0;

  constructor(isa: Isa, seed: number) {
    this.#random = new Random(seed, 'loop programs');
    this.#isa = isa;
    const n = this.#names;
    this.#views = Array.from({ length: viewCount }, () => n.i());
    this.#integers = Array.from({ length: 2 + this.#below(22) }, () => n.i());
    this.#floats = Array.from({ length: 2 + this.#below(26) }, () => n.v());
    this.#wholes = Array.from({ length: 2 + this.#below(20) }, () => n.v());
  }

  #below(bound: number): number {
    return Math.floor(this.#random.float() * bound);
  }
  #pick<T>(list: readonly T[]): T {
    return list[this.#below(list.length)];
  }

  make(): LoopFunction {
    const [integers, floats, wholes] = [this.#integers, this.#floats, this.#wholes];
    const lanes = lanesOf[this.#isa];
    const [, floatView, wholeView] = this.#views;
    return loopFunction(this.#isa, viewCount, [
      ...this.#views.map((dst, index): Instr => ({ o: 'viewBase', dst, index })),
      ...integers.map(
        (dst, i): Instr => ({ o: 'iload', dst, type: 'i32', from: this.#at(this.#views[0], 4 * i) }),
      ),
      ...floats.map(
        (dst, i): Instr => ({ o: 'vload', dst, type: 'f32', from: this.#at(this.#views[0], 36 * i) }),
      ),
      ...wholes.map(
        (dst, i): Instr => ({ o: 'vload', dst, type: 'i32', from: this.#at(this.#views[0], 44 * i) }),
      ),
      ...this.#block(0),
      ...floats.map(
        (src, i): Instr => ({ o: 'vstore', src, type: 'f32', to: this.#at(floatView, 4 * lanes * i) }),
      ),
      ...wholes.map(
        (src, i): Instr => ({ o: 'vstore', src, type: 'i32', to: this.#at(wholeView, 4 * lanes * i) }),
      ),
      ...integers.map(
        (src, i): Instr => ({ o: 'istore', src, type: 'i32', to: this.#at(wholeView, 3000 + 4 * i) }),
      ),
    ]);
  }

  #at(base: IntReg, displacement: number): Address {
    return { base, displacement };
  }

  #block(depth: number): Instr[] {
    const block: Instr[] = [];
    for (let left = 2 + this.#below(14); left > 0 && this.#size < longest; left--) {
      this.#size++;
      const kind = this.#random.float();
      if (kind < 0.07 && depth < 3) block.push(...this.#loop(depth));
      else if (kind < 0.14 && depth < 4) block.push(this.#branch(depth));
      else if (kind < 0.4) block.push(...this.#integer());
      else if (kind < 0.6) block.push(...this.#memory());
      else block.push(...this.#vector());
    }
    return block;
  }

  #loop(depth: number): Instr[] {
    const index = this.#names.i();
    const bound = this.#names.i();
    const body = this.#block(depth + 1);
    const registers = this.#random.float() < 0.5;
    const lo = this.#below(3);
    return [
      { o: 'ibin', fn: 'and', dst: bound, a: this.#pick(this.#integers), b: 3 },
      { o: 'for', index, lo, hi: registers ? bound : this.#below(5), step: 1 + this.#below(2), body },
      { o: 'ibin', fn: 'add', dst: this.#pick(this.#integers), a: index, b: bound },
    ];
  }

  #branch(depth: number): Instr {
    const b = this.#random.float() < 0.5 ? this.#pick(this.#integers) : this.#below(9) - 4;
    return {
      o: 'if',
      a: this.#pick(this.#integers),
      cmp: this.#pick(comparisons),
      b,
      then: this.#block(depth + 1),
      else: this.#random.float() < 0.5 ? this.#block(depth + 1) : [],
    };
  }

  #integer(): Instr[] {
    const [dst, a, c] = [this.#pick(this.#integers), this.#pick(this.#integers), this.#pick(this.#integers)];
    const b =
      this.#random.float() < 0.6 ? this.#pick(this.#integers) : this.#pick([0, 1, 3, 8, -1, 1000, 2 ** 34]);
    const kind = this.#random.float();
    if (kind < 0.6) return [{ o: 'ibin', fn: this.#pick(integerFns), dst, a, b }];
    if (kind < 0.7) return [{ o: 'iselect', dst, c, a, b: this.#pick(this.#integers) }];
    if (kind < 0.8) return [{ o: 'iwrap', dst, a }];
    if (kind < 0.85) return [{ o: 'iconst', dst, value: this.#below(2 ** 33) - 2 ** 32 }];
    if (kind < 0.9) return [{ o: 'imove', dst, a }];
    const count = this.#names.i();
    return [
      { o: 'ibin', fn: 'and', dst: count, a: c, b: 31 },
      { o: 'ibin', fn: this.#pick(['shl', 'shr'] as const), dst, a, b: count },
    ];
  }

  /** An address within a view, by a register's value. */
  #somewhere(view: number): { code: Instr[]; address: Address } {
    const index = this.#names.i();
    return {
      code: [{ o: 'ibin', fn: 'and', dst: index, a: this.#pick(this.#integers), b: 127 }],
      address: {
        base: this.#views[view],
        index,
        scale: this.#pick([1, 2, 4, 8] as const),
        displacement: 1500,
      },
    };
  }

  #memory(): Instr[] {
    const kind = this.#below(9);
    const [float, whole, integer] = [
      this.#pick(this.#floats),
      this.#pick(this.#wholes),
      this.#pick(this.#integers),
    ];
    // Aligned by four: a store must not leave half of a number behind that another load reads.
    const aligned = this.#names.i();
    const view = [1, 2, 1, 2, 0, 3, 1, 2, 2][kind];
    const { code, address } = this.#somewhere(view);
    const base = { ...address, scale: 4, index: aligned } as const;
    code.push({ o: 'imove', dst: aligned, a: address.index! });
    switch (kind) {
      case 0:
        return [...code, { o: 'vload', dst: float, type: 'f32', from: base }];
      case 1:
        return [...code, { o: 'vload', dst: whole, type: 'i32', from: base }];
      case 2:
        return [...code, { o: 'vstore', src: float, type: 'f32', to: base }];
      case 3:
        return [...code, { o: 'vstorepart', src: whole, type: 'i32', to: base, count: integer }];
      case 4:
        return [
          ...code,
          {
            o: 'vloadpart',
            dst: whole,
            type: this.#pick(['i8', 'u8', 'i32'] as const),
            from: address,
            count: integer,
          },
        ];
      case 5:
        return [...code, { o: 'vstore', src: float, type: 'bf16', to: { ...address, scale: 2 } }];
      case 6:
        return [...code, { o: 'vbroadcast', dst: float, type: 'f32', from: base }];
      case 7:
        return [...code, { o: 'vstorefirst', src: whole, type: 'u8', to: address }];
      default:
        return [
          ...code,
          { o: 'iload', dst: integer, type: this.#pick(['i32', 'i8', 'u16'] as const), from: address },
        ];
    }
  }

  #vector(): Instr[] {
    const float = (): VecReg => this.#pick(this.#floats);
    const whole = (): VecReg => this.#pick(this.#wholes);
    const mask = this.#names.v();
    switch (this.#below(14)) {
      case 13:
        return [{ o: 'vdot4', dst: whole(), a: whole(), b: whole(), c: whole() }];
      case 0:
      case 1:
        return [{ o: 'vbin', fn: this.#pick(floatFns), dst: float(), a: float(), b: float() }];
      case 2:
      case 3:
        return [{ o: 'vbin', fn: this.#pick(wholeFns), dst: whole(), a: whole(), b: whole() }];
      case 4:
      case 5:
        return [{ o: 'vfma', dst: float(), a: float(), b: float(), c: float() }];
      case 6: {
        const fn = this.#pick(compareFns);
        const source = fn[0] === 'f' ? float : whole;
        const [dst, a, b] =
          this.#random.float() < 0.5 ? [float(), float(), float()] : [whole(), whole(), whole()];
        const between = this.#random.float() < 0.5 ? this.#vector() : [];
        return [
          { o: 'vbin', fn, dst: mask, a: source(), b: source() },
          ...between,
          { o: 'vselect', dst, mask, a, b },
        ];
      }
      case 7:
        return [{ o: 'vun', fn: this.#pick(floatUnary), dst: float(), a: float() }];
      case 8:
        return this.#random.float() < 0.5
          ? [{ o: 'vun', fn: this.#pick(['itof', 'utof'] as const), dst: float(), a: whole() }]
          : [{ o: 'vun', fn: this.#pick(['ftoi', 'ftou'] as const), dst: whole(), a: float() }];
      case 9:
        return [
          { o: 'vhorizontal', fn: this.#pick(['fadd', 'fmax', 'fmin'] as const), dst: float(), a: float() },
        ];
      case 10:
        return this.#random.float() < 0.5
          ? [{ o: 'vsplat', dst: whole(), a: this.#pick(this.#integers) }]
          : [{ o: 'vfirst', dst: this.#pick(this.#integers), a: whole() }];
      case 11: {
        const constants = [mask, this.#names.v()];
        return constants.flatMap((dst, i): Instr[] => [
          { o: 'vconst', dst, bits: 0x40000000 + this.#below(3) },
          { o: 'vbin', fn: i === 0 ? 'fmul' : 'fadd', dst: float(), a: float(), b: dst },
        ]);
      }
      default:
        return this.#random.float() < 0.5
          ? [{ o: 'vmove', dst: float(), a: float() }]
          : [{ o: 'vconst', dst: float(), bits: 0x3f800000 + this.#below(2 ** 20) }];
    }
  }
}

const input = (seed: number): Uint8Array => {
  const random = new Random(seed, 'loop input');
  const values = Float32Array.from({ length: viewBytes / 4 }, () => (random.float() - 0.5) * 8);
  return new Uint8Array(values.buffer);
};

const kinds = ['i32', 'f32', 'i32', 'bf16', 'i32'] as const;

const programs = Number(process.env.LOOP_PROGRAMS ?? 60);

for (const isa of runnable) {
  test(`${isa}: ${programs} random programs`, () => {
    let spilled = 0;
    for (let seed = 1; seed <= programs; seed++) {
      const fn = new Program(isa, seed).make();
      const outcome = runBoth(isa, fn, [input(seed), input(seed + 1), input(seed + 2)]);
      if (outcome.spillWeight > 0) spilled++;
      kinds.forEach((kind, view) => {
        assertEqual(outcome, view, kind, `program ${seed}, view ${view}`);
      });
    }
    assert.ok(spilled > 5 && spilled < programs, `${spilled} of ${programs} programs spill`);
  });
}
