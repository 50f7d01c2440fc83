/**
 * Executes a kernel instruction by instruction, slowly and clearly. What it computes is what the tile language
 * means: every accelerator is tested against it.
 */
import type { DType } from '../numerics/dtype.ts';
import { byteLength, isFloat } from '../numerics/dtype.ts';
import { bf16BitsToF32, f16BitsToF32, f32ToBf16Bits, f32ToF16Bits } from '../numerics/float.ts';
import { fmaf } from '../numerics/fma.ts';
import { f8e4m3BitsToF32, f8e5m2BitsToF32, f32ToF8e4m3Bits, f32ToF8e5m2Bits } from '../numerics/fp8.ts';
import type {
  BinaryFn,
  Instruction,
  Kernel,
  Op,
  OpName,
  TernaryFn,
  TileType,
  UnaryFn,
  ValueId,
  View,
} from './ir.ts';
import { elementCount, MAP_ARITY } from './ir.ts';

/** Elements of a tile in row-major order: floats of any width as float32, bool as 0 or 1. */
type Data = Float32Array | Int32Array | Uint32Array;

function allocate(dtype: DType, count: number): Data {
  if (isFloat(dtype)) return new Float32Array(count);
  return dtype === 'u32' ? new Uint32Array(count) : new Int32Array(count);
}

const fround = Math.fround;

/** `value`, a float32, rounded to what `dtype` can hold. */
const ROUND_FLOAT: { readonly [D in DType]?: (value: number) => number } = {
  f32: fround,
  bf16: (value) => bf16BitsToF32(f32ToBf16Bits(value)),
  f16: (value) => f16BitsToF32(f32ToF16Bits(value)),
  f8e4m3: (value) => f8e4m3BitsToF32(f32ToF8e4m3Bits(value)),
  f8e5m2: (value) => f8e5m2BitsToF32(f32ToF8e5m2Bits(value)),
};

const INTEGER_RANGE: { readonly [D in DType]?: readonly [number, number] } = {
  i32: [-0x80000000, 0x7fffffff],
  u32: [0, 0xffffffff],
  i8: [-128, 127],
  i4: [-8, 7],
};

/** Keeps the low bits of an integer, as a value of `dtype`. */
function wrap(value: number, dtype: DType): number {
  if (dtype === 'u32') return value >>> 0;
  const unused = dtype === 'i8' ? 24 : dtype === 'i4' ? 28 : 0;
  return (value << unused) >> unused;
}

/** x * y + sum of a dot, by the operands' type; quads are four signed and four unsigned bytes. */
const MULTIPLY_ADD = {
  float: fmaf,
  bytes: (x: number, y: number, sum: number) => (Math.imul(x, y) + sum) | 0,
  quads: (x: number, y: number, sum: number) => {
    let total = sum;
    for (let shift = 24; shift >= 0; shift -= 8) total += Math.imul((x << shift) >> 24, (y << shift) >>> 24);
    return total | 0;
  },
};

function multiplyAdd(a: DType): (x: number, y: number, sum: number) => number {
  if (isFloat(a)) return MULTIPLY_ADD.float;
  return a === 'i32' ? MULTIPLY_ADD.quads : MULTIPLY_ADD.bytes;
}

/** The order in which a dot adds. */
function orderAlongK(operand: DType, k: number): readonly number[] {
  return Array.from({ length: k }, (_, p) => (operand === 'bf16' && (p | 1) < k ? p ^ 1 : p));
}

/** One value converted between element types. */
export function convert(value: number, from: DType, to: DType): number {
  const round = ROUND_FLOAT[to];
  if (round !== undefined) return round(fround(value));
  if (!isFloat(from)) return wrap(value, to);
  if (Number.isNaN(value)) return 0;
  const [low, high] = INTEGER_RANGE[to] as readonly [number, number];
  return Math.min(high, Math.max(low, Math.trunc(value)));
}

interface Memory {
  readonly read: (index: number) => number;
  readonly write: (index: number, value: number) => void;
}

