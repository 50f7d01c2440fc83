/** Generation with a KV cache: one sequence, as in a conversation, and many, as in reinforcement. */
import type { Device } from '../accelerators/device.ts';
import type { SamplingSettings } from '../inference/engine.ts';
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
      try {
        return await withEngine(opened, config, async (engine) => {
          const requests = randomRequests(config, batch);
          const seconds = await secondsEach(async (repeat) => {
            for (let i = 0; i < repeat; i++) await engine.generate(requests, settings(GENERATED));
          });
          return (batch * GENERATED) / seconds;
        });
      } finally {
        await opened.close();
      }
    },
    profile: (opened, trace) =>
      withEngine(opened, config, async (engine) => {
        const requests = randomRequests(config, batch);
        await engine.generate(requests, settings(2));
        await trace(() => engine.generate(requests, settings(2)));
      }),
  };
}

/** Samples whatever comes. */
export const settings = (maxTokens: number): SamplingSettings => ({
  maxTokens,
  temperature: 1,
  topP: 1,
  topK: 0,
  seed: 0,
  forbidFirst: [],
});

function randomRequests({ vocab_size }: Qwen3Config, batch: number) {
  const random = new Random(0, 'bench-decoding');
  return Array.from({ length: batch }, (_, id) => ({
    id,
    tokens: Array.from({ length: PROMPT }, () => random.below(vocab_size)),
  }));
}

async function withEngine<T>(
  device: Device,
  config: Qwen3Config,
  use: (engine: Engine) => Promise<T>,
): Promise<T> {
  const weights = new WeightStore(device, config, 'f32');
  const engine = new Engine(device, weights.store, config, 'f32');
  try {
    weights.write(initialWeights(config, 0));
    return await use(engine);
  } finally {
    await engine.dispose();
    weights.dispose();
  }
}

export const decodeItems = (device: string): Item[] =>
  [1, 512].map((batch) => decodeItem(recipeModel(), batch, device));
