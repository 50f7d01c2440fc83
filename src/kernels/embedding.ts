/** Embedding look-up and its gradient. */
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Storage } from './common.ts';
import { loadF32, memoized, storeAs } from './common.ts';
import { inPairs } from './panels.ts';

export interface EmbeddingOptions {
  readonly tokens: number;
  readonly vocabulary: number;
  readonly columns: number;
  readonly tableType?: Storage;
  /** Type of x and its gradient. */
  readonly type?: Storage;
  /** The table is held as the panels, of so many columns, of its transpose (see `panels.ts`). */
  readonly panel?: number;
  /** Backward: adds to the gradient that is there instead of beginning at zero. */
  readonly accumulate?: boolean;
}

const shape = (o: EmbeddingOptions) => `${o.tokens}_${o.vocabulary}x${o.columns}`;

/** x[t] = table[ids[t]], zeros for ids outside the table. Views: ids i32 [tokens], table [vocabulary, columns], x. */
export const embedding: (options: EmbeddingOptions) => Kernel = memoized((o: EmbeddingOptions): Kernel => {
  const { tokens, vocabulary, columns, tableType = 'f32', type = 'f32' } = o;
  if (o.panel !== undefined) return embeddingOfPanels(o, o.panel);
  return buildKernel(`embedding_${shape(o)}_${tableType}_${type}`, (k) => {
    const ids = k.input('ids', 'i32', [tokens]);
    const table = k.input('table', tableType, [vocabulary, columns]);
    const x = k.output('x', type, [tokens, columns]);
    const width = Math.min(columns, 512);
    const block = Math.min(tokens, 8);
    k.grid(ceilDiv(columns, width), ceilDiv(tokens, block));
    const column = k.programId(0).mul(width);
    const token = k.programId(1).mul(block);
    const rows = k.load(ids, [token], [block], { fill: -1 });
    k.store(x, [token, column], k.gather(table, rows, column, width).cast(type));
  });
});

function embeddingOfPanels(o: EmbeddingOptions, panel: number): Kernel {
  const { tokens, vocabulary, columns, tableType = 'f32', type = 'f32' } = o;
  return buildKernel(`embedding_${shape(o)}_panel${panel}_${tableType}_${type}`, (k) => {
    const ids = k.input('ids', 'i32', [tokens]);
    // A token's row is a column of its panel.
    const count = ceilDiv(vocabulary, panel);
    const high = inPairs(tableType, columns) ? 2 : 1;
    const table = k.input('table', tableType, [count, panel, columns / high, high], {
      strides: [columns * panel, high, high * panel, 1],
    });
    const x = k.output('x', type, [tokens, columns]);
    const width = Math.min(columns, 512);
    const pairs = width / high;
    k.grid(ceilDiv(columns, width), tokens);
    const [column, token] = [k.programId(0).mul(width), k.programId(1)];
    const id = k.loadScalar(ids, [token]);
    // Negative ids lie in no panel, nor do those beyond the last; its surplus columns are zeros.
    const from = id.lt(0).select(count, id.div(panel));
    const row = loadF32(k, table, [from, id.rem(panel), column.div(high), 0], [1, 1, pairs, high]);
    storeAs(k, x, [token, column], row.reshape([1, width]));
  });
}

/**
 * dtable[ids[t]] += dx[t], t ascending; ids outside the table are skipped. A program owns a block of columns: no
 * atomics. Views: ids, dx [tokens, columns], dtable f32 [vocabulary, columns].
 */
export const embeddingBackward: (options: EmbeddingOptions) => Kernel = memoized(
  (o: EmbeddingOptions): Kernel => {
    const { tokens, vocabulary, columns, type = 'f32', accumulate = false } = o;
    return buildKernel(`embedding_backward_${shape(o)}_${type}${accumulate ? '_acc' : ''}`, (k) => {
      const ids = k.input('ids', 'i32', [tokens]);
      const dx = k.input('dx', type, [tokens, columns]);
      const table = k.inout('dtable', 'f32', [vocabulary, columns]);
      const width = Math.min(columns, 64);
      k.grid(ceilDiv(columns, width));
      const column = k.programId(0).mul(width);
      if (!accumulate) {
        const rows = Math.min(vocabulary, 16);
        k.loop({ hi: vocabulary, step: rows }, [] as const, (row) => {
          k.store(table, [row, column], k.zeros([rows, width]));
          return undefined;
        });
      }
      k.loop({ hi: tokens }, [] as const, (token) => {
        const id = k.loadScalar(ids, [token]);
        const sum = k.load(table, [id, column], [1, width]).add(loadF32(k, dx, [token, column], [1, width]));
        k.store(table, [id, column], sum);
        return undefined;
      });
    });
  },
);
