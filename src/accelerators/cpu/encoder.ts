/** Chooses the form of an instruction for its operands and encodes it (Intel SDM volume 2, chapter 2). */

import type { Form, ImmediateAtom, Slot } from './forms.ts';
import type { AnyMemory, Label, Operand, PlainOperand } from './operands.ts';
import type { Register } from './registers.ts';

/** Where a 32-bit value relative to the end of the instruction must be filled in once the label is known. */
export interface Reference {
  /** Offset in the instruction's bytes. */
  readonly at: number;
  readonly label: Label;
  readonly addend: number;
}

export interface Encoded {
  readonly bytes: number[];
  readonly reference?: Reference;
}

/** Numbers where they are exact: they compare in a fraction of the time. */
const immediateRanges: Readonly<
  Record<ImmediateAtom, readonly [number | bigint, number | bigint, bytes: number]>
> = {
  i8: [-(2 ** 7), 2 ** 7 - 1, 1],
  u8: [0, 2 ** 8 - 1, 1],
  i32: [-(2 ** 31), 2 ** 31 - 1, 4],
  d32: [-(2 ** 31), 2 ** 32 - 1, 4],
  i64: [-(2n ** 63n), 2n ** 64n - 1n, 8],
};

const wrongKind = Symbol('wrong kind of operand');

function unwrap(operand: Operand): PlainOperand {
  return typeof operand === 'object' && (operand.kind === 'masked' || operand.kind === 'zeroed')
    ? operand.operand
    : operand;
}

function isRegister(operand: PlainOperand): operand is Register {
  return typeof operand === 'object' && !('scale' in operand) && operand.kind !== 'label';
}

function isMemory(operand: PlainOperand): operand is AnyMemory {
  return typeof operand === 'object' && 'scale' in operand;
}

/** The distance of a short jump at code offset `here`, or undefined where it does not reach. */
function shortDistance(label: Label, here: number, length: number): number | undefined {
  if (label.offset < 0) return undefined;
  const distance = label.offset - (here + length);
  return distance >= -128 && distance <= 127 ? distance : undefined;
}

/** undefined where the operand fits; else the reason: the wrong kind, or a sentence. */
function refusal(
  operand: Operand,
  slot: Slot,
  form: Form,
  here: number,
): typeof wrongKind | string | undefined {
  if (typeof operand === 'number' || typeof operand === 'bigint') {
    if (!slot.immediate) return wrongKind;
    if (typeof operand === 'number' && !Number.isSafeInteger(operand)) {
      return `immediate ${operand} is not an exact integer (beyond 53 bits pass a bigint)`;
    }
    const [low, high] = immediateRanges[slot.immediate];
    return operand >= low && operand <= high
      ? undefined
      : `immediate ${operand} is outside ${low} to ${high}`;
  }
  if (operand.kind === 'label') {
    if (slot.relative === 'rel8') {
      return shortDistance(operand, here, form.opcode.length + 1) === undefined
        ? 'the label is too far'
        : undefined;
    }
    return slot.relative ? undefined : wrongKind;
  }
  const plain = unwrap(operand);
  if (typeof plain !== 'object') return wrongKind;
  const rule = slot.kinds.get(plain.kind);
  if (rule === undefined) return wrongKind;
  if (operand.kind === 'masked' && rule === 'none') return wrongKind;
  if (operand.kind === 'zeroed' && rule !== 'zero') return wrongKind;
  if (operand.kind !== 'masked' && rule === 'required') return 'this operand needs a mask';
  if (slot.onlyCl && (plain as Register).index !== 1) return 'a shift by a register takes cl only';
  if (form.encoding === 'vex') {
    const register = isRegister(plain) ? plain : isMemory(plain) ? plain.index : undefined;
    if (register && register.index > 15)
      return 'vector registers 16 to 31 need an EVEX form, which there is not';
  }
  return undefined;
}

/** The first form that takes these operands at code offset `here`; otherwise the reason why none does. */
export function selectForm(
  forms: readonly Form[],
  operands: readonly Operand[],
  here: number,
): Form | string {
  let reason: string | undefined;
  next: for (const form of forms) {
    if (form.slots.length !== operands.length) continue;
    let sentence: string | undefined;
    for (let i = 0; i < operands.length; i++) {
      const entry = refusal(operands[i], form.slots[i], form, here);
      if (entry === wrongKind) continue next;
      sentence ??= entry as string | undefined;
    }
    if (sentence === undefined) return form;
    reason = sentence;
  }
  return (
    reason ??
    `no form takes these operands; it has: ${[...new Set(forms.map((f) => f.signature))].join(' | ')}`
  );
}

