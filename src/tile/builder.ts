/**
 * The way kernels are written: `buildKernel(name, (k) => …)` calls the function once with a builder; the calls it
 * makes are the kernel. Shapes, tile sizes and types are ordinary TypeScript values of the enclosing function.
 */
import type { DType } from '../numerics/dtype.ts';
import { isFloat } from '../numerics/dtype.ts';
import type { Instruction, Kernel, MapFn, Op, ReduceFn, TileType, View } from './ir.ts';
import { elementCount } from './ir.ts';
import { type Operand, Tile } from './tile.ts';
import { broadcastShapes, COMPARISONS, dotResult, sameShape } from './types.ts';
import { verify } from './verify.ts';

export interface ViewOptions {
  /** In elements; row-major when left out. */
  readonly strides?: readonly number[];
}

export interface BlockOptions {
  /** Exclusive upper bounds a dimension, beside the view's own shape; null: none. */
  readonly limits?: readonly (Operand | null)[];
}

/** A handle on a view declared by the kernel. */
export class ViewHandle {
  readonly index: number;
  readonly view: View;
  constructor(index: number, view: View) {
    this.index = index;
    this.view = view;
  }
  get shape(): readonly number[] {
    return this.view.shape;
  }
}

export class KernelBuilder {
  readonly #name: string;
  readonly #views: View[] = [];
  readonly #types: TileType[] = [];
  #grid: readonly number[] = [1];
  #block: Instruction[] = [];

  constructor(name: string) {
    this.#name = name;
  }

