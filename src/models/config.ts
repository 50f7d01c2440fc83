/** `config.json` in the form that transformers reads as `Qwen3ForCausalLM`. */
import { z } from 'zod';

const size = z.number().int().positive();
/** Far beyond any model: what is listed for each layer must fit into memory before a file is known to lack it. */
const MAX_LAYERS = 10_000;

export const qwen3ConfigSchema = z.looseObject({
  architectures: z.array(z.string()).optional(),
  model_type: z.literal('qwen3'),
  vocab_size: size,
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: size.max(MAX_LAYERS),
  num_attention_heads: size,
  num_key_value_heads: size,
  head_dim: size,
  hidden_act: z.literal('silu').default('silu'),
  max_position_embeddings: size,
  rms_norm_eps: z.number().positive(),
  rope_theta: z.number().positive().optional(),
  /** transformers 5 keeps the rotary settings here. */
  rope_parameters: z
    .looseObject({ rope_theta: z.number().positive(), rope_type: z.literal('default').default('default') })
    .optional(),
  rope_scaling: z.null().optional(),
  attention_bias: z.literal(false).default(false),
  use_sliding_window: z.literal(false).default(false),
  tie_word_embeddings: z.boolean().default(false),
  bos_token_id: z.number().int().nullable().optional(),
  eos_token_id: z
    .union([z.number().int(), z.array(z.number().int())])
    .nullable()
    .optional(),
  pad_token_id: z.number().int().nullable().optional(),
});
export type Qwen3Config = z.infer<typeof qwen3ConfigSchema>;

export class ConfigError extends Error {
  override name = 'ConfigError';
}

/** Parses `config.json`. Throws `ConfigError` naming each value that is missing, wrong or not supported. */
export function parseConfig(value: unknown, source = 'config.json'): Qwen3Config {
  const parsed = qwen3ConfigSchema.safeParse(value);
  if (!parsed.success) {
    const problems = parsed.error.issues.map(
      (issue) => `${issue.path.join('.') || '(root)'}: ${issue.message}`,
    );
    throw new ConfigError(
      `${source} does not describe a Qwen3 model that Tandem can run: ${problems.join('; ')}`,
    );
  }
  const config = parsed.data;
  if (config.num_attention_heads % config.num_key_value_heads !== 0) {
    throw new ConfigError(
      `${source}: num_attention_heads (${config.num_attention_heads}) must be a multiple of num_key_value_heads (${config.num_key_value_heads})`,
    );
  }
  if (config.head_dim % 2 !== 0)
    throw new ConfigError(`${source}: head_dim (${config.head_dim}) must be even for rotary positions`);
  if (ropeTheta(config) === undefined) throw new ConfigError(`${source}: rope_theta is missing`);
  return config;
}

/** Base of the rotary frequencies, wherever this version of the format keeps it. */
export function ropeTheta(config: Qwen3Config): number {
  return (config.rope_parameters?.rope_theta ?? config.rope_theta)!;
}

/** What a new model is made from. */
export interface NewModel {
  readonly vocab_size: number;
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number;
  readonly head_dim: number;
  readonly max_position_embeddings: number;
  readonly rope_theta: number;
  readonly bos_token_id: number;
  readonly eos_token_id: number;
  readonly pad_token_id: number;
}

/** A complete configuration for a model with tied embeddings, as `transformers` would write it. */
export function newConfig(model: NewModel): Qwen3Config {
  const { rope_theta, ...sizes } = model;
  return parseConfig({
    architectures: ['Qwen3ForCausalLM'],
    model_type: 'qwen3',
    ...sizes,
    hidden_act: 'silu',
    rms_norm_eps: 1e-6,
    rope_theta,
    rope_parameters: { rope_theta, rope_type: 'default' },
    attention_bias: false,
    attention_dropout: 0,
    use_sliding_window: false,
    tie_word_embeddings: true,
    initializer_range: 0.02,
    use_cache: true,
    dtype: 'float32',
  });
}
