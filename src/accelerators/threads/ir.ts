/**
 * What one thread of a workgroup does: structured code over scalar variables, arrays in memory spaces, and views.
 * Tile kernels are lowered to it once, for every accelerator that is reached by threads. All threads of a workgroup
 * run the same code on the same program of the grid; a barrier is only reached by all of them together.
 */
import type { DType } from '../../numerics/dtype.ts';

/** Types of variables. Floats of any width are f32 in variables, i8 is i32. */
export type Scalar = 'f32' | 'i32' | 'u32' | 'bool';

/**
 * What needs no definition on any accelerator. `min` and `max` are of integers; integer `div` and `rem` have a divisor
 * that is not 0; shifts are by less than 32. `round` is to the nearest even integer. `convert` is from i32 or u32 to
 * f32 (nearest even), from bool to a number (0 or 1), between i32 and u32 (same bits), and from f32 to an integer, where
 * the value must be in range. `bits` reinterprets.
 */
export type OpFn =
  | 'neg'
  | 'abs'
  | 'not'
  | 'floor'
  | 'round'
  | 'sqrt'
  | 'convert'
  | 'bits'
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
  | 'lt'
  | 'le'
  | 'gt'
  | 'ge'
  | 'eq'
  | 'ne'
  | 'fma'
  | 'select';

export type Expr =
  | { readonly e: 'constant'; readonly type: Scalar; readonly value: number }
  | { readonly e: 'variable'; readonly type: Scalar; readonly id: number }
  /** `select`: condition, value where true, value where false. */
  | { readonly e: 'op'; readonly type: Scalar; readonly fn: OpFn; readonly args: readonly Expr[] }
  /** A function of `functions.ts`. */
  | { readonly e: 'call'; readonly type: Scalar; readonly name: string; readonly args: readonly Expr[] }
  | { readonly e: 'read'; readonly type: Scalar; readonly array: ThreadArray; readonly index: Expr }
  /** The element of a view at an i32 address in elements from its base; what is outside the view is never asked for. */
  | { readonly e: 'load'; readonly type: Scalar; readonly view: number; readonly address: Expr }
  /** i32: this thread within its workgroup; the program's index along an axis. */
  | { readonly e: 'thread'; readonly type: 'i32' }
  | { readonly e: 'program'; readonly type: 'i32'; readonly axis: number };

/**
 * An array that the code needs. `private`: a thread's own, in registers as far as the accelerator can; `shared`: the
 * workgroup's; `scratch`: the workgroup's, in device memory, for what does not fit elsewhere. `offset`: in words within
 * the space, set by the allocation (`allocate.ts`), 0 for private arrays.
 */
export interface ThreadArray {
  readonly id: number;
  readonly type: Scalar;
  readonly size: number;
  space: 'private' | 'shared' | 'scratch';
  offset: number;
}

export type Stmt =
  | { readonly s: 'let'; readonly id: number; readonly value: Expr }
  | { readonly s: 'declare'; readonly id: number; readonly value: Expr }
  | { readonly s: 'assign'; readonly id: number; readonly value: Expr }
  | { readonly s: 'write'; readonly array: ThreadArray; readonly index: Expr; readonly value: Expr }
  | { readonly s: 'store'; readonly view: number; readonly address: Expr; readonly value: Expr }
  | { readonly s: 'atomicAdd'; readonly view: number; readonly address: Expr; readonly value: Expr }
  | { readonly s: 'if'; readonly condition: Expr; readonly then: readonly Stmt[] }
  /** i32 `id` from lo while below hi, by a positive constant. */
  | {
      readonly s: 'for';
      readonly id: number;
      readonly lo: Expr;
      readonly hi: Expr;
      readonly step: number;
      readonly body: readonly Stmt[];
    }
  /** Every thread's reads and writes of shared arrays (`memory`: of views too) before it come before those after it. */
  | { readonly s: 'barrier'; readonly memory: boolean }
  /** A variable with thread 0's value, of which the accelerator then knows that all threads have it. Also a barrier. */
  | { readonly s: 'uniform'; readonly id: number; readonly value: Expr }
  | { readonly s: 'return'; readonly value: Expr };

/** A function of scalars, without side effects. */
export interface ThreadFunction {
  readonly name: string;
  readonly parameters: readonly { readonly id: number; readonly type: Scalar }[];
  readonly result: Scalar;
  readonly body: readonly Stmt[];
  /** Functions it calls. */
  readonly calls: readonly string[];
}

export interface ThreadView {
  readonly dtype: DType;
  readonly written: boolean;
}

export interface ThreadProgram {
  readonly name: string;
  readonly threads: number;
  readonly grid: readonly number[];
  readonly views: readonly ThreadView[];
  readonly privates: readonly ThreadArray[];
  /** Words of workgroup memory, and of device memory a workgroup. */
  readonly sharedWords: number;
  readonly scratchWords: number;
  /** Barriers in the code, each counted once. */
  readonly barriers: number;
  /** Callees before callers. */
  readonly functions: readonly ThreadFunction[];
  readonly body: readonly Stmt[];
}
