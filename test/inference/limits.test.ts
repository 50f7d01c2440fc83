/** Numbers that are only upper limits, and far too large: they do no harm, or are an error that says what to do. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Device } from '../../src/accelerators/device.ts';
import { openDevice } from '../../src/accelerators/registry.ts';
import { LanguageModel } from '../../src/inference/language-model.ts';
import { parseConfig } from '../../src/models/config.ts';
import { initialWeights } from '../../src/training/new-model.ts';
import { config as tiny } from '../fleet/tiny.ts';

const config = parseConfig({ ...tiny, max_position_embeddings: 1e9 });

describe('huge limits', () => {
  let device: Device;
  let model: LanguageModel;
  before(async () => {
    device = await openDevice('interpreter');
    model = new LanguageModel({ device, config, weights: initialWeights(config, 0), tokenizer: null });
  });
  after(async () => {
    await model.close();
    assert.equal(device.allocatedBytes, 0);
    await device.close();
  });

  test('positions of the model that are not asked for cost nothing', async () => {
    const { tokens } = await model.generate([1, 3, 4], { maxTokens: 4 });
    assert.ok(tokens.length > 0);
    assert.equal((await model.score([1, 3, 4])).length, 3);
  });

  test('a cache beyond the memory of the device is an error that says so, and the model goes on', async () => {
    const bytes = device.allocatedBytes;
    for (const asked of [1e9, 2e9, Number.MAX_SAFE_INTEGER])
      for (const answer of [model.generate([1, 3, 4], { maxTokens: asked }), model.prepare([1, 3, 4], asked)])
        await assert.rejects(answer, (error) => {
          assert.ok(error instanceof RangeError);
          assert.match(
            error.message,
            /^there is no room to generate 1000000000 tokens, .* 1 sequence .*--max-tokens.*: out of memory on the interpreter: .* of 2\.0 GiB$/u,
          );
          return true;
        });
    assert.equal(device.allocatedBytes, bytes);
    assert.ok((await model.generate([1, 3, 4], { maxTokens: 4 })).tokens.length > 0);
  });

  test('top-k beyond what 32 bits hold leaves out nothing', async () => {
    const sampled = (topK: number) =>
      model.generate([1, 3, 4], { maxTokens: 8, temperature: 1, seed: 5, topK });
    const all = await sampled(0);
    for (const topK of [2 ** 31, 2 ** 32 + 1, Number.MAX_SAFE_INTEGER])
      assert.deepEqual(await sampled(topK), all);
  });
});
