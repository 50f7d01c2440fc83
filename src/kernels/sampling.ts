/** Sampling with temperature, top-k and top-p, and the log-probability of a token under the distribution sampled from. */
import type { KernelBuilder } from '../tile/builder.ts';
import { buildKernel } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Tile } from '../tile/tile.ts';
import type { Storage } from './common.ts';
import { memoized, storeAs } from './common.ts';
import type { Distribution } from './distribution.ts';
import { distribution, kept, logMass, threshold } from './distribution.ts';

export interface SamplingOptions {
  readonly rows: number;
  readonly vocabulary: number;
  /** Type of the logits and their gradient. */
  readonly type?: Storage;
}

/** Last counter words of the noise of tokens and of blocks: they keep uses of the same key apart. */
const STREAMS = { tokens: 0x53414d50, blocks: 0x53424c4b } as const;
type Stream = keyof typeof STREAMS;

/**
 * First word of Philox4x32-10 (Salmon and others, 2011) for counter (token or block, position, sequence, stream) and the
 * given key; all u32. `counter` is a tile, the rest scalars.
 */
export function philoxWord(
  k: KernelBuilder,
  counter: Tile,
  key: readonly [Tile, Tile],
  position: Tile,
  sequence: Tile,
  stream: Stream = 'tokens',
): Tile {
  let [k0, k1] = key;
  const word = (tile: Tile) => tile.broadcast(counter.shape);
  const last = k.constant(STREAMS[stream], 'u32', counter.shape);
  let [c0, c1, c2, c3] = [counter, word(position), word(sequence), last];
  for (let round = 0; round < 10; round++) {
    const [high0, low0] = [c0.mulhi(0xd2511f53), c0.mul(0xd2511f53)];
    const [high1, low1] = [c2.mulhi(0xcd9e8d57), c2.mul(0xcd9e8d57)];
    [c0, c1, c2, c3] = [high1.xor(c1).xor(k0), low1, high0.xor(c3).xor(k1), low0];
    k0 = k0.add(0x9e3779b9);
    k1 = k1.add(0xbb67ae85);
  }
  return c0;
}

/** Uniform in (0, 1), of the upper 23 bits of random words, so that neither end is reached. */
const uniform = (word: Tile): Tile =>
  word
    .shr(9)
    .cast('f32')
    .add(0.5)
    .mul(2 ** -23);

/** Standard Gumbel noise of random words. */
const gumbel = (word: Tile): Tile => uniform(word).log().neg().log().neg();

interface RowViews {
  readonly d: Distribution;
  readonly from: Tile;
  readonly temperature: Tile;
  readonly row: Tile;
}

/** Views logits, temperature f32, topK i32, topP f32 [rows], and the row's truncated distribution. */
function truncated(k: KernelBuilder, { rows, vocabulary, type = 'f32' }: SamplingOptions): RowViews {
  const logits = k.input('logits', type, [rows, vocabulary]);
  const parameters = [
    k.input('temperature', 'f32', [rows]),
    k.input('topK', 'i32', [rows]),
    k.input('topP', 'f32', [rows]),
  ];
  k.grid(rows);
  const row = k.programId(0);
  const [temperature, rowTopK, rowTopP] = parameters.map((view) => k.load(view, [row], [1]).reshape([1, 1]));
  const d = distribution(k, logits, row, temperature);
  // A greedy row is not truncated: see `sample`.
  const greedy = temperature.le(0);
  const from = threshold(d, { topK: greedy.select(0, rowTopK), topP: greedy.select(1, rowTopP) });
  return { d, from, temperature, row };
}

/**
 * A token a row, a sample of the softmax of the kept logits / temperature. First a block of the vocabulary: each takes the
 * place of the one chosen before with a probability of its share of the mass so far (Chao, "A general purpose unequal
 * probability sampling plan", 1982), so one random number a block does. Of its tokens then the one whose logit + Gumbel
 * noise is largest (Maddison and others, "A* sampling", 2014). Temperature 0: the largest logit; as a point mass has no
 * useful log-probability, `logp` is then the one at temperature 1 without truncation. The noise depends on the seed,
 * sequence and position alone. Views: logits [rows, vocabulary], temperature f32, topK i32 (0: off), topP f32 (1: off) [rows],
 * random u32 [rows, 4] = seed low, seed high, sequence, position; tokens i32 [rows], logp f32 [rows].
 */
