/** A fresh model for a task: its configuration from the task's defaults, its weights from the seed. */

import type { z } from 'zod';
import type { Tokenizer } from '../checkpoint/tokenizer.ts';
import type { WeightSource } from '../inference/weights.ts';
import type { Qwen3Config } from '../models/config.ts';
import { newConfig } from '../models/config.ts';
import { weightSpecs } from '../models/qwen3.ts';
import { Random } from '../numerics/random.ts';
import { elementCount } from '../tile/ir.ts';
import type { modelOptions } from './options.ts';

/** Room for prompts and completions well beyond those of the tasks. */
const MAX_POSITIONS = 1024;

/** The configuration of a new model: sizes that learn the built-in tasks in minutes, where `options` do not say otherwise. */
export function modelConfig(tokenizer: Tokenizer, options: z.input<typeof modelOptions> = {}): Qwen3Config {
  const hidden = options.hidden_size ?? 128;
  const heads = options.num_attention_heads ?? 4;
  const { bos, eos, pad } = tokenizer.ids;
  return newConfig({
    vocab_size: tokenizer.size,
    hidden_size: hidden,
    intermediate_size: options.intermediate_size ?? Math.ceil((hidden * 8) / 3 / 16) * 16,
    num_hidden_layers: options.num_hidden_layers ?? 3,
    num_attention_heads: heads,
    num_key_value_heads: options.num_key_value_heads ?? Math.max(1, heads / 2),
    head_dim: options.head_dim ?? Math.max(8, hidden / heads),
    max_position_embeddings: options.max_position_embeddings ?? MAX_POSITIONS,
    rope_theta: options.rope_theta ?? 1000,
    bos_token_id: bos ?? 0,
    eos_token_id: eos ?? 0,
    pad_token_id: pad ?? 0,
  });
}

/** Random weights: normal with each weight's own deviation, norms at one. */
export function initialWeights(config: Qwen3Config, seed: number): Map<string, Float32Array> {
  const source = initialWeightSource(config, seed);
  return new Map(weightSpecs(config).map(({ name }) => [name, source.get(name)!.slice()]));
}

/** As `initialWeights`, each made when it is asked for, in the same memory: the host never holds the whole model. */
export function initialWeightSource(config: Qwen3Config, seed: number): WeightSource {
  const specs = weightSpecs(config);
  const memory = new Float32Array(Math.max(...specs.map(({ shape }) => elementCount(shape))));
  return {
    get(wanted) {
      const index = specs.findIndex(({ name }) => name === wanted);
      if (index < 0) return undefined;
      const { shape, kind, std } = specs[index];
      const values = memory.subarray(0, elementCount(shape));
      if (kind === 'norm') return values.fill(1);
      const random = new Random(seed, 'initial-weights', index);
      for (let i = 0; i < values.length; i++) values[i] = random.normal() * std;
      return values;
    },
  };
}