  #view(
    name: string,
    dtype: DType,
    shape: readonly number[],
    access: View['access'],
    options: ViewOptions = {},
  ): ViewHandle {
    const strides = options.strides ?? shape.map((_, axis) => elementCount(shape.slice(axis + 1)));
    const view: View = { name, dtype, shape: [...shape], strides: [...strides], access };
    this.#views.push(view);
    return new ViewHandle(this.#views.length - 1, view);
  }
  /** Declares a view that is only read. Views are bound at launch in the order of their declaration. */
  input(name: string, dtype: DType, shape: readonly number[], options?: ViewOptions): ViewHandle {
    return this.#view(name, dtype, shape, 'read', options);
  }
  /** Declares a view that is only written. */
  output(name: string, dtype: DType, shape: readonly number[], options?: ViewOptions): ViewHandle {
    return this.#view(name, dtype, shape, 'write', options);
  }
  /** Declares a view that is read and written. */
  inout(name: string, dtype: DType, shape: readonly number[], options?: ViewOptions): ViewHandle {
    return this.#view(name, dtype, shape, 'readwrite', options);
  }
  /** The number of programs along one to three axes. */
  grid(...sizes: number[]): void {
    this.#grid = sizes;
  }

  /** Appends an instruction with one result. For the builder's own methods and for tests of the verifier. */
  emit(op: Op, type: TileType): Tile {
    const tile = this.#value(type);
    this.#block.push({ results: [tile.id], op });
    return tile;
  }
  #value(type: TileType): Tile {
    this.#types.push({ dtype: type.dtype, shape: [...type.shape] });
    return new Tile(this, this.#types.length - 1, this.#types[this.#types.length - 1]);
  }
  #scalar(value: Operand): Tile {
    return typeof value === 'number' ? this.constant(value, 'i32') : value;
  }

  programId(axis = 0): Tile {
    return this.emit({ op: 'programId', axis }, { dtype: 'i32', shape: [] });
  }
  /** A tile whose every element is `value`; a scalar when no shape is given. */
  constant(value: number, dtype: DType = 'f32', shape: readonly number[] = []): Tile {
    return this.emit({ op: 'constant', value }, { dtype, shape });
  }
  zeros(shape: readonly number[], dtype: DType = 'f32'): Tile {
    return this.constant(0, dtype, shape);
  }
  /** i32 tile that counts along `axis`. */
  iota(shape: readonly number[], axis = shape.length - 1): Tile {
    return this.emit({ op: 'iota', axis }, { dtype: 'i32', shape });
  }

  #bounds(view: ViewHandle, offsets: readonly Operand[], options: BlockOptions) {
    if (offsets.length !== view.shape.length) {
      throw new TypeError(
        `view '${view.view.name}' has ${view.shape.length} dimensions, but ${offsets.length} offsets were given`,
      );
    }
    const limits = options.limits ?? offsets.map(() => null);
    return {
      view: view.index,
      offsets: offsets.map((offset) => this.#scalar(offset).id),
      limits: limits.map((limit) => (limit === null ? null : this.#scalar(limit).id)),
    };
  }
  /** Loads the block of `shape` at `offsets`; `shape` has the view's rank. Elements out of bounds are `fill` (0). */
  load(
    view: ViewHandle,
    offsets: readonly Operand[],
    shape: readonly number[],
    options: BlockOptions & { fill?: number } = {},
  ): Tile {
    return this.emit(
      { op: 'load', ...this.#bounds(view, offsets, options), fill: options.fill ?? 0 },
      { dtype: view.view.dtype, shape },
    );
  }
  /** The element at `offsets` as a scalar. */
  loadScalar(view: ViewHandle, offsets: readonly Operand[]): Tile {
    return this.load(
      view,
      offsets,
      offsets.map(() => 1),
    ).reshape([]);
  }
  /** Stores a tile of the view's rank and element type at `offsets`. */
  store(view: ViewHandle, offsets: readonly Operand[], value: Tile, options: BlockOptions = {}): void {
    this.#block.push({
      results: [],
      op: { op: 'store', ...this.#bounds(view, offsets, options), value: value.id },
    });
  }
  /** Rows `rows` (i32 [n]) of a 2-D view, `columns` elements from `column` on; rows outside the view are `fill`. */
  gather(view: ViewHandle, rows: Tile, column: Operand, columns: number, fill = 0): Tile {
    return this.emit(
      { op: 'gather', view: view.index, rows: rows.id, column: this.#scalar(column).id, fill },
      { dtype: view.view.dtype, shape: [rows.shape[0], columns] },
    );
  }
  scatter(view: ViewHandle, rows: Tile, column: Operand, value: Tile): void {
    this.#block.push({
      results: [],
      op: {
        op: 'scatter',
        view: view.index,
        rows: rows.id,
        column: this.#scalar(column).id,
        value: value.id,
      },
    });
  }
  atomicAdd(view: ViewHandle, offsets: readonly Operand[], value: Tile): void {
    const { limits: _, ...bounds } = this.#bounds(view, offsets, {});
    this.#block.push({ results: [], op: { op: 'atomicAdd', ...bounds, value: value.id } });
  }

  /**
   * Matrix product, added to `acc` when given. With `transA`, a is [k, m]; with `transB`, b is [n, k]. i32 and u32
   * operands hold four bytes an element.
   */
  dot(a: Tile, b: Tile, acc: Tile | null = null, options: { transA?: boolean; transB?: boolean } = {}): Tile {
    const transA = options.transA ?? false;
    const transB = options.transB ?? false;
    if (a.shape.length !== 2 || b.shape.length !== 2)
      throw new TypeError(`dot needs 2-D tiles, not [${a.shape}] and [${b.shape}]`);
    const shape = [a.shape[transA ? 1 : 0], b.shape[transB ? 0 : 1]];
    const dtype = dotResult(a.dtype, b.dtype) ?? 'f32';
    return this.emit({ op: 'dot', a: a.id, b: b.id, acc: acc?.id ?? null, transA, transB }, { dtype, shape });
  }

  map(fn: MapFn, ...operandList: Operand[]): Tile {
    const typed = operandList.filter((operand) => typeof operand !== 'number');
    // A select's type is that of its branches; its condition is bool.
    const sample = (fn === 'select' ? typed.find((tile) => tile !== operandList[0]) : typed[0]) ?? null;
    const dtype = sample?.dtype ?? 'f32';
    const shape = typed.reduce<readonly number[]>((common, tile) => broadcastShapes(common, tile.shape), []);
    const args = operandList.map((operand) =>
      typeof operand === 'number'
        ? this.constant(operand, dtype, shape).id
        : this.broadcast(operand, shape).id,
    );
    return this.emit({ op: 'map', fn, args }, { dtype: COMPARISONS.has(fn) ? 'bool' : dtype, shape });
  }
  select(condition: Tile, a: Operand, b: Operand): Tile {
    return this.map('select', condition, a, b);
  }
  broadcast(tile: Tile, shape: readonly number[]): Tile {
    if (sameShape(tile.shape, shape)) return tile;
    const padded = [...Array<number>(shape.length - tile.shape.length).fill(1), ...tile.shape];
    if (padded.some((size, axis) => size !== 1 && size !== shape[axis])) {
      throw new TypeError(`cannot broadcast a tile of shape [${tile.shape}] to [${shape}]`);
    }
    const source =
      tile.shape.length === 0 || tile.shape.length === shape.length ? tile : tile.reshape(padded);
    if (sameShape(source.shape, shape)) return source;
    return this.emit({ op: 'broadcast', arg: source.id }, { dtype: tile.dtype, shape });
  }
  reduce(fn: ReduceFn, tile: Tile, axis = -1): Tile {
    const along = axis < 0 ? axis + tile.shape.length : axis;
    const shape = tile.shape.map((size, dimension) => (dimension === along ? 1 : size));
    return this.emit({ op: 'reduce', fn, axis: along, arg: tile.id }, { dtype: tile.dtype, shape });
  }

  /**
   * for (index = lo; index < hi; index += step) with carried values: `body` gets the index and the current
   * values and returns the next ones, of the same types. Returns the last values.
   */
  loop<T extends readonly Tile[]>(
    bounds: { lo?: Operand; hi: Operand; step?: number; kind?: 'serial' | 'pipelined' },
    init: T,
    body: (index: Tile, carried: { [K in keyof T]: Tile }) => { [K in keyof T]: Tile } | undefined,
  ): { [K in keyof T]: Tile } {
    const lo = this.#scalar(bounds.lo ?? 0);
    const hi = this.#scalar(bounds.hi);
    const index = this.#value({ dtype: 'i32', shape: [] });
    const params = init.map((tile) => this.#value(tile.type));
    const outer = this.#block;
    this.#block = [];
    let yields: readonly Tile[];
    let inner: Instruction[];
    try {
      yields = (body(index, params as unknown as { [K in keyof T]: Tile }) ?? []) as readonly Tile[];
    } finally {
      inner = this.#block;
      this.#block = outer;
    }
    const results = init.map((tile) => this.#value(tile.type));
    this.#block.push({
      results: results.map((tile) => tile.id),
      op: {
        op: 'loop',
        kind: bounds.kind ?? 'serial',
        lo: lo.id,
        hi: hi.id,
        step: bounds.step ?? 1,
        index: index.id,
        init: init.map((tile) => tile.id),
        params: params.map((tile) => tile.id),
        body: inner,
        yields: yields.map((tile) => tile.id),
      },
    });
    return results as unknown as { [K in keyof T]: Tile };
  }

  finish(): Kernel {
    return { name: this.#name, views: this.#views, grid: this.#grid, types: this.#types, body: this.#block };
  }
}

/** Builds and verifies a kernel. Throws a TypeError or `KernelError` that says which operation is wrong and why. */
export function buildKernel(name: string, define: (k: KernelBuilder) => void): Kernel {
  const builder = new KernelBuilder(name);
  define(builder);
  const kernel = builder.finish();
  verify(kernel);
  return kernel;
}

/** Smallest integer not below a / b. */
export function ceilDiv(a: number, b: number): number {
  return Math.ceil(a / b);
}

/** The constant that, as a fill or a start value, never wins a maximum. */
export function lowest(dtype: DType): number {
  return isFloat(dtype) ? Number.NEGATIVE_INFINITY : dtype === 'u32' ? 0 : -0x80000000;
}
