/** The models that are measured, and the arithmetic that their tokens cost. */
import type { Qwen3Config } from '../models/config.ts';
import { newConfig } from '../models/config.ts';
import { parameterCount, weightSpecs } from '../models/qwen3.ts';
import { elementCount } from '../tile/ir.ts';
import { modelConfig } from '../training/new-model.ts';
import chain from '../training/tasks/chain.ts';
import { taskTokenizer } from '../training/tasks/problems.ts';

/** The model that `tandem start` trains. */
export const recipeModel = (): Qwen3Config => modelConfig(taskTokenizer(chain), chain.defaults?.model);

/** A model whose time goes into matrix products rather than into passes over memory. */
export const widerModel = (): Qwen3Config =>
  newConfig({
    vocab_size: 512,
    hidden_size: 256,
    intermediate_size: 768,
    num_hidden_layers: 4,
    num_attention_heads: 4,
    num_key_value_heads: 4,
    head_dim: 64,
    max_position_embeddings: 1024,
    rope_theta: 1000,
    bos_token_id: 0,
    eos_token_id: 0,
    pad_token_id: 0,
  });

/** '224k' */
export const modelSize = (config: Qwen3Config): string => {
  const count = parameterCount(config);
  return count >= 1e6 ? `${(count / 1e6).toPrecision(3)}M` : `${Math.round(count / 1e3)}k`;
};

/**
 * Floating-point operations of the forward pass of one token that attends to `context` tokens: those of matrix
 * products and attention, two a multiply-add. Everything else is small, and left out.
 */
export function forwardOperations(config: Qwen3Config, context: number): number {
  const multiplied = weightSpecs(config)
    .filter(({ kind }) => kind === 'matrix' || (kind === 'embedding' && config.tie_word_embeddings))
    .reduce((sum, { shape }) => sum + elementCount(shape), 0);
  const queries = config.num_attention_heads * config.head_dim;
  return 2 * multiplied + 4 * queries * context * config.num_hidden_layers;
}
