/** Options that ask for more memory than there is are refused before anything is made, by their names. */
import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { openDevice } from '../../src/accelerators/registry.ts';
import { parseConfig } from '../../src/models/config.ts';
import { Learner } from '../../src/training/learner.ts';
import { initialWeights } from '../../src/training/new-model.ts';
import type { NewRun } from '../../src/training/open-run.ts';
import { newRun } from '../../src/training/open-run.ts';
import { config as tiny } from '../fleet/tiny.ts';

const runs = await mkdtemp(join(tmpdir(), 'tandem-sizes-'));
after(() => rm(runs, { recursive: true }));

const HUGE = 100_000_000;
const run: NewRun = {
  task: 'chain',
  phases: ['cold_start', 'reinforcement'],
  run: { device: 'interpreter', parity_device: 'interpreter' },
  runs,
};
const refused: [options: Partial<NewRun>, message: RegExp][] = [
  [
    { sft: { per_device_train_batch_size: HUGE } },
    /^per_device_train_batch_size 100000000: a micro-batch takes at least .* [GT]iB, but interpreter has 2\.0 GiB: choose less$/u,
  ],
  [
    { sft: { gradient_accumulation_steps: HUGE } },
    /^per_device_train_batch_size \d+ × gradient_accumulation_steps 100000000: the examples of a step take at least .* heap of Node\.js/u,
  ],
  [
    { grpo: { num_generations: HUGE } },
    /^prompts_per_step \d+ × num_generations 100000000: the completions of a generation batch take .* heap of Node\.js/u,
  ],
  [
    { grpo: { prompts_per_step: HUGE } },
    /^prompts_per_step 100000000 × num_generations \d+: the completions/u,
  ],
  [
    { grpo: { prompts_per_step: 50_000 } },
    /^prompts_per_step 50000 × num_generations \d+ \/ \(steps_per_generation 1 × gradient_accumulation_steps 1\): a micro-batch takes .* interpreter has/u,
  ],
  [{ run: { ...run.run, eval_problems: HUGE } }, /^eval_problems 100000000: .* heap of Node\.js/u],
  [
    { modelOptions: { max_position_embeddings: 1e9 }, grpo: { max_completion_length: 9e8 } },
    /^max_completion_length 900000000: the cache of one sequence takes at least .* interpreter has/u,
  ],
  [
    { modelOptions: { hidden_size: 1e9 } },
    /^hidden_size 1000000000, .*: the largest weight takes .* interpreter/u,
  ],
  [{ modelOptions: { head_dim: 1e9 } }, /head_dim 1000000000, .*: the largest weight takes .* interpreter/u],
];

describe('more than there is', () => {
  for (const [options, message] of refused)
    test(String(message), async () => {
      await assert.rejects(newRun({ ...run, ...options }), { name: 'SizeError', message });
      assert.deepEqual(await readdir(runs), []);
    });
});

test('positions that no sequence has cost nothing', async () => {
  await using device = await openDevice('interpreter');
  const outcome = async (positions: number) => {
    const config = parseConfig({ ...tiny, max_position_embeddings: positions });
    await using learner = new Learner(device, config, 'f32');
    learner.setWeights(initialWeights(config, 0));
    return await learner.forwardBackward(
      { kind: 'likelihood' },
      { sequences: 1, length: 4 },
      {
        ids: Int32Array.of(1, 3, 4, 2),
        targets: Int32Array.of(3, 4, 2, -1),
        weight: new Float32Array(4).fill(1),
      },
    );
  };
  assert.deepEqual(await outcome(1e9), await outcome(16));
});
