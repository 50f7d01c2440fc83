/**
 * Every option of a training run: names, defaults, bounds and explanations in one place. The command line, the
 * library and the run's saved configuration are all derived from these schemas. Names and meanings follow TRL
 * where TRL has the option.
 */
import { z } from 'zod';

const positive = () => z.number().int().positive();
const rate = () => z.number().finite().nonnegative();
const probability = () => z.number().min(0).max(1);

export const LOSS_TYPES = ['grpo', 'dr_grpo', 'dapo', 'gspo', 'cispo'] as const;
export type LossType = (typeof LOSS_TYPES)[number];

/** What a variant of the loss works with where the user gives nothing. */
interface LossDefaults {
  /** Null: as `epsilon`. */
  readonly epsilon_high: number | null;
  readonly scale_rewards: 'group' | 'none';
}

const LOSS_DEFAULTS: { readonly [L in LossType]: LossDefaults } = {
  grpo: { epsilon_high: null, scale_rewards: 'group' },
  dr_grpo: { epsilon_high: null, scale_rewards: 'none' },
  // DAPO's clip-higher.
  dapo: { epsilon_high: 0.28, scale_rewards: 'group' },
  gspo: { epsilon_high: null, scale_rewards: 'group' },
  // The largest ratio itself.
  cispo: { epsilon_high: 5, scale_rewards: 'group' },
};

/** '0.28 for dapo, else epsilon': the defaults of an option that has several. */
function defaultsByLoss(option: keyof LossDefaults, usual: string): string {
  const other = LOSS_TYPES.map((type) => ({ type, value: String(LOSS_DEFAULTS[type][option] ?? 'epsilon') }))
    .filter(({ value }) => value !== usual)
    .map(({ type, value }) => `${value} for ${type}, `);
  return `default: ${other.join('')}else ${usual}`;
}

/**
 * The parity bound where the user gives none. A sum that accelerators round differently at its last bit can become the
 * next bf16 value, 2^-8 away, so that two of them are much further apart with bf16 than with f32.
 */
const PARITY_BOUND = { f32: 1e-3, bf16: 5e-2 } as const;

/** The shape of a freshly initialised model; unset values come from the task's defaults. */
export const modelOptions = z.strictObject({
  hidden_size: positive().optional().describe('Width of the residual stream'),
  num_hidden_layers: positive().optional().describe('Transformer layers'),
  num_attention_heads: positive().optional().describe('Query heads'),
  num_key_value_heads: positive().optional().describe('Key and value heads (grouped-query attention)'),
  head_dim: positive().optional().describe('Size of one head'),
  intermediate_size: positive().optional().describe('Width of the feed-forward layer'),
  rope_theta: z.number().positive().optional().describe('Base of the rotary position frequencies'),
  max_position_embeddings: positive()
    .optional()
    .describe('Tokens of a sequence at most, prompt and completion together (default: 1024)'),
  dtype: z
    .enum(['f32', 'bf16'])
    .default('f32')
    .describe('Storage type of weights and activations; accumulation is always f32'),
});

const optimizerOptions = {
  learning_rate: rate().describe('Peak learning rate of AdamW'),
  lr_scheduler_type: z.enum(['constant', 'cosine']).describe('Learning rate after the warm-up'),
  warmup_steps: z.number().int().nonnegative().describe('Steps over which the learning rate rises linearly'),
  weight_decay: rate().describe('Decoupled weight decay (matrices only, not norms)'),
  adam_beta1: probability().describe('Decay of the first moment'),
  adam_beta2: probability().describe('Decay of the second moment'),
  adam_epsilon: z.number().positive().describe('Added to the root of the second moment'),
  max_grad_norm: rate().describe('Gradients are scaled down to this global norm; 0: no clipping'),
  gradient_accumulation_steps: positive().describe('Micro-batches whose gradients are summed before a step'),
  max_steps: positive().describe('Optimizer steps'),
};

