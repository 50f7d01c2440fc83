/**
 * Sampling and its log-probabilities in graphs. What a log-probability means: with temperature T, top-k and top-p, a
 * token is drawn from softmax(logits / T) cut down to the kept tokens and normalised again; `logprob` is the log of
 * that probability. The sampler and the learner compute it with the same kernels, so on one accelerator it is the same
 * number to the bit, whatever T, k and p. Greedy tokens (T = 0) report their log-probability at T = 1.
 */
import { sample, sampledLogp, sampledLogpBackward } from '../kernels/sampling.ts';
import type { Graph } from '../tensor/graph.ts';
import type { Tensor } from '../tensor/tensor.ts';

export interface SamplingDistribution {
  readonly temperature: number;
  /** 0: off. */
  readonly topK: number;
  /** 1: off. */
  readonly topP: number;
}

export const UNTRUNCATED: SamplingDistribution = { temperature: 1, topK: 0, topP: 1 };

/** Settings of each row of logits. */
export interface RowSettings {
  /** f32 [rows]. */
  readonly temperature: Tensor;
  /** i32 [rows]. */
  readonly topK: Tensor;
  /** f32 [rows]. */
  readonly topP: Tensor;
}

export interface RowRandomness {
  /** i32 [2]: low and high half. */
  readonly seed: Tensor;
  /** i32 [rows]. */
  readonly sequences: Tensor;
  /** i32 [rows]: place of the token that is sampled. */
  readonly positions: Tensor;
}

/** One token for each row of logits f32 [rows, vocabulary]: tokens i32 [rows] and their log-probabilities f32 [rows]. */
export function sampleTokens(
  g: Graph,
  logits: Tensor,
  settings: RowSettings,
  { seed, sequences, positions }: RowRandomness,
) {
  const [rows, vocabulary] = logits.shape;
  const column = g.iota([rows, 4], 1);
  const half = (index: number) => g.slice(seed, index, index + 1);
  const words = [half(0), half(1), g.reshape(sequences, [rows, 1]), g.reshape(positions, [rows, 1])];
  const random = words.reduceRight((rest, word, index) =>
    g.where(g.compare('eq', column, index), word, rest),
  );
  const [tokens, logprobs] = g.custom(sample({ rows, vocabulary }), [
    logits,
    settings.temperature,
    settings.topK,
    settings.topP,
    g.cast(random, 'u32'),
  ]);
  return { tokens, logprobs };
}

/**
 * log p f32 [rows] of each row's target (i32 [rows]; negative: 0, without gradient) under the distribution that a
 * sampler with these settings draws from, differentiable with the set of kept tokens taken as constant. A target counts
 * as kept even where the truncation would drop it.
 */
export function sampledLogProbability(
  g: Graph,
  logits: Tensor,
  targets: Tensor,
  distribution: SamplingDistribution,
): Tensor {
  const [rows, vocabulary] = logits.shape;
  const settings = [
    g.constant(distribution.temperature, 'f32', [rows]),
    g.constant(distribution.topK, 'i32', [rows]),
    g.constant(distribution.topP, 'f32', [rows]),
  ];
  const [logprob] = g.custom(sampledLogp({ rows, vocabulary }), [logits, ...settings, targets], {
    gradient(graph, { inputs, cotangents }) {
      const [cotangent] = cotangents;
      if (cotangent === null) return inputs.map(() => null);
      const [dlogits] = graph.custom(sampledLogpBackward({ rows, vocabulary }), [...inputs, cotangent]);
      return [dlogits, ...inputs.slice(1).map(() => null)];
    },
  });
  return logprob;
}
