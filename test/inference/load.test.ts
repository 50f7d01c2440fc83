/** Weights from files to an accelerator's memory: the same values as `readModel` gives, and the same refusals. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Device } from '../../src/accelerators/device.ts';
import { listDevices, openDevice } from '../../src/accelerators/registry.ts';
import { writeSafetensors } from '../../src/checkpoint/files.ts';
import { readModel, storedWeights, writeModel } from '../../src/checkpoint/model.ts';
import type { FloatType, StoredTensor } from '../../src/checkpoint/safetensors.ts';
import { Engine } from '../../src/inference/engine.ts';
import { LanguageModel } from '../../src/inference/language-model.ts';
import { loadWeights } from '../../src/inference/load.ts';
import type { WeightType } from '../../src/inference/weights.ts';
import { roundWeights, WeightStore } from '../../src/inference/weights.ts';
import type { Qwen3Config } from '../../src/models/config.ts';
import { parseConfig } from '../../src/models/config.ts';
import { initialWeights } from '../../src/training/new-model.ts';
import { isSlow } from '../speed.ts';

/** Sizes below, at and above a panel's width, even and odd. */
const config = (overrides: object = {}): Qwen3Config =>
  parseConfig({
    model_type: 'qwen3',
    vocab_size: 75,
    hidden_size: 64,
    intermediate_size: 41,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 8,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    tie_word_embeddings: true,
    ...overrides,
  });
const TIED = config();
const UNTIED = config({ tie_word_embeddings: false, hidden_size: 50, vocab_size: 70, intermediate_size: 96 });

const bits = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length);

const available = (await listDevices()).filter((probe) => probe.available);
const devices = available.map(({ name }) => name);

describe('loading weights', () => {
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tandem-load-'));
  });
  after(() => rm(folder, { recursive: true }));

  /** A model's folder; its norms are random too, so that none can stand for another. */
  async function written(name: string, model: Qwen3Config, dtype: FloatType): Promise<string> {
    const path = join(folder, name);
    const weights = initialWeights(model, 7);
    let count = 0;
    for (const values of weights.values())
      if (values.every((value) => value === 1))
        values.set(values.map((_, i) => 1 + ((i + count++) % 17) / 16));
    await writeModel(path, { config: model, weights }, dtype);
    return path;
  }

  /** Moves the tensors of model.safetensors to shards by turns. */
  async function shard(path: string, model: Qwen3Config, dtype: FloatType, shards: number): Promise<void> {
    const { weights } = await readModel(path);
    const tensors = storedWeights(model, weights, dtype);
    const weight_map: Record<string, string> = {};
    for (let i = 0; i < shards; i++) {
      const part = tensors.filter((_, index) => index % shards === i);
      const file = `model-${i}.safetensors`;
      for (const { name } of part) weight_map[name] = file;
      await writeSafetensors(join(path, file), part);
    }
    await rm(join(path, 'model.safetensors'));
    await writeFile(join(path, 'model.safetensors.index.json'), JSON.stringify({ weight_map }));
  }

  async function assertLoads(device: Device, path: string, dtype: WeightType, slotBytes?: number) {
    const expected = await readModel(path);
    const { config: found, weights } = await loadWeights(path, device, dtype, { slotBytes });
    try {
      assert.deepEqual(found, expected.config);
      const values = await weights.read();
      for (const [name, wanted] of roundWeights(found, expected.weights, dtype))
        assert.deepEqual(bits(values.get(name)!), bits(wanted), `${name} in ${dtype}`);
    } finally {
      weights.dispose();
    }
  }

  for (const name of devices) {
    describe(`on ${name}`, () => {
      let device: Device;
      before(async () => {
        device = await openDevice(name);
      });
      after(async () => {
        assert.equal(device.allocatedBytes, 0, 'bytes that were not freed');
        await device.close();
      });

      for (const stored of ['BF16', 'F16', 'F32'] as const) {
        for (const dtype of ['bf16', 'f32'] as const) {
          test(`${stored} files as ${dtype}`, async () => {
            await assertLoads(device, await written(`tied-${stored}`, TIED, stored), dtype);
            await assertLoads(device, await written(`untied-${stored}`, UNTIED, stored), dtype);
          });
        }
      }

      test('shards, and slots that hold a few rows, or less than one', async () => {
        const path = await written('shards', TIED, 'BF16');
        await shard(path, TIED, 'BF16', 3);
        for (const slotBytes of [9000, 1000, 10]) await assertLoads(device, path, 'bf16', slotBytes);
        await assertLoads(device, path, 'f32', 5000);
      });
    });
  }

  describe('refuses', () => {
    let device: Device;
    before(async () => {
      device = await openDevice(devices[0]);
    });
    after(() => device.close());

    async function assertRefused(path: string, message: RegExp): Promise<void> {
      await assert.rejects(readModel(path), message, 'readModel');
      await assert.rejects(loadWeights(path, device, 'f32'), message, 'loadWeights');
      assert.equal(device.allocatedBytes, 0, 'bytes that were not freed');
    }
    /** A folder whose tensors went through `change`. */
    async function changed(name: string, change: (tensor: StoredTensor) => StoredTensor[]): Promise<string> {
      const path = await written(name, TIED, 'F32');
      const { weights } = await readModel(path);
      await writeSafetensors(join(path, 'model.safetensors'), storedWeights(TIED, weights).flatMap(change));
      return path;
    }
    const inner = 'model.layers.1.mlp.up_proj.weight';

    test('a missing weight', async () => {
      const path = await changed('missing', (tensor) => (tensor.name === inner ? [] : [tensor]));
      await assertRefused(path, /up_proj\.weight' that config\.json calls for is missing/u);
    });
    test('a wrong shape', async () => {
      const path = await changed('shape', (tensor) => [
        tensor.name === inner ? { ...tensor, shape: [...tensor.shape].reverse() } : tensor,
      ]);
      await assertRefused(
        path,
        /up_proj\.weight' has shape \[64,41\], but config\.json calls for \[41,64\]/u,
      );
    });
    test('a type that is no float', async () => {
      const path = await changed('type', (tensor) => [
        tensor.name === inner ? { ...tensor, dtype: 'I32' } : tensor,
      ]);
      await assertRefused(path, /up_proj\.weight": is I32, but F32, BF16 or F16 is needed/u);
    });
    test('a file that was cut off', async () => {
      const path = await written('cut', TIED, 'BF16');
      const file = join(path, 'model.safetensors');
      await truncate(file, (await readFile(file)).length - 100);
      await assertRefused(path, /is cut off or damaged/u);
    });
    test('a shard that is missing', async () => {
      const path = await written('shard', TIED, 'BF16');
      await shard(path, TIED, 'BF16', 2);
      await rm(join(path, 'model-1.safetensors'));
      await assertRefused(path, /model-1\.safetensors: there is no such file/u);
    });
  });
});

