/** Generation with a KV cache: one sequence, as in a conversation, and many, as in reinforcement. */
import { Engine } from '../inference/engine.ts';
import { WeightStore } from '../inference/weights.ts';
import type { Qwen3Config } from '../models/config.ts';
import { Random } from '../numerics/random.ts';
import { initialWeights } from '../training/new-model.ts';
import type { Item } from './item.ts';
import { leastSeconds } from './item.ts';
import { forwardOperations, modelSize, recipeModel } from './models.ts';
import { secondsEach } from './timing.ts';

const PROMPT = 16;
const GENERATED = 64;

/** Generated tokens a second, sampled at temperature 1; the time of the prompts is included. */
export function decodeItem(model: Qwen3Config, batch: number, device: string): Item {
  // Without an end-of-text token every sequence has its full length.
  const config = { ...model, eos_token_id: null };
  const operations = forwardOperations(config, PROMPT + GENERATED / 2);
  return {
    name: 'decode',
    shape: `${modelSize(config)}, batch ${batch}`,
    dtype: 'f32',
    device,
    unit: 'tokens/s',
    // The model fits the caches.
    limit: (limits) => {
      const seconds = leastSeconds(limits, device, { operations, bytes: 0 });
      return seconds === null ? null : 1 / seconds;
    },
    peers: {},
    async measure(open) {
      const opened = await open();
      const weights = new WeightStore(opened, config, 'f32');
      const engine = new Engine(opened, weights.store, config, 'f32');
      try {
        weights.write(initialWeights(config, 0));
        const random = new Random(0, 'bench-decoding');
        const requests = Array.from({ length: batch }, (_, id) => ({
          id,
          tokens: Array.from({ length: PROMPT }, () => random.below(config.vocab_size)),
        }));
        const settings = { maxTokens: GENERATED, temperature: 1, topP: 1, topK: 0, seed: 0, forbidFirst: [] };
        const seconds = await secondsEach(async (repeat) => {
          for (let i = 0; i < repeat; i++) await engine.generate(requests, settings);
        });
        return (batch * GENERATED) / seconds;
      } finally {
        await engine.dispose();
        weights.dispose();
        await opened.close();
      }
    },
  };
}

export const decodeItems = (device: string): Item[] =>
  [1, 512].map((batch) => decodeItem(recipeModel(), batch, device));
