/**
 * What a run tells those who watch it: the terminal, metrics.jsonl, the report, a user's callback. Metric names
 * are TRL's and verl's where they have the metric.
 */

import type { DeviceProbe } from '../accelerators/device.ts';
import type { ParityReport } from '../fleet/parity.ts';

export type { ParityReport };

export type PhaseName = 'cold_start' | 'reinforcement';

/** One step's metrics; the keys are listed in `METRICS`. */
export type Metrics = { [Name in MetricName]?: number } & {
  readonly [reward: `rewards/${string}/mean`]: number;
};

/** Every metric's name, unit and meaning: the only list. `rewards/<name>/mean` is added for each part of a reward. */
export const METRICS = {
  loss: 'objective that is minimised (for reinforcement not a measure of progress)',
  learning_rate: 'learning rate of the step',
  grad_norm: 'global gradient norm before clipping',
  num_tokens: 'tokens seen by the learner since the phase began, prompts included',
  step_time: 'seconds of the step',
  'perf/throughput': 'learner tokens per second of the whole step',
  'perf/learn_tokens_per_second': 'learner tokens per second of learning alone',
  'perf/rollout_tokens_per_second': 'sampled tokens per second of generation alone',
  reward: 'mean reward of the completions',
  reward_std: 'mean over groups of the standard deviation of the reward',
  frac_reward_zero_std: 'share of groups in which every completion has the same reward',
  think_fraction: 'share of completions that think before they answer',
  'completions/mean_length': 'mean tokens of a completion',
  'completions/min_length': 'fewest tokens of a completion',
  'completions/max_length': 'most tokens of a completion',
  'completions/clipped_ratio': 'share of completions cut off at the maximum length',
  'completions/mean_terminated_length': 'mean tokens of the completions that ended by themselves',
  entropy: 'mean entropy of the sampling distribution a token, in nats',
  kl: 'mean k3 estimate of the KL divergence to the reference model a token',
  'clip_ratio/low_mean': 'share of tokens clipped at the lower bound',
  'clip_ratio/high_mean': 'share of tokens clipped at the upper bound',
  'clip_ratio/region_mean': 'share of tokens clipped at either bound',
  'sampling/sampling_logp_difference/mean': 'mean |log p(learner) - log p(sampler)| of the sampled tokens',
  'sampling/sampling_logp_difference/max': 'largest |log p(learner) - log p(sampler)|',
  'sampling/kl': 'k3 estimate of KL(sampler || learner) a token',
  'sampling/importance_sampling_ratio/mean': 'mean correction factor of truncated importance sampling',
  'sampling/importance_sampling_ratio/min': 'smallest correction factor',
  'sampling/importance_sampling_ratio/max': 'largest correction factor',
} as const;
export type MetricName = keyof typeof METRICS;

/** A completion as text, for people. */
export interface SampleTrace {
  readonly prompt: string;
  readonly completion: string;
  readonly reward: number;
}

export interface Accuracy {
  /** Share of held-out problems answered right: with a reward above 0.5. */
  readonly accuracy: number;
  readonly problems: number;
  readonly thinkFraction: number;
  readonly meanLength: number;
}

export type EvaluationMode = 'free' | 'thinking' | 'no_thinking';

export interface Evaluation {
  readonly stage: 'cold_start' | 'after_rl';
  readonly mode: EvaluationMode;
  readonly result: Accuracy;
}

export interface NamedTrace {
  readonly title: string;
  readonly trace: SampleTrace;
}

export type RunEvent =
  | {
      readonly type: 'devices';
      readonly found: readonly DeviceProbe[];
      readonly learner: string;
      readonly rollout: string;
      /** Where the finished model is handed to. */
      readonly parity: string;
    }
  | {
      readonly type: 'model';
      readonly task: string;
      readonly parameters: number;
      readonly vocabulary: number;
      readonly layers: number;
      readonly hidden: number;
    }
  | { readonly type: 'phase'; readonly phase: PhaseName; readonly steps: number; readonly firstStep: number }
  | {
      readonly type: 'step';
      readonly phase: PhaseName;
      readonly step: number;
      readonly steps: number;
      readonly metrics: Metrics;
    }
  | { readonly type: 'sample'; readonly phase: PhaseName; readonly step: number; readonly trace: SampleTrace }
  | { readonly type: 'parity'; readonly step: number; readonly report: ParityReport }
  | {
      readonly type: 'evaluation';
      readonly stage: 'cold_start' | 'after_rl';
      readonly mode: EvaluationMode;
      readonly result: Accuracy;
    }
  | {
      readonly type: 'traces';
      readonly traces: readonly { readonly title: string; readonly trace: SampleTrace }[];
    }
  | { readonly type: 'checkpoint'; readonly phase: PhaseName; readonly step: number; readonly path: string }
  /** Bytes. Told when the plan grows, before the memory is used, and with the peak at the end. */
  | {
      readonly type: 'memory';
      /** The learner's accelerator. */
      readonly device: string;
      /** All that the accelerator holds. */
      readonly planned: number;
      /** Resident memory of the process when it held nothing yet. */
      readonly before: number;
      /** Most resident memory that the process ever had. */
      readonly peak?: number;
    }
  | { readonly type: 'warning'; readonly message: string }
  /** What happens beside the steps: tabs that join and leave. */
  | { readonly type: 'notice'; readonly message: string }
  /** A browser that opens it samples for the run. */
  | { readonly type: 'rollout_link'; readonly link: string }
  | { readonly type: 'done'; readonly folder: string; readonly summary: Summary };

/** `summary.json`. */
export interface Summary {
  readonly task: string;
  readonly seed: number;
  readonly parameters: number;
  readonly seconds: number;
  /** Of greedy answers to held-out problems. A run without reinforcement has no `after_rl`: NaN, in JSON null. */
  readonly accuracy: {
    readonly cold_start: number;
    readonly after_rl: number;
    /** Of the finished model, as is `no_thinking`. */
    readonly thinking: number;
    readonly no_thinking: number;
  };
  readonly parity: {
    readonly same_accelerator_max_abs: number;
    readonly cross_accelerator_max_abs: number;
    readonly cross_accelerator: readonly [string, string];
  };
  readonly tokens_per_second: { readonly sft: number; readonly rollout: number; readonly learn: number };
}