describe('generation', () => {
  const settings = { temperature: 1, topP: 1, topK: 0, seed: 3, forbidFirst: [] };

  for (const probe of available.filter(({ name }) => name !== 'interpreter')) {
    const { name } = probe;
    const slow = isSlow(probe);

    test(`panels and rows, and prompts in one chunk or several, give the same bits on ${name}`, async () => {
      const device = await openDevice(name);
      try {
        for (const model of slow ? [TIED] : [TIED, UNTIED]) {
          for (const dtype of slow ? (['bf16'] as const) : (['f32', 'bf16'] as const)) {
            const results = [];
            for (const layout of ['rows', 'panels'] as const) {
              const weights = new WeightStore(device, model, dtype, layout);
              weights.write(initialWeights(model, 7));
              const engine = new Engine(device, weights.store, model, dtype, layout);
              const tokens = Array.from({ length: 300 }, (_, i) => (i * i + 3 * i) % model.vocab_size);
              const requests = (slow ? [257, 1] : [300, 16, 1, 257]).map((length, id) => ({
                id,
                tokens: tokens.slice(0, length),
              }));
              const together = await engine.generate(requests, { ...settings, maxTokens: 5 });
              const alone = [];
              for (const request of requests)
                alone.push(...(await engine.generate([request], { ...settings, maxTokens: 5 })));
              assert.deepEqual(alone, together);
              results.push(together);
              await engine.dispose();
              weights.dispose();
            }
            assert.deepEqual(results[1], results[0]);
          }
        }
        assert.equal(device.allocatedBytes, 0, 'bytes that were not freed');
      } finally {
        await device.close();
      }
    });

    test(`a prompt of several chunks has the log-probabilities of one pass over all of it on ${name}`, async () => {
      const device = await openDevice(name);
      await using model = new LanguageModel({
        device,
        config: TIED,
        weights: initialWeights(TIED, 7),
        tokenizer: null,
        ownsDevice: true,
      });
      const prompt = Array.from({ length: 300 }, (_, i) => (i * i + 3 * i) % TIED.vocab_size);
      const { tokens, logprobs } = await model.generate(prompt, { maxTokens: 5, temperature: 1 });
      const scores = await model.score([...prompt, ...tokens]);
      assert.deepEqual(logprobs, scores.slice(prompt.length));
    });

    test(`many tokens, and many sizes, in memory that does not grow on ${name}`, async () => {
      const device = await openDevice(name);
      try {
        const weights = new WeightStore(device, TIED, 'f32', 'panels');
        weights.write(initialWeights(TIED, 7));
        // On a slow device some token is the last of a sequence, so that it gets the room of a long one, and is short.
        const config = slow ? { ...TIED, eos_token_id: 1 } : TIED;
        const engine = new Engine(device, weights.store, config, 'f32', 'panels');
        const request = (length: number) => [{ id: 0, tokens: Array.from({ length }, (_, i) => i % 70) }];
        const [first] = await engine.generate(request(3), { ...settings, maxTokens: 1100 });
        if (slow) assert.ok(first.tokens.length > 30 && first.tokens.length < 400, `${first.tokens.length}`);
        else assert.equal(first.tokens.length, 1100);
        const allocated = device.allocatedBytes;
        // Other lengths of the same capacity need nothing new, and a prefix of a sequence is the same sequence.
        const [again] = await engine.generate(request(3), { ...settings, maxTokens: 1030 });
        assert.deepEqual(again.tokens, first.tokens.slice(0, 1030));
        assert.equal(device.allocatedBytes, allocated);
        // Few geometries are kept, however many there were.
        for (const size of [1, 2, 3, 4])
          await engine.generate(
            Array.from({ length: size }, (_, id) => ({ ...request(2)[0], id })),
            { ...settings, maxTokens: 2 },
          );
        const kept = device.allocatedBytes;
        assert.ok(kept < allocated, 'the largest cache was not used for longest, and is still there');
        for (const size of [5, 1, 2, 3, 4])
          await engine.generate(
            Array.from({ length: size }, (_, id) => ({ ...request(2)[0], id })),
            { ...settings, maxTokens: 2 },
          );
        assert.equal(device.allocatedBytes, kept);
        await engine.dispose();
        weights.dispose();
        assert.equal(device.allocatedBytes, 0, 'bytes that were not freed');
      } finally {
        await device.close();
      }
    });
  }
});
