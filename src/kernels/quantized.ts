/**
 * Matrices of 8- or 4-bit integers with a scale for each group of elements along k, as inference may hold weights:
 * w[k, n] ≈ q[k, n] * scale[k / group, n], symmetric around 0. The other operand's rows are quantized to 8 bits when they
 * come, in the same groups. Products within a group are integers and thus exact; groups are added in ascending k,
 * each with one fused multiply-add. So results do not depend on the batch, the schedule or the accelerator.
 *
 * Four bytes along k are one i32, a quad (see `dot`). A matrix is held in panels (see `panels.ts`) of quads; with 4 bits
 * a word holds two quads of a group: as the low halves of its bytes one of the group's first half, as the high halves
 * the one at the same place of its second half. Values are held raised, as q + 8 or q + 128: processors multiply signed
 * with unsigned bytes. What that adds to a product is known from the sums of a's groups, and taken off.
 */
import type { KernelBuilder, ViewHandle } from '../tile/builder.ts';
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Tile } from '../tile/tile.ts';
import type { Storage } from './common.ts';
import { loadF32, memoized, storeAs } from './common.ts';
import type { Epilogue } from './matmul.ts';
import { panelsOf } from './panels.ts';
import { inverse, rounded } from './quantized-rows.ts';
import type { Schedule } from './schedule.ts';
import type { CopyType } from './transpose.ts';

export type QuantizedType = 'int8' | 'int4';

interface QuantizedRule {
  /** Elements of a group, best first; a matrix takes the first that divides its rows. */
  readonly groups: readonly number[];
  /** Quads in a word. */
  readonly quads: 1 | 2;
  /** What values are raised by, so that none is negative, and the least of them. */
  readonly raised: number;
  readonly least: number;
}

export const QUANTIZED_TYPES: { readonly [T in QuantizedType]: QuantizedRule } = {
  int8: { groups: [128, 64, 32], quads: 1, raised: 128, least: -127 },
  int4: { groups: [64, 32], quads: 2, raised: 8, least: -8 },
};

export const quantizedTypes = Object.keys(QUANTIZED_TYPES) as QuantizedType[];
export const isQuantized = (type: string): type is QuantizedType => Object.hasOwn(QUANTIZED_TYPES, type);

export interface QuantizedShape {
  readonly group: number;
  readonly groups: number;
  /** i32 elements of a column. */
  readonly words: number;
}

/** How a matrix with so many rows is held. Throws RangeError where no group divides them. */
export function quantizedShape(type: QuantizedType, rows: number): QuantizedShape {
  const { groups, quads } = QUANTIZED_TYPES[type];
  const group = groups.find((size) => rows % size === 0);
  if (group === undefined)
    throw new RangeError(
      `a matrix of ${rows} rows cannot be held in ${type}: they must be a multiple of ${groups[groups.length - 1]}`,
    );
  return { group, groups: rows / group, words: rows / (4 * quads) };
}

export interface QuantizeColumnsOptions {
  readonly type: QuantizedType;
  /** Columns of the matrix that x holds: whole panels of them, or the last ones. */
  readonly columns: number;
  /** Rows of the matrix. */
  readonly rows: number;
  /** Columns of a panel. */
  readonly width: number;
  readonly xType: CopyType;
}

/**
 * A matrix in panels of integers, from its transpose as a checkpoint holds it. Views: x [columns, rows], words i32
 * [panels, words, width], scales bf16 [panels, groups, width].
 */
export const quantizeColumns: (options: QuantizeColumnsOptions) => Kernel = memoized(
  (o: QuantizeColumnsOptions): Kernel => {
    const { type, columns, rows, width, xType } = o;
    const { group, groups, words } = quantizedShape(type, rows);
    const panels = ceilDiv(columns, width);
    return buildKernel(`quantize_columns_${columns}x${rows}_${type}_panel${width}_${xType}`, (k) => {
      const { quads, raised, least } = QUANTIZED_TYPES[type];
      const count = group / 4 / quads;
      const x = k.input('x', xType, [columns, rows]);
      const out = k.output('words', 'i32', [panels, words, width]);
      const scales = k.output('scales', 'bf16', [panels, groups, width]);
      k.grid(groups, panels);
      const [index, panel] = [k.programId(0), k.programId(1)];
      // Turned first: what follows is then the same for all columns of a panel, which lie next to each other.
      const values = k
        .load(x, [panel.mul(width), index.mul(group)], [width, group])
        .cast('f32')
        .transpose();
      const [top, bottom] = [values.maximum(0), values.minimum(0)];
      const scale = (
        type === 'int8'
          ? top.max(bottom.neg()).mul(Math.fround(1 / 127))
          : // 4 bits reach -8 but only +7: the value that is largest without its sign becomes -8.
            bottom
              .neg()
              .gt(top)
              .select(bottom, top)
              .mul(-1 / raised)
      ).cast('bf16');
      const factor = inverse(k, scale.cast('f32'));
      const raisedValues = rounded(values.mul(factor), least, raised - 1).add(raised);
      // Raised, each has bits of the word for itself.
      const shape = [quads, count, 4, width];
      const place = k.iota(shape, 2).mul(8).add(k.iota(shape, 0).mul(4));
      const word = raisedValues.reshape(shape).shl(place).sum(2).sum(0);
      k.store(out, [panel, index.mul(count), 0], word.reshape([1, count, width]));
      k.store(scales, [panel, index, 0], scale.reshape([1, 1, width]));
    });
  },
);