/** The operands sorted by the role that the form's order gives them. */
interface Roles {
  reg: number;
  rm?: Register | AnyMemory;
  vvvv: number;
  low?: Register;
  immediate?: { value: number | bigint; bytes: number };
  selector?: number;
  target?: Label;
  mask: number;
  zeroing: boolean;
  /** An 8-bit register that only a REX prefix can name. */
  byteRex: boolean;
}

function assignRoles(form: Form, operands: readonly Operand[]): Roles {
  const roles: Roles = { reg: Math.max(0, form.digit), vvvv: 0, mask: 0, zeroing: false, byteRex: false };
  operands.forEach((operand, i) => {
    if (typeof operand === 'object' && (operand.kind === 'masked' || operand.kind === 'zeroed')) {
      roles.mask = operand.mask.index;
      roles.zeroing = operand.kind === 'zeroed';
    }
    const plain = unwrap(operand);
    const register = isRegister(plain) ? plain : undefined;
    const role = form.order[i];
    if (register?.kind === 'r8' && register.index >= 4 && role !== 'c') roles.byteRex = true;
    if (role === 'r' || role === 'z') roles.reg = register!.index;
    else if (role === 'm') roles.rm = plain as Register | AnyMemory;
    else if (role === 'v') roles.vvvv = register!.index;
    else if (role === 's') roles.selector = register!.index;
    else if (role === 'o') roles.low = register;
    else if (role === 'j') roles.target = plain as Label;
    else if (role === 'i') {
      roles.immediate = {
        value: plain as number | bigint,
        bytes: immediateRanges[form.slots[i].immediate!][2],
      };
    }
  });
  return roles;
}

function pushInteger(bytes: number[], value: number | bigint, count: number): void {
  if (typeof value === 'number' && count <= 4) {
    for (let i = 0; i < count; i++) bytes.push((value >> (8 * i)) & 255);
    return;
  }
  let rest = BigInt(value);
  for (let i = 0; i < count; i++) {
    bytes.push(Number(rest & 255n));
    rest >>= 8n;
  }
}

/** ModRM, SIB and displacement. Returns where a label's 32 bits go, if there is one. */
function pushModRm(
  bytes: number[],
  reg: number,
  rm: Register | AnyMemory,
  disp8Unit: number,
): number | undefined {
  const field = (reg & 7) << 3;
  if (!isMemory(rm)) {
    bytes.push(0xc0 | field | (rm.index & 7));
    return undefined;
  }
  const { base, index, disp, label } = rm;
  if (label) {
    bytes.push(field | 5, 0, 0, 0, 0);
    return bytes.length - 4;
  }
  const steps = disp / disp8Unit;
  const short = Number.isInteger(steps) && steps >= -128 && steps <= 127;
  // With no base, mod 0 and base 5 mean a bare 32-bit displacement; rbp and r13 share that code, so they always carry one.
  const mod = !base || (disp === 0 && (base.index & 7) !== 5) ? 0 : short ? 1 : 2;
  const low = base ? base.index & 7 : 5;
  if (index || !base || low === 4) {
    const scale = Math.log2(rm.scale);
    bytes.push((mod << 6) | field | 4, (scale << 6) | ((index ? index.index & 7 : 4) << 3) | low);
  } else bytes.push((mod << 6) | field | low);
  if (mod === 1) pushInteger(bytes, steps, 1);
  else if (mod === 2 || !base) pushInteger(bytes, disp, 4);
  return undefined;
}

/** The bits above the low three of the register numbers that ModRM and SIB hold. */
function extensionBits({ reg, rm, low }: Roles) {
  const memory = rm && isMemory(rm) ? rm : undefined;
  const direct = rm && !isMemory(rm) ? rm.index : (low?.index ?? 0);
  return {
    r: (reg >> 3) & 1,
    r2: (reg >> 4) & 1,
    x: memory ? ((memory.index?.index ?? 0) >> 3) & 1 : (direct >> 4) & 1,
    b: ((memory ? (memory.base?.index ?? 0) : direct) >> 3) & 1,
    /** Bit 4 of a gather's index register, which EVEX keeps beside vvvv. */
    v2: memory ? ((memory.index?.index ?? 0) >> 4) & 1 : 0,
  };
}

const legacyPrefixBytes = [0, 0x66, 0xf3, 0xf2];
const legacyMaps = [[], [0x0f], [0x0f, 0x38], [0x0f, 0x3a]];

