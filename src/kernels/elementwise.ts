/** Elementwise kernels over [rows, columns] from an expression, and row and column reductions of one. */
import type { DType } from '../numerics/dtype.ts';
import type { KernelBuilder, Tile, ViewHandle } from '../tile/builder.ts';
import { buildKernel, ceilDiv, lowest } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import { loadF32, memoized, rowsPerBlock, storeAs } from './common.ts';

export interface ElementwiseInput {
  readonly name: string;
  readonly dtype: DType;
  /** Each size is that of the kernel, or 1 to repeat. */
  readonly shape: readonly [number, number];
}

interface Domain {
  /** Stands for the expression: different functions need different keys. */
  readonly key: string;
  readonly rows: number;
  readonly columns: number;
  readonly inputs: readonly ElementwiseInput[];
}

export interface ElementwiseOptions extends Domain {
  /** Views of [rows, columns] after the inputs; `accumulate` adds to what is there (f32). */
  readonly outputs: readonly {
    readonly name: string;
    readonly dtype: DType;
    readonly accumulate?: boolean;
  }[];
  /** Inputs arrive as blocks, floats as f32; returns one f32 (or integer) tile an output. */
  readonly expression: (inputs: readonly Tile[], k: KernelBuilder) => readonly Tile[];
}

export interface ReduceOptions extends Domain {
  /** 'columns': over the columns, result [rows, 1]. 'rows': over the rows, result [1, columns]. */
  readonly over: 'columns' | 'rows';
  readonly fn: 'sum' | 'mean' | 'max';
  readonly type?: DType;
  readonly accumulate?: boolean;
  /** The reduced value; the first input when left out. */
  readonly expression?: (inputs: readonly Tile[], k: KernelBuilder) => Tile;
}

const COLUMNS = 1024;
const ROWS = 16;

function loadInputs(
  k: KernelBuilder,
  domain: Domain,
  views: readonly ViewHandle[],
  row: Tile | number,
  column: Tile | number,
  shape: readonly [number, number],
): Tile[] {
  return domain.inputs.map((input, index) => {
    const [r, c] = input.shape;
    return loadF32(
      k,
      views[index],
      [r === 1 ? 0 : row, c === 1 ? 0 : column],
      [r === 1 ? 1 : shape[0], c === 1 ? 1 : shape[1]],
    );
  });
}

function declare(k: KernelBuilder, domain: Domain): ViewHandle[] {
  return domain.inputs.map(({ name, dtype, shape }) => {
    const fits =
      (shape[0] === 1 || shape[0] === domain.rows) && (shape[1] === 1 || shape[1] === domain.columns);
    if (!fits)
      throw new RangeError(
        `input '${name}' of shape [${shape}] does not repeat to [${domain.rows}, ${domain.columns}]`,
      );
    return k.input(name, dtype, shape);
  });
}

/** outputs = expression(inputs), element by element. Views: inputs, outputs. */
export const elementwise: (options: ElementwiseOptions) => Kernel = memoized(
  (o: ElementwiseOptions): Kernel =>
    buildKernel(`${o.key}_${o.rows}x${o.columns}`, (k) => {
      const views = declare(k, o);
      const outputs = o.outputs.map(({ name, dtype, accumulate }) =>
        k[accumulate ? 'inout' : 'output'](name, dtype, [o.rows, o.columns]),
      );
      const columns = Math.min(o.columns, COLUMNS);
      const rows = rowsPerBlock(o.rows, columns);
      k.grid(ceilDiv(o.columns, columns), ceilDiv(o.rows, rows));
      const column = k.programId(0).mul(columns);
      const row = k.programId(1).mul(rows);
      const results = o.expression(loadInputs(k, o, views, row, column, [rows, columns]), k);
      outputs.forEach((view, index) => {
        const result = results[index].broadcast([rows, columns]);
        const value = o.outputs[index].accumulate
          ? loadF32(k, view, [row, column], [rows, columns]).add(result)
          : result;
        storeAs(k, view, [row, column], value);
      });
    }),
);

/**
 * Reduces an expression over rows or columns. Views: inputs, out. Blocks along the reduced axis have a fixed size,
 * each is reduced, and the results are joined in ascending order: the order depends on the shape alone.
 */
export const reduce: (options: ReduceOptions) => Kernel = memoized(
  (o: ReduceOptions): Kernel =>
    buildKernel(`${o.key}_${o.fn}_over_${o.over}_${o.rows}x${o.columns}`, (k) => {
      const { over, fn, type = 'f32', expression = ([first]: readonly Tile[]) => first } = o;
      const views = declare(k, o);
      const across = over === 'columns';
      const out = k[o.accumulate ? 'inout' : 'output']('out', type, across ? [o.rows, 1] : [1, o.columns]);
      const columns = Math.min(o.columns, COLUMNS);
      const rows = across ? rowsPerBlock(o.rows, columns) : Math.min(o.rows, ROWS);
      k.grid(across ? ceilDiv(o.rows, rows) : ceilDiv(o.columns, columns));
      const kept = k.programId(0).mul(across ? rows : columns);
      const extent = across ? o.columns : o.rows;
      const neutral = fn === 'max' ? lowest('f32') : 0;
      const shape = across ? [rows, 1] : [1, columns];
      const step = across ? columns : rows;
      const [total] = k.loop(
        { hi: extent, step },
        [k.constant(neutral, 'f32', shape)] as const,
        (position, [sum]) => {
          const [row, column] = across ? [kept, position] : [position, kept];
          const value = expression(loadInputs(k, o, views, row, column, [rows, columns]), k).broadcast([
            rows,
            columns,
          ]);
          // Beyond the edge an expression of fills need not be neutral.
          const inside = k
            .iota(across ? [1, columns] : [rows, 1], across ? 1 : 0)
            .add(position)
            .lt(extent);
          const masked = extent % step === 0 ? value : inside.select(value, neutral);
          const axis = across ? 1 : 0;
          return [fn === 'max' ? sum.max(masked.maximum(axis)) : sum.add(masked.sum(axis))] as const;
        },
      );
      const result = fn === 'mean' ? total.div(extent) : total;
      const at = across ? [kept, 0] : [0, kept];
      storeAs(k, out, at, o.accumulate ? loadF32(k, out, at, shape).add(result) : result);
    }),
);
