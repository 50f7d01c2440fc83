/** Which thread holds which element of a tile, and where an element is in tiles of other shapes. */
import { elementCount } from '../../tile/ir.ts';
import type { Code } from './code.ts';
import { add, div, int, less, mul, rem, thread } from './code.ts';
import type { Expr } from './ir.ts';

/**
 * `linear`: element e, in row-major order, belongs to thread e mod T. `square`: threads form a rectangle that steps
 * over rows and columns, so that in a product each loaded operand serves a row or column of a thread's elements.
 */
export interface Layout {
  /** Two tiles whose layouts share a key have equal elements in equal threads. */
  readonly key: string;
  readonly count: number;
  /** Elements a thread holds, at most. */
  readonly slots: number;
  readonly rectangle: Rectangle | null;
}
export interface Rectangle {
  readonly rows: number;
  readonly columns: number;
  /** Threads along rows and columns, and elements a thread holds along each. */
  readonly threadRows: number;
  readonly threadColumns: number;
  readonly slotRows: number;
  readonly slotColumns: number;
}

export function linearLayout(count: number, threads: number): Layout {
  return { key: `linear ${count}`, count, slots: Math.ceil(count / threads), rectangle: null };
}

/** For a tile of `rows` by `columns`, with as even a share of both as possible. */
export function squareLayout(rows: number, columns: number, threads: number): Layout {
  let best: Rectangle | null = null;
  for (let threadColumns = 1; threadColumns <= threads; threadColumns *= 2) {
    const threadRows = threads / threadColumns;
    const slotRows = Math.ceil(rows / threadRows);
    const slotColumns = Math.ceil(columns / threadColumns);
    const found = { rows, columns, threadRows, threadColumns, slotRows, slotColumns };
    const cost = (r: Rectangle) => r.slotRows * r.slotColumns * 64 + r.slotRows + r.slotColumns;
    // On a tie more threads along columns, whose elements are neighbours in memory.
    if (best === null || cost(found) <= cost(best)) best = found;
  }
  const rectangle = best as Rectangle;
  return {
    key: `square ${rows}x${columns}`,
    count: rows * columns,
    slots: rectangle.slotRows * rectangle.slotColumns,
    rectangle,
  };
}

const withoutOnes = (shape: readonly number[]) => shape.filter((size) => size !== 1);

/** Rows (all dimensions but the last, together) and columns of a shape. */
export function matrixOf(shape: readonly number[]): readonly [number, number] {
  const sizes = withoutOnes(shape);
  const columns = sizes[sizes.length - 1] ?? 1;
  return [elementCount(sizes) / columns, columns];
}

/** One element of a tile: its coordinates in a shape, from which those in other shapes of the same order follow. */
export class Index {
  readonly #code: Code;
  readonly #sizes: readonly number[];
  readonly #coordinates: readonly Expr[];
  readonly #known = new Map<string, readonly Expr[]>();
  #linear: Expr | null = null;
  /** Where this thread keeps the element in a private array; null where the element need not be the thread's. */
  readonly slot: Expr | null;
  readonly layout: string | null;

  constructor(
    code: Code,
    shape: readonly number[],
    coordinates: readonly Expr[],
    own: { slot: Expr; layout: string } | null = null,
  ) {
    this.#code = code;
    const kept = shape.map((size, axis) => [size, coordinates[axis]] as const).filter(([size]) => size !== 1);
    this.#sizes = kept.map(([size]) => size);
    this.#coordinates = kept.map(([, coordinate]) => coordinate);
    this.slot = own?.slot ?? null;
    this.layout = own?.layout ?? null;
  }

  /** Position in row-major order. */
  linear(): Expr {
    this.#linear ??= this.#code.let(horner(this.#sizes, this.#coordinates));
    return this.#linear;
  }

  /** Coordinates in a shape of as many elements. */
  coordinates(shape: readonly number[]): readonly Expr[] {
    const key = shape.join();
    const found = this.#known.get(key) ?? this.#convert(shape);
    this.#known.set(key, found);
    return found;
  }

