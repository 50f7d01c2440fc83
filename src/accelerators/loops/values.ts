/** Where tile values live: scalars in registers, tiles as rows in scratch memory, and who still needs which buffer. */
import type { DType } from '../../numerics/dtype.ts';
import type { Kernel, Op, TileType, ValueId } from '../../tile/ir.ts';
import type { Bounds } from './bounds.ts';
import { Code } from './code.ts';
import { deferrable, turnedOnly } from './defer.ts';
import type { IntOperand, IntReg, LoopTarget, VecReg } from './ir.ts';
import type { ReadyMatrix } from './matrix-operands.ts';
import type { Ready } from './operands.ts';
import type { Viewed } from './views.ts';

/** A piece of scratch memory. `users` counts the values in it; a held one (loop-carried) is kept without any. */
export interface Buffer {
  readonly offset: number;
  readonly bytes: number;
  users: number;
  held: boolean;
}

/** A tile in scratch: 4 bytes an element, `strides` in elements an axis (0: the element is repeated). */
export interface Stored {
  readonly at: 'scratch';
  readonly buffer: Buffer;
  readonly strides: readonly number[];
}
/** All elements the same, as lanes. */
export interface Splat {
  readonly at: 'vector';
  readonly value: VecReg;
}
/** An i32, i8 or bool scalar (bool: 0 or 1). */
export interface Integer {
  readonly at: 'integer';
  readonly value: IntOperand;
  /** What is known of a value in a register. */
  readonly bounds?: Bounds;
}
/** A constant, made again at each use: bits of its lanes (bool: 0 or -1). */
export interface Constant {
  readonly at: 'constant';
  readonly bits: number;
}
export type Value = Stored | Splat | Integer | Constant;

/** Vectors of a row up to which there is no loop over them. */
export const WRITTEN_OUT = 2;

const ALIGNMENT = 64;
const ROW = 16;

export const roundUp = (value: number, to: number): number => Math.ceil(value / to) * to;

export interface Layout {
  readonly strides: readonly number[];
  readonly bytes: number;
}

/** Row-major without the unit dimensions; rows padded to a multiple of 16 elements. */
export function denseLayout(shape: readonly number[]): Layout {
  const strides = new Array<number>(shape.length).fill(0);
  let next = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] === 1) continue;
    strides[axis] = next;
    next = next === 1 ? roundUp(shape[axis], ROW) : next * shape[axis];
  }
  return { strides, bytes: 4 * roundUp(next, ROW) };
}

/** Scalars of these types are kept in integer registers. */
export const isIntegerScalar = (type: TileType): boolean =>
  type.shape.length === 0 && (type.dtype === 'i32' || type.dtype === 'i8' || type.dtype === 'bool');

const sides = <R>() => ({ a: new Map<DotOp, R>(), b: new Map<DotOp, R>() });

type DotOp = Extract<Op, { op: 'dot' }>;

export class Context {
  readonly kernel: Kernel;
  readonly code: Code;
  readonly scratch: IntReg;
  /** Values that are not loaded before the products that read them. */
  readonly deferred: ReadonlySet<ValueId>;
  /** Matrices whose rows may lie without gaps. */
  readonly turned: ReadonlySet<ValueId>;
  readonly #values: (Value | Viewed | undefined)[];
  #free: { offset: number; bytes: number }[] = [];
  #end = 0;
  /** Values for which the instruction being lowered is the last use. */
  dying: ReadonlySet<ValueId> = new Set();
  /** Operands of products in loops that were made ready before the loop, for vectors and for matrix registers. */
  readonly kept = { vector: sides<Ready>(), matrix: sides<ReadyMatrix>() };

  constructor(kernel: Kernel, target: LoopTarget) {
    this.kernel = kernel;
    this.deferred = deferrable(kernel);
    this.turned = turnedOnly(kernel);
    this.code = new Code(target);
    this.scratch = this.code.newInt();
    this.code.emit({ o: 'parameter', dst: this.scratch, which: 'scratch' });
    this.#values = new Array(kernel.types.length);
  }

  /** Bytes of scratch used; vectors may read (not write) beyond the last row. */
  get scratchBytes(): number {
    return this.#end + ALIGNMENT;
  }

  type(id: ValueId): TileType {
    return this.kernel.types[id];
  }

  value(id: ValueId): Value {
    const value = this.#values[id];
    if (value === undefined || value.at === 'viewed')
      throw new Error(`kernel '${this.kernel.name}': value %${id} has no place`);
    return value;
  }