const MEMORY: { readonly [D in DType]: (data: DataView) => Memory } = {
  f32: (data) => ({
    read: (i) => data.getFloat32(4 * i, true),
    write: (i, value) => data.setFloat32(4 * i, value, true),
  }),
  bf16: (data) => ({
    read: (i) => bf16BitsToF32(data.getUint16(2 * i, true)),
    write: (i, value) => data.setUint16(2 * i, f32ToBf16Bits(value), true),
  }),
  f16: (data) => ({
    read: (i) => f16BitsToF32(data.getUint16(2 * i, true)),
    write: (i, value) => data.setUint16(2 * i, f32ToF16Bits(value), true),
  }),
  f8e4m3: (data) => ({
    read: (i) => f8e4m3BitsToF32(data.getUint8(i)),
    write: (i, value) => data.setUint8(i, f32ToF8e4m3Bits(value)),
  }),
  f8e5m2: (data) => ({
    read: (i) => f8e5m2BitsToF32(data.getUint8(i)),
    write: (i, value) => data.setUint8(i, f32ToF8e5m2Bits(value)),
  }),
  i32: (data) => ({
    read: (i) => data.getInt32(4 * i, true),
    write: (i, value) => data.setInt32(4 * i, value, true),
  }),
  u32: (data) => ({
    read: (i) => data.getUint32(4 * i, true),
    write: (i, value) => data.setUint32(4 * i, value, true),
  }),
  i8: (data) => ({ read: (i) => data.getInt8(i), write: (i, value) => data.setInt8(i, value) }),
  i4: (data) => ({
    read: (i) => ((data.getUint8(i >> 1) >> (4 * (i & 1))) << 28) >> 28,
    write: (i, value) => {
      const shift = 4 * (i & 1);
      const other = data.getUint8(i >> 1) & ~(15 << shift);
      data.setUint8(i >> 1, other | ((value & 15) << shift));
    },
  }),
  bool: (data) => ({
    read: (i) => (data.getUint8(i) === 0 ? 0 : 1),
    write: (i, value) => data.setUint8(i, value),
  }),
};

/** Result of a function for floats (rounded to float32 by the caller) and for 32-bit integers (wrapped by the caller). */
interface Unary {
  readonly float?: (x: number) => number;
  readonly int?: (x: number) => number;
}
interface Binary {
  readonly float?: (x: number, y: number) => number;
  readonly int?: (x: number, y: number) => number;
}

const UNARY: { readonly [F in UnaryFn]: Unary } = {
  neg: { float: (x) => -x, int: (x) => -x },
  abs: { float: Math.abs, int: Math.abs },
  not: { int: (x) => ~x },
  floor: { float: Math.floor },
  sqrt: { float: Math.sqrt },
  rsqrt: { float: (x) => 1 / fround(Math.sqrt(x)) },
  exp: { float: Math.exp },
  exp2: { float: (x) => 2 ** x },
  log: { float: Math.log },
  log2: { float: Math.log2 },
  tanh: { float: Math.tanh },
  sigmoid: { float: (x) => 1 / (1 + Math.exp(-x)) },
  sin: { float: Math.sin },
  cos: { float: Math.cos },
};

const compare = (test: (x: number, y: number) => boolean): Binary => {
  const number = (x: number, y: number) => (test(x, y) ? 1 : 0);
  return { float: number, int: number };
};

const BINARY: { readonly [F in BinaryFn]: Binary } = {
  add: { float: (x, y) => x + y, int: (x, y) => x + y },
  sub: { float: (x, y) => x - y, int: (x, y) => x - y },
  mul: { float: (x, y) => x * y, int: Math.imul },
  div: { float: (x, y) => x / y, int: (x, y) => (y === 0 ? 0 : Math.trunc(x / y)) },
  rem: { int: (x, y) => (y === 0 ? 0 : x % y) },
  min: { float: Math.min, int: Math.min },
  max: { float: Math.max, int: Math.max },
  and: { int: (x, y) => x & y },
  or: { int: (x, y) => x | y },
  xor: { int: (x, y) => x ^ y },
  shl: { int: (x, y) => (y >>> 0 >= 32 ? 0 : x << y) },
  // u32 operands arrive as numbers from 0 on, i32 operands keep their sign: x / 2^y rounded down is right for both.
  shr: { int: (x, y) => Math.floor(x / 2 ** Math.min(y >>> 0, 32)) },
  mulhi: { int: (x, y) => Number((BigInt(x) * BigInt(y)) >> 32n) },
  lt: compare((x, y) => x < y),
  le: compare((x, y) => x <= y),
  gt: compare((x, y) => x > y),
  ge: compare((x, y) => x >= y),
  eq: compare((x, y) => x === y),
  ne: compare((x, y) => x !== y),
};

type Values = (Data | undefined)[];

interface Machine {
  readonly kernel: Kernel;
  readonly memory: readonly Memory[];
  readonly program: readonly number[];
  readonly values: Values;
}

type Execute = {
  readonly [P in OpName]: (op: Extract<Op, { op: P }>, machine: Machine, results: readonly ValueId[]) => void;
};

