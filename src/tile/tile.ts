/** The values that a kernel's author computes with: each method appends an instruction to the kernel. */
import type { DType } from '../numerics/dtype.ts';
import type { KernelBuilder } from './builder.ts';
import type { BinaryFn, TileType, UnaryFn } from './ir.ts';
import { elementCount } from './ir.ts';

/** An operand: a tile, or a number that takes the other operand's element type. */
export type Operand = Tile | number;

/** A value of the kernel under construction. Binary methods broadcast as NumPy does. */
export class Tile {
  readonly #builder: KernelBuilder;
  readonly id: number;
  readonly type: TileType;

  constructor(builder: KernelBuilder, id: number, type: TileType) {
    this.#builder = builder;
    this.id = id;
    this.type = type;
  }
  get shape(): readonly number[] {
    return this.type.shape;
  }
  get dtype(): DType {
    return this.type.dtype;
  }

  #unary(fn: UnaryFn): Tile {
    return this.#builder.map(fn, this);
  }
  #binary(fn: BinaryFn, other: Operand): Tile {
    return this.#builder.map(fn, this, other);
  }
  neg(): Tile {
    return this.#unary('neg');
  }
  abs(): Tile {
    return this.#unary('abs');
  }
  not(): Tile {
    return this.#unary('not');
  }
  floor(): Tile {
    return this.#unary('floor');
  }
  sqrt(): Tile {
    return this.#unary('sqrt');
  }
  /** 1 / sqrt(x), as an exact square root and division: the same bits on every accelerator that rounds both correctly. */
  rsqrt(): Tile {
    return this.#unary('rsqrt');
  }
  exp(): Tile {
    return this.#unary('exp');
  }
  exp2(): Tile {
    return this.#unary('exp2');
  }
  log(): Tile {
    return this.#unary('log');
  }
  log2(): Tile {
    return this.#unary('log2');
  }
  tanh(): Tile {
    return this.#unary('tanh');
  }
  sigmoid(): Tile {
    return this.#unary('sigmoid');
  }
  sin(): Tile {
    return this.#unary('sin');
  }
  cos(): Tile {
    return this.#unary('cos');
  }
  add(other: Operand): Tile {
    return this.#binary('add', other);
  }
  sub(other: Operand): Tile {
    return this.#binary('sub', other);
  }
  mul(other: Operand): Tile {
    return this.#binary('mul', other);
  }
  div(other: Operand): Tile {
    return this.#binary('div', other);
  }
  /** Remainder of truncated division; integers only. */
  rem(other: Operand): Tile {
    return this.#binary('rem', other);
  }
  min(other: Operand): Tile {
    return this.#binary('min', other);
  }
  max(other: Operand): Tile {
    return this.#binary('max', other);
  }
  and(other: Operand): Tile {
    return this.#binary('and', other);
  }
  or(other: Operand): Tile {
    return this.#binary('or', other);
  }
  xor(other: Operand): Tile {
    return this.#binary('xor', other);
  }
  shl(other: Operand): Tile {
    return this.#binary('shl', other);
  }
  /** Shift right: arithmetic for i32, logical for u32. */
  shr(other: Operand): Tile {
    return this.#binary('shr', other);
  }
  /** High 32 bits of the 64-bit product; u32 only. */
  mulhi(other: Operand): Tile {
    return this.#binary('mulhi', other);
  }
  lt(other: Operand): Tile {
    return this.#binary('lt', other);
  }
  le(other: Operand): Tile {
    return this.#binary('le', other);
  }
  gt(other: Operand): Tile {
    return this.#binary('gt', other);
  }
  ge(other: Operand): Tile {
    return this.#binary('ge', other);
  }
  eq(other: Operand): Tile {
    return this.#binary('eq', other);
  }
  ne(other: Operand): Tile {
    return this.#binary('ne', other);
  }
  /** this * b + c. */
  fma(b: Operand, c: Operand): Tile {
    return this.#builder.map('fma', this, b, c);
  }
  /** this ? a : b, where this is bool. */
  select(a: Operand, b: Operand): Tile {
    return this.#builder.map('select', this, a, b);
  }
  /** Reductions keep the axis with size 1. Negative axes count from the end. */
  sum(axis = -1): Tile {
    return this.#builder.reduce('sum', this, axis);
  }
  maximum(axis = -1): Tile {
    return this.#builder.reduce('max', this, axis);
  }
  minimum(axis = -1): Tile {
    return this.#builder.reduce('min', this, axis);
  }
  /** Index of the maximum along the last axis. */
  argmax(): Tile {
    return this.#builder.emit(
      { op: 'argmax', arg: this.id },
      { dtype: 'i32', shape: [...this.shape.slice(0, -1), 1] },
    );
  }
  /** Inclusive prefix sum along the last axis. */
  cumsum(): Tile {
    return this.#builder.emit({ op: 'scan', fn: 'sum', arg: this.id }, this.type);
  }
  cast(dtype: DType): Tile {
    return dtype === this.dtype
      ? this
      : this.#builder.emit({ op: 'cast', arg: this.id }, { dtype, shape: this.shape });
  }
  reshape(shape: readonly number[]): Tile {
    if (elementCount(shape) !== elementCount(this.shape)) {
      throw new TypeError(`cannot reshape a tile of shape [${this.shape}] to [${shape}]`);
    }
    return this.#builder.emit({ op: 'reshape', arg: this.id }, { dtype: this.dtype, shape });
  }
  broadcast(shape: readonly number[]): Tile {
    return this.#builder.broadcast(this, shape);
  }
  transpose(): Tile {
    if (this.shape.length !== 2) throw new TypeError(`transpose needs a 2-D tile, not shape [${this.shape}]`);
    return this.#builder.emit(
      { op: 'transpose', arg: this.id },
      { dtype: this.dtype, shape: [this.shape[1], this.shape[0]] },
    );
  }
}
