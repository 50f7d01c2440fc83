/** A model so small that the interpreter samples from it, and settings to do so. */
import { newConfig } from '../../src/models/config.ts';

export const config = newConfig({
  vocab_size: 8,
  hidden_size: 8,
  intermediate_size: 8,
  num_hidden_layers: 1,
  num_attention_heads: 1,
  num_key_value_heads: 1,
  head_dim: 8,
  max_position_embeddings: 16,
  rope_theta: 1000,
  bos_token_id: 1,
  eos_token_id: 2,
  pad_token_id: 0,
});
export const settings = { maxTokens: 4, temperature: 1, topP: 1, topK: 0, seed: 0, forbidFirst: [] };