const get = (machine: Machine, id: ValueId) => machine.values[id] as Data;
const scalar = (machine: Machine, id: ValueId) => get(machine, id)[0];

/** Allocates the result and fills it element by element. */
function fill(machine: Machine, id: ValueId, element: (index: number) => number): void {
  const type = machine.kernel.types[id];
  const data = allocate(type.dtype, elementCount(type.shape));
  for (let i = 0; i < data.length; i++) data[i] = element(i);
  machine.values[id] = data;
}

/** Calls `visit(i, address)` for each element of a block; `address` is the element's index in memory, or -1 out of bounds. */
function walkBlock(
  machine: Machine,
  view: View,
  op: { offsets: readonly ValueId[]; limits: readonly (ValueId | null)[] },
  shape: readonly number[],
  visit: (index: number, address: number) => void,
): void {
  const offsets = op.offsets.map((id) => scalar(machine, id));
  const limits = op.limits.map((id, axis) =>
    id === null ? view.shape[axis] : Math.min(view.shape[axis], scalar(machine, id)),
  );
  if (view.dtype === 'i4' && offsets[offsets.length - 1] % 2 !== 0) {
    throw new RangeError(
      `kernel '${machine.kernel.name}': i4 view '${view.name}' is read or written at the odd offset ${offsets[offsets.length - 1]}`,
    );
  }
  const total = elementCount(shape);
  for (let i = 0; i < total; i++) {
    let rest = i;
    let address = 0;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const position = offsets[axis] + (rest % shape[axis]);
      rest = Math.floor(rest / shape[axis]);
      if (position < 0 || position >= limits[axis]) address = -1;
      if (address >= 0) address += position * view.strides[axis];
    }
    visit(i, address);
  }
}

function walkRows(
  machine: Machine,
  view: View,
  op: { rows: ValueId; column: ValueId },
  columns: number,
  visit: (index: number, address: number) => void,
): void {
  const rows = get(machine, op.rows);
  const column = scalar(machine, op.column);
  for (let i = 0; i < rows.length; i++) {
    for (let j = 0; j < columns; j++) {
      const inside = rows[i] >= 0 && rows[i] < view.shape[0] && column + j >= 0 && column + j < view.shape[1];
      visit(i * columns + j, inside ? rows[i] * view.strides[0] + (column + j) * view.strides[1] : -1);
    }
  }
}

/** Fills a result from memory. */
function loadInto(
  machine: Machine,
  op: { view: number; fill: number },
  id: ValueId,
  walk: (visit: (index: number, address: number) => void) => void,
): void {
  const { dtype, shape } = machine.kernel.types[id];
  const data = allocate(dtype, elementCount(shape));
  const outside = ROUND_FLOAT[dtype]?.(op.fill) ?? wrap(op.fill, dtype);
  walk((i, address) => {
    data[i] = address < 0 ? outside : machine.memory[op.view].read(address);
  });
  machine.values[id] = data;
}

function storeFrom(
  machine: Machine,
  op: { view: number; value: ValueId },
  walk: (visit: (index: number, address: number) => void) => void,
): void {
  const data = get(machine, op.value);
  walk((i, address) => {
    if (address >= 0) machine.memory[op.view].write(address, data[i]);
  });
}

const add = (dtype: DType): ((x: number, y: number) => number) =>
  isFloat(dtype) ? (x, y) => fround(x + y) : (x, y) => wrap(x + y, dtype);

/** Sum in the order the language fixes for the last axis: 16 partial sums, added pairwise. */
function sumLast(data: Data, begin: number, size: number, plus: (x: number, y: number) => number): number {
  const partial = new Array<number>(16).fill(0);
  for (let i = 0; i < size; i++) partial[i % 16] = plus(partial[i % 16], data[begin + i]);
  for (let half = 8; half >= 1; half /= 2) {
    for (let j = 0; j < half; j++) partial[j] = plus(partial[j], partial[j + half]);
  }
  return partial[0];
}

/** Sizes before, of, and after an axis. */
function around(type: TileType, axis: number): readonly [number, number, number] {
  return [
    elementCount(type.shape.slice(0, axis)),
    type.shape[axis],
    elementCount(type.shape.slice(axis + 1)),
  ];
}

