/** A small model of sizes that every way of holding weights divides. */
import type { Qwen3Config } from '../../src/models/config.ts';
import { parseConfig } from '../../src/models/config.ts';

export const shape = (overrides: object = {}): Qwen3Config =>
  parseConfig({
    model_type: 'qwen3',
    vocab_size: 75,
    hidden_size: 64,
    intermediate_size: 96,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 16,
    max_position_embeddings: 256,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    tie_word_embeddings: true,
    ...overrides,
  });
