/** Matrix multiplication with an epilogue. */
import type { DType } from '../numerics/dtype.ts';
import type { KernelBuilder } from '../tile/builder.ts';
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import { BLOCK_ALONG_K } from '../tile/sums.ts';
import type { Tile } from '../tile/tile.ts';
import type { Storage } from './common.ts';
import { loadF32, memoized, storeAs, typeSuffix } from './common.ts';
import { inPairs } from './panels.ts';
import type { MatmulBlocks, Product, Schedule } from './schedule.ts';
import { chooseBlocks } from './schedule.ts';

export type { MatmulBlocks, Schedule } from './schedule.ts';

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

export interface MatmulOptions extends Product, Schedule {
  readonly blocks?: Partial<MatmulBlocks>;
  readonly epilogue?: Epilogue;
}

/**
 * c[m, n] = epilogue(a[m, k] · b[k, n]). Views: a, b, the epilogue's inputs, c. Sums are in f32 in ascending k,
 * one fused multiply-add a step, so neither block sizes nor the number of rows change a bit of the result.
 */
export function matmul({
  largestBlock,
  parallel,
  machine,
  machineKey: _,
  measured,
  blocks,
  ...product
}: MatmulOptions): Kernel {
  const chosen = chooseBlocks(product, { largestBlock, parallel, machine, measured });
  return build({ ...product, blocks: { ...chosen, ...blocks } });
}

interface BuildOptions extends Product {
  readonly blocks: MatmulBlocks;
  readonly epilogue?: Epilogue;
}

const build: (options: BuildOptions) => Kernel = memoized((options: BuildOptions): Kernel => {
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
  const { blocks } = options;
  // Sums of bf16 must not depend on where one step along k ends and the next begins.
  const unit =
    blocks.k >= depth ? (paired ? 2 : 1) : aType === 'bf16' && bType === 'bf16' ? BLOCK_ALONG_K : 1;
  const block = { ...blocks, k: unit * ceilDiv(blocks.k, unit) };
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
    // Known before the sums are, so that these can go where they belong without a stop.
    const columns = Array.from({ length: parts }, (_, part) =>
      part === 0 ? column : column.add(part * width),
    );
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
      const from = columns[part];
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