export const sftOptions = z.strictObject({
  ...optimizerOptions,
  learning_rate: optimizerOptions.learning_rate.default(3e-3),
  lr_scheduler_type: optimizerOptions.lr_scheduler_type.default('cosine'),
  warmup_steps: optimizerOptions.warmup_steps.default(20),
  weight_decay: optimizerOptions.weight_decay.default(0.01),
  adam_beta1: optimizerOptions.adam_beta1.default(0.9),
  adam_beta2: optimizerOptions.adam_beta2.default(0.98),
  adam_epsilon: optimizerOptions.adam_epsilon.default(1e-8),
  max_grad_norm: optimizerOptions.max_grad_norm.default(1),
  gradient_accumulation_steps: optimizerOptions.gradient_accumulation_steps.default(1),
  max_steps: optimizerOptions.max_steps.default(400),
  per_device_train_batch_size: positive().default(256).describe('Sequences in a micro-batch'),
  think_fraction: probability()
    .optional()
    .describe('Share of the examples whose teacher thinks before it answers'),
  teacher_error: probability().optional().describe('Share of the examples whose teacher is wrong'),
});
export type SftOptions = z.infer<typeof sftOptions>;

export const grpoOptions = z.strictObject({
  ...optimizerOptions,
  learning_rate: optimizerOptions.learning_rate.default(3e-4),
  lr_scheduler_type: optimizerOptions.lr_scheduler_type.default('constant'),
  warmup_steps: optimizerOptions.warmup_steps.default(10),
  weight_decay: optimizerOptions.weight_decay.default(0),
  adam_beta1: optimizerOptions.adam_beta1.default(0.9),
  adam_beta2: optimizerOptions.adam_beta2.default(0.98),
  adam_epsilon: optimizerOptions.adam_epsilon.default(1e-8),
  max_grad_norm: optimizerOptions.max_grad_norm.default(1),
  gradient_accumulation_steps: optimizerOptions.gradient_accumulation_steps
    .default(1)
    .describe('Micro-batches one optimizer step is split into; a memory setting, the result is the same sum'),
  max_steps: optimizerOptions.max_steps.default(100),
  prompts_per_step: positive()
    .default(32)
    .describe('Prompts of a generation batch; completions = prompts × num_generations'),
  num_generations: z
    .number()
    .int()
    .min(2)
    .default(16)
    .describe('Completions sampled for a prompt (the group)'),
  steps_per_generation: positive().default(1).describe('Optimizer steps a generation batch is split into'),
  num_iterations: positive().default(1).describe('Passes over a generation batch'),
  max_completion_length: positive().default(512).describe('Tokens of a completion at most'),
  mask_truncated_completions: z
    .boolean()
    .default(false)
    .describe('Leave completions that did not end out of the loss'),
  temperature: z
    .number()
    // Divided by less, logits leave the range of f32.
    .min(1e-3)
    .default(1)
    .describe('Sampling temperature of rollouts; the learner uses the same'),
  top_p: z
    .number()
    .gt(0)
    .max(1)
    .default(1)
    .describe('Nucleus sampling; log-probabilities are those of the truncated distribution'),
  top_k: z.number().int().nonnegative().default(0).describe('Sample among the k likeliest tokens; 0: all'),
  loss_type: z.enum(LOSS_TYPES).default('dapo').describe('Variant of the objective'),
  epsilon: rate().default(0.2).describe('Lower clipping bound: ratios below 1 - epsilon'),
  epsilon_high: rate()
    .optional()
    .describe(
      `Upper clipping bound: ratios above 1 + epsilon_high (for cispo the largest ratio itself); ${defaultsByLoss('epsilon_high', 'epsilon')}`,
    ),
  beta: rate()
    .default(0)
    .describe('Weight of the KL penalty to the model before reinforcement (k3 estimator)'),
  scale_rewards: z
    .enum(['group', 'none'])
    .optional()
    .describe(
      `Divide advantages by the group's standard deviation; ${defaultsByLoss('scale_rewards', 'group')}`,
    ),
  importance_sampling: z
    .enum(['off', 'tis'])
    .default('off')
    .describe('Beyond the parity bound: stop (off), or correct by truncated importance sampling (tis)'),
  importance_sampling_cap: z.number().positive().default(2).describe('Largest correction factor of tis'),
  parity_bound: z
    .number()
    .positive()
    .optional()
    .describe(
      `Largest |Δ log p| of a sampled token between learner and another rollout accelerator; default: ${PARITY_BOUND.f32}, with bf16 ${PARITY_BOUND.bf16}`,
    ),
  num_completions_to_print: z
    .number()
    .int()
    .nonnegative()
    .default(1)
    .describe('Completions of a step that metrics.jsonl gets; the first is shown'),
});
export type GrpoOptions = z.infer<typeof grpoOptions>;