interface Product {
  readonly type: QuantizedType;
  readonly m: number;
  readonly k: number;
  /** Rows of a program. A schedule. */
  readonly blockRows?: number;
}

export interface QuantizedMatmulOptions extends Product {
  readonly n: number;
  readonly cType?: Storage;
  readonly epilogue?: Epilogue;
}

export interface QuantizedMatmulsOptions extends Product {
  /** Columns of each matrix. */
  readonly columns: readonly number[];
}

/** Rows of a program where the caller names none: what it adds to should stay in the first cache. */
const BLOCK_ROWS = 32;
/** Where matrix registers multiply faster than weights come from memory, which are read once for so many rows. */
const MATRIX_BLOCK_ROWS = 256;

/** Rows of a program on a device whose kernels are cut like this. */
export const quantizedBlockRows = ({ machine }: Schedule): number =>
  machine?.matrixRegisters ? MATRIX_BLOCK_ROWS : BLOCK_ROWS;

const describe = ({ type, m, k }: Product, columns: string) =>
  `${m}x${columns}x${k}_${type}_${quantizedShape(type, k).group}`;

/** The rows that are multiplied, `block` of them a program. */
function leftOperand(k: KernelBuilder, { type, m, k: depth, blockRows = BLOCK_ROWS }: Product) {
  return {
    block: Math.min(m, blockRows),
    quads: k.input('quads', 'i32', [m, depth / 4]),
    scales: k.input('rowScales', 'f32', [quantizedShape(type, depth).groups, m]),
    sums: k.input('sums', 'i32', [quantizedShape(type, depth).groups, m]),
  };
}

/** A matrix of `n` columns; `suffix` tells several apart. */
function rightOperand(k: KernelBuilder, { type, k: depth }: Product, n: number, suffix = '') {
  const { groups, words } = quantizedShape(type, depth);
  const { width, count: panels } = panelsOf(n);
  return {
    width,
    panels,
    words: k.input(`words${suffix}`, 'i32', [panels, words, width]),
    scales: k.input(`scales${suffix}`, 'bf16', [panels, groups, width]),
  };
}

/** Rows from `row` on times a panel, [block, width]. */
function panelProduct(
  k: KernelBuilder,
  { type, k: depth }: Product,
  left: ReturnType<typeof leftOperand>,
  right: ReturnType<typeof rightOperand>,
  { row, panel }: { readonly row: Tile; readonly panel: Tile },
): Tile {
  const { group, groups } = quantizedShape(type, depth);
  const { quads: halves, raised } = QUANTIZED_TYPES[type];
  const { block: rows, quads: a, scales: rowScales, sums } = left;
  const { width, words: b, scales } = right;
  const across = group / 4;
  const count = across / halves;

  /** The integer sums of a group, [rows, width]. */
  const product = (index: Tile): Tile => {
    const quads = (half: number) => k.load(a, [row, index.mul(across).add(half * count)], [rows, count]);
    const word = k
      .load(b, [panel, index.mul(count), 0], [1, count, width])
      .reshape([count, width])
      .cast('u32');
    return type === 'int8'
      ? k.dot(quads(0), word)
      : k.dot(quads(1), word.shr(4).and(0x0f0f0f0f), k.dot(quads(0), word.and(0x0f0f0f0f)));
  };
  const shape = [rows, width];
  const [sum] = k.loop({ hi: groups, kind: 'pipelined' }, [k.zeros(shape)] as const, (index, [before]) => {
    const ofRows = (view: ViewHandle) =>
      k.load(view, [index, row], [1, rows]).reshape([rows, 1]).broadcast(shape);
    const rowScale = ofRows(rowScales);
    const scale = k
      .load(scales, [panel, index, 0], [1, 1, width])
      .reshape([1, width])
      .cast('f32')
      .broadcast(shape);
    // What the values are raised by, a power of two, counts once for each element of a's group.
    const excess = ofRows(sums).shl(Math.log2(raised));
    return [product(index).sub(excess).cast('f32').fma(rowScale.mul(scale), before)] as const;
  });
  return sum;
}

/**
 * c[m, n] = epilogue(a · b), with a from `quantizeRows` and b from `quantizeColumns`. Views: quads, rowScales, sums,
 * words, scales, the epilogue's inputs, c.
 */
