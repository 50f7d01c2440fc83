/**
 * The promise that on-policy means on-policy: on one accelerator a token's log-probability is the same number to the
 * bit, whether it was sampled alone, in a batch, scored, or computed by the learner; whatever the sampling settings.
 */
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { listDevices, openDevice } from '../../src/accelerators/registry.ts';
import type { Generation, GenerationRequest, SamplingSettings } from '../../src/inference/engine.ts';
import { Engine } from '../../src/inference/engine.ts';
import { LanguageModel } from '../../src/inference/language-model.ts';
import { WeightStore } from '../../src/inference/weights.ts';
import type { Qwen3Config } from '../../src/models/config.ts';
import { parseConfig } from '../../src/models/config.ts';
import type { WeightLayout } from '../../src/models/qwen3.ts';
import { Random } from '../../src/numerics/random.ts';
import type { Sequence } from '../../src/training/batches.ts';
import { fromTargets, layOut } from '../../src/training/batches.ts';
import { Learner } from '../../src/training/learner.ts';
import { initialWeights } from '../../src/training/new-model.ts';
import { isSlow } from '../speed.ts';

const shape = (overrides: object): Qwen3Config =>
  parseConfig({
    model_type: 'qwen3',
    vocab_size: 29,
    hidden_size: 24,
    intermediate_size: 40,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 8,
    max_position_embeddings: 256,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    tie_word_embeddings: true,
    ...overrides,
  });

const MODELS: readonly (readonly [string, Qwen3Config])[] = [
  ['tied, grouped queries', shape({})],
  [
    'untied, odd sizes, one key head',
    shape({
      tie_word_embeddings: false,
      hidden_size: 21,
      intermediate_size: 37,
      num_attention_heads: 3,
      num_key_value_heads: 1,
      head_dim: 10,
    }),
  ],
];

/** As models are opened for inference, and as the learner holds its weights: the bits must not tell them apart. */
const LAYOUTS: readonly WeightLayout[] = ['panels', 'rows'];

const SETTINGS: readonly (readonly [string, Partial<SamplingSettings>])[] = [
  ['temperature 1', { temperature: 1 }],
  ['temperature 0.7, top-p 0.8', { temperature: 0.7, topP: 0.8 }],
  ['temperature 1.3, top-k 5, top-p 0.9', { temperature: 1.3, topK: 5, topP: 0.9 }],
];

/** Prompts of different lengths; the longest beyond one block of attention keys. */
function requests(config: Qwen3Config, count: number): GenerationRequest[] {
  const random = new Random(11, 'prompts');
  const lengths = [1, 7, 3, 70, 16, 17, 2, 33];
  return Array.from({ length: count }, (_, id) => ({
    id,
    tokens: Array.from({ length: lengths[id % lengths.length] }, () => random.below(config.vocab_size)),
  }));
}

const bits = (values: ArrayLike<number>) => [...new Int32Array(Float32Array.from(values).buffer)];

const probes = await listDevices();
for (const probe of probes) {
  const { name, available, reason } = probe;
  describe(`batch-invariance on ${name}`, { skip: available ? false : reason }, async () => {
    if (!available) return;
    const device = await openDevice(name);
    after(async () => {
      assert.equal(device.allocatedBytes, 0, 'bytes that were not freed');
      await device.close();
    });
    // One model and setting are enough there.
    const slow = isSlow(probe);
    for (const [title, config] of slow ? MODELS.slice(0, 1) : MODELS) {
      const weights = initialWeights(config, 3);
      const runs = [
        ...(slow ? SETTINGS.slice(1, 2) : SETTINGS).map((setting) => [...setting, 'f32'] as const),
        [...SETTINGS[1], 'bf16'] as const,
      ];
      for (const [label, partial, dtype] of runs) {
        test(`${title}: ${label}, ${dtype}`, async () => {
          const settings: SamplingSettings = {
            maxTokens: slow ? 3 : 9,
            temperature: 1,
            topP: 1,
            topK: 0,
            seed: 5,
            forbidFirst: [],
            ...partial,
          };
          const learner = new Learner(device, config, dtype);
          learner.setWeights(weights);
          const engines = LAYOUTS.map((layout) => {
            const store = new WeightStore(device, config, dtype, layout);
            store.write(weights);
            return { layout, store, engine: new Engine(device, store.store, config, dtype, layout) };
          });
          try {
            // So many that the longest prompt goes through the model in two chunks; alone it goes in one.
            const all = requests(config, name === 'interpreter' ? 3 : slow ? 4 : 20);
            const [{ engine }, ...others] = engines;
            const together = await engine.generate(all, settings);
            for (const other of others) {
              for (const [i, one] of (await other.engine.generate(all, settings)).entries()) {
                assert.deepEqual(one.tokens, together[i].tokens, `tokens of sequence ${i}, ${other.layout}`);
                assert.deepEqual(
                  bits(one.logprobs),
                  bits(together[i].logprobs),
                  `log-probabilities of sequence ${i}, ${other.layout}`,
                );
              }
            }
            const groups: Generation[] = [];
            for (const size of [1, 3, 8, 8])
              groups.push(
                ...(await engine.generate(all.slice(groups.length, groups.length + size), settings)),
              );
            assert.equal(groups.length, all.length);
            for (const [i, one] of groups.entries()) {
              assert.deepEqual(one.tokens, together[i].tokens, `tokens of sequence ${i} in another batch`);
              assert.deepEqual(
                bits(one.logprobs),
                bits(together[i].logprobs),
                `log-probabilities of sequence ${i} in another batch`,
              );
            }
            const sequences = all.map(
              ({ tokens }, i): Sequence => ({ prompt: tokens, completion: together[i].tokens }),
            );
            const longest = Math.max(
              ...sequences.map(({ prompt, completion }) => prompt.length + completion.length),
            );
            for (const length of [longest, longest + 5]) {
              const batch = { sequences: sequences.length, length };
              const learned = await learner.logProbabilities(
                layOut(sequences, batch),
                batch,
                settings,
                'policy',
              );
              assert.deepEqual(
                bits(fromTargets(sequences, batch, learned)),
                bits(together.flatMap(({ logprobs }) => [...logprobs])),
                `the learner's log-probabilities at length ${length}`,
              );
            }
          } finally {
            for (const { engine, store } of engines) {
              await engine.dispose();
              store.dispose();
            }
            await learner.dispose();
          }
        });
      }

      test(`${title}: score equals generate, and a seed repeats`, async () => {
        const model = new LanguageModel({ device, config, weights, tokenizer: null });
        try {
          const prompt = requests(config, 2)[1].tokens;
          const options = { maxTokens: slow ? 3 : 12, temperature: 1, seed: 9 };
          const first = await model.generate(prompt, options);
          assert.deepEqual(await model.generate(prompt, options), first);
          const scored = await model.score([...prompt, ...first.tokens]);
          assert.equal(scored[0], null);
          assert.deepEqual(bits(scored.slice(prompt.length) as number[]), bits(first.logprobs));
          const others = await Promise.all(
            [1, 2, 3].map((seed) => model.generate(prompt, { ...options, seed })),
          );
          assert.ok(
            others.some(({ tokens }) => tokens.join() !== first.tokens.join()),
            'another seed gives another text',
          );
        } finally {
          await model.close();
        }
      });
    }
  });
}