function pushLegacyPrefixes(bytes: number[], form: Form, roles: Roles): void {
  const { r, x, b } = extensionBits(roles);
  if (form.lock) bytes.push(0xf0);
  if (form.prefix) bytes.push(legacyPrefixBytes[form.prefix]);
  const rex = (form.w === 1 ? 8 : 0) | (r << 2) | (x << 1) | b;
  if (rex || roles.byteRex) bytes.push(0x40 | rex);
  bytes.push(...legacyMaps[form.map]);
}

function pushVex(bytes: number[], form: Form, roles: Roles): void {
  const { r, x, b } = extensionBits(roles);
  // SDM gives vvvv inverted, as are R, X and B. Prefix codes in VEX order are none, 66, f3, f2.
  const tail = ((~roles.vvvv & 15) << 3) | (form.length << 2) | form.prefix;
  if (form.map === 1 && form.w !== 1 && !x && !b) bytes.push(0xc5, ((r ^ 1) << 7) | tail);
  else {
    bytes.push(
      0xc4,
      ((r ^ 1) << 7) | ((x ^ 1) << 6) | ((b ^ 1) << 5) | form.map,
      (form.w === 1 ? 128 : 0) | tail,
    );
  }
}

function pushEvex(bytes: number[], form: Form, roles: Roles): void {
  const { r, r2, x, b, v2 } = extensionBits(roles);
  const repeated = roles.rm?.kind === 'broadcast';
  const high = v2 | (roles.vvvv >> 4);
  bytes.push(
    0x62,
    ((r ^ 1) << 7) | ((x ^ 1) << 6) | ((b ^ 1) << 5) | ((r2 ^ 1) << 4) | form.map,
    (form.w === 1 ? 128 : 0) | ((~roles.vvvv & 15) << 3) | 4 | form.prefix,
    (roles.zeroing ? 128 : 0) | (form.length << 5) | (repeated ? 16 : 0) | ((high ^ 1) << 3) | roles.mask,
  );
}

/** Instructions that fault where two of their registers are the same. */
function checkDistinct(form: Form, operands: readonly Operand[]): void {
  if (form.order[0] !== 'r') return;
  const plain = operands.map(unwrap);
  const tiles = plain.flatMap((operand) =>
    isRegister(operand) && operand.kind === 'tmm' ? [operand.index] : [],
  );
  if (new Set(tiles).size < tiles.length)
    throw new RangeError('a product of tiles needs three distinct ones');
  const address = plain.find((operand) => isMemory(operand) && operand.kind.startsWith('vm'));
  if (!address) return;
  const used = [...plain.filter(isRegister), (address as AnyMemory).index!].map((register) => register.index);
  if (new Set(used).size < used.length) {
    throw new RangeError('a gather needs distinct registers for destination, index and mask');
  }
}

/** Encodes an instruction whose operands `selectForm` matched, at code offset `here`. */
export function encode(form: Form, operands: readonly Operand[], here: number): Encoded {
  checkDistinct(form, operands);
  const roles = assignRoles(form, operands);
  const bytes: number[] = [];
  if (form.encoding === 'legacy') pushLegacyPrefixes(bytes, form, roles);
  else if (form.encoding === 'vex') pushVex(bytes, form, roles);
  else pushEvex(bytes, form, roles);

  bytes.push(...form.opcode);
  if (roles.low) bytes[bytes.length - 1] |= roles.low.index & 7;
  const { rm, target } = roles;
  let labelAt: number | undefined;
  if (rm) {
    const element = form.w === 1 ? 8 : 4;
    const unit = form.encoding !== 'evex' ? 1 : rm.kind === 'broadcast' ? element : form.disp8Unit;
    labelAt = pushModRm(bytes, roles.reg, rm, unit);
  } else if (form.order === 'z') bytes.push(0xc0 | ((roles.reg & 7) << 3));
  if (roles.immediate) pushInteger(bytes, roles.immediate.value, roles.immediate.bytes);
  if (roles.selector !== undefined) bytes.push(roles.selector << 4);
  if (target) {
    if (form.slots[0].relative === 'rel8') {
      pushInteger(bytes, shortDistance(target, here, bytes.length + 1)!, 1);
    } else {
      bytes.push(0, 0, 0, 0);
      return { bytes, reference: { at: bytes.length - 4, label: target, addend: 0 } };
    }
  }
  if (labelAt !== undefined && rm && isMemory(rm)) {
    return { bytes, reference: { at: labelAt, label: rm.label!, addend: rm.disp } };
  }
  return { bytes };
}
