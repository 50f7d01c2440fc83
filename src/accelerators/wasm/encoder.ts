/** The WebAssembly binary format: instructions into function bodies, function bodies into modules. */
import {
  ACCESS,
  type AccessOp,
  ATOMIC,
  ATOMIC_PREFIX,
  type AtomicOp,
  LANE,
  LANE_ACCESS,
  type LaneAccessOp,
  type LaneOp,
  PLAIN,
  type PlainOp,
  SPECIAL,
  VECTOR,
  VECTOR_ACCESS,
  VECTOR_PREFIX,
  VECTOR_SPECIAL,
  type VectorAccessOp,
  type VectorOp,
} from './opcodes.ts';

export type ValueType = 'i32' | 'v128';

const VALUE_TYPES: { readonly [T in ValueType]: number } = { i32: 0x7f, v128: 0x7b };
const EMPTY_BLOCK = 0x40;

/** Bytes that grow, with the format's variable-length integers. */
export class ByteWriter {
  #buffer = new Uint8Array(1024);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  byte(value: number): void {
    this.#reserve(1);
    this.#buffer[this.#size++] = value;
  }

  bytes(values: ArrayLike<number>): void {
    this.#reserve(values.length);
    this.#buffer.set(values, this.#size);
    this.#size += values.length;
  }

  /** Unsigned LEB128 of an integer in [0, 2^32). */
  unsigned(value: number): void {
    if (!Number.isInteger(value) || value < 0 || value >= 2 ** 32) {
      throw new RangeError(`${value} is not an unsigned 32-bit integer`);
    }
    let rest = value;
    while (rest >= 0x80) {
      this.byte((rest % 0x80) | 0x80);
      rest = Math.floor(rest / 0x80);
    }
    this.byte(rest);
  }

  /** Signed LEB128 of the low 32 bits of an integer. */
  signed(value: number): void {
    let rest = value | 0;
    while (rest < -64 || rest > 63) {
      this.byte((rest & 0x7f) | 0x80);
      rest >>= 7;
    }
    this.byte(rest & 0x7f);
  }

  /** A length in bytes, then UTF-8. */
  text(value: string): void {
    const utf8 = new TextEncoder().encode(value);
    this.unsigned(utf8.length);
    this.bytes(utf8);
  }

  /** A copy of what was written. */
  finish(): Uint8Array<ArrayBuffer> {
    return this.#buffer.slice(0, this.#size);
  }

  #reserve(count: number): void {
    if (this.#size + count <= this.#buffer.length) return;
    const larger = new Uint8Array(Math.max(2 * this.#buffer.length, this.#size + count));
    larger.set(this.#buffer.subarray(0, this.#size));
    this.#buffer = larger;
  }
}

/** A function body in the making. Parameters are locals 0, 1, …; further locals are declared as they are needed. */
export class Code {
  readonly #out = new ByteWriter();
  readonly #parameters: number;
  readonly #locals: ValueType[] = [];
  #depth = 0;

  constructor(parameters: number) {
    this.#parameters = parameters;
  }

  /** A new local, zero when the function begins. */
  local(type: ValueType): number {
    this.#locals.push(type);
    return this.#parameters + this.#locals.length - 1;
  }

  plain(op: PlainOp): this {
    this.#out.byte(PLAIN[op]);
    return this;
  }

  /** A scalar load or store; no alignment is promised to the engine. */
  access(op: AccessOp, offset: number): this {
    this.#out.byte(ACCESS[op]);
    return this.#memoryArgument(0, offset);
  }

  vector(op: VectorOp): this {
    return this.#prefixed(VECTOR_PREFIX, VECTOR[op]);
  }

  vectorAccess(op: VectorAccessOp, offset: number): this {
    return this.#prefixed(VECTOR_PREFIX, VECTOR_ACCESS[op]).#memoryArgument(0, offset);
  }

  laneAccess(op: LaneAccessOp, offset: number, lane: number): this {
    this.#prefixed(VECTOR_PREFIX, LANE_ACCESS[op]).#memoryArgument(0, offset);
    this.#out.byte(lane);
    return this;
  }

  lane(op: LaneOp, lane: number): this {
    this.#prefixed(VECTOR_PREFIX, LANE[op]);
    this.#out.byte(lane);
    return this;
  }

  /** An atomic access of 32 bits; the format demands that its natural alignment be stated. */
  atomic(op: AtomicOp, offset: number): this {
    return this.#prefixed(ATOMIC_PREFIX, ATOMIC[op]).#memoryArgument(2, offset);
  }

  i32(value: number): this {
    this.#out.byte(SPECIAL['i32.const']);
    this.#out.signed(value);
    return this;
  }

  /** An i64 constant that fits in 32 bits. */
  i64(value: number): this {
    this.#out.byte(SPECIAL['i64.const']);
    this.#out.signed(value);
    return this;
  }

  /** A vector constant of four 32-bit lanes. */
  v128(lanes: readonly [number, number, number, number]): this {
    this.#prefixed(VECTOR_PREFIX, VECTOR_SPECIAL['v128.const']);
    for (const lane of lanes) {
      this.#out.bytes([lane & 0xff, (lane >>> 8) & 0xff, (lane >>> 16) & 0xff, lane >>> 24]);
    }
    return this;
  }

  /** Every lane = the 32 bits. */
  v128Splat(bits: number): this {
    return this.v128([bits, bits, bits, bits]);
  }

  /** Selects 16 bytes out of the 32 of two vectors. */
  shuffleBytes(bytes: readonly number[]): this {
    if (bytes.length !== 16) throw new RangeError(`a shuffle selects 16 bytes, not ${bytes.length}`);
    this.#prefixed(VECTOR_PREFIX, VECTOR_SPECIAL['i8x16.shuffle']);
    this.#out.bytes(bytes);
    return this;
  }

  /** Selects four lanes out of the eight of two vectors. */
  shuffle(lanes: readonly [number, number, number, number]): this {
    return this.shuffleBytes(lanes.flatMap((lane) => [4 * lane, 4 * lane + 1, 4 * lane + 2, 4 * lane + 3]));
  }

  get(local: number): this {
    return this.#withIndex('local.get', local);
  }
  set(local: number): this {
    return this.#withIndex('local.set', local);
  }
  tee(local: number): this {
    return this.#withIndex('local.tee', local);
  }

  block(): this {
    return this.#open('block');
  }
  loop(): this {
    return this.#open('loop');
  }
  if(): this {
    return this.#open('if');
  }
  else(): this {
    this.#out.byte(SPECIAL.else);
    return this;
  }
  end(): this {
    if (this.#depth === 0) throw new Error('end without an open block');
    this.#depth--;
    this.#out.byte(SPECIAL.end);
    return this;
  }

  /** Branches to the block that is `levels` around the innermost one (0): its end, or the start of a loop. */
  br(levels: number): this {
    return this.#withIndex('br', levels);
  }
  brIf(levels: number): this {
    return this.#withIndex('br_if', levels);
  }

  /** Calls entry (on the stack) of table 0, which must have the type. */
  callIndirect(typeIndex: number): this {
    this.#withIndex('call_indirect', typeIndex);
    this.#out.byte(0);
    return this;
  }

  /** The body as the code section holds it, its size in front not included. */
  finish(): Uint8Array<ArrayBuffer> {
    if (this.#depth !== 0) throw new Error(`${this.#depth} blocks are still open`);
    const runs: { type: ValueType; count: number }[] = [];
    for (const type of this.#locals) {
      const last = runs.at(-1);
      if (last?.type === type) last.count++;
      else runs.push({ type, count: 1 });
    }
    const body = new ByteWriter();
    body.unsigned(runs.length);
    for (const { type, count } of runs) {
      body.unsigned(count);
      body.byte(VALUE_TYPES[type]);
    }
    body.bytes(this.#out.finish());
    body.byte(SPECIAL.end);
    return body.finish();
  }

  #prefixed(prefix: number, opcode: number): this {
    this.#out.byte(prefix);
    this.#out.unsigned(opcode);
    return this;
  }

  #withIndex(op: keyof typeof SPECIAL, index: number): this {
    this.#out.byte(SPECIAL[op]);
    this.#out.unsigned(index);
    return this;
  }

  #open(op: 'block' | 'loop' | 'if'): this {
    this.#depth++;
    this.#out.byte(SPECIAL[op]);
    this.#out.byte(EMPTY_BLOCK);
    return this;
  }

  #memoryArgument(alignLog2: number, offset: number): this {
    this.#out.unsigned(alignLog2);
    this.#out.unsigned(offset);
    return this;
  }
}

export interface FunctionType {
  readonly parameters: readonly ValueType[];
  readonly results: readonly ValueType[];
}

export interface ModuleFunction {
  /** Appears in stack traces. */
  readonly name: string;
  readonly type: FunctionType;
  /** From `Code.finish`. */
  readonly body: Uint8Array;
  /** The name it is exported by, if it is. */
  readonly exported?: string;
}

export interface ModuleParts {
  /** Types come first in this order, thus `Code.callIndirect` may count on their indices. */
  readonly types: readonly FunctionType[];
  /** Memory imported as env.memory, in pages of 64 KiB. */
  readonly memory: { readonly initial: number; readonly maximum: number; readonly shared: boolean };
  readonly functions: readonly ModuleFunction[];
  /** Table 0 holds functions [0, tabled). */
  readonly tabled: number;
}

const SECTION = { custom: 0, type: 1, import: 2, function: 3, table: 4, export: 7, element: 9, code: 10 };
const EXTERNAL = { function: 0x00, memory: 0x02 };
const FUNCTION_REFERENCE = 0x70;
const FUNCTION_FORM = 0x60;
const FUNCTION_NAMES = 1;

/** A whole module. */
export function encodeModule(parts: ModuleParts): Uint8Array<ArrayBuffer> {
  const { types, memory, functions, tabled } = parts;
  const out = new ByteWriter();
  out.bytes([0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00]);
  const section = (id: number, write: (section: ByteWriter) => void) => {
    const content = new ByteWriter();
    write(content);
    out.byte(id);
    out.unsigned(content.size);
    out.bytes(content.finish());
  };
  section(SECTION.type, (s) => {
    s.unsigned(types.length);
    for (const { parameters, results } of types) {
      s.byte(FUNCTION_FORM);
      for (const list of [parameters, results]) {
        s.unsigned(list.length);
        for (const type of list) s.byte(VALUE_TYPES[type]);
      }
    }
  });
  section(SECTION.import, (s) => {
    s.unsigned(1);
    s.text('env');
    s.text('memory');
    s.byte(EXTERNAL.memory);
    s.byte(memory.shared ? 0x03 : 0x01);
    s.unsigned(memory.initial);
    s.unsigned(memory.maximum);
  });
  section(SECTION.function, (s) => {
    s.unsigned(functions.length);
    for (const { name, type } of functions) {
      const index = types.indexOf(type);
      if (index < 0) throw new Error(`the type of function ${name} is not among the module's types`);
      s.unsigned(index);
    }
  });
  section(SECTION.table, (s) => {
    s.unsigned(1);
    s.byte(FUNCTION_REFERENCE);
    s.byte(0x00);
    s.unsigned(tabled);
  });
  section(SECTION.export, (s) => {
    const exported = functions.flatMap(({ exported }, index) => (exported ? [{ exported, index }] : []));
    s.unsigned(exported.length);
    for (const entry of exported) {
      s.text(entry.exported);
      s.byte(EXTERNAL.function);
      s.unsigned(entry.index);
    }
  });
  section(SECTION.element, (s) => {
    s.unsigned(1);
    s.unsigned(0);
    s.byte(SPECIAL['i32.const']);
    s.signed(0);
    s.byte(SPECIAL.end);
    s.unsigned(tabled);
    for (let index = 0; index < tabled; index++) s.unsigned(index);
  });
  section(SECTION.code, (s) => {
    s.unsigned(functions.length);
    for (const { body } of functions) {
      s.unsigned(body.length);
      s.bytes(body);
    }
  });
  section(SECTION.custom, (s) => {
    s.text('name');
    const names = new ByteWriter();
    names.unsigned(functions.length);
    functions.forEach(({ name }, index) => {
      names.unsigned(index);
      names.text(name);
    });
    s.byte(FUNCTION_NAMES);
    s.unsigned(names.size);
    s.bytes(names.finish());
  });
  return out.finish();
}
