/** Long generation: memory of the accelerator and of the process stays what it was. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { listDevices, openDevice } from '../../src/accelerators/registry.ts';
import { Engine } from '../../src/inference/engine.ts';
import { WeightStore } from '../../src/inference/weights.ts';
import { parseConfig } from '../../src/models/config.ts';
import { initialWeights } from '../../src/training/new-model.ts';
import { isSlow } from '../speed.ts';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;
/** Twice: the arrays that one collection frees are counted until the next has waited for it. */
const collectGarbage = () => {
  gc();
  gc();
};

const CONFIG = parseConfig({
  model_type: 'qwen3',
  vocab_size: 17,
  hidden_size: 8,
  intermediate_size: 16,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 4,
  max_position_embeddings: 16_384,
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  tie_word_embeddings: true,
});
const MB = 2 ** 20;

for (const probe of await listDevices()) {
  const { name, available, reason } = probe;
  if (name === 'interpreter') continue;
  const count = isSlow(probe) ? 400 : 10_000;
  test(`${count} tokens in constant memory on ${name}`, { skip: available ? false : reason }, async () => {
    const device = await openDevice(name);
    try {
      const weights = new WeightStore(device, CONFIG, 'f32', 'panels');
      weights.write(initialWeights(CONFIG, 1));
      const engine = new Engine(device, weights.store, CONFIG, 'f32', 'panels');
      const settings = { temperature: 1, topP: 1, topK: 0, seed: 1, forbidFirst: [], maxTokens: count };
      const seen: { device: number; heap: number; resident: number }[] = [];
      let tokens = 0;
      await engine.generate([{ id: 0, tokens: [1, 2, 3] }], settings, () => {
        tokens++;
        if (tokens % (count / 4) !== 0) return;
        collectGarbage();
        const { heapUsed, external, rss } = process.memoryUsage();
        seen.push({ device: device.allocatedBytes, heap: heapUsed + external, resident: rss });
      });
      assert.equal(tokens, count);
      const [first] = seen;
      const last = seen[3];
      assert.equal(last.device, first.device);
      // The generated tokens themselves, and what the engine notes of them.
      assert.ok(last.heap < first.heap + 4 * MB, `heap: from ${first.heap} to ${last.heap} bytes`);
      assert.ok(last.resident < first.resident + 64 * MB, `from ${first.resident} to ${last.resident} bytes`);
      await engine.dispose();
      weights.dispose();
      assert.equal(device.allocatedBytes, 0, 'bytes that were not freed');
    } finally {
      await device.close();
    }
  });
}
