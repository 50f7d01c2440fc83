/** The rollout role: what it refuses, and that nothing of it stays behind. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Device } from '../../src/accelerators/device.ts';
import { openDevice } from '../../src/accelerators/registry.ts';
import { RolloutWorker } from '../../src/fleet/rollout.ts';
import { initialWeights } from '../../src/training/new-model.ts';
import { config, settings } from './tiny.ts';

describe('rollout worker', () => {
  let device: Device;
  before(async () => {
    device = await openDevice('interpreter');
  });
  after(() => device.close());

  test('samples up to the last position, refuses what goes beyond it, and frees all memory', async () => {
    {
      await using worker = new RolloutWorker(device, config, 'f32');
      await worker.receive({ version: 3, weights: initialWeights(config, 0) });
      const sample = (tokens: number[]) => worker.sample([{ tokens, id: 0 }], settings);
      const [{ tokens, logprobs, weightVersions }] = await sample(Array(12).fill(5));
      assert.ok(tokens.length > 0 && logprobs.every((logprob) => logprob < 0));
      assert.deepEqual(
        weightVersions,
        tokens.map(() => 3),
      );
      await assert.rejects(
        sample(Array(13).fill(5)),
        new RangeError("a prompt of 13 tokens and 4 to generate are more than the model's 16 positions"),
      );
      await assert.rejects(sample([]), new RangeError('a prompt has no tokens'));
      assert.deepEqual(await worker.sample([], settings), []);
      assert.ok(device.allocatedBytes > 0);
    }
    assert.equal(device.allocatedBytes, 0);
  });
});
