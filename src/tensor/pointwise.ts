/** Kernels made from expressions: elementwise groups, and reductions of an elementwise group. */
import type { KernelBuilder } from '../tile/builder.ts';
import { buildKernel, ceilDiv, lowest } from '../tile/builder.ts';
import type { Kernel, ReduceFn } from '../tile/ir.ts';
import { elementCount } from '../tile/ir.ts';
import type { Tile } from '../tile/tile.ts';
import type { Expression } from './expression.ts';
import { collapse, evaluate, expressionKey, loadInput } from './expression.ts';

const memo = new Map<string, Kernel>();

/** The kernel of `key`, built at most once, so that devices can recognise it too. */
export function memoized(key: string, build: () => Kernel): Kernel {
  const known = memo.get(key);
  if (known !== undefined) return known;
  const kernel = build();
  memo.set(key, kernel);
  return kernel;
}

/** Elements of a block of an elementwise kernel. */
const BLOCK = 2048;
const COLUMNS = 1024;
/** Columns that a row reduction holds at once. A multiple of the 16 partial sums; longer rows go chunk by chunk. */
const CHUNK = 2048;

/** Offsets of a program's block: the last two dimensions are tiled, the others one index each. */
function blockOffsets(k: KernelBuilder, shape: readonly number[], block: readonly number[]): Tile[] {
  const counts = shape.map((size, axis) => ceilDiv(size, block[axis]));
  const leading = counts.slice(0, -1);
  k.grid(counts[counts.length - 1], Math.max(1, elementCount(leading)));
  const offsets: Tile[] = [];
  offsets[shape.length - 1] = k.programId(0).mul(block[shape.length - 1]);
  if (leading.length === 0) return offsets;
  let rest = k.programId(1);
  for (let axis = leading.length - 1; axis > 0; axis--) {
    offsets[axis] = rest.rem(counts[axis]).mul(block[axis]);
    rest = rest.div(counts[axis]);
  }
  offsets[0] = rest.mul(block[0]);
  return offsets;
}

/** Views: the inputs, then the outputs. */
export function pointwiseKernel(name: string, expression: Expression): Kernel {
  const { expression: flat } = collapse(expression);
  return memoized(`pointwise ${name} ${expressionKey(flat)}`, () =>
    buildKernel(name, (k) => {
      const { shape } = flat;
      const inputs = flat.inputs.map((type, index) => k.input(`in${index}`, type.dtype, type.shape));
      const outputs = flat.outputTypes.map((dtype, index) => k.output(`out${index}`, dtype, shape));
      const last = shape.length - 1;
      const columns = Math.min(shape[last], shape.length === 1 ? BLOCK : COLUMNS);
      const rows = Math.max(1, Math.floor(BLOCK / columns));
      const block = shape.map((size, axis) =>
        axis === last ? columns : axis === last - 1 ? Math.min(size, rows) : 1,
      );
      const offsets = blockOffsets(k, shape, block);
      const tiles = inputs.map((view) => loadInput(k, view, offsets, block, shape));
      evaluate(k, flat, tiles, offsets, block).forEach((tile, index) => {
        k.store(outputs[index], offsets, tile);
      });
    }),
  );
}

/** Whether `reductionKernel` handles the expression: once collapsed, at most one dimension on each side of the axis. */
export function reducible(expression: Expression, axis: number): boolean {
  const flat = collapse(expression, axis);
  return flat.axis <= 1 && flat.expression.shape.length - flat.axis <= 2;
}

/**
 * Reduction of the expression's only output along `axis`. Views: the inputs, then the result, of `shape` without the
 * axis. Along the last axis (nothing on its right) in the order of the tile language's row reduction; along another
 * one accumulator an element, in ascending order.
 */
export function reductionKernel(name: string, expression: Expression, fn: ReduceFn, along: number): Kernel {
  const { expression: flat, axis } = collapse(expression, along);
  const { shape } = flat;
  const size = shape[axis];
  const outer = axis === 1 ? shape[0] : 1;
  const inner = shape.length > axis + 1 ? shape[axis + 1] : 1;
  return memoized(`reduce ${name} ${fn} ${axis} ${expressionKey(flat)}`, () =>
    buildKernel(name, (k) => {
      const inputs = flat.inputs.map((type, index) => k.input(`in${index}`, type.dtype, type.shape));
      const [dtype] = flat.outputTypes;
      const result = k.output('out', dtype, [outer, inner]);
      const start = fn === 'sum' ? 0 : fn === 'max' ? lowest(dtype) : highest(dtype);
      const join = (a: Tile, b: Tile) => k.map(fn === 'sum' ? 'add' : fn, a, b);
      const block = (offsets: readonly (Tile | number)[], sizes: readonly number[]) =>
        evaluate(
          k,
          flat,
          inputs.map((view) => loadInput(k, view, offsets, sizes, shape)),
          offsets,
          sizes,
        )[0];
      if (inner === 1) {
        // Rows lie along the last dimension of the block; a trailing dimension of size 1 is reshaped away.
        const chunk = Math.min(size, CHUNK);
        const rows = Math.max(1, Math.min(outer, 8, Math.floor(BLOCK / chunk)));
        k.grid(ceilDiv(outer, rows));
        const row = k.programId(0).mul(rows);
        const sizes = shape.map((_, dimension) => (dimension === axis ? chunk : dimension < axis ? rows : 1));
        const at = (column: Tile | number) =>
          shape.map((_, dimension) => (dimension === axis ? column : dimension < axis ? row : 0));
        const partial = (column: Tile | number, masked: boolean) => {
          const tile = block(at(column), sizes).reshape([rows, chunk]);
          if (!masked) return k.reduce(fn, tile);
          const inside = k.iota([1, chunk]).add(column).lt(size);
          return k.reduce(fn, k.select(inside, tile, k.constant(start, dtype)));
        };
        let total: Tile;
        if (size === chunk) total = partial(0, false);
        else {
          [total] = k.loop(
            { hi: size, step: chunk },
            [k.constant(start, dtype, [rows, 1])],
            (column, [sum]) => [join(sum, partial(column, size % chunk !== 0))],
          );
        }
        k.store(result, [row, 0], total);
        return;
      }
      const columns = Math.min(inner, 256);
      k.grid(ceilDiv(inner, columns), outer);
      const column = k.programId(0).mul(columns);
      const row = k.programId(1);
      const sizes = shape.map((_, dimension) => (dimension === axis + 1 ? columns : 1));
      const [total] = k.loop({ hi: size }, [k.constant(start, dtype, [1, columns])], (index, [sum]) => {
        const offsets = shape.map((_, dimension) =>
          dimension === axis ? index : dimension < axis ? row : column,
        );
        return [join(sum, block(offsets, sizes).reshape([1, columns]))];
      });
      k.store(result, [row, column], total);
    }),
  );
}

function highest(dtype: string): number {
  return dtype === 'f32' ? Number.POSITIVE_INFINITY : dtype === 'u32' ? 0xffffffff : 0x7fffffff;
}
