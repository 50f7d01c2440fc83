/** What the rules of code generation write with: registers of allocated values, constants, masks, and the assembler. */

import type { Address, IntReg, Reg } from '../loops/ir.ts';
import { Assembler, type MachineCode } from './assembler.ts';
import { eachDef, keyOf, type Node, type NodeOf } from './codegen-nodes.ts';
import type { Mnemonic } from './instructions.ts';
import { broadcast, type Label, type Memory, mem, type Operand, type Scale } from './operands.ts';
import type { Needs } from './regalloc.ts';
import * as registers from './registers.ts';

/** Vector extensions to generate for. avx512: F, BW, DQ and VL, 16 lanes; avx2: with FMA and F16C, 8 lanes. */
export type Isa = 'avx512' | 'avx2';

/** How one kind of node becomes instructions. */
export interface Rule<N> {
  needs?(node: N, isa: Isa): Partial<Needs>;
  emit(e: Emitter, node: N): void;
}
/** The rules of the given kinds of nodes. */
export type Rules<O extends Node['o']> = { readonly [K in O]: Rule<NodeOf<K>> };

const range = <T>(count: number, make: (index: number) => T): readonly T[] =>
  Array.from({ length: count }, (_, index) => make(index));
const xmms = range(32, registers.xmm);
const ymms = range(32, registers.ymm);
const zmms = range(32, registers.zmm);
const quads = range(16, registers.r64);
const doubles = range(16, registers.r32);
const words = range(16, registers.r16);
const bytes = range(16, registers.r8);

/** k1 and k2 are every rule's own; the others remember the masks of partial loads and stores. */
const firstCachedMask = 3;
const lastMask = 7;
/** In 64-bit code this first byte begins nothing else. */
const evexPrefix = 0x62;

export class Emitter {
  readonly asm = new Assembler();
  readonly isa: Isa;
  readonly lanes: number;
  /** Temporaries of the node being emitted: numbers of machine registers. */
  vectorTemps: readonly number[] = [];
  generalTemps: readonly number[] = [];
  readonly #allocated: Int8Array;
  readonly #wide: readonly registers.VectorRegister[];
  /** avx2: where each instruction begins. */
  readonly #starts: [number, Mnemonic][] = [];
  readonly #masks = new Map<number, number>();
  #nextMask = firstCachedMask;

  constructor(isa: Isa, allocated: Int8Array) {
    this.isa = isa;
    this.lanes = isa === 'avx512' ? 16 : 8;
    this.#allocated = allocated;
    this.#wide = isa === 'avx512' ? zmms : ymms;
  }

  /**
   * Appends an instruction whose operands' length depends on the target, which types cannot follow; the assembler
   * itself refuses operands that do not fit.
   */
  op(mnemonic: Mnemonic, ...operands: Operand[]): void {
    const emit = this.asm.emit as (this: Assembler, mnemonic: Mnemonic, ...operands: Operand[]) => Assembler;
    if (this.isa === 'avx2') this.#starts.push([this.asm.offset, mnemonic]);
    emit.call(this.asm, mnemonic, ...operands);
  }

  /**
   * Finishes the code. Throws where an instruction meant for avx2 exists only in AVX-512's encoding, which the
   * assembler, not knowing the target, takes as well.
   */
  finish(): MachineCode {
    const code = this.asm.finish();
    for (const [at, mnemonic] of this.#starts) {
      if (code.bytes[at] === evexPrefix) throw new Error(`${mnemonic} with these operands needs AVX-512`);
    }
    return code;
  }

  /** The number of the machine register that holds `register`. */
  number(register: Reg): number {
    return this.#allocated[keyOf(register)];
  }

  /** Vector register `index` in full length, in half of it, and its lowest 128 bits. */
  v(index: number): registers.VectorRegister {
    return this.#wide[index];
  }
  half(index: number): registers.VectorRegister {
    return this.isa === 'avx512' ? ymms[index] : xmms[index];
  }
  x(index: number): registers.Xmm {
    return xmms[index];
  }
  y(index: number): registers.Ymm {
    return ymms[index];
  }