const EXECUTE: Execute = {
  programId: (op, machine, [result]) => fill(machine, result, () => machine.program[op.axis]),
  constant: (op, machine, [result]) => {
    const { dtype } = machine.kernel.types[result];
    const value = isFloat(dtype) ? op.value : wrap(op.value, dtype);
    fill(machine, result, () => value);
  },
  iota: (op, machine, [result]) => {
    const [, size, inner] = around(machine.kernel.types[result], op.axis);
    fill(machine, result, (i) => Math.floor(i / inner) % size);
  },
  load: (op, machine, [result]) =>
    loadInto(machine, op, result, (visit) =>
      walkBlock(machine, machine.kernel.views[op.view], op, machine.kernel.types[result].shape, visit),
    ),
  store: (op, machine) =>
    storeFrom(machine, op, (visit) =>
      walkBlock(machine, machine.kernel.views[op.view], op, machine.kernel.types[op.value].shape, visit),
    ),
  gather: (op, machine, [result]) =>
    loadInto(machine, op, result, (visit) =>
      walkRows(machine, machine.kernel.views[op.view], op, machine.kernel.types[result].shape[1], visit),
    ),
  scatter: (op, machine) =>
    storeFrom(machine, op, (visit) =>
      walkRows(machine, machine.kernel.views[op.view], op, machine.kernel.types[op.value].shape[1], visit),
    ),
  atomicAdd: (op, machine) => {
    const view = machine.kernel.views[op.view];
    const memory = machine.memory[op.view];
    const data = get(machine, op.value);
    const plus = add(view.dtype);
    walkBlock(
      machine,
      view,
      { offsets: op.offsets, limits: view.shape.map(() => null) },
      machine.kernel.types[op.value].shape,
      (i, address) => {
        if (address >= 0) memory.write(address, plus(memory.read(address), data[i]));
      },
    );
  },
  dot: (op, machine, [result]) => {
    const a = get(machine, op.a);
    const b = get(machine, op.b);
    const acc = op.acc === null ? null : get(machine, op.acc);
    const [m, n] = machine.kernel.types[result].shape;
    const k = machine.kernel.types[op.a].shape[op.transA ? 0 : 1];
    const { dtype } = machine.kernel.types[op.a];
    const step = multiplyAdd(dtype);
    const order = orderAlongK(dtype, k);
    fill(machine, result, (element) => {
      const i = Math.floor(element / n);
      const j = element % n;
      let sum = acc === null ? 0 : acc[element];
      for (const p of order)
        sum = step(a[op.transA ? p * m + i : i * k + p], b[op.transB ? j * k + p : p * n + j], sum);
      return sum;
    });
  },
  map: (op, machine, [result]) => {
    const args = op.args.map((id) => get(machine, id));
    const [x, y, z] = args;
    const { dtype } = machine.kernel.types[op.args[op.args.length - 1]];
    const kind = isFloat(dtype) ? 'float' : 'int';
    // Storing into the result's typed array rounds floats to float32 and wraps integers; bool needs its low bit only.
    const mask =
      machine.kernel.types[result].dtype === 'bool' ? (value: number) => value & 1 : (value: number) => value;
    if (MAP_ARITY[op.fn] === 1) {
      const apply = UNARY[op.fn as UnaryFn][kind] as (x: number) => number;
      fill(machine, result, (i) => mask(apply(x[i])));
    } else if (MAP_ARITY[op.fn] === 2) {
      const apply = BINARY[op.fn as BinaryFn][kind] as (x: number, y: number) => number;
      fill(machine, result, (i) => mask(apply(x[i], y[i])));
    } else {
      const ternary: { readonly [F in TernaryFn]: (i: number) => number } = {
        fma: (i) => fmaf(x[i], y[i], z[i]),
        select: (i) => (x[i] !== 0 ? y[i] : z[i]),
      };
      fill(machine, result, ternary[op.fn as TernaryFn]);
    }
  },
  reduce: (op, machine, [result]) => {
    const type = machine.kernel.types[op.arg];
    const data = get(machine, op.arg);
    const [, size, inner] = around(type, op.axis);
    const plus = add(type.dtype);
    fill(machine, result, (i) => {
      const begin = Math.floor(i / inner) * size * inner + (i % inner);
      if (op.fn === 'sum' && op.axis === type.shape.length - 1) return sumLast(data, begin, size, plus);
      const join = op.fn === 'sum' ? plus : op.fn === 'max' ? Math.max : Math.min;
      let value = op.fn === 'sum' ? 0 : data[begin];
      for (let j = op.fn === 'sum' ? 0 : 1; j < size; j++) value = join(value, data[begin + j * inner]);
      return value;
    });
  },
  argmax: (op, machine, [result]) => {
    const type = machine.kernel.types[op.arg];
    const data = get(machine, op.arg);
    const size = type.shape[type.shape.length - 1];
    fill(machine, result, (row) => {
      let best = 0;
      for (let j = 1; j < size; j++) {
        const value = data[row * size + j];
        const champion = data[row * size + best];
        if (value > champion || (Number.isNaN(value) && !Number.isNaN(champion))) best = j;
      }
      return best;
    });
  },
  scan: (op, machine, [result]) => {
    const type = machine.kernel.types[op.arg];
    const data = get(machine, op.arg);
    const size = type.shape[type.shape.length - 1];
    const plus = add(type.dtype);
    let sum = 0;
    fill(machine, result, (i) => {
      sum = i % size === 0 ? data[i] : plus(sum, data[i]);
      return sum;
    });
  },
  broadcast: (op, machine, [result]) => {
    const from = machine.kernel.types[op.arg].shape;
    const { shape } = machine.kernel.types[result];
    const data = get(machine, op.arg);
    fill(machine, result, (i) => {
      if (from.length === 0) return data[0];
      let rest = i;
      let source = 0;
      let stride = 1;
      for (let axis = shape.length - 1; axis >= 0; axis--) {
        if (from[axis] !== 1) source += (rest % shape[axis]) * stride;
        stride *= from[axis];
        rest = Math.floor(rest / shape[axis]);
      }
      return data[source];
    });
  },
  reshape: (op, machine, [result]) => {
    machine.values[result] = get(machine, op.arg);
  },
  transpose: (op, machine, [result]) => {
    const data = get(machine, op.arg);
    const [rows, columns] = machine.kernel.types[op.arg].shape;
    fill(machine, result, (i) => data[(i % rows) * columns + Math.floor(i / rows)]);
  },
  cast: (op, machine, [result]) => {
    const data = get(machine, op.arg);
    const from = machine.kernel.types[op.arg].dtype;
    const to = machine.kernel.types[result].dtype;
    fill(machine, result, (i) => convert(data[i], from, to));
  },
  loop: (op, machine, results) => {
    const hi = scalar(machine, op.hi);
    let carried = op.init.map((id) => get(machine, id));
    for (let index = scalar(machine, op.lo); index < hi; index += op.step) {
      machine.values[op.index] = new Int32Array([index]);
      op.params.forEach((id, position) => {
        machine.values[id] = carried[position];
      });
      execute(op.body, machine);
      carried = op.yields.map((id) => get(machine, id));
    }
    results.forEach((id, position) => {
      machine.values[id] = carried[position];
    });
  },
};