export const sample: (options: SamplingOptions) => Kernel = memoized(
  (o: SamplingOptions): Kernel =>
    buildKernel(`sample_${o.rows}x${o.vocabulary}_${o.type ?? 'f32'}`, (k) => {
      const { d, from, temperature, row } = truncated(k, o);
      const random = k.input('random', 'u32', [o.rows, 4]);
      const tokens = k.output('tokens', 'i32', [o.rows]);
      const logp = k.output('logp', 'f32', [o.rows]);
      const [low, high, sequence, position] = [0, 1, 2, 3].map((place) => k.loadScalar(random, [row, place]));
      const words = (counter: Tile, stream: Stream) =>
        philoxWord(k, counter.cast('u32'), [low, high], position, sequence, stream);
      const noisy = temperature.gt(0).reshape([]);
      const none = k.constant(0, 'i32');

      // The mass is that of `logMass`, to the bit: a sampled token is one of those kept.
      const [mass, chosen] = k.loop(
        { hi: d.vocabulary, step: d.width },
        [k.zeros([1, 1]), none] as const,
        (column, [before, block]) => {
          const x = d.shifted(column);
          const own = x.ge(from).select(x.exp(), 0).sum();
          const sum = before.add(own);
          if (d.vocabulary <= d.width) return [sum, block] as const;
          const dice = uniform(words(k.iota([1, 1]).add(column), 'blocks'));
          const taken = own.gt(0).and(dice.mul(sum).le(own));
          return [sum, taken.reshape([]).select(column, block)] as const;
        },
      );
      /** The best token of those in columns from `lo` to `hi`, where `score` says how good they are. */
      const best = (lo: Tile, hi: Tile, init: readonly Tile[], score: (x: Tile, column: Tile) => Tile) =>
        k.loop({ lo, hi, step: d.width }, init, (column, [highest, index]) => {
          const scores = score(d.shifted(column), column);
          const value = scores.maximum();
          const better = value.gt(highest);
          return [better.select(value, highest), better.select(scores.argmax().add(column), index)];
        });
      const nothing = [k.constant(Number.NEGATIVE_INFINITY, 'f32', [1, 1]), k.zeros([1, 1], 'i32')];
      const end = noisy.select(chosen.add(d.width), chosen);
      const sampled = best(chosen, end, nothing, (x, column) => {
        const noise = gumbel(words(k.iota([1, d.width]).add(column), 'tokens'));
        return x.ge(from).select(x.add(noise), Number.NEGATIVE_INFINITY);
      });
      // Without noise where nothing is left to chance.
      const [, token] = best(none, noisy.select(none, k.constant(d.vocabulary, 'i32')), sampled, (x) => x);
      k.store(tokens, [row], token.reshape([1]));
      k.store(logp, [row], d.shiftedAt(token.reshape([])).sub(mass.log()).reshape([1]));
    }),
);

/**
 * The `logp` that `sample` reports, for given tokens; a token counts as kept even where truncation would drop it.
 * Negative tokens: 0. Views: logits, temperature, topK, topP, tokens i32 [rows], logp f32 [rows].
 */
export const sampledLogp: (options: SamplingOptions) => Kernel = memoized(
  (o: SamplingOptions): Kernel =>
    buildKernel(`sampled_logp_${o.rows}x${o.vocabulary}_${o.type ?? 'f32'}`, (k) => {
      const { d, from, row } = truncated(k, o);
      const tokens = k.input('tokens', 'i32', [o.rows]);
      const logp = k.output('logp', 'f32', [o.rows]);
      const token = k.load(tokens, [row], [1]).reshape([1, 1]);
      const value = d.shiftedAt(token.reshape([])).sub(logMass(d, from, token));
      k.store(logp, [row], token.ge(0).select(value, 0).reshape([1]));
    }),
);

/**
 * Gradient of `sampledLogp`, the set of kept tokens taken as constant: g * (onehot - p) / temperature over kept columns, else 0.
 * Views: logits, temperature, topK, topP, tokens i32 [rows], g f32 [rows], dlogits [rows, vocabulary].
 */
export const sampledLogpBackward: (options: SamplingOptions) => Kernel = memoized(
  (o: SamplingOptions): Kernel =>
    buildKernel(`sampled_logp_backward_${o.rows}x${o.vocabulary}_${o.type ?? 'f32'}`, (k) => {
      const { d, from, row } = truncated(k, o);
      const tokens = k.input('tokens', 'i32', [o.rows]);
      const gradient = k.input('g', 'f32', [o.rows]);
      const out = k.output('dlogits', o.type ?? 'f32', [o.rows, o.vocabulary]);
      const token = k.load(tokens, [row], [1]).reshape([1, 1]);
      const log = logMass(d, from, token);
      const g = k.load(gradient, [row], [1]).reshape([1, 1]).div(d.temperature);
      k.loop({ hi: d.vocabulary, step: d.width }, [] as const, (column) => {
        const x = d.shifted(column);
        const hot = k.iota([1, d.width]).add(column).eq(token).cast('f32');
        const inside = kept(d, from, token, x, column).and(token.ge(0));
        storeAs(k, out, [row, column], inside.select(hot.sub(x.sub(log).exp()).mul(g), 0));
        return undefined;
      });
    }),
);
