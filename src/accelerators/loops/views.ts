/** Blocks that lie in views: what loads and stores reach, and what products read without a copy. */
import type { DType } from '../../numerics/dtype.ts';
import type { MapFn, View } from '../../tile/ir.ts';
import type { IntOperand, IntReg, MemoryType } from './ir.ts';

const ELEMENT_BYTES: { readonly [T in MemoryType]: number } = {
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
export const elementBytes = (type: MemoryType): number => ELEMENT_BYTES[type];

/** The part of a block that lies in its view, in block coordinates: one [begin, end) an axis. */
export interface Block {
  readonly view: View;
  readonly shape: readonly number[];
  readonly type: MemoryType;
  /** Address of the block's element 0, which need not be in the view. */
  readonly base: IntReg;
  readonly ranges: readonly (readonly [IntOperand, IntOperand])[];
  /** Whether the ranges are the whole block. */
  readonly inside: IntOperand;
}

/** A function of an element and a constant, whose bits are given. */
export interface Unpacking {
  readonly fn: MapFn;
  readonly dtype: DType;
  readonly bits: number;
}

/** A block that is read where it lies, by products only. */
export interface Viewed {
  readonly at: 'viewed';
  readonly block: Block;
  readonly fill: number;
  readonly dtype: DType;
  /** The block's axis for each of the value's; -1 for unit axes. */
  readonly axes: readonly number[];
  /** Rows lie in pairs: the value's first axis joins the block's with the one after it, which has two elements. */
  readonly paired: boolean;
  /** What becomes of every element on its way from memory to the product, in this order. */
  readonly unpacking: readonly Unpacking[];
}
/** Bytes from one element to the next along each of the value's axes. */
export const viewedStrides = ({ block, axes }: Viewed): number[] =>
  axes.map((axis) => (axis < 0 ? 0 : block.view.strides[axis] * elementBytes(block.type)));
/** The block's axes that a value of `shape`, which differs in unit axes only, has. */
export function viewedAxes(block: readonly number[], shape: readonly number[]): number[] {
  const kept = [...block.keys()].filter((axis) => block[axis] > 1);
  return shape.map((size) => (size === 1 ? -1 : (kept.shift() as number)));
}

/** What a block that is loaded as it is, with nothing known of who reads it, becomes. */
export const viewedBlock = (block: Block, fill: number, dtype: DType, shape: readonly number[]): Viewed => ({
  at: 'viewed',
  block,
  fill,
  dtype,
  axes: viewedAxes(shape, shape),
  paired: false,
  unpacking: [],
});

const isLarge = (size: number) => size > 1;

/** Whether a reshape of a block joins rows that lie in pairs: [h, 2, w] becomes [2h, w]. */
export function joinsPairs(block: readonly number[], shape: readonly number[]): boolean {
  const [h, pair, w, ...others] = block.filter(isLarge);
  return (
    pair === 2 &&
    w !== undefined &&
    others.length === 0 &&
    shape.length === 2 &&
    shape[0] === 2 * h &&
    shape[1] === w
  );
}
