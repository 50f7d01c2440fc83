/** Collects loop instructions: fresh registers, structured blocks, and integer arithmetic that folds constants. */
import type {
  Address,
  HorizontalFn,
  Instr,
  IntBinary,
  IntOperand,
  IntReg,
  LoopTarget,
  MemoryType,
  VecBinary,
  VecReg,
  VecUnary,
} from './ir.ts';

const INTEGER: { readonly [F in IntBinary]: (a: number, b: number) => number } = {
  add: (a, b) => (a + b) | 0,
  sub: (a, b) => (a - b) | 0,
  mul: Math.imul,
  div: (a, b) => (b === 0 ? 0 : (a / b) | 0),
  rem: (a, b) => (b === 0 ? 0 : (a % b) | 0),
  and: (a, b) => a & b,
  or: (a, b) => a | b,
  xor: (a, b) => a ^ b,
  shl: (a, b) => a << b,
  shr: (a, b) => a >> b,
  min: Math.min,
  max: Math.max,
  lt: (a, b) => Number(a < b),
  le: (a, b) => Number(a <= b),
  gt: (a, b) => Number(a > b),
  ge: (a, b) => Number(a >= b),
  eq: (a, b) => Number(a === b),
  ne: (a, b) => Number(a !== b),
};

const COMMUTES: ReadonlySet<IntBinary> = new Set<IntBinary>([
  'add',
  'mul',
  'and',
  'or',
  'xor',
  'min',
  'max',
  'eq',
  'ne',
]);

const scratchFloat = new Float32Array(1);
const scratchBits = new Int32Array(scratchFloat.buffer);

/** The bits of a number rounded to f32, as a signed 32-bit integer. */
export function floatBits(value: number): number {
  scratchFloat[0] = value;
  return scratchBits[0];
}

const nameOf = (operand: IntOperand): string =>
  typeof operand === 'number' ? `${operand}` : `r${operand.id}`;

/** Pieces of one size beside each other. */
export interface Pieces {
  readonly from: number;
  readonly to: number;
  readonly size: number;
}

/** `total` in pieces of two neighbouring sizes, none above `most`: those of the larger one first. */
export function evenPieces(total: number, most: number): readonly Pieces[] {
  const count = Math.ceil(total / most);
  const size = Math.floor(total / count);
  const border = (total % count) * (size + 1);
  return [
    { from: 0, to: border, size: size + 1 },
    { from: border, to: total, size },
  ].filter(({ from, to }) => to > from);
}

export class Code {
  readonly target: LoopTarget;
  #registers = 0;
  #body: Instr[] = [];
  /** Results of integer arithmetic in the current block, to be used again. What a loop carries changes at its end only. */
  #known = new Map<string, IntReg>();

  constructor(target: LoopTarget) {
    this.target = target;
  }

  get lanes(): number {
    return this.target.lanes;
  }