/** The options that depend on the variant of the loss, with its defaults. */
export function lossOptions({
  loss_type,
  epsilon,
  ...given
}: Pick<GrpoOptions, 'loss_type' | 'epsilon' | 'epsilon_high' | 'scale_rewards'>) {
  const defaults = LOSS_DEFAULTS[loss_type];
  return {
    epsilon_high: given.epsilon_high ?? defaults.epsilon_high ?? epsilon,
    scale_rewards: given.scale_rewards ?? defaults.scale_rewards,
  };
}

/** Largest |Δ log p| that a run allows between two accelerators, where matrices are multiplied in `dtype`. */
export function parityBound(
  grpo: Pick<GrpoOptions, 'parity_bound'>,
  dtype: keyof typeof PARITY_BOUND,
): number {
  return grpo.parity_bound ?? PARITY_BOUND[dtype];
}

export const runOptions = z.strictObject({
  name: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9._-]*$/, 'letters, digits, dot, dash and underscore only')
    .describe('Folder of the run below runs/'),
  seed: z
    .number()
    .int()
    .min(0)
    .max(0xffffffff)
    .default(0)
    .describe('Every random number of the run follows from it'),
  device: z.string().default('auto').describe('Accelerator of the learner; auto: the best of this machine'),
  gradient_checkpointing: z
    .boolean()
    .default(false)
    .describe(
      'Keep only what enters each layer and compute the rest again for the gradients: less memory, about a quarter more time, the same numbers',
    ),
  rollout: z
    .string()
    .optional()
    .describe(
      'Accelerator of the rollouts, or browser: tabs that open a link sample; default: the learner’s',
    ),
  host: z
    .string()
    .min(1)
    .default('127.0.0.1')
    .describe('Rollouts in a browser: address to listen at; 0.0.0.0 lets other machines join'),
  port: z
    .number()
    .int()
    .min(0)
    .max(65535)
    .default(0)
    .describe('Rollouts in a browser: port to listen at; 0: any free one'),
  rollout_wait: z
    .number()
    .positive()
    .default(600)
    .describe(
      'Rollouts in a browser: seconds without a tab that joins or answers, after which the run stops; it can be resumed',
    ),
  parity_device: z
    .string()
    .optional()
    .describe(
      'Accelerator that the finished model is handed to under the parity gate; default: another one than the learner’s',
    ),
  threads: positive().optional().describe('Threads an accelerator uses'),
  eval_problems: positive().default(512).describe('Held-out problems of an evaluation'),
  save_seconds: z
    .number()
    .positive()
    .default(15)
    .describe('Seconds between two checkpoints of the run state'),
});
export type RunOptions = z.infer<typeof runOptions>;

/** The values that are there, so that they can replace others without hiding them. */
export function definedOnly<T extends object>(value: T): Partial<T> {
  return Object.fromEntries(Object.entries(value).filter(([, entry]) => entry !== undefined)) as Partial<T>;
}
