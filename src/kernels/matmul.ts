/** Matrix multiplication with an epilogue. */
import type { DType } from '../numerics/dtype.ts';
import type { KernelBuilder, Tile } from '../tile/builder.ts';
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Storage } from './common.ts';
import { loadF32, memoized, storeAs, typeSuffix } from './common.ts';
import { inPairs } from './panels.ts';

/** Sizes of the block of C one program computes, and of the step along k. A schedule: results do not depend on it. */
export interface MatmulBlocks {
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/** How kernels are cut for an accelerator. Results do not depend on it. */
export interface Schedule {
  /** Rows, and columns, of a block of a matrix product, at most. */
  readonly largestBlock?: number;
  /** Programs that run at once; they should share a grid evenly. */
  readonly parallel?: number;
}

/** What happens to a block of the product before it is stored: bias, residual, activation. */
export interface Epilogue {
  /** Stands for `apply` where kernels are compared: different functions need different keys. */
  readonly key: string;
  /** Extra operands, views after a and b: 'full' [m, n], 'row' [1, n], 'column' [m, 1]. All are batched where the product is. */
  readonly inputs: readonly {
    readonly name: string;
    readonly dtype: Storage;
    readonly kind: 'full' | 'row' | 'column';
  }[];
  /** `acc` is f32 [blockM, blockN]; `inputs` are the operands at the same place, f32. */
  readonly apply: (acc: Tile, inputs: readonly Tile[], k: KernelBuilder) => Tile;
}

export interface MatmulOptions extends Schedule {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Number of independent products; every view then has a first dimension of this size. */
  readonly batch?: number;
  /** a is held as [k, m]. */
  readonly transA?: boolean;
  /** b is held as [n, k]. */
  readonly transB?: boolean;
  /** b is held in panels of so many columns: see `panels.ts`. Not with `transB` or `batch`. */
  readonly panel?: number;
  readonly aType?: Storage;
  readonly bType?: Storage;
  readonly cType?: Storage;
  readonly blocks?: Partial<MatmulBlocks>;
  /** c = c + result instead of c = result. The sum is rounded once more. */
  readonly accumulate?: boolean;
  readonly epilogue?: Epilogue;
}

/** Rows of a product up to which reading b takes longer than multiplying. */
const FEW_ROWS = 16;
/** Elements along k that few rows are taken at once, so that their sums stay in registers for long. */
const FEW_ROWS_STEP = 1024;
/** A processor with large pages and a second cache of a megabyte gains nothing beyond. */
const LARGEST_BLOCK = 256;
/** Multiply-adds that take the time of bringing one element of an operand to where it is used. */
const ELEMENT_COST = 8;
/** Programs at once, where that is not known. */
const PARALLEL = 4;

/**
 * Block sizes where the caller names none: few rows (decode) are taken whole, so that weights are read once. Else large blocks, which use each element
 * often, as far as the grid stays even.
 */
export function defaultBlocks(options: MatmulOptions): MatmulBlocks {
  const { m, n, k, panel, transB, largestBlock = LARGEST_BLOCK, parallel = PARALLEL } = options;
  if (panel !== undefined)
    return m <= FEW_ROWS
      ? { m, n: panel, k: Math.min(k, FEW_ROWS_STEP) }
      : { m: Math.min(m, largestBlock, 128), n: 4 * panel, k: Math.min(k, 256) };
  const step = Math.min(k, 256);
  if (m <= FEW_ROWS) return { m, n: Math.min(n, transB ? 128 : 256), k: step };
  const sizes = (total: number) =>
    new Set([64, 128, LARGEST_BLOCK].map((size) => Math.min(size, largestBlock, total)));
  let best = { m, n, cost: Number.POSITIVE_INFINITY };
  for (const rows of sizes(m))
    for (const columns of sizes(n)) {
      const programs = ceilDiv(m, rows) * ceilDiv(n, columns);
      const cost = ceilDiv(programs, parallel) * (rows * columns + ELEMENT_COST * (rows + columns));
      if (cost < best.cost) best = { m: rows, n: columns, cost };
    }
  return { m: best.m, n: best.n, k: step };
}

/**
 * c[m, n] = epilogue(a[m, k] · b[k, n]). Views: a, b, the epilogue's inputs, c. Sums are in f32 in ascending k,
 * one fused multiply-add a step, so neither block sizes nor the number of rows change a bit of the result.
 */
export const matmul: (options: MatmulOptions) => Kernel = memoized((options: MatmulOptions): Kernel => {
  const {
    m,
    n,
    k: depth,
    batch,
    transA = false,
    transB = false,
    panel,
    aType = 'f32',
    bType = 'f32',
    cType = 'f32',
    accumulate = false,
    epilogue,
  } = options;
  const paired = panel !== undefined && inPairs(bType, depth);
  const sizes = { ...defaultBlocks(options), ...options.blocks };
  const block = { ...sizes, k: paired ? sizes.k + (sizes.k % 2) : sizes.k };
  if (panel !== undefined && (transB || batch !== undefined))
    throw new RangeError('a matrix in panels is neither transposed nor batched');
  /** Columns that one accumulator holds, and accumulators of a program. */
  const width = panel ?? block.n;
  const parts = Math.max(1, Math.floor(block.n / width));
  const name = `matmul_${batch === undefined ? '' : `${batch}x`}${m}x${n}x${depth}_${transA ? 't' : 'n'}${panel === undefined ? (transB ? 't' : 'n') : `p${panel}`}_${typeSuffix(aType, bType, cType)}${accumulate ? '_acc' : ''}${epilogue === undefined ? '' : `_${epilogue.key}`}`;
  return buildKernel(name, (k) => {
    const batched = batch !== undefined;
    const full = (shape: readonly number[]) => (batched ? [batch, ...shape] : shape);
    const a = k.input('a', aType, full(transA ? [depth, m] : [m, depth]));
    const bShape = transB ? [n, depth] : [depth, n];
    const b =
      panel === undefined
        ? k.input('b', bType, full(bShape))
        : paired
          ? k.input('b', bType, [ceilDiv(n, panel), depth / 2, 2, panel], {
              strides: [depth * panel, 2 * panel, 1, 2],
            })
          : k.input('b', bType, [ceilDiv(n, panel), depth, panel]);
    const extras = (epilogue?.inputs ?? []).map((input) => ({
      view: k.input(
        input.name,
        input.dtype,
        full([input.kind === 'row' ? 1 : m, input.kind === 'column' ? 1 : n]),
      ),
      kind: input.kind,
    }));
    const c = accumulate ? k.inout('c', cType, full([m, n])) : k.output('c', cType, full([m, n]));
    k.grid(ceilDiv(n, parts * width), ceilDiv(m, block.m), ...(batched ? [batch] : []));
    const column = k.programId(0).mul(parts * width);
    const row = k.programId(1).mul(block.m);
    const at = (offsets: readonly (Tile | number)[]) => (batched ? [k.programId(2), ...offsets] : offsets);
    const flat = (tile: Tile, shape: readonly number[]) => (batched ? tile.reshape(shape) : tile);
    // A product of two types is taken in f32, where both are exact.
    const operand = (tile: Tile, dtype: DType) => (aType === bType ? tile : tile.cast(dtype));

    const loadB = (position: Tile, part: number): Tile => {
      if (panel !== undefined) {
        const at = k.programId(0).mul(parts).add(part);
        const tile = paired
          ? k.load(b, [at, position.div(2), 0, 0], [1, block.k / 2, 2, panel])
          : k.load(b, [at, position, 0], [1, block.k, panel]);
        return tile.reshape([block.k, panel]);
      }
      const shape = transB ? [block.n, block.k] : [block.k, block.n];
      const place = transB ? [column, position] : [position, column];
      return flat(k.load(b, at(place), full1(batched, shape)), shape);
    };
    const sums = k.loop(
      { hi: depth, step: block.k, kind: 'pipelined' },
      Array.from({ length: parts }, () => k.zeros([block.m, width])),
      (position, accumulated) => {
        const aShape = transA ? [block.k, block.m] : [block.m, block.k];
        const aTile = flat(
          k.load(a, at(transA ? [position, row] : [row, position]), full1(batched, aShape)),
          aShape,
        );
        return accumulated.map((sum, part) =>
          k.dot(operand(aTile, 'f32'), operand(loadB(position, part), 'f32'), sum, { transA, transB }),
        );
      },
    );

    sums.forEach((acc, part) => {
      const from = column.add(part * width);
      let result = acc;
      if (epilogue !== undefined) {
        const tiles = extras.map(({ view, kind }) => {
          const shape = [kind === 'row' ? 1 : block.m, kind === 'column' ? 1 : width];
          const place = at([kind === 'row' ? 0 : row, kind === 'column' ? 0 : from]);
          return flat(loadF32(k, view, place, full1(batched, shape)), shape);
        });
        result = epilogue.apply(acc, tiles, k);
      }
      const shape = [block.m, width];
      if (accumulate) result = flat(loadF32(k, c, at([row, from]), full1(batched, shape)), shape).add(result);
      storeAs(k, c, at([row, from]), batched ? result.reshape([1, ...shape]) : result);
    });
  });
});

const full1 = (batched: boolean, shape: readonly number[]) => (batched ? [1, ...shape] : shape);

/** result + residual[m, n]. */
export function residualEpilogue(dtype: Storage): Epilogue {
  return {
    key: `residual_${dtype}`,
    inputs: [{ name: 'residual', dtype, kind: 'full' }],
    apply: (acc, [residual]) => residual.add(acc),
  };
}
/** result + bias[1, n]. */
export function biasEpilogue(dtype: Storage): Epilogue {
  return {
    key: `bias_${dtype}`,
    inputs: [{ name: 'bias', dtype, kind: 'row' }],
    apply: (acc, [bias]) => acc.add(bias),
  };
}
/** silu(gate[m, n]) * result: the up projection of a SwiGLU block (Shazeer, "GLU variants improve transformer", 2020). */
export function gateEpilogue(dtype: Storage): Epilogue {
  return {
    key: `gate_${dtype}`,
    inputs: [{ name: 'gate', dtype, kind: 'full' }],
    apply: (acc, [gate]) => gate.mul(gate.sigmoid()).mul(acc),
  };
}
