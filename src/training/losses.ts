/**
 * Objectives as graphs. Each returns a scalar to be minimised: the sum over tokens of weight × token loss, where the
 * weights (`advantages.ts`) carry the normalisation, so that micro-batches simply add up.
 */
import type { Graph } from '../tensor/graph.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { LossType } from './options.ts';

/** Negative log-likelihood: -Σ weight × log p. */
export function likelihoodLoss(g: Graph, logprob: Tensor, weight: Tensor): Tensor {
  return g.neg(g.sum(g.mul(logprob, weight)));
}

export interface PolicyInputs {
  /** log p of the sampled tokens under the model that is trained, f32 [sequences * length]. */
  readonly logprob: Tensor;
  /** The same when the tokens were sampled; constant. */
  readonly oldLogprob: Tensor;
  /** The same under the reference model; null when beta is 0. */
  readonly refLogprob: Tensor | null;
  /** Advantage of each token's completion. */
  readonly advantage: Tensor;
  /** Weight of each token in the loss; 0 for prompts and padding. */
  readonly weight: Tensor;
  /** Correction for a rollout accelerator that computes slightly other probabilities (1: none). */
  readonly importance: Tensor;
  /** 1 / tokens of the completion on its tokens, 0 elsewhere: averages over a sequence (gspo). */
  readonly sequenceMean: Tensor;
  readonly sequences: number;
  readonly length: number;
}

export interface PolicySettings {
  readonly loss_type: LossType;
  readonly epsilon: number;
  readonly epsilon_high: number;
  readonly beta: number;
}

export interface PolicyLoss {
  readonly loss: Tensor;
  /** Probability ratio to the sampling policy of each token (of its sequence for gspo). */
  readonly ratio: Tensor;
  /** k3 estimate of the KL divergence to the reference a token; null when beta is 0. */
  readonly kl: Tensor | null;
}

/** -min(r A, clip(r, 1 - ε, 1 + ε_high) A): PPO's clipped objective (arXiv 1707.06347, eq. 7) with DAPO's two bounds. */
function clippedObjective(
  g: Graph,
  ratio: Tensor,
  { advantage }: PolicyInputs,
  { epsilon, epsilon_high }: PolicySettings,
): Tensor {
  const clipped = g.clip(ratio, 1 - epsilon, 1 + epsilon_high);
  return g.neg(g.min(g.mul(ratio, advantage), g.mul(clipped, advantage)));
}

/** Token loss of a variant from the log-ratio of each token. */
type Objective = (
  g: Graph,
  logRatio: Tensor,
  inputs: PolicyInputs,
  settings: PolicySettings,
) => { tokenLoss: Tensor; ratio: Tensor };

const tokenRatio: Objective = (g, logRatio, inputs, settings) => {
  const ratio = g.exp(logRatio);
  return { tokenLoss: clippedObjective(g, ratio, inputs, settings), ratio };
};

const OBJECTIVES: { readonly [L in LossType]: Objective } = {
  grpo: tokenRatio,
  dr_grpo: tokenRatio,
  dapo: tokenRatio,
  // GSPO (arXiv 2507.18071, eq. 7): one ratio a sequence, the geometric mean of its tokens' ratios.
  gspo: (g, logRatio, inputs, settings) => {
    const { sequences, length, sequenceMean } = inputs;
    const mean = g.sum(g.reshape(g.mul(logRatio, sequenceMean), [sequences, length]), 1);
    const ratio = g.reshape(g.broadcastTo(g.exp(mean), [sequences, length]), [sequences * length]);
    return { tokenLoss: clippedObjective(g, ratio, inputs, settings), ratio };
  },
  // CISPO (MiniMax-M1, arXiv 2506.13585, eq. 4): the clipped ratio is a constant factor of REINFORCE, so that no
  // token loses its gradient. As in ScaleRL and TRL, epsilon_high is the largest factor itself.
  cispo: (g, logRatio, { advantage, logprob }, { epsilon_high }) => {
    const ratio = g.exp(logRatio);
    const factor = g.stopGradient(g.min(ratio, epsilon_high));
    return { tokenLoss: g.neg(g.mul(g.mul(factor, advantage), logprob)), ratio };
  },
};

/** The objective of GRPO or a variant, with an optional KL penalty to a reference (DeepSeekMath, eq. 4: k3). */
export function policyLoss(g: Graph, inputs: PolicyInputs, settings: PolicySettings): PolicyLoss {
  // Prompt and padding tokens have no old log-probability; a ratio of 1 keeps them finite, their weight is 0.
  const logRatio = g.mul(g.sub(inputs.logprob, inputs.oldLogprob), mask(g, inputs));
  const { tokenLoss, ratio } = OBJECTIVES[settings.loss_type](g, logRatio, inputs, settings);
  const corrected = g.mul(tokenLoss, inputs.importance);
  if (inputs.refLogprob === null) return { loss: g.sum(g.mul(corrected, inputs.weight)), ratio, kl: null };
  const refRatio = g.mul(g.sub(inputs.refLogprob, inputs.logprob), mask(g, inputs));
  const kl = g.sub(g.sub(g.exp(refRatio), refRatio), 1);
  const total = g.add(corrected, g.mul(kl, settings.beta));
  return { loss: g.sum(g.mul(total, inputs.weight)), ratio, kl };
}

/** 1 on tokens that count, 0 on the others. */
function mask(g: Graph, { weight }: PolicyInputs): Tensor {
  return g.cast(g.compare('gt', weight, 0), 'f32');
}