export const quantizedMatmul: (options: QuantizedMatmulOptions) => Kernel = memoized(
  (o: QuantizedMatmulOptions): Kernel => {
    const { m, n, cType = 'f32', epilogue } = o;
    const suffix = epilogue === undefined ? '' : `_${epilogue.key}`;
    return buildKernel(`matmul_${describe(o, `${n}`)}_${cType}${suffix}`, (k) => {
      const left = leftOperand(k, o);
      const right = rightOperand(k, o, n);
      const extras = (epilogue?.inputs ?? []).map(({ name, dtype, kind }) => {
        const [tall, wide] = [kind !== 'row', kind !== 'column'];
        return { view: k.input(name, dtype, [tall ? m : 1, wide ? n : 1]), tall, wide };
      });
      const c = k.output('c', cType, [m, n]);
      const { block } = left;
      const { width, panels } = right;
      k.grid(panels, ceilDiv(m, block));
      const [panel, row] = [k.programId(0), k.programId(1).mul(block)];
      const sum = panelProduct(k, o, left, right, { row, panel });
      const column = panel.mul(width);
      const tiles = extras.map(({ view, tall, wide }) =>
        loadF32(k, view, [tall ? row : 0, wide ? column : 0], [tall ? block : 1, wide ? width : 1]),
      );
      storeAs(k, c, [row, column], epilogue?.apply(sum, tiles, k) ?? sum);
    });
  },
);

/**
 * The products of the same rows with several matrices, in one launch, each as by `quantizedMatmul`. Views: quads,
 * rowScales, sums, words and scales of each matrix, f32 [m, columns] of each.
 */
export const quantizedMatmuls: (options: QuantizedMatmulsOptions) => Kernel = memoized(
  (o: QuantizedMatmulsOptions): Kernel => {
    const { m, columns } = o;
    return buildKernel(`matmul_${describe(o, columns.join('+'))}`, (k) => {
      const left = leftOperand(k, o);
      const rights = columns.map((n, index) => rightOperand(k, o, n, `${index}`));
      const results = columns.map((n, index) => k.output(`c${index}`, 'f32', [m, n]));
      const { block } = left;
      k.grid(
        rights.reduce((sum, { panels }) => sum + panels, 0),
        ceilDiv(m, block),
      );
      const row = k.programId(1).mul(block);
      let first = 0;
      rights.forEach((right, index) => {
        const place = k.programId(0).sub(first);
        const last = right.panels - 1;
        // A program has a panel of one matrix: of the others it takes none.
        const count = place.ge(0).and(place.le(last)).select(k.constant(1, 'i32'), 0);
        k.loop({ hi: count }, [] as const, () => {
          // What is the same here lets a device know that the panel is inside.
          const panel = place.max(0).min(last);
          k.store(
            results[index],
            [row, panel.mul(right.width)],
            panelProduct(k, o, left, right, { row, panel }),
          );
          return undefined;
        });
        first += right.panels;
      });
    });
  },
);

export interface QuantizedEmbeddingOptions {
  readonly type: QuantizedType;
  readonly tokens: number;
  readonly vocabulary: number;
  readonly columns: number;
  readonly xType?: Storage;
}

/**
 * x[t] = table[ids[t]], zeros for ids outside the table, whose transpose is held as `quantizeColumns` makes it. Views:
 * ids i32 [tokens], words, scales, x [tokens, columns].
 */
export const quantizedEmbedding: (options: QuantizedEmbeddingOptions) => Kernel = memoized(
  (o: QuantizedEmbeddingOptions): Kernel => {
    const { type, tokens, vocabulary, columns, xType = 'f32' } = o;
    const { group, groups, words } = quantizedShape(type, columns);
    const { width, count: panels } = panelsOf(vocabulary);
    const { quads, raised } = QUANTIZED_TYPES[type];
    return buildKernel(`embedding_${tokens}_${vocabulary}x${columns}_${type}_${xType}`, (k) => {
      const count = group / 4 / quads;
      const ids = k.input('ids', 'i32', [tokens]);
      // A token's row is a column of its panel.
      const table = k.input('words', 'i32', [panels, width, groups, count], {
        strides: [words * width, 1, count * width, width],
      });
      const scales = k.input('scales', 'bf16', [panels, width, groups], {
        strides: [groups * width, 1, width],
      });
      const x = k.output('x', xType, [tokens, groups, quads, count, 4]);
      k.grid(tokens);
      const token = k.programId(0);
      const id = k.loadScalar(ids, [token]);
      // Negative ids lie in no panel, nor do those beyond the last; its surplus columns are zeros.
      const [panel, lane] = [id.lt(0).select(panels, id.div(width)), id.rem(width)];
      const word = k.load(table, [panel, lane, 0, 0], [1, 1, groups, count]).reshape([groups, count]);
      const scale = k.load(scales, [panel, lane, 0], [1, 1, groups]).reshape([groups, 1]).cast('f32');
      const put = (half: number, place: number, value: Tile) =>
        storeAs(
          k,
          x,
          [token, 0, half, 0, place],
          value.cast('f32').mul(scale).reshape([1, groups, 1, count, 1]),
        );
      for (let half = 0; half < quads; half++)
        for (let place = 0; place < 4; place++) {
          const bits = word.shr(8 * place + 4 * half).and(type === 'int8' ? 0xff : 0xf);
          put(half, place, bits.sub(raised));
        }
    });
  },
);