  newInt(): IntReg {
    return { id: this.#registers++, class: 'i' };
  }

  newVec(): VecReg {
    return { id: this.#registers++, class: 'v' };
  }

  emit(instr: Instr): void {
    this.#body.push(instr);
  }

  /** Everything emitted. */
  finish(): readonly Instr[] {
    return this.#body;
  }

  /** What `fill` emits, as a list of its own. */
  block(fill: () => void): Instr[] {
    const [outer, known] = [this.#body, this.#known];
    [this.#body, this.#known] = [[], new Map()];
    fill();
    const inner = this.#body;
    [this.#body, this.#known] = [outer, known];
    return inner;
  }

  for(lo: IntOperand, hi: IntOperand, step: number, body: (index: IntReg) => void): void {
    const index = this.newInt();
    this.emit({ o: 'for', index, lo, hi, step, body: this.block(() => body(index)) });
  }

  /** The same, written out where that is at most `times` times; `body` may get a number. */
  repeat(lo: number, hi: number, step: number, times: number, body: (index: IntOperand) => void): void {
    if (hi - lo > times * step) this.for(lo, hi, step, body);
    else for (let index = lo; index < hi; index += step) body(index);
  }

  /** Calls `body` for the start of each piece; there is no loop for one alone. */
  each({ from, to, size }: Pieces, body: (start: IntOperand) => void): void {
    if (to - from === size) body(from);
    else this.for(from, to, size, body);
  }

  /** Splits total into pieces of `size` and a rest; `piece` gets its number. */
  pieces(total: number, size: number, piece: (index: IntOperand, size: number) => void): void {
    this.#split(total, size, 1, piece);
  }
  /** The same; `strip` gets where it starts. */
  strips(total: number, size: number, strip: (start: IntOperand, size: number) => void): void {
    this.#split(total, size, size, strip);
  }

  #split(total: number, size: number, step: number, part: (place: IntOperand, size: number) => void): void {
    const whole = Math.floor(total / size);
    if (whole === 1) part(0, size);
    else if (whole > 1) this.for(0, whole * step, step, (place) => part(place, size));
    if (total % size !== 0) part(whole * step, total % size);
  }

  /** Runs `then` where `condition` is not 0, else `otherwise`. */
  if(condition: IntOperand, then: () => void, otherwise: () => void = () => {}): void {
    if (typeof condition === 'number') {
      if (condition !== 0) then();
      else otherwise();
      return;
    }
    const block = this.block(then);
    this.emit({ o: 'if', a: condition, cmp: 'ne', b: 0, then: block, else: this.block(otherwise) });
  }

  register(value: IntOperand): IntReg {
    if (typeof value !== 'number') return value;
    const dst = this.newInt();
    this.emit({ o: 'iconst', dst, value });
    return dst;
  }

  /** Integer arithmetic; operations on constants are done here (in 32 bits). */
  int(fn: IntBinary, a: IntOperand, b: IntOperand): IntOperand {
    if (typeof a === 'number' && typeof b === 'number') return INTEGER[fn](a, b);
    if (typeof a === 'number' && COMMUTES.has(fn)) return this.int(fn, b, a);
    if (b === 0 && (fn === 'add' || fn === 'sub' || fn === 'or')) return a;
    if (b === 1 && (fn === 'mul' || fn === 'div')) return a;
    if (b === 0 && fn === 'mul') return 0;
    return this.#once(`${fn} ${nameOf(a)} ${nameOf(b)}`, (dst) =>
      this.emit({ o: 'ibin', dst, fn, a: this.register(a), b }),
    );
  }

  #once(key: string, compute: (dst: IntReg) => void): IntReg {
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const dst = this.newInt();
    compute(dst);
    this.#known.set(key, dst);
    return dst;
  }

  /** Brings a sum or product back to 32 bits. */
  wrap(value: IntOperand): IntOperand {
    if (typeof value === 'number') return value;
    return this.#once(`wrap ${nameOf(value)}`, (dst) => this.emit({ o: 'iwrap', dst, a: value }));
  }

  /** The pointer `base + offset`. */
  pointer(base: IntReg, offset: IntOperand): IntReg {
    return this.int('add', base, offset) as IntReg;
  }

  bits(bits: number): VecReg {
    const dst = this.newVec();
    this.emit({ o: 'vconst', dst, bits: bits | 0 });
    return dst;
  }

  f32(value: number): VecReg {
    return this.bits(floatBits(value));
  }

  splat(value: IntOperand): VecReg {
    if (typeof value === 'number') return this.bits(value);
    const dst = this.newVec();
    this.emit({ o: 'vsplat', dst, a: value });
    return dst;
  }

  first(a: VecReg): IntReg {
    const dst = this.newInt();
    this.emit({ o: 'vfirst', dst, a });
    return dst;
  }

  iota(): VecReg {
    const dst = this.newVec();
    this.emit({ o: 'viota', dst });
    return dst;
  }

  bin(fn: VecBinary, a: VecReg, b: VecReg): VecReg {
    const dst = this.newVec();
    this.emit({ o: 'vbin', dst, fn, a, b });
    return dst;
  }

  un(fn: VecUnary, a: VecReg): VecReg {
    const dst = this.newVec();
    this.emit({ o: 'vun', dst, fn, a });
    return dst;
  }

  shift(fn: 'ishl' | 'ishr' | 'ushr', a: VecReg, by: number): VecReg {
    const dst = this.newVec();
    this.emit({ o: 'vshift', dst, fn, a, by });
    return dst;
  }

  fma(a: VecReg, b: VecReg, c: VecReg): VecReg {
    const dst = this.newVec();
    this.emit({ o: 'vfma', dst, a, b, c });
    return dst;
  }

  select(mask: VecReg, a: VecReg, b: VecReg): VecReg {
    const dst = this.newVec();
    this.emit({ o: 'vselect', dst, mask, a, b });
    return dst;
  }

  horizontal(fn: HorizontalFn, a: VecReg): VecReg {
    const dst = this.newVec();
    this.emit({ o: 'vhorizontal', dst, fn, a });
    return dst;
  }

  move(dst: VecReg, a: VecReg): void {
    if (dst !== a) this.emit({ o: 'vmove', dst, a });
  }

  load(from: Address, type: MemoryType = 'i32'): VecReg {
    const dst = this.newVec();
    this.emit({ o: 'vload', dst, type, from });
    return dst;
  }

  loadPart(from: Address, count: IntOperand, type: MemoryType = 'i32'): VecReg {
    if (typeof count === 'number' && count >= this.lanes) return this.load(from, type);
    const dst = this.newVec();
    this.emit({ o: 'vloadpart', dst, type, from, count: this.register(count) });
    return dst;
  }

  broadcast(from: Address, type: MemoryType = 'i32'): VecReg {
    const dst = this.newVec();
    this.emit({ o: 'vbroadcast', dst, type, from });
    return dst;
  }

  store(src: VecReg, to: Address, type: MemoryType = 'i32'): void {
    this.emit({ o: 'vstore', src, type, to });
  }

  storePart(src: VecReg, to: Address, count: IntOperand, type: MemoryType = 'i32'): void {
    this.emit({ o: 'vstorepart', src, type, to, count: this.register(count) });
  }

  storeFirst(src: VecReg, to: Address, type: MemoryType = 'i32'): void {
    this.emit({ o: 'vstorefirst', src, type, to });
  }
}
