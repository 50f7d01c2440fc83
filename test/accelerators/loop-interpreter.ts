/** Executes the loop IR directly, slowly and clearly: what compiled functions are compared with. */

import type {
  Address,
  HorizontalFn,
  Instr,
  IntBinary,
  IntOperand,
  IntReg,
  LoopFunction,
  MemoryType,
  VecBinary,
  VecReg,
  VecUnary,
} from '../../src/accelerators/loops/ir.ts';
import { VANISHING } from '../../src/accelerators/loops/ir.ts';
import {
  bf16BitsToF32,
  bitsToF32,
  f16BitsToF32,
  f32ToBf16Bits,
  f32ToBits,
  f32ToF16Bits,
} from '../../src/numerics/float.ts';
import { fmaf } from '../../src/numerics/fma.ts';
import {
  f8e4m3BitsToF32,
  f8e5m2BitsToF32,
  f32ToF8e4m3Bits,
  f32ToF8e5m2Bits,
} from '../../src/numerics/fp8.ts';
import { MatrixRegisters } from './matrix-registers.ts';

export interface Machine {
  /** All memory; addresses are offsets in it. */
  readonly memory: DataView;
  /** Address of each view, and of the scratch memory. */
  readonly views: readonly number[];
  readonly scratch: number;
  readonly from: number;
  readonly to: number;
  /** vfma rounds once. */
  readonly fma: boolean;
  /** Width of integer registers. */
  readonly integerBits: 32 | 64;
  /** Gets each address that is asked for ahead. */
  readonly asked?: (address: number) => void;
}

type Lanes = Int32Array;

const sizes: { readonly [T in MemoryType]: number } = {
  f32: 4,
  i32: 4,
  u32: 4,
  bf16: 2,
  f16: 2,
  f8e4m3: 1,
  f8e5m2: 1,
  i8: 1,
  u8: 1,
  u16: 2,
};

function readLane(memory: DataView, at: number, type: MemoryType): number {
  switch (type) {
    case 'f32':
    case 'i32':
    case 'u32':
      return memory.getInt32(at, true);
    case 'bf16':
      return f32ToBits(bf16BitsToF32(memory.getUint16(at, true)));
    case 'f16':
      return f32ToBits(f16BitsToF32(memory.getUint16(at, true)));
    case 'f8e4m3':
      return f32ToBits(f8e4m3BitsToF32(memory.getUint8(at)));
    case 'f8e5m2':
      return f32ToBits(f8e5m2BitsToF32(memory.getUint8(at)));
    case 'i8':
      return memory.getInt8(at);
    case 'u8':
      return memory.getUint8(at);
    case 'u16':
      return memory.getUint16(at, true);
  }
}

function writeLane(memory: DataView, at: number, type: MemoryType, bits: number): void {
  switch (type) {
    case 'f32':
    case 'i32':
    case 'u32':
      memory.setInt32(at, bits, true);
      break;
    case 'bf16':
      memory.setUint16(at, f32ToBf16Bits(bitsToF32(bits)), true);
      break;
    case 'f16':
      memory.setUint16(at, f32ToF16Bits(bitsToF32(bits)), true);
      break;
    case 'f8e4m3':
      memory.setUint8(at, f32ToF8e4m3Bits(bitsToF32(bits)));
      break;
    case 'f8e5m2':
      memory.setUint8(at, f32ToF8e5m2Bits(bitsToF32(bits)));
      break;
    case 'i8':
    case 'u8':
      memory.setUint8(at, bits);
      break;
    case 'u16':
      memory.setUint16(at, bits, true);
      break;
  }
}

const bool = (value: boolean): bigint => (value ? 1n : 0n);

const integer: { readonly [F in IntBinary]: (a: bigint, b: bigint) => bigint } = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => (b === 0n ? 0n : a / b),
  rem: (a, b) => (b === 0n ? 0n : a % b),
  and: (a, b) => a & b,
  or: (a, b) => a | b,
  xor: (a, b) => a ^ b,
  shl: (a, b) => a << b,
  shr: (a, b) => a >> b,
  min: (a, b) => [a, b][Number(b < a)],
  max: (a, b) => [a, b][Number(b > a)],
  lt: (a, b) => bool(a < b),
  le: (a, b) => bool(a <= b),
  gt: (a, b) => bool(a > b),
  ge: (a, b) => bool(a >= b),
  eq: (a, b) => bool(a === b),
  ne: (a, b) => bool(a !== b),
};

