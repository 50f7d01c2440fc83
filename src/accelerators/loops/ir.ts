/**
 * The loop IR: what tiles become for processors that are reached by vector loops (x86-64, WebAssembly). Structured
 * loops over integers, vectors of 32-bit lanes, and plain memory. Registers are virtual, typed and mutable (not
 * SSA): WebAssembly maps them to locals, x86-64 allocates them by linear scan.
 *
 * A compiled function has the signature (arguments, scratch, from, to): `arguments` points at one pointer per
 * view, `scratch` at this thread's private memory of `scratchBytes` (64-byte aligned), and the programs
 * from <= id < to of the (linearised) grid are executed in ascending order by the function body itself, which
 * reads the four through `parameter`.
 */

/** A virtual register. 'i': a pointer-sized integer (at least 32 bits; signed). 'v': a vector of `lanes` 32-bit lanes. */
export interface Reg {
  readonly id: number;
  readonly class: 'i' | 'v';
}
export type IntReg = Reg & { readonly class: 'i' };
export type VecReg = Reg & { readonly class: 'v' };
/** An integer register or an immediate. */
export type IntOperand = IntReg | number;

/** The address base + index * scale + displacement, in bytes. */
export interface Address {
  readonly base: IntReg;
  readonly index?: IntReg;
  readonly scale?: 1 | 2 | 4 | 8;
  readonly displacement: number;
}

/** How lanes lie in memory; loads widen to 32-bit lanes (bf16, f16 and fp8 to f32, integers and bool by extension). */
export type MemoryType = 'f32' | 'i32' | 'u32' | 'bf16' | 'f16' | 'f8e4m3' | 'f8e5m2' | 'i8' | 'u8' | 'u16';

export type IntBinary =
  | 'add'
  | 'sub'
  | 'mul'
  | 'div'
  | 'rem'
  | 'and'
  | 'or'
  | 'xor'
  | 'shl'
  | 'shr'
  | 'min'
  | 'max'
  | 'lt'
  | 'le'
  | 'gt'
  | 'ge'
  | 'eq'
  | 'ne';

/**
 * Lanewise functions of two vectors. f*: IEEE f32, rounded to nearest even. fmin/fmax give NaN if either argument
 * is NaN; fminfast/fmaxfast give the second where one is NaN or both are zero. Comparisons give all-ones or all-zeros
 * lanes; ordered, false on NaN, except fne (true on NaN). Shift counts of 32 or more give 0 (ishr: the sign).
 */
export type VecBinary =
  | 'fadd'
  | 'fsub'
  | 'fmul'
  | 'fdiv'
  | 'fmin'
  | 'fmax'
  | 'fminfast'
  | 'fmaxfast'
  | 'iadd'
  | 'isub'
  | 'imul'
  | 'umulhi'
  | 'imin'
  | 'imax'
  | 'umin'
  | 'umax'
  | 'and'
  | 'or'
  | 'xor'
  | 'andnot' /* ~a & b */
  | 'ishl'
  | 'ishr'
  | 'ushr'
  | 'flt'
  | 'fle'
  | 'feq'
  | 'fne'
  | 'ilt'
  | 'ile'
  | 'ieq'
  | 'ult'
  | 'ule';

export type VecUnary =
  | 'fneg'
  | 'fabs'
  | 'fsqrt'
  | 'ffloor'
  | 'fround' /* to nearest even integer */
  | 'not'
  | 'itof'
  | 'utof'
  /** Toward zero, saturating, NaN to 0. */
  | 'ftoi'
  | 'ftou'
  /** The f32 bits rounded to bf16 / f16 and widened again (nearest even, NaN kept, overflow to Inf). */
  | 'roundbf16'
  | 'roundf16';

/** Exponents up to which `vscale` gives 0: a factor of 2^-254 leaves nothing of a number near 1. */
export const VANISHING = -254;

export type HorizontalFn = 'fadd' | 'fmin' | 'fmax' | 'iadd' | 'imin' | 'imax' | 'umin' | 'umax';