  /** General register `index` in 64, 32, 16 and 8 bits. */
  q(index: number): registers.Gpr64 {
    return quads[index];
  }
  d(index: number): registers.Gpr32 {
    return doubles[index];
  }
  w(index: number): registers.Gpr16 {
    return words[index];
  }
  b(index: number): registers.Gpr8 {
    return bytes[index];
  }

  /** The memory at an address of the loop IR, `offset` bytes further. */
  memory({ base, index, scale, displacement }: Address, offset = 0): Memory {
    const b = quads[this.number(base)];
    return index
      ? mem(b, quads[this.number(index)], (scale ?? 1) as Scale, displacement + offset)
      : mem(b, displacement + offset);
  }

  /** A vector of equal 32-bit lanes as the last operand of an instruction that works on such lanes. */
  splat(bits: number): Operand {
    return this.isa === 'avx512' ? broadcast(this.#word(bits)) : this.table(() => bits);
  }

  /** A vector of constants in memory. */
  table(lane: (index: number) => number): Memory {
    return this.asm.constant(Int32Array.from({ length: this.lanes }, (_, index) => lane(index) | 0));
  }

  /** Fills a vector register with equal lanes. */
  fill(index: number, bits: number): void {
    const target = this.v(index);
    // Writing the low 128 bits clears the rest, in a shorter instruction.
    const low = xmms[index];
    if (bits === 0) this.op('vxorps', low, low, low);
    else if ((bits | 0) === -1 && this.isa === 'avx2') this.op('vpcmpeqd', target, target, target);
    else if ((bits | 0) === -1) this.op('vpternlogd', target, target, target, 0xff);
    else this.op('vbroadcastss', target, this.#word(bits));
  }

  #word(bits: number): Memory {
    return this.asm.constant(Int32Array.of(bits | 0));
  }

  /** Copies vector register `from` to `to`, if they differ. */
  moveVector(to: number, from: number): void {
    if (to !== from) this.op('vmovaps', this.v(to), this.v(from));
  }
  /** Copies general register `from` to `to`, if they differ. Keeps the flags. */
  moveGeneral(to: number, from: number): void {
    if (to !== from) this.op('mov', quads[to], quads[from]);
  }

  /** Marks a place that can be reached from elsewhere: nothing that was remembered holds there. */
  place(label: Label): void {
    this.asm.bind(label);
    this.forget();
  }
  forget(): void {
    this.#masks.clear();
  }
  /** Forgets what was derived from the registers that `node` writes. */
  overwritten(node: Node): void {
    if (this.#masks.size > 0) eachDef(node, (register) => this.#masks.delete(keyOf(register)));
  }

  /**
   * `count`, clamped to what 32 bits can hold: 0 to the number of lanes, in general temporary `temp`, of which vector
   * temporary `vector` becomes a copy in each lane.
   */
  spreadCount(count: IntReg, temp: number, vector: number): void {
    this.op('mov', doubles[temp], this.lanes);
    this.op('cmp', quads[this.number(count)], quads[temp]);
    this.op('cmovl', quads[temp], quads[this.number(count)]);
    this.op('test', quads[temp], quads[temp]);
    this.op('cmovs', doubles[temp], this.#word(0));
    if (this.isa === 'avx512') this.op('vpbroadcastd', this.v(vector), doubles[temp]);
    else {
      this.op('vmovd', xmms[vector], doubles[temp]);
      this.op('vpbroadcastd', this.v(vector), xmms[vector]);
    }
  }

  /** AVX-512: the mask of the lanes below `count`. Kept as long as the code runs straight and `count` stays. */
  maskBelow(count: IntReg): registers.MaskRegister {
    const key = keyOf(count);
    let index = this.#masks.get(key);
    if (index === undefined) {
      index = this.#nextMask;
      this.#nextMask = index === lastMask ? firstCachedMask : index + 1;
      for (const [other, mask] of this.#masks) if (mask === index) this.#masks.delete(other);
      this.#masks.set(key, index);
      const [temp] = this.generalTemps;
      const [vector] = this.vectorTemps;
      this.spreadCount(count, temp, vector);
      this.op(
        'vpcmpd',
        registers.k(index),
        this.v(vector),
        this.table((lane) => lane),
        6,
      );
    }
    return registers.k(index);
  }
}