const float =
  (fn: (a: number, b: number) => number) =>
  (a: number, b: number): number =>
    f32ToBits(fn(bitsToF32(a), bitsToF32(b)));
const mask = (value: boolean): number => (value ? -1 : 0);
const floatMask =
  (fn: (a: number, b: number) => boolean) =>
  (a: number, b: number): number =>
    mask(fn(bitsToF32(a), bitsToF32(b)));

const binary: { readonly [F in VecBinary]: (a: number, b: number) => number } = {
  fadd: float((a, b) => a + b),
  fsub: float((a, b) => a - b),
  fmul: float((a, b) => a * b),
  fdiv: float((a, b) => a / b),
  fmin: float(Math.min),
  fmax: float(Math.max),
  fminfast: float((a, b) => (a < b ? a : b)),
  fmaxfast: float((a, b) => (a > b ? a : b)),
  iadd: (a, b) => a + b,
  isub: (a, b) => a - b,
  imul: Math.imul,
  umulhi: (a, b) => Number((BigInt(a >>> 0) * BigInt(b >>> 0)) >> 32n),
  imin: Math.min,
  imax: Math.max,
  umin: (a, b) => Math.min(a >>> 0, b >>> 0),
  umax: (a, b) => Math.max(a >>> 0, b >>> 0),
  and: (a, b) => a & b,
  or: (a, b) => a | b,
  xor: (a, b) => a ^ b,
  andnot: (a, b) => ~a & b,
  ishl: (a, b) => (b >>> 0 > 31 ? 0 : a << b),
  ishr: (a, b) => (b >>> 0 > 31 ? a >> 31 : a >> b),
  ushr: (a, b) => (b >>> 0 > 31 ? 0 : a >>> b),
  flt: floatMask((a, b) => a < b),
  fle: floatMask((a, b) => a <= b),
  feq: floatMask((a, b) => a === b),
  fne: floatMask((a, b) => a !== b),
  ilt: (a, b) => mask(a < b),
  ile: (a, b) => mask(a <= b),
  ieq: (a, b) => mask(a === b),
  ult: (a, b) => mask(a >>> 0 < b >>> 0),
  ule: (a, b) => mask(a >>> 0 <= b >>> 0),
};

/** To the nearest integer, halves to even; keeps the sign of zero. */
function roundEven(value: number): number {
  if (!(Math.abs(value) < 2 ** 23)) return value;
  const down = Math.floor(value);
  const rest = value - down;
  const rounded = rest > 0.5 || (rest === 0.5 && down % 2 !== 0) ? down + 1 : down;
  return rounded === 0 && (value < 0 || Object.is(value, -0)) ? -0 : rounded;
}

const clamp = (value: number, low: number, high: number): number =>
  Number.isNaN(value) ? 0 : Math.trunc(Math.min(high, Math.max(low, value)));

const unary: { readonly [F in VecUnary]: (a: number) => number } = {
  fneg: (a) => a ^ -(2 ** 31),
  fabs: (a) => a & 0x7fffffff,
  fsqrt: (a) => f32ToBits(Math.sqrt(bitsToF32(a))),
  ffloor: (a) => f32ToBits(Math.floor(bitsToF32(a))),
  fround: (a) => f32ToBits(roundEven(bitsToF32(a))),
  not: (a) => ~a,
  itof: (a) => f32ToBits(a),
  utof: (a) => f32ToBits(a >>> 0),
  ftoi: (a) => clamp(bitsToF32(a), -(2 ** 31), 2 ** 31 - 1),
  ftou: (a) => clamp(bitsToF32(a), 0, 2 ** 32 - 1),
  roundbf16: (a) => f32ToBits(bf16BitsToF32(f32ToBf16Bits(bitsToF32(a)))),
  roundf16: (a) => f32ToBits(f16BitsToF32(f32ToF16Bits(bitsToF32(a)))),
};

