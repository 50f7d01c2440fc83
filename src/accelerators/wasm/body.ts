/** A kernel's function body in the making: registers of the loop IR as locals, and its addresses. */
import type { Address, IntOperand, Reg } from '../loops/ir.ts';
import { Code, type FunctionType, type ValueType } from './encoder.ts';

/** (arguments, scratch, from, to), see `loops/ir.ts`. */
export const KERNEL_TYPE: FunctionType = { parameters: ['i32', 'i32', 'i32', 'i32'], results: [] };

/**
 * Displacements up to this become static offsets. The engine adds those without wrap-around, so the rest of the
 * address must not be "negative" when the address itself is valid: nothing valid lies below `FIRST_ADDRESS`.
 */
const LARGEST_STATIC_OFFSET = 32768;
/** Memory below is never used. */
export const FIRST_ADDRESS = 65536;

export class FunctionBody {
  readonly code = new Code(KERNEL_TYPE.parameters.length);
  /** vfma is one instruction, rounded once. */
  readonly fma: boolean;
  readonly #registers = new Map<string, number>();
  readonly #temporaries = new Map<string, number>();

  constructor(fma: boolean) {
    this.fma = fma;
  }

  get(register: Reg): Code {
    return this.code.get(this.#local(register));
  }

  set(register: Reg): Code {
    return this.code.set(this.#local(register));
  }

  tee(register: Reg): Code {
    return this.code.tee(this.#local(register));
  }

  operand(operand: IntOperand): Code {
    return typeof operand === 'number' ? this.code.i32(operand) : this.get(operand);
  }

  /** A local for intermediate values, which any later user of the same number may overwrite. */
  temporary(type: ValueType, number: number): number {
    return this.#lookUp(this.#temporaries, `${type} ${number}`, type);
  }

  /** Pushes the address but for the static offset that is returned. */
  address({ base, index, scale = 1, displacement }: Address): number {
    const { code } = this;
    this.get(base);
    if (index) {
      this.get(index);
      if (scale > 1) code.i32(Math.log2(scale)).plain('i32.shl');
      code.plain('i32.add');
    }
    if (displacement >= 0 && displacement <= LARGEST_STATIC_OFFSET) return displacement;
    code.i32(displacement).plain('i32.add');
    return 0;
  }

  #local(register: Reg): number {
    const type = register.class === 'i' ? 'i32' : 'v128';
    return this.#lookUp(this.#registers, `${register.class}${register.id}`, type);
  }

  #lookUp(map: Map<string, number>, key: string, type: ValueType): number {
    let local = map.get(key);
    if (local === undefined) {
      local = this.code.local(type);
      map.set(key, local);
    }
    return local;
  }
}