function execute(instructions: readonly Instruction[], machine: Machine): void {
  for (const { op, results } of instructions) {
    (EXECUTE[op.op] as (op: Op, machine: Machine, results: readonly ValueId[]) => void)(op, machine, results);
  }
}

/** Elements a view spans in memory, from its base to its last element. */
export function viewExtent(view: View): number {
  return 1 + view.shape.reduce((sum, size, axis) => sum + (size - 1) * view.strides[axis], 0);
}

export interface InterpretOptions {
  /** Runs only programs from ≤ linear index < to; axis 0 of the grid varies fastest. All when left out. */
  readonly programs?: readonly [from: number, to: number];
}

/**
 * Runs a verified kernel on this thread. `buffers[i]` holds view i from its first byte on, in little-endian memory
 * layout (i4: two elements a byte, the earlier in the low half). Throws a RangeError when a buffer is too small.
 */
export function interpret(
  kernel: Kernel,
  buffers: readonly ArrayBufferView[],
  options: InterpretOptions = {},
): void {
  if (buffers.length !== kernel.views.length) {
    throw new RangeError(
      `kernel '${kernel.name}' has ${kernel.views.length} views, but ${buffers.length} buffers are given`,
    );
  }
  const memory = kernel.views.map((view, index) => {
    const buffer = buffers[index];
    const needed = byteLength(view.dtype, viewExtent(view));
    if (buffer.byteLength < needed) {
      throw new RangeError(
        `kernel '${kernel.name}', view '${view.name}' needs ${needed} bytes, but its buffer has ${buffer.byteLength}`,
      );
    }
    return MEMORY[view.dtype](new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength));
  });
  const [x, y = 1] = kernel.grid;
  const [from, to] = options.programs ?? [0, elementCount(kernel.grid)];
  for (let index = from; index < to; index++) {
    const program = [index % x, Math.floor(index / x) % y, Math.floor(index / (x * y))];
    execute(kernel.body, { kernel, memory, program, values: new Array(kernel.types.length) });
  }
}