/** Executes `fn` on the machine's memory. */
export function interpret(fn: LoopFunction, machine: Machine): void {
  const { memory } = machine;
  const integers = new Map<number, bigint>();
  const vectors = new Map<number, Lanes>();
  const matrices = new MatrixRegisters();
  const get = (register: IntReg): bigint => integers.get(register.id) ?? 0n;
  const value = (operand: IntOperand): bigint =>
    typeof operand === 'number' ? BigInt(operand) : get(operand);
  const set = (register: IntReg, result: bigint): void => {
    integers.set(register.id, BigInt.asIntN(machine.integerBits, result));
  };
  const lanes = (register: VecReg): Lanes => vectors.get(register.id) ?? new Int32Array(fn.lanes);
  const setLanes = (register: VecReg, lane: (index: number) => number): void => {
    vectors.set(
      register.id,
      Int32Array.from({ length: fn.lanes }, (_, index) => lane(index) | 0),
    );
  };
  const at = ({ base, index, scale, displacement }: Address): number =>
    Number(get(base) + (index ? get(index) * BigInt(scale ?? 1) : 0n)) + displacement;
  const clampCount = (count: IntReg): number => Math.max(0, Math.min(fn.lanes, Number(get(count))));
  const store = (src: VecReg, type: MemoryType, to: Address, count: number): void => {
    for (let i = 0; i < count; i++) writeLane(memory, at(to) + i * sizes[type], type, lanes(src)[i]);
  };
  const parameters = { scratch: machine.scratch, from: machine.from, to: machine.to };

  const run = (body: readonly Instr[]): void => {
    for (const instr of body) step(instr);
  };
  const step = (instr: Instr): void => {
    switch (instr.o) {
      case 'parameter':
        set(instr.dst, BigInt(parameters[instr.which]));
        break;
      case 'viewBase':
        set(instr.dst, BigInt(machine.views[instr.index]));
        break;
      case 'iconst':
        set(instr.dst, BigInt(instr.value));
        break;
      case 'imove':
        set(instr.dst, get(instr.a));
        break;
      case 'ibin':
        set(instr.dst, integer[instr.fn](get(instr.a), value(instr.b)));
        break;
      case 'iselect':
        set(instr.dst, get(instr.c) !== 0n ? get(instr.a) : get(instr.b));
        break;
      case 'iwrap':
        set(instr.dst, BigInt.asIntN(32, get(instr.a)));
        break;
      case 'iload': {
        const address = at(instr.from);
        const read = {
          i32: () => memory.getInt32(address, true),
          i8: () => memory.getInt8(address),
          u8: () => memory.getUint8(address),
          u16: () => memory.getUint16(address, true),
        }[instr.type];
        set(instr.dst, BigInt(read()));
        break;
      }
      case 'istore': {
        const bits = Number(BigInt.asIntN(32, get(instr.src)));
        const address = at(instr.to);
        if (instr.type === 'i32') memory.setInt32(address, bits, true);
        else if (instr.type === 'u16') memory.setUint16(address, bits, true);
        else memory.setUint8(address, bits);
        break;
      }
      case 'for':
        set(instr.index, value(instr.lo));
        while (get(instr.index) < value(instr.hi)) {
          run(instr.body);
          set(instr.index, get(instr.index) + BigInt(instr.step));
        }
        break;
      case 'if':
        run(integer[instr.cmp](get(instr.a), value(instr.b)) !== 0n ? instr.then : instr.else);
        break;
      case 'vconst':
        setLanes(instr.dst, () => instr.bits);
        break;
      case 'vmove':
        vectors.set(instr.dst.id, lanes(instr.a).slice());
        break;
      case 'vsplat':
        setLanes(instr.dst, () => Number(BigInt.asIntN(32, get(instr.a))));
        break;
      case 'vfirst':
        set(instr.dst, BigInt(lanes(instr.a)[0]));
        break;
      case 'viota':
        setLanes(instr.dst, (index) => index);
        break;
      case 'vload':
        setLanes(instr.dst, (index) =>
          readLane(memory, at(instr.from) + index * sizes[instr.type], instr.type),
        );
        break;
      case 'vloadpart': {
        const count = clampCount(instr.count);
        setLanes(instr.dst, (index) =>
          index < count ? readLane(memory, at(instr.from) + index * sizes[instr.type], instr.type) : 0,
        );
        break;
      }
      case 'vbroadcast':
        setLanes(instr.dst, () => readLane(memory, at(instr.from), instr.type));
        break;
      case 'vstore':
        store(instr.src, instr.type, instr.to, fn.lanes);
        break;
      case 'vstorepart':
        store(instr.src, instr.type, instr.to, clampCount(instr.count));
        break;
      case 'vstorefirst':
        store(instr.src, instr.type, instr.to, 1);
        break;
      case 'vbin': {
        const [a, b] = [lanes(instr.a), lanes(instr.b)];
        setLanes(instr.dst, (index) => binary[instr.fn](a[index], b[index]));
        break;
      }
      case 'vshift': {
        const a = lanes(instr.a);
        setLanes(instr.dst, (index) => binary[instr.fn](a[index], instr.by));
        break;
      }
      case 'vun': {
        const a = lanes(instr.a);
        setLanes(instr.dst, (index) => unary[instr.fn](a[index]));
        break;
      }
      case 'vfma': {
        const [a, b, c] = [instr.a, instr.b, instr.c].map((register) =>
          Array.from(lanes(register), bitsToF32),
        );
        setLanes(instr.dst, (index) =>
          f32ToBits(
            machine.fma ? fmaf(a[index], b[index], c[index]) : Math.fround(a[index] * b[index]) + c[index],
          ),
        );
        break;
      }
      case 'vdot2': {
        const [a, b, c] = [lanes(instr.a), lanes(instr.b), lanes(instr.c)];
        const plus = (x: number, y: number, sum: number) =>
          machine.fma
            ? fmaf(bitsToF32(x), bitsToF32(y), sum)
            : Math.fround(Math.fround(bitsToF32(x) * bitsToF32(y)) + sum);
        setLanes(instr.dst, (index) =>
          f32ToBits(
            plus(
              a[index] << 16,
              b[index] << 16,
              plus(a[index] & 0xffff0000, b[index] & 0xffff0000, bitsToF32(c[index])),
            ),
          ),
        );
        break;
      }
      case 'vdot4': {
        const [a, b, c] = [lanes(instr.a), lanes(instr.b), lanes(instr.c)];
        setLanes(instr.dst, (index) =>
          [0, 8, 16, 24].reduce(
            (sum, shift) => sum + ((a[index] >>> shift) & 0xff) * ((b[index] << (24 - shift)) >> 24),
            c[index],
          ),
        );
        break;
      }
      case 'vscale': {
        const [a, n] = [lanes(instr.a), lanes(instr.n)];
        setLanes(instr.dst, (index) =>
          bitsToF32(n[index]) <= VANISHING ? 0 : f32ToBits(bitsToF32(a[index]) * 2 ** bitsToF32(n[index])),
        );
        break;
      }
      case 'vselect': {
        const [chosen, a, b] = [lanes(instr.mask), lanes(instr.a), lanes(instr.b)];
        setLanes(instr.dst, (index) => (chosen[index] !== 0 ? a[index] : b[index]));
        break;
      }
      case 'vhorizontal':
        setLanes(instr.dst, combine(lanes(instr.a), instr.fn));
        break;
      case 'prefetch':
        machine.asked?.(at(instr.from));
        break;
      case 'mshape':
        matrices.shape(instr.shapes);
        break;
      case 'mzero':
        matrices.zero(instr.register);
        break;
      case 'mload':
        matrices.load(instr.register, memory, at(instr.from), Number(get(instr.stride)));
        break;
      case 'mstore':
        matrices.store(instr.register, memory, at(instr.to), Number(get(instr.stride)));
        break;
      case 'mdot':
        matrices.dot(instr.of, instr.sum, instr.a, instr.b);
        break;
      case 'vtranspose':
        for (let r = 0; r < instr.rows; r++) {
          for (let c = 0; c < instr.columns; c++) {
            const bits = memory.getInt32(at(instr.from) + r * instr.fromStride + 4 * c, true);
            memory.setInt32(at(instr.to) + c * instr.toStride + 4 * r, bits, true);
          }
        }
        break;
    }
  };
  run(fn.body);
}

/** The one value that is left when lane j joins lane j + h, for h = lanes/2, …, 1. */
function combine(all: Lanes, fn: HorizontalFn): () => number {
  const rest = all.slice();
  for (let h = all.length / 2; h >= 1; h /= 2) {
    for (let j = 0; j < h; j++) rest[j] = binary[fn](rest[j], rest[j + h]);
  }
  return () => rest[0];
}
