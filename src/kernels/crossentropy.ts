/** Log-probabilities of given tokens, their entropy, and the gradient: the heart of every loss here. */
import { buildKernel } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Storage } from './common.ts';
import { memoized, storeAs } from './common.ts';
import { distribution, logMass, sumsOver } from './distribution.ts';

export interface CrossEntropyOptions {
  readonly rows: number;
  readonly vocabulary: number;
  /** Type of the logits and their gradient. */
  readonly type?: Storage;
}

/**
 * logp = log softmax(logits / temperature)[target], entropy in nats, lse = log of the sum of exp(logits / temperature).
 * Rows with a negative target: logp 0; entropy and lse as ever. A temperature of 0 reads as 1.
 * Views: logits [rows, vocabulary], targets i32 [rows], temperature f32 [rows], logp, entropy, lse f32 [rows].
 */
export const crossEntropy: (options: CrossEntropyOptions) => Kernel = memoized(
  ({ rows, vocabulary, type = 'f32' }: CrossEntropyOptions): Kernel =>
    buildKernel(`cross_entropy_${rows}x${vocabulary}_${type}`, (k) => {
      const logits = k.input('logits', type, [rows, vocabulary]);
      const targets = k.input('targets', 'i32', [rows]);
      const temperature = k.input('temperature', 'f32', [rows]);
      const [logp, entropy, lse] = ['logp', 'entropy', 'lse'].map((name) => k.output(name, 'f32', [rows]));
      k.grid(rows);
      const row = k.programId(0);
      const d = distribution(k, logits, row, k.load(temperature, [row], [1]).reshape([1, 1]));
      const target = k.loadScalar(targets, [row]);
      const all = k.constant(Number.NEGATIVE_INFINITY, 'f32', [1, 1]);
      const log = logMass(d, all, target.reshape([1, 1]));
      // A logit of -Infinity has probability 0 and no part in the entropy.
      const [mean] = sumsOver(d, 1, (x) => [
        x.gt(Number.NEGATIVE_INFINITY).select(x.sub(log).exp().mul(x), 0),
      ]);
      const result = target.reshape([1, 1]).ge(0).select(d.shiftedAt(target).sub(log), 0);
      k.store(logp, [row], result.reshape([1]));
      k.store(entropy, [row], log.sub(mean).reshape([1]));
      k.store(lse, [row], log.add(d.highest).reshape([1]));
    }),
);

/**
 * dlogits = g * (onehot(target) - softmax(logits / temperature)) / temperature; zeros for a negative target.
 * Views: logits, targets, temperature, lse (from the forward kernel), g f32 [rows], dlogits.
 */
export const crossEntropyBackward: (options: CrossEntropyOptions) => Kernel = memoized(
  ({ rows, vocabulary, type = 'f32' }: CrossEntropyOptions): Kernel =>
    buildKernel(`cross_entropy_backward_${rows}x${vocabulary}_${type}`, (k) => {
      const logits = k.input('logits', type, [rows, vocabulary]);
      const targets = k.input('targets', 'i32', [rows]);
      const temperatures = k.input('temperature', 'f32', [rows]);
      const lse = k.input('lse', 'f32', [rows]);
      const gradient = k.input('g', 'f32', [rows]);
      const out = k.output('dlogits', type, [rows, vocabulary]);
      const width = Math.min(1024, vocabulary);
      k.grid(Math.ceil(vocabulary / width), rows);
      const [column, row] = [k.programId(0).mul(width), k.programId(1)];
      const rowTemperature = k.load(temperatures, [row], [1]).reshape([1, 1]);
      const temperature = rowTemperature.gt(0).select(rowTemperature, 1);
      const x = k.load(logits, [row, column], [1, width]).cast('f32').div(temperature);
      const target = k.loadScalar(targets, [row]);
      const p = x.sub(k.load(lse, [row], [1]).reshape([1, 1])).exp();
      const hot = k.iota([1, width]).add(column).eq(target).cast('f32');
      const g = k.load(gradient, [row], [1]).reshape([1, 1]).div(temperature);
      storeAs(k, out, [row, column], target.reshape([1, 1]).ge(0).select(hot.sub(p).mul(g), 0));
    }),
);
