/** Models with quantized weights: near the exact ones, the same numbers however they are computed, and clear refusals. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { listDevices, openDevice } from '../../src/accelerators/registry.ts';
import { writeModel } from '../../src/checkpoint/model.ts';
import { Engine } from '../../src/inference/engine.ts';
import { LanguageModel } from '../../src/inference/language-model.ts';
import { loadWeights } from '../../src/inference/load.ts';
import { openModel } from '../../src/inference/open.ts';
import { roundWeights, WeightStore } from '../../src/inference/weights.ts';
import { initialWeights } from '../../src/training/new-model.ts';
import { isSlow } from '../speed.ts';
import { shape } from './shape.ts';

const MODELS = { tied: shape({}), untied: shape({ tie_word_embeddings: false, vocab_size: 70 }) };
/** Mean difference of log-probabilities from those of exact weights, at most. These models' are -6 on average. */
const NEAR = { int8: 0.05, int4: 0.6 } as const;
const TYPES = ['int8', 'int4'] as const;
const tokens = Array.from({ length: 40 }, (_, i) => (i * 29 + 11) % 70);

const names = (await listDevices())
  .filter((probe) => probe.available && !isSlow(probe))
  .map(({ name }) => name);

describe('quantized weights', () => {
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tandem-quantized-'));
    for (const [name, config] of Object.entries(MODELS))
      await writeModel(join(folder, name), { config, weights: initialWeights(config, 5) }, 'BF16');
  });
  after(() => rm(folder, { recursive: true }));

  for (const device of names)
    for (const name of Object.keys(MODELS))
      for (const type of TYPES)
        test(`${name}, ${type} on ${device}: scores near the exact ones; batch and decoding do not matter`, async () => {
          const accelerator = await openDevice(device);
          try {
            const score = async (dtype: 'f32' | typeof type) => {
              const { config, weights } = await loadWeights(join(folder, name), accelerator, dtype);
              await using model = new LanguageModel({
                device: accelerator,
                config,
                weights,
                tokenizer: null,
                dtype,
              });
              const scores = await model.score(tokens);
              const generated = await model.generate(tokens.slice(0, 9), { maxTokens: 12 });
              const again = await model.score([...tokens.slice(0, 9), ...generated.tokens]);
              assert.deepEqual(again.slice(9), [...generated.logprobs], 'decoding and scoring differ');
              return scores.slice(1) as number[];
            };
            const [exact, found] = [await score('f32'), await score(type)];
            const mean = exact.reduce((sum, value, i) => sum + Math.abs(value - found[i]), 0) / exact.length;
            assert.ok(mean > 0 && mean < NEAR[type], `mean difference ${mean}`);

            const { config, weights } = await loadWeights(join(folder, name), accelerator, type);
            const engine = new Engine(accelerator, weights.store, config, type, 'panels');
            const settings = { maxTokens: 6, temperature: 1, topP: 1, topK: 0, seed: 3, forbidFirst: [] };
            const requests = [3, 17, 1, 9].map((length, id) => ({ id, tokens: tokens.slice(0, length) }));
            const together = await engine.generate(requests, settings);
            for (const [i, request] of requests.entries())
              assert.deepEqual(await engine.generate([request], settings), [together[i]]);
            await engine.dispose();
            weights.dispose();
            assert.equal(accelerator.allocatedBytes, 0);
          } finally {
            await accelerator.close();
          }
        });

  for (const device of names)
    test(`on ${device}, what files hold in bf16 stays so, and gives the bits of f32`, async () => {
      const config = MODELS.tied;
      const rounded = roundWeights(config, initialWeights(config, 5), 'bf16');
      await writeModel(join(folder, `f32-${device}`), { config, weights: rounded }, 'F32');
      const results = await Promise.all(
        ['tied', `f32-${device}`].map(async (name) => {
          await using model = await openModel(join(folder, name), { device });
          const bytes = model.device.allocatedBytes;
          const generated = await model.generate(tokens.slice(0, 9), { maxTokens: 8 });
          return { bytes, scores: await model.score(tokens), generated };
        }),
      );
      const [held, wide] = results;
      assert.deepEqual(held.scores, wide.scores);
      assert.deepEqual(held.generated, wide.generated);
      assert.ok(held.bytes < 0.6 * wide.bytes, `${held.bytes} bytes instead of ${wide.bytes}`);
    });

  test('sizes that no group divides, other layouts and arrays are refused', async () => {
    const config = shape({ intermediate_size: 41 });
    await writeModel(join(folder, 'odd'), { config, weights: initialWeights(config, 5) }, 'F32');
    const device = await openDevice('interpreter');
    await assert.rejects(
      loadWeights(join(folder, 'odd'), device, 'int8'),
      /mlp\.down_proj\.weight': a matrix of 41 rows cannot be held in int8: they must be a multiple of 32/,
    );
    assert.throws(
      () => new WeightStore(device, MODELS.tied, 'int4', 'rows'),
      /int4 weights are held in panels/,
    );
    const store = new WeightStore(device, MODELS.tied, 'int4', 'panels');
    assert.throws(() => store.write(initialWeights(MODELS.tied, 5)), /weights held in int4 come from files/);
    store.dispose();
    assert.equal(device.allocatedBytes, 0);
    await device.close();
  });
});
