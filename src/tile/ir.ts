/**
 * The tile language's intermediate representation: what one program of a grid does with tiles.
 *
 * A kernel is a grid of independent programs. Each program runs the same list of instructions; every value is
 * a tile with a static shape and element type (a scalar is a tile of rank 0). Memory is reached only through
 * views, which are also static: shape, strides and type are constants of the kernel, the base address is bound
 * at launch. Values are in SSA form: an id is defined once, and `types[id]` tells what it is.
 *
 * Programs of one launch must not write what another program of the launch reads or writes; within a program,
 * loads see all earlier stores.
 */
import type { DType } from '../numerics/dtype.ts';

export type ValueId = number;

export interface TileType {
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/**
 * A block of device memory as a kernel sees it. Strides are in elements. i4: two elements a byte, the earlier one
 * in the low half; a block begins at an even offset along the last axis.
 */
export interface View {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
  readonly access: 'read' | 'write' | 'readwrite';
}

/**
 * Elementwise functions by number of arguments. Comparisons yield `bool`; the rest keep the argument type.
 *
 * f32: every result is rounded to f32; `div`, `sqrt` and the arithmetic are exactly rounded; `min` and `max` yield
 * NaN where an argument is NaN (which zero wins of -0 and 0 is not fixed). i32, u32: results wrap; `div` truncates,
 * and `div` and `rem` by zero are 0; shifts by 32 or more (the amount taken as unsigned) give 0, or the sign
 * for `shr` of i32. `rsqrt` is 1 / sqrt with both steps rounded.
 */
export type UnaryFn =
  | 'neg'
  | 'abs'
  | 'not'
  | 'floor'
  | 'sqrt'
  | 'rsqrt'
  | 'exp'
  | 'exp2'
  | 'log'
  | 'log2'
  | 'tanh'
  | 'sigmoid'
  | 'sin'
  | 'cos';
export type BinaryFn =
  | 'add'
  | 'sub'
  | 'mul'
  | 'div'
  | 'rem'
  | 'min'
  | 'max'
  | 'and'
  | 'or'
  | 'xor'
  | 'shl'
  | 'shr'
  | 'mulhi'
  | 'lt'
  | 'le'
  | 'gt'
  | 'ge'
  | 'eq'
  | 'ne';
/** `fma(a, b, c)` = a*b + c; rounded once where the accelerator can (see `Features.fma`). `select(c, a, b)` = c ? a : b. */
export type TernaryFn = 'fma' | 'select';
export type MapFn = UnaryFn | BinaryFn | TernaryFn;
export type ReduceFn = 'sum' | 'max' | 'min';

export type Op =
  /** Index of this program along a grid axis. i32 scalar. */
  | { readonly op: 'programId'; readonly axis: number }
  /** Every element is `value` (for integers, wrapped to 32 bits). */
  | { readonly op: 'constant'; readonly value: number }
  /** 0, 1, 2, … along `axis`. i32. */
  | { readonly op: 'iota'; readonly axis: number }
  /**
   * The block of `view` that begins at `offsets` (i32 scalars, one a dimension, may be negative) and has the
   * result's shape. Elements outside the view, or at or beyond `limits[d]` (i32 scalar) in dimension d, are `fill`.
   */
  | {
      readonly op: 'load';
      readonly view: number;
      readonly offsets: readonly ValueId[];
      readonly limits: readonly (ValueId | null)[];
      readonly fill: number;
    }
  /** Writes `value` at `offsets`; elements outside the view or its limits are not written. */
  | {
      readonly op: 'store';
      readonly view: number;
      readonly offsets: readonly ValueId[];
      readonly limits: readonly (ValueId | null)[];
      readonly value: ValueId;
    }
  /** result[i, j] = view[rows[i], column + j] of a 2-D view; outside it: `fill`. `rows` is i32 [n], `column` an i32 scalar. */
  | {
      readonly op: 'gather';
      readonly view: number;
      readonly rows: ValueId;
      readonly column: ValueId;
      readonly fill: number;
    }
  /** view[rows[i], column + j] = value[i, j], i ascending (a later row wins); rows outside the view are skipped. */
  | {
      readonly op: 'scatter';
      readonly view: number;
      readonly rows: ValueId;
      readonly column: ValueId;
      readonly value: ValueId;
    }
  /** view[offsets + i] += value[i] with no order between programs: not deterministic in f32, thus opt-in. */
  | {
      readonly op: 'atomicAdd';
      readonly view: number;
      readonly offsets: readonly ValueId[];
      readonly value: ValueId;
    }
  /**
   * Matrix product of 2-D tiles: acc[m, n] + sum over k of a[m, k] * b[k, n], where `transA`/`transB` say that
   * the operand is held as [k, m] / [n, k]. f32, bf16, f16, fp8 operands accumulate in f32; i8 in i32. The sum is
   * taken in ascending k, one accumulator an element, each step a fused multiply-add: for k = 0, 1, …:
   * acc = fma(a[m, k], b[k, n], acc). That fixed order is what makes results independent of tile sizes. bf16 operands
   * are taken in pairs along k, of each the second first (k = 1, 0, 3, 2, …; a last one without a partner comes alone):
   * that is how processors multiply them. There, numbers below the smallest normal one may count as 0. An accelerator
   * with matrix registers says so (`bf16Sums`) and takes bf16 in blocks of 32 along k (`sums.ts`). So tiles of bf16 should
   * be of even size along k, and where several follow each other, of a multiple of 32.
   * a in i32 and b in u32 are quads: each element holds four bytes that follow each other along k, the first in the low
   * byte, signed ones in a and unsigned ones in b, and the product of two elements is the sum of the four products; that
   * is how processors multiply bytes.
   */
  | {
      readonly op: 'dot';
      readonly a: ValueId;
      readonly b: ValueId;
      readonly acc: ValueId | null;
      readonly transA: boolean;
      readonly transB: boolean;
    }
  /** Elementwise; all arguments have the result's shape (the builder inserts broadcasts). */
  | { readonly op: 'map'; readonly fn: MapFn; readonly args: readonly ValueId[] }
  /**
   * Reduction along `axis`, which keeps size 1; `max` and `min` yield NaN where an element is NaN. Order of a f32 sum, on every accelerator: along the last axis,
   * element i is added to partial sum i mod 16 (ascending i, partials start at 0), then partials are added
   * pairwise p[j] += p[j + h] for h = 8, 4, 2, 1. Along any other axis: one accumulator from 0, ascending.
   */
  | { readonly op: 'reduce'; readonly fn: ReduceFn; readonly axis: number; readonly arg: ValueId }
  /** Smallest index of the maximum along the last axis (kept with size 1). i32. NaN counts as the maximum. */
  | { readonly op: 'argmax'; readonly arg: ValueId }
  /** Inclusive prefix sum along the last axis, ascending. */
  | { readonly op: 'scan'; readonly fn: 'sum'; readonly arg: ValueId }
  /** Repeats size-1 dimensions to the result's shape; same rank, or from rank 0. */
  | { readonly op: 'broadcast'; readonly arg: ValueId }
  | { readonly op: 'reshape'; readonly arg: ValueId }
  /** Swaps the two dimensions of a 2-D tile. */
  | { readonly op: 'transpose'; readonly arg: ValueId }
  /**
   * Converts to the result's element type. float to float: nearest even (f32 to bf16/f16: overflow to Inf; to
   * fp8: saturating); f32 to int: toward zero, saturating, NaN to 0; int to f32: nearest even; int to int: the low bits are kept;
   * bool to f32, i32, u32: 0 or 1. Other pairs go through f32.
   */
  | { readonly op: 'cast'; readonly arg: ValueId }
  /**
   * for (index = lo; index < hi; index += step): `params` hold the carried values in the body, `yields` are
   * their next values; the instruction's results are the last ones. lo, hi are i32 scalars, step a positive
   * constant. `pipelined` says that iterations' loads may be overlapped with earlier iterations' arithmetic.
   */
  | {
      readonly op: 'loop';
      readonly kind: 'serial' | 'pipelined';
      readonly lo: ValueId;
      readonly hi: ValueId;
      readonly step: number;
      readonly index: ValueId;
      readonly init: readonly ValueId[];
      readonly params: readonly ValueId[];
      readonly body: readonly Instruction[];
      readonly yields: readonly ValueId[];
    };

export type OpName = Op['op'];

export interface Instruction {
  readonly results: readonly ValueId[];
  readonly op: Op;
}

export interface Kernel {
  readonly name: string;
  readonly views: readonly View[];
  /** Number of programs along each axis (1 to 3 axes). */
  readonly grid: readonly number[];
  readonly types: readonly TileType[];
  readonly body: readonly Instruction[];
}

export const MAP_ARITY: { readonly [F in MapFn]: 1 | 2 | 3 } = {
  neg: 1,
  abs: 1,
  not: 1,
  floor: 1,
  sqrt: 1,
  rsqrt: 1,
  exp: 1,
  exp2: 1,
  log: 1,
  log2: 1,
  tanh: 1,
  sigmoid: 1,
  sin: 1,
  cos: 1,
  add: 2,
  sub: 2,
  mul: 2,
  div: 2,
  rem: 2,
  min: 2,
  max: 2,
  and: 2,
  or: 2,
  xor: 2,
  shl: 2,
  shr: 2,
  mulhi: 2,
  lt: 2,
  le: 2,
  gt: 2,
  ge: 2,
  eq: 2,
  ne: 2,
  fma: 3,
  select: 3,
};

export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** Elements a view spans in memory, from its base to its last element. */
export function viewExtent(view: View): number {
  return 1 + view.shape.reduce((sum, size, axis) => sum + (size - 1) * view.strides[axis], 0);
}

/** Values an instruction reads, its loop body not included. */
export function operands(op: Op): readonly ValueId[] {
  switch (op.op) {
    case 'programId':
    case 'constant':
    case 'iota':
      return [];
    case 'load':
      return [...op.offsets, ...op.limits.filter((limit) => limit !== null)];
    case 'store':
      return [op.value, ...op.offsets, ...op.limits.filter((limit) => limit !== null)];
    case 'gather':
      return [op.rows, op.column];
    case 'scatter':
      return [op.value, op.rows, op.column];
    case 'atomicAdd':
      return [op.value, ...op.offsets];
    case 'dot':
      return op.acc === null ? [op.a, op.b] : [op.a, op.b, op.acc];
    case 'map':
      return op.args;
    case 'loop':
      return [op.lo, op.hi, ...op.init];
    default:
      return [op.arg];
  }
}
