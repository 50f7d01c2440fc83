/**
 * Executes a kernel instruction by instruction, slowly and clearly. What it computes is what the tile language
 * means: every accelerator is tested against it. The meaning of single elements is in `elementwise.ts`, `convert.ts`
 * and `memory.ts`, that of sums in `sums.ts`.
 */
import type { DType } from '../numerics/dtype.ts';
import { byteLength, isFloat } from '../numerics/dtype.ts';
import { convert } from './convert.ts';
import { BINARY, TERNARY, UNARY } from './elementwise.ts';
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
import { elementCount, MAP_ARITY, viewExtent } from './ir.ts';
import type { Memory } from './memory.ts';
import { MEMORY } from './memory.ts';
import type { Bf16Sums } from './sums.ts';
import { adder, dotSum, sumLast } from './sums.ts';

/** Elements of a tile in row-major order: floats of any width as float32, bool as 0 or 1. */
type Data = Float32Array | Int32Array | Uint32Array;

function allocate(dtype: DType, count: number): Data {
  if (isFloat(dtype)) return new Float32Array(count);
  return dtype === 'u32' ? new Uint32Array(count) : new Int32Array(count);
}

type Values = (Data | undefined)[];

interface Machine {
  readonly kernel: Kernel;
  readonly memory: readonly Memory[];
  readonly program: readonly number[];
  readonly values: Values;
  readonly bf16Sums: Bf16Sums;
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
  const outside = convert(op.fill, dtype, dtype);
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
    const value = convert(op.value, dtype, dtype);
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
    const plus = adder(view.dtype);
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
    const sum = dotSum(dtype, k, machine.bf16Sums);
    fill(machine, result, (element) => {
      const i = Math.floor(element / n);
      const j = element % n;
      return sum(
        (p) => a[op.transA ? p * m + i : i * k + p],
        (p) => b[op.transB ? j * k + p : p * n + j],
        acc === null ? 0 : acc[element],
      );
    });
  },
  map: (op, machine, [result]) => {
    const [x, y, z] = op.args.map((id) => get(machine, id));
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
      const apply = TERNARY[op.fn as TernaryFn];
      fill(machine, result, (i) => apply(x[i], y[i], z[i]));
    }
  },
  reduce: (op, machine, [result]) => {
    const type = machine.kernel.types[op.arg];
    const data = get(machine, op.arg);
    const [, size, inner] = around(type, op.axis);
    const plus = adder(type.dtype);
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
    const plus = adder(type.dtype);
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

export interface InterpretOptions {
  /** Runs only programs from ≤ linear index < to; axis 0 of the grid varies fastest. All when left out. */
  readonly programs?: readonly [from: number, to: number];
  /** How products of bf16 are added up; 'pairs' when left out. */
  readonly bf16Sums?: Bf16Sums;
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
  const { bf16Sums = 'pairs' } = options;
  const [from, to] = options.programs ?? [0, elementCount(kernel.grid)];
  for (let index = from; index < to; index++) {
    const program = [index % x, Math.floor(index / x) % y, Math.floor(index / (x * y))];
    execute(kernel.body, { kernel, memory, program, values: new Array(kernel.types.length), bf16Sums });
  }
}
