/** What is done while a model's weights are read: the same results, compiled ahead, and failures that leave nothing. */
import assert from 'node:assert/strict';
import { truncateSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Device } from '../../src/accelerators/device.ts';
import { listDevices, openDevice } from '../../src/accelerators/registry.ts';
import { writeModel } from '../../src/checkpoint/model.ts';
import { LanguageModel, PromptError } from '../../src/inference/language-model.ts';
import { beginLoading } from '../../src/inference/load.ts';
import { openModel } from '../../src/inference/open.ts';
import { initialWeights } from '../../src/training/new-model.ts';
import { shape } from './shape.ts';

const config = shape();
/** More than one chunk: prefill takes two programs. */
const PROMPT = Array.from({ length: 70 }, (_, i) => (i * 31) % 75);

const [best] = (await listDevices()).filter(({ available }) => available).map(({ name }) => name);

/** Counts the calls of `compile`. */
function countCompilations(device: Device): () => number {
  const compile = device.compile.bind(device);
  let count = 0;
  device.compile = (launches) => {
    count++;
    return compile(launches);
  };
  return () => count;
}

describe('opening a model', () => {
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tandem-open-'));
    await writeModel(folder, { config, weights: initialWeights(config, 5) }, 'F32');
  });
  after(() => rm(folder, { recursive: true }));

  test('settings that cannot be are refused by name', async () => {
    await using model = await openModel(folder, { device: best });
    for (const wrong of [
      { maxTokens: 0 },
      { maxTokens: NaN },
      { temperature: -1 },
      { temperature: NaN },
      { temperature: 1e-40 },
      { topP: 0 },
      { topK: 1.5 },
      { seed: -1 },
    ]) {
      const [[name, value]] = Object.entries(wrong);
      await assert.rejects(model.generate(PROMPT, wrong), (error: Error) => {
        assert.ok(
          error instanceof PromptError && error.message.startsWith(`${name} is ${value}: `),
          `${error}`,
        );
        return true;
      });
    }
  });

  test('an option that is undefined is as good as left out; a closed model says that it is', async () => {
    const model = await openModel(folder, { device: best });
    const wanted = await model.generate(PROMPT, { maxTokens: 2 });
    assert.deepEqual(
      await model.generate(PROMPT, {
        maxTokens: 2,
        temperature: undefined,
        topP: undefined,
        seed: undefined,
      }),
      wanted,
    );
    await model.close();
    await assert.rejects(model.generate(PROMPT), /the model is closed/u);
    await assert.rejects(model.score(PROMPT), /the model is closed/u);
  });

  test('weights that hold NaN end in an error, not in text', async () => {
    const weights = initialWeights(config, 5);
    weights.get('model.norm.weight')!.fill(NaN);
    await using device = await openDevice(best);
    await using model = new LanguageModel({ device, config, weights, tokenizer: null });
    await assert.rejects(model.generate(PROMPT, { maxTokens: 2 }), /ProbabilityError: .*NaN/u);
    await assert.rejects(model.score(PROMPT), /ProbabilityError: .*NaN/u);
  });

  test('what was prepared meanwhile is not compiled again, and changes no result', async () => {
    const expected = await (async () => {
      await using model = await openModel(folder, { device: best });
      return await model.generate(PROMPT, { maxTokens: 3, temperature: 1, seed: 4 });
    })();
    await using model = await openModel(folder, {
      device: best,
      meanwhile: (loading) => loading.prepare(PROMPT, 3),
    });
    const compilations = countCompilations(model.device);
    let atFirst: number | undefined;
    const options = { maxTokens: 3, temperature: 1, seed: 4 };
    const onToken = () => {
      atFirst ??= compilations();
    };
    assert.deepEqual(await model.generate(PROMPT, { ...options, onToken }), expected);
    assert.equal(atFirst, 0, 'programs compiled before the first token');
    assert.ok(compilations() > 0, 'a decode step is compiled when it is needed');
  });

  test('a failure meanwhile is the failure of opening, and closes everything', async () => {
    let seen: LanguageModel | undefined;
    const opening = openModel(folder, {
      device: best,
      async meanwhile(model) {
        seen = model;
        await model.prepare([1, 75]);
      },
    });
    await assert.rejects(
      opening,
      (error) => error instanceof PromptError && /no token 75/u.test(error.message),
    );
    assert.equal(seen?.device.allocatedBytes, 0);
    assert.throws(() => seen?.device.allocate(4), /closed/u);
  });

  for (const [how, options] of [
    ['in slots', { slotBytes: 4096 }],
    ['as the device likes', {}],
  ] as const)
    test(`a file that is cut off while it is read ${how} is named, and no memory is lost`, async () => {
      const path = join(folder, 'cut');
      await writeModel(path, { config, weights: initialWeights(config, 5) }, 'F32');
      await using device = await openDevice(best);
      const { weights, done } = await beginLoading(path, device, 'f32', options);
      truncateSync(join(path, 'model.safetensors'), 100_000);
      await assert.rejects(
        done,
        /cut.model\.safetensors: (tensor ".*": the file ends at byte|the file was cut off)/u,
      );
      weights.dispose();
      assert.equal(device.allocatedBytes, 0);
    });
});