export type Instr =
  | { readonly o: 'parameter'; readonly dst: IntReg; readonly which: 'scratch' | 'from' | 'to' }
  /** dst = the base address bound to view `index`. */
  | { readonly o: 'viewBase'; readonly dst: IntReg; readonly index: number }
  | { readonly o: 'iconst'; readonly dst: IntReg; readonly value: number }
  | { readonly o: 'imove'; readonly dst: IntReg; readonly a: IntReg }
  /** 64-bit on x86-64, 32-bit on WebAssembly; div and rem truncate and give 0 for a zero divisor; comparisons give 0 or 1. */
  | {
      readonly o: 'ibin';
      readonly dst: IntReg;
      readonly fn: IntBinary;
      readonly a: IntReg;
      readonly b: IntOperand;
    }
  /** dst = c != 0 ? a : b */
  | {
      readonly o: 'iselect';
      readonly dst: IntReg;
      readonly c: IntReg;
      readonly a: IntReg;
      readonly b: IntReg;
    }
  /** dst = the signed 32-bit value of dst's low half: 32-bit wrap-around arithmetic on 64-bit registers. No-op on WebAssembly. */
  | { readonly o: 'iwrap'; readonly dst: IntReg; readonly a: IntReg }
  | {
      readonly o: 'iload';
      readonly dst: IntReg;
      readonly type: 'i32' | 'i8' | 'u8' | 'u16';
      readonly from: Address;
    }
  | { readonly o: 'istore'; readonly src: IntReg; readonly type: 'i32' | 'u8' | 'u16'; readonly to: Address }
  /** for (index = lo; index < hi; index += step): `index` may be read but not written in the body. */
  | {
      readonly o: 'for';
      readonly index: IntReg;
      readonly lo: IntOperand;
      readonly hi: IntOperand;
      readonly step: number;
      readonly body: readonly Instr[];
    }
  | {
      readonly o: 'if';
      readonly a: IntReg;
      readonly cmp: 'lt' | 'le' | 'gt' | 'ge' | 'eq' | 'ne';
      readonly b: IntOperand;
      readonly then: readonly Instr[];
      readonly else: readonly Instr[];
    }
  | { readonly o: 'vconst'; readonly dst: VecReg; readonly bits: number }
  | { readonly o: 'vmove'; readonly dst: VecReg; readonly a: VecReg }
  /** Every lane = the low 32 bits of a. */
  | { readonly o: 'vsplat'; readonly dst: VecReg; readonly a: IntReg }
  /** dst = lane 0, sign-extended. */
  | { readonly o: 'vfirst'; readonly dst: IntReg; readonly a: VecReg }
  /** Lanes 0, 1, 2, … as i32. */
  | { readonly o: 'viota'; readonly dst: VecReg }
  /** Loads `lanes` elements; no alignment is assumed. */
  | { readonly o: 'vload'; readonly dst: VecReg; readonly type: MemoryType; readonly from: Address }
  /** Loads lanes [0, count) and leaves the rest 0; count <= 0 loads nothing, count >= lanes everything. Touches no other memory. */
  | {
      readonly o: 'vloadpart';
      readonly dst: VecReg;
      readonly type: MemoryType;
      readonly from: Address;
      readonly count: IntReg;
    }
  /** Every lane = the element at the address. */
  | { readonly o: 'vbroadcast'; readonly dst: VecReg; readonly type: MemoryType; readonly from: Address }
  /** Stores with rounding to the memory type (nearest even; fp8 saturating; integers truncate; u8 of a mask: 0 or 255 & 1 is the caller's business). */
  | { readonly o: 'vstore'; readonly src: VecReg; readonly type: MemoryType; readonly to: Address }
  | {
      readonly o: 'vstorepart';
      readonly src: VecReg;
      readonly type: MemoryType;
      readonly to: Address;
      readonly count: IntReg;
    }
  /** Stores lane 0 only. */
  | { readonly o: 'vstorefirst'; readonly src: VecReg; readonly type: MemoryType; readonly to: Address }
  | {
      readonly o: 'vbin';
      readonly dst: VecReg;
      readonly fn: VecBinary;
      readonly a: VecReg;
      readonly b: VecReg;
    }
  /** Shifts by a constant 0..31. */
  | {
      readonly o: 'vshift';
      readonly dst: VecReg;
      readonly fn: 'ishl' | 'ishr' | 'ushr';
      readonly a: VecReg;
      readonly by: number;
    }
  | { readonly o: 'vun'; readonly dst: VecReg; readonly fn: VecUnary; readonly a: VecReg }
  /** dst = a * b + c; rounded once on targets with `fma`, else twice. dst may be any of the three. */
  | { readonly o: 'vfma'; readonly dst: VecReg; readonly a: VecReg; readonly b: VecReg; readonly c: VecReg }
  /** dst = c + the sum of the four products of a's bytes, unsigned, with b's bytes, signed; it wraps. */
  | { readonly o: 'vdot4'; readonly dst: VecReg; readonly a: VecReg; readonly b: VecReg; readonly c: VecReg }
  /**
   * dst = a * 2^n, rounded once, for whole numbers n of f32; 0 where n is at most `VANISHING`. Only where the target
   * scales.
   */
  | { readonly o: 'vscale'; readonly dst: VecReg; readonly a: VecReg; readonly n: VecReg }
  /**
   * Lanes of a and b are pairs of bf16. dst = low(a) * low(b) + (high(a) * high(b) + c), each step as in vfma; numbers
   * below the smallest normal one may count as 0.
   */
  | { readonly o: 'vdot2'; readonly dst: VecReg; readonly a: VecReg; readonly b: VecReg; readonly c: VecReg }
  /** dst = mask lane all-ones ? a : b */
  | {
      readonly o: 'vselect';
      readonly dst: VecReg;
      readonly mask: VecReg;
      readonly a: VecReg;
      readonly b: VecReg;
    }
  /** Every lane = the lanes of a combined pairwise: lane j with lane j + h, for h = lanes/2, …, 2, 1. */
  | { readonly o: 'vhorizontal'; readonly dst: VecReg; readonly fn: HorizontalFn; readonly a: VecReg }
  /**
   * Transposes a block of 32-bit elements: to[c * toStride + r] = from[r * fromStride + c] for r < rows, c < columns
   * (strides in bytes, constants). rows and columns are at most `lanes` and constant. Targets may use shuffles.
   */
  | {
      readonly o: 'vtranspose';
      readonly from: Address;
      readonly fromStride: number;
      readonly to: Address;
      readonly toStride: number;
      readonly rows: number;
      readonly columns: number;
    }
  /** Says that memory at the address, if there is any, will be read soon. */
  | { readonly o: 'prefetch'; readonly from: Address }
  /** Gives matrix registers, by number, their shapes; what all of them held is lost. */
  | { readonly o: 'mshape'; readonly shapes: readonly MatrixShape[] }
  | { readonly o: 'mzero'; readonly register: number }
  /** Rows in memory lie `stride` bytes apart. */
  | { readonly o: 'mload'; readonly register: number; readonly from: Address; readonly stride: IntReg }
  | { readonly o: 'mstore'; readonly register: number; readonly to: Address; readonly stride: IntReg }
  /**
   * sum[m, n] += the sum over p of a[m, p] · b[p, n], in registers with 32-bit elements: a of pairs of bf16, b of pairs
   * of bf16 along its rows; or quads of bytes, signed in a and unsigned in b, where sums wrap. Of pairs, low and high
   * parts are added up apart, from 0 on in ascending p, each step a fused multiply-add; then low + high, and that to sum.
   * There, numbers below the smallest normal one count as 0.
   */
  | {
      readonly o: 'mdot';
      readonly of: 'pairs' | 'quads';
      readonly sum: number;
      readonly a: number;
      readonly b: number;
    };

