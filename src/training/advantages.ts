/** Group-relative advantages and the weight of each token in the loss: the host's part of GRPO and its variants. */
import type { LossType } from './options.ts';

export interface GroupStatistics {
  /** One a completion. */
  readonly advantages: Float32Array<ArrayBuffer>;
  /** Mean over groups of the standard deviation of the reward in the group. */
  readonly rewardStd: number;
  /** Share of the groups in which every completion has the same reward: they teach nothing. */
  readonly zeroStd: number;
}

/** Kept from dividing by zero, as in TRL. */
const STD_EPSILON = 1e-4;

/**
 * advantage = reward - mean of its group, divided by the group's standard deviation (sample, n - 1) when
 * `scale` is 'group' (DeepSeekMath, section 4.1.2; Dr. GRPO leaves the division out).
 * @param rewards [prompts * groupSize], the completions of a prompt together
 * @throws RangeError where the number of rewards is no multiple of the group size
 */
export function groupAdvantages(
  rewards: ArrayLike<number>,
  groupSize: number,
  scale: 'group' | 'none',
): GroupStatistics {
  if (rewards.length % groupSize !== 0)
    throw new RangeError(`${rewards.length} rewards do not make groups of ${groupSize}`);
  const groups = rewards.length / groupSize;
  const advantages = new Float32Array(rewards.length);
  let stdSum = 0;
  let zero = 0;
  for (let group = 0; group < groups; group++) {
    const first = group * groupSize;
    let mean = 0;
    let same = true;
    for (let i = first; i < first + groupSize; i++) {
      mean += rewards[i] / groupSize;
      same &&= rewards[i] === rewards[first];
    }
    let squares = 0;
    for (let i = first; i < first + groupSize; i++) squares += (rewards[i] - mean) ** 2;
    const std = same ? 0 : Math.sqrt(squares / (groupSize - 1));
    stdSum += std;
    if (same) zero++;
    // A group of equal rewards must give exactly 0, whatever the rounding of the mean.
    for (let i = first; i < first + groupSize && !same; i++) {
      advantages[i] = scale === 'group' ? (rewards[i] - mean) / (std + STD_EPSILON) : rewards[i] - mean;
    }
  }
  return { advantages, rewardStd: stdSum / groups, zeroStd: zero / groups };
}

/** Sums over a batch that the weights of its tokens are computed from. */
export interface BatchTotals {
  readonly completions: number;
  /** Completions that count; those masked for being cut off do not dilute the mean. */
  readonly included: number;
  readonly tokens: number;
  readonly maxCompletionLength: number;
}

/**
 * The weight of each token of a completion, such that the loss is the sum of weight × token loss:
 * - grpo: mean over the completion's tokens, then mean over completions (DeepSeekMath, eq. 3)
 * - gspo: the same; its ratio is already one a sequence (GSPO, eq. 5)
 * - dapo, cispo: mean over all tokens of the batch (DAPO, eq. 8)
 * - dr_grpo: divided by the constant completions × max_completion_length (Dr. GRPO, section 3)
 */
const TOKEN_WEIGHT: { readonly [L in LossType]: (length: number, totals: BatchTotals) => number } = {
  grpo: (length, totals) => 1 / (length * totals.included),
  gspo: (length, totals) => 1 / (length * totals.included),
  dapo: (_, totals) => 1 / totals.tokens,
  cispo: (_, totals) => 1 / totals.tokens,
  dr_grpo: (_, totals) => 1 / (totals.completions * totals.maxCompletionLength),
};

/**
 * The weight of each completion's tokens.
 * @param lengths tokens of each completion that count; 0 leaves the completion out
 */
export function tokenWeights(
  loss: LossType,
  lengths: readonly number[],
  maxCompletionLength: number,
): Float32Array<ArrayBuffer> {
  const totals: BatchTotals = {
    completions: lengths.length,
    included: lengths.filter((length) => length > 0).length,
    tokens: lengths.reduce((sum, length) => sum + length, 0),
    maxCompletionLength,
  };
  return Float32Array.from(lengths, (length) => (length > 0 ? TOKEN_WEIGHT[loss](length, totals) : 0));
}