  #convert(shape: readonly number[]): readonly Expr[] {
    const result = shape.map(() => int(0));
    let given = this.#sizes.length;
    let axis = shape.length - 1;
    // Equal sizes from the last axis on have equal coordinates.
    for (; axis >= 0; axis--) {
      if (shape[axis] === 1) continue;
      if (given === 0 || shape[axis] !== this.#sizes[given - 1]) break;
      result[axis] = this.#coordinates[--given];
    }
    if (axis < 0) return result;
    let rest = this.#code.let(horner(this.#sizes.slice(0, given), this.#coordinates.slice(0, given)));
    const first = shape.findIndex((size) => size !== 1);
    for (; axis >= 0; axis--) {
      if (shape[axis] === 1) continue;
      result[axis] = axis === first ? rest : this.#code.let(rem(rest, shape[axis]));
      if (axis !== first) rest = this.#code.let(div(rest, shape[axis]));
    }
    return result;
  }
}

function horner(sizes: readonly number[], coordinates: readonly Expr[]): Expr {
  return coordinates.reduce((sum, coordinate, axis) => add(mul(sum, sizes[axis]), coordinate), int(0));
}

/** Runs `body` for each number below `count`, the threads taking turns. */
export function share(code: Code, count: number, threads: number, body: (item: Expr) => void): void {
  if (count <= threads) {
    code.if(count === threads ? null : less(thread, int(count)), () => body(thread));
    return;
  }
  code.for(int(0), int(Math.ceil(count / threads)), 1, (turn) => {
    const item = code.let(add(mul(turn, threads), thread));
    code.if(count % threads === 0 ? null : less(item, int(count)), () => body(item));
  });
}

/** Runs `body` for each element that this thread holds. */
export function eachOwn(code: Code, layout: Layout, threads: number, body: (index: Index) => void): void {
  const { rectangle, count, key } = layout;
  if (rectangle === null) {
    const turns = Math.ceil(count / threads);
    const visit = (turn: Expr) => {
      const item = code.let(add(mul(turn, threads), thread));
      const inside = count % threads === 0 ? null : less(item, int(count));
      code.if(inside, () => body(new Index(code, [count], [item], { slot: turn, layout: key })));
    };
    if (turns === 1) visit(int(0));
    else code.for(int(0), int(turns), 1, visit);
    return;
  }
  eachSlot(code, rectangle, ({ slot, row, column }) => {
    const { rows, columns, threadRows, threadColumns } = rectangle;
    const inRows = rows % threadRows === 0 ? null : less(row, int(rows));
    const inColumns = columns % threadColumns === 0 ? null : less(column, int(columns));
    const inside =
      inRows !== null && inColumns !== null
        ? ({ e: 'op', type: 'bool', fn: 'and', args: [inRows, inColumns] } as const)
        : (inRows ?? inColumns);
    code.if(inside, () => body(new Index(code, [rows, columns], [row, column], { slot, layout: key })));
  });
}

/** Runs `body` for each slot of this thread; row and column may be beyond the tile. */
export function eachSlot(
  code: Code,
  r: Rectangle,
  body: (place: { slot: Expr; row: Expr; column: Expr }) => void,
): void {
  const repeat = (count: number, visit: (k: Expr) => void) => {
    if (count === 1) visit(int(0));
    else code.for(int(0), int(count), 1, visit);
  };
  repeat(r.slotRows, (i) => {
    const row = code.let(rowOf(r, i));
    repeat(r.slotColumns, (j) => {
      body({
        slot: code.let(add(mul(i, r.slotColumns), j)),
        row,
        column: code.let(columnOf(r, j)),
      });
    });
  });
}

/** Row of this thread's i-th slot row, and column of its j-th slot column. */
export const rowOf = (r: Rectangle, i: Expr): Expr =>
  add(mul(i, r.threadRows), r.threadRows === 1 ? int(0) : div(thread, r.threadColumns));
export const columnOf = (r: Rectangle, j: Expr): Expr =>
  add(mul(j, r.threadColumns), rem(thread, r.threadColumns));
