/** The x86-64 assembler: instructions, labels and a constant pool, into bytes that run at any 64-byte aligned address. */

import { encode, type Reference, selectForm } from './encoder.ts';
import { instructionForms, type Mnemonic, type Operands } from './instructions.ts';
import { describeOperand, Label, type Memory, type Operand, rip } from './operands.ts';

interface Fixup extends Reference {
  /** Offset of the end of the instruction, from which the processor counts. */
  readonly end: number;
}

interface Constant {
  readonly bytes: Uint8Array;
  readonly label: Label;
}

/** Finished machine code, position-independent: entry at offset 0. */
export interface MachineCode {
  /** Instructions, then the constants. */
  readonly bytes: Uint8Array;
  /** Bytes of instructions before the constants. */
  readonly codeBytes: number;
}

// Recommended sequences of the SDM (volume 2, NOP), by length.
const nops: readonly (readonly number[])[] = [
  [],
  [0x90],
  [0x66, 0x90],
  [0x0f, 0x1f, 0x00],
  [0x0f, 0x1f, 0x40, 0x00],
  [0x0f, 0x1f, 0x44, 0x00, 0x00],
  [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
  [0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
  [0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];
const breakpoint = 0xcc;
/** What the pool and the code are aligned to; the code must be placed at such an address. */
export const codeAlignment = 64;

export class Assembler {
  #buffer = new Uint8Array(4096);
  #size = 0;
  #finished = false;
  readonly #fixups: Fixup[] = [];
  readonly #constants = new Map<string, Constant>();
  readonly #labels = new Set<Label>();

  /** Bytes emitted so far: the offset of the next instruction. */
  get offset(): number {
    return this.#size;
  }

  /**
   * Appends one instruction, in its shortest form. Destination first, as in Intel syntax:
   * `emit('vfmadd231ps', zmm(0), zmm(1), broadcast(mem(rax, 64)))`. Throws RangeError where an operand is of the right
   * type but cannot be encoded.
   */
  emit<M extends Mnemonic>(mnemonic: M, ...operands: Operands<M>): this {
    const list: readonly Operand[] = operands;
    try {
      const form = selectForm(instructionForms.get(mnemonic) ?? [], list, this.#size);
      if (typeof form === 'string') throw new RangeError(form);
      const { bytes, reference } = encode(form, list, this.#size);
      if (reference) this.#refer(reference, bytes.length);
      this.#append(bytes);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw new RangeError(`${mnemonic} ${list.map(describeOperand).join(', ')}: ${error.message}`, {
        cause: error,
      });
    }
    return this;
  }

  /** A new label, to be bound once. The name appears in messages only. */
  label(name = `label ${this.#labels.size}`): Label {
    const label = new Label(name);
    this.#labels.add(label);
    return label;
  }

  /** Puts the label at the next instruction. Throws where it has a place already or belongs to another assembler. */
  bind(label: Label): this {
    this.#checkOwner(label);
    if (label.offset >= 0)
      throw new Error(`${label.name} is bound twice: at ${label.offset} and ${this.#size}`);
    label.offset = this.#size;
    return this;
  }

  /** A new label at the next instruction: the head of a loop. */
  here(name?: string): Label {
    const label = this.label(name);
    this.bind(label);
    return label;
  }

  /** Pads with no-operations up to a multiple of `bytes`, a power of two up to 64. */
  align(bytes: number): this {
    if (!Number.isInteger(Math.log2(bytes)) || bytes > codeAlignment) {
      throw new RangeError(`align ${bytes}: not a power of two up to ${codeAlignment}`);
    }
    for (let gap = -this.#size & (bytes - 1); gap > 0; ) {
      const step = Math.min(gap, nops.length - 1);
      this.#append(nops[step]);
      gap -= step;
    }
    return this;
  }

  /**
   * A constant in the pool behind the code, aligned to its size; equal bytes share one entry.
   * `data` has 4, 8, 16, 32 or 64 bytes and is copied. Returns the memory operand that reads it.
   */
  constant(data: ArrayBufferView): Memory {
    if (![4, 8, 16, 32, 64].includes(data.byteLength)) {
      throw new RangeError(`constant of ${data.byteLength} bytes: the pool holds 4, 8, 16, 32 or 64`);
    }
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice();
    const key = bytes.join();
    let entry = this.#constants.get(key);
    if (!entry) {
      entry = { bytes, label: this.label(`constant ${this.#constants.size}`) };
      this.#constants.set(key, entry);
    }
    return rip(entry.label);
  }

  /** Places the constants, resolves all labels and returns the code; the assembler is spent afterwards. */
  finish(): MachineCode {
    const codeBytes = this.#size;
    // Largest first: each entry is then aligned to its own size with no gaps.
    const constants = [...this.#constants.values()].sort((a, b) => b.bytes.length - a.bytes.length);
    const gap = constants.length === 0 ? 0 : -codeBytes & (constants[0].bytes.length - 1);
    this.#append(new Uint8Array(gap).fill(breakpoint));
    for (const { bytes, label } of constants) {
      label.offset = this.#size;
      this.#append(bytes);
    }
    const view = new DataView(this.#buffer.buffer);
    for (const { at, end, label, addend } of this.#fixups) {
      if (label.offset < 0) throw new Error(`${label.name} is used at offset ${at} and never bound`);
      view.setInt32(at, label.offset + addend - end, true);
    }
    this.#finished = true;
    return { bytes: this.#buffer.slice(0, this.#size), codeBytes };
  }

  #refer(reference: Reference, length: number): void {
    this.#checkOwner(reference.label);
    this.#fixups.push({ ...reference, at: this.#size + reference.at, end: this.#size + length });
  }

  #checkOwner(label: Label): void {
    if (!this.#labels.has(label)) throw new Error(`${label.name} belongs to another assembler`);
  }

  #append(bytes: ArrayLike<number>): void {
    if (this.#finished) throw new Error('the assembler is finished: create another');
    if (this.#size + bytes.length > this.#buffer.length) {
      const larger = new Uint8Array(Math.max(2 * this.#buffer.length, this.#size + bytes.length));
      larger.set(this.#buffer);
      this.#buffer = larger;
    }
    this.#buffer.set(bytes, this.#size);
    this.#size += bytes.length;
  }
}
