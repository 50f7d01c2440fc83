/** The objectives as their papers write them, one token after the other, in float64. */
import type { PolicySettings } from '../../src/training/losses.ts';

/** Values of each place of a batch. */
export interface Columns {
  readonly logprob: number[];
  readonly old: number[];
  readonly ref: number[];
  readonly advantage: number[];
  readonly weight: number[];
  readonly importance: number[];
  readonly sequenceMean: number[];
}

/**
 * The loss of a policy objective.
 * @param places the places of each sequence's completion
 * @param frozen the columns whose ratios count as constant where an objective stops the gradient (cispo)
 */
export function policyFormula(
  { loss_type: type, epsilon, epsilon_high: high, beta }: PolicySettings,
  places: readonly (readonly number[])[],
  c: Columns,
  frozen: Columns,
): number {
  let loss = 0;
  for (const sequence of places) {
    const meanLogRatio = sequence.reduce((sum, t) => sum + (c.logprob[t] - c.old[t]) / sequence.length, 0);
    for (const t of sequence) {
      const ratio = Math.exp(type === 'gspo' ? meanLogRatio : c.logprob[t] - c.old[t]);
      const clipped = Math.min(Math.max(ratio, 1 - epsilon), 1 + high);
      let token = -Math.min(ratio * c.advantage[t], clipped * c.advantage[t]);
      if (type === 'cispo')
        token = -Math.min(Math.exp(frozen.logprob[t] - c.old[t]), high) * c.advantage[t] * c.logprob[t];
      const kl = Math.exp(c.ref[t] - c.logprob[t]) - (c.ref[t] - c.logprob[t]) - 1;
      loss += c.weight[t] * (c.importance[t] * token + beta * kl);
    }
  }
  return loss;
}