/** Of a matrix register: rows, at most 16, of at most 64 bytes. */
export interface MatrixShape {
  readonly rows: number;
  readonly bytes: number;
}

export interface LoopFunction {
  readonly name: string;
  /** Number of views, thus of pointers behind `arguments`. */
  readonly views: number;
  readonly lanes: number;
  readonly scratchBytes: number;
  /** Programs in the grid. */
  readonly programs: number;
  readonly body: readonly Instr[];
}

/** What the lowering may assume of a target. */
export interface LoopTarget {
  readonly name: string;
  /** 32-bit lanes in a vector: 16 (AVX-512), 8 (AVX2), 4 (WebAssembly SIMD). */
  readonly lanes: number;
  /** Vector registers that may be live at once in an inner loop without spilling. */
  readonly vectorRegisters: number;
  /** vfma rounds once. */
  readonly fma: boolean;
  /** Size of a pointer behind `arguments`, in bytes. */
  readonly pointerBytes: 4 | 8;
  /** There is vscale. */
  readonly scales: boolean;
  /** vdot2 is one instruction, so that products of bf16 should use it. */
  readonly bf16Pairs: boolean;
  /** There are matrix registers, eight of them, so that products of bf16 should use them. */
  readonly matrixRegisters: boolean;
  /** Lines that a set of the first-level cache holds. */
  readonly cacheWays: number;
  /** Bytes of a page, beyond which the processor does not fetch ahead unless it is told to; 0 where it cannot be told. */
  readonly streamPage: number;
  /** Register tile of `dot`: rows, vectors a row, and multiply-adds of vectors in one round of its loop along k. */
  readonly dotTile: { readonly rows: number; readonly vectors: number; readonly round: number };
  /** Another one for products of many rows and columns, which needs fewer loads a multiply-add; null where there is none. */
  readonly wideTile: { readonly rows: number; readonly vectors: number } | null;
}