  /** Whether there is such a value by now, as a tile in scratch. */
  inScratch(id: ValueId): boolean {
    return this.#values[id]?.at === 'scratch';
  }

  /** A value that was left in its view, or null. */
  viewed(id: ValueId): Viewed | null {
    const value = this.#values[id];
    return value?.at === 'viewed' ? value : null;
  }

  define(id: ValueId, value: Value | Viewed): void {
    if (value.at === 'scratch') value.buffer.users++;
    this.#values[id] = value;
  }

  /** Ends a value's life. */
  drop(id: ValueId): void {
    const value = this.#values[id];
    if (value?.at === 'scratch') {
      value.buffer.users--;
      this.reclaim(value.buffer);
    }
    this.#values[id] = undefined;
  }

  allocate(bytes: number): Buffer {
    const needed = roundUp(bytes, ALIGNMENT);
    let best = -1;
    this.#free.forEach((hole, index) => {
      if (hole.bytes >= needed && (best < 0 || hole.bytes < this.#free[best].bytes)) best = index;
    });
    if (best < 0) {
      this.#end += needed;
      return { offset: this.#end - needed, bytes: needed, users: 0, held: false };
    }
    const { offset, bytes: available } = this.#free[best];
    if (available === needed) this.#free.splice(best, 1);
    else this.#free[best] = { offset: offset + needed, bytes: available - needed };
    return { offset, bytes: needed, users: 0, held: false };
  }

  /** Gives a buffer back unless something still needs it. */
  reclaim(buffer: Buffer): void {
    if (buffer.users > 0 || buffer.held) return;
    const holes = [...this.#free, { offset: buffer.offset, bytes: buffer.bytes }];
    holes.sort((a, b) => a.offset - b.offset);
    this.#free = [];
    for (const hole of holes) {
      const last = this.#free[this.#free.length - 1];
      if (last !== undefined && last.offset + last.bytes === hole.offset) last.bytes += hole.bytes;
      else this.#free.push({ ...hole });
    }
  }

  /** A new tile of `shape` that no value owns yet. */
  newTile(shape: readonly number[]): Stored {
    const { strides, bytes } = denseLayout(shape);
    return { at: 'scratch', buffer: this.allocate(bytes), strides };
  }

  /**
   * A tile for a result: `reuse`'s memory where that value ends here and nobody else is in it. A carried value's is
   * best: the result may be its next value, which then is in its place already.
   */
  resultTile(shape: readonly number[], reuse: readonly ValueId[]): Stored {
    const { strides } = denseLayout(shape);
    const usable = reuse.flatMap((id) => {
      const value = this.value(id);
      if (!this.dying.has(id) || value.at !== 'scratch' || value.buffer.users !== 1) return [];
      const fits =
        this.type(id).shape.length === strides.length && value.strides.every((s, i) => s === strides[i]);
      return fits ? [value.buffer] : [];
    });
    const buffer = usable.find(({ held }) => held) ?? usable[0];
    return buffer === undefined ? this.newTile(shape) : { at: 'scratch', buffer, strides };
  }

  pointer(tile: Stored): IntReg {
    return this.code.pointer(this.scratch, tile.buffer.offset);
  }

  /** The lanes of a value that is the same everywhere, or null for a tile in memory. */
  lanes(value: Value, dtype: DType): VecReg | null {
    if (value.at === 'vector') return value.value;
    if (value.at === 'constant') return this.code.bits(value.bits);
    if (value.at === 'integer')
      return this.code.splat(dtype === 'bool' ? this.code.int('sub', 0, value.value) : value.value);
    return null;
  }

  /** A scalar held as lanes, in the place where its type belongs. */
  scalarFromLanes(lanes: VecReg, type: TileType): Value {
    if (!isIntegerScalar(type)) return { at: 'vector', value: lanes };
    const first = this.code.first(lanes);
    return { at: 'integer', value: type.dtype === 'bool' ? this.code.int('and', first, 1) : first };
  }

  /** What is known of an integer scalar. */
  bounds(id: ValueId): Bounds | undefined {
    const value = this.value(id);
    if (value.at !== 'integer') return undefined;
    return typeof value.value === 'number' ? [value.value, value.value] : value.bounds;
  }

  /** The bits of the last value's lanes where it is a constant, else null. */
  constantBits(ids: readonly ValueId[]): number | null {
    const value = this.#values[ids[ids.length - 1]];
    if (value?.at === 'constant') return value.bits;
    return value?.at === 'integer' && typeof value.value === 'number' ? value.value : null;
  }

  integer(id: ValueId): IntOperand {
    const value = this.value(id);
    if (value.at !== 'integer') throw new Error(`kernel '${this.kernel.name}': %${id} is no integer scalar`);
    return value.value;
  }

  /** A value as a tile in row-major memory: itself, or a copy (then `copied`, to be reclaimed by the caller). */
  dense(id: ValueId): { readonly tile: Stored; readonly copied: boolean } {
    const value = this.value(id);
    const { shape, dtype } = this.type(id);
    const { strides } = denseLayout(shape);
    if (value.at === 'scratch' && value.strides.every((stride, axis) => stride === strides[axis]))
      return { tile: value, copied: false };
    const tile = this.newTile(shape);
    this.elementwise(shape, [this.source(value, dtype)], tile, ([lanes]) => lanes);
    return { tile, copied: true };
  }

  source(value: Value, dtype: DType): Stored | VecReg {
    return value.at === 'scratch' ? value : (this.lanes(value, dtype) as VecReg);
  }

  /** Nested loops over `sizes`; each pointer advances by its `strides` (bytes, one a size). */
  nest(
    sizes: readonly number[],
    pointers: readonly { readonly base: IntReg; readonly strides: readonly number[] }[],
    body: (pointers: readonly IntReg[], indices: readonly IntOperand[]) => void,
    ranges?: readonly (readonly [IntOperand, IntOperand])[],
  ): void {
    const level = (depth: number, current: readonly IntReg[], indices: readonly IntOperand[]): void => {
      if (depth === sizes.length) {
        body(current, indices);
        return;
      }
      const [lo, hi] = ranges?.[depth] ?? [0, sizes[depth]];
      const enter = (index: IntOperand) =>
        level(
          depth + 1,
          current.map((base, p) =>
            this.code.pointer(base, this.code.int('mul', index, pointers[p].strides[depth])),
          ),
          [...indices, index],
        );
      if (lo === 0 && hi === 1) enter(0);
      else this.code.for(lo, hi, 1, enter);
    };
    level(
      0,
      pointers.map(({ base }) => base),
      [],
    );
  }

  /** out[i] = compute(sources[i]…) for all elements, in whole vectors (rows of `out` are padded). */
  elementwise(
    shape: readonly number[],
    sources: readonly (Stored | VecReg)[],
    out: Stored,
    compute: (lanes: readonly VecReg[]) => VecReg,
  ): void {
    const { code } = this;
    const tiles = sources.filter((source): source is Stored => 'at' in source);
    const all = [...tiles, out];
    const { sizes, strides } = mergeAxes(
      shape,
      all.map((tile) => tile.strides),
    );
    const columns = sizes[sizes.length - 1];
    const inner = strides.map((list) => list[list.length - 1]);
    this.nest(
      sizes.slice(0, -1),
      all.map((tile, i) => ({ base: this.pointer(tile), strides: strides[i].map((stride) => 4 * stride) })),
      (pointers) => {
        const repeated = tiles.map((_, i) =>
          inner[i] === 0 ? code.broadcast({ base: pointers[i], displacement: 0 }) : null,
        );
        const at = (base: IntReg, index: IntOperand) =>
          typeof index === 'number'
            ? { base, displacement: 4 * index }
            : ({ base, index, scale: 4, displacement: 0 } as const);
        const step = (index: IntOperand) => {
          let position = 0;
          const args = sources.map((source) => {
            if (!('at' in source)) return source;
            const i = position++;
            return repeated[i] ?? code.load(at(pointers[i], index));
          });
          code.store(compute(args), at(pointers[tiles.length], index));
        };
        code.repeat(0, columns, code.lanes, WRITTEN_OUT, step);
      },
    );
  }
}

/** Drops unit axes and joins neighbours that every operand steps through evenly; at least one axis is left. */
export function mergeAxes(
  shape: readonly number[],
  strides: readonly (readonly number[])[],
): { readonly sizes: number[]; readonly strides: number[][] } {
  const sizes: number[] = [];
  const merged: number[][] = strides.map(() => []);
  shape.forEach((size, axis) => {
    if (size === 1) return;
    const last = sizes.length - 1;
    if (last >= 0 && strides.every((list, i) => merged[i][last] === list[axis] * size)) {
      sizes[last] *= size;
      merged.forEach((list, i) => {
        list[last] = strides[i][axis];
      });
    } else {
      sizes.push(size);
      merged.forEach((list, i) => {
        list.push(strides[i][axis]);
      });
    }
  });
  if (sizes.length === 0) {
    sizes.push(1);
    for (const list of merged) list.push(0);
  }
  return { sizes, strides: merged };
}
