/** Whole models on WebGPU: scores of checkpoints, decoding against scoring, and training runs under the gate against the CPU. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { listDevices } from '../../src/accelerators/registry.ts';
import { openModel } from '../../src/inference/open.ts';
import type { ParityReport } from '../../src/training/events.ts';
import { newRun } from '../../src/training/open-run.ts';

const probes = await listDevices();
const missing = ['webgpu', 'cpu'].map((device) => probes.find(({ name }) => name === device)!);
const [webgpu, cpu] = missing.map(({ available, name, reason }) =>
  available ? false : `${name}: ${reason}`,
);

describe('checkpoints on WebGPU', { skip: webgpu }, () => {
  for (const name of ['qwen3-tied-gqa', 'qwen3-untied-odd'])
    test(`${name}: its golden log-probabilities, and decoding gives the same bits as scoring`, async () => {
      const folder = fileURLToPath(new URL(`../golden/${name}`, import.meta.url));
      const golden = JSON.parse(await readFile(join(folder, 'golden.json'), 'utf8')) as {
        tokens: number[];
        logprobs: (number | null)[];
      };
      await using model = await openModel(folder, { device: 'webgpu' });
      const scores = await model.score(golden.tokens);
      assert.equal(scores.length, golden.logprobs.length);
      golden.logprobs.forEach((wanted, place) => {
        const found = scores[place];
        if (wanted === null || found === null) assert.equal(found, wanted);
        else assert.ok(Math.abs(found - wanted) < 2e-5, `place ${place}: ${found} instead of ${wanted}`);
      });
      const prompt = golden.tokens.slice(0, 8);
      const { tokens, logprobs } = await model.generate(prompt, { maxTokens: 6, temperature: 1 });
      assert.equal(tokens.length, 6);
      assert.deepEqual(logprobs, (await model.score([...prompt, ...tokens])).slice(prompt.length));
    });
});

interface Outcome {
  /** Of the cold start, which the data decide alone. */
  readonly losses: readonly number[];
  readonly gates: readonly ParityReport[];
}

describe('training under the gate, WebGPU and the CPU', { skip: webgpu || cpu }, async () => {
  const runs = await mkdtemp(join(tmpdir(), 'tandem-webgpu-'));
  after(() => rm(runs, { recursive: true }));

  /** The default recipe with a smaller model, smaller batches and few steps. */
  async function train(device: string, rollout: string): Promise<Outcome> {
    const losses: number[] = [];
    const gates: ParityReport[] = [];
    const run = await newRun({
      task: 'chain',
      phases: ['cold_start', 'reinforcement'],
      run: { device, rollout, parity_device: rollout, eval_problems: 2 },
      modelOptions: {
        hidden_size: 32,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 16,
        intermediate_size: 48,
      },
      sft: { max_steps: 3, per_device_train_batch_size: 8, gradient_accumulation_steps: 1, warmup_steps: 0 },
      grpo: { max_steps: 2, prompts_per_step: 2, num_generations: 4, warmup_steps: 0, learning_rate: 1e-3 },
      runs,
      onEvent(event) {
        if (event.type === 'parity') gates.push(event.report);
        if (event.type === 'step' && event.phase === 'cold_start') losses.push(event.metrics.loss!);
      },
    });
    await run.run();
    return { losses, gates };
  }

  const outcomes = new Map<string, Outcome>();
  for (const [device, rollout] of [
    ['webgpu', 'cpu'],
    ['cpu', 'webgpu'],
  ] as const)
    test(`learner on ${device}, rollouts on ${rollout}`, async () => {
      const outcome = await train(device, rollout);
      outcomes.set(device, outcome);
      const between = outcome.gates.filter((gate) => gate.learner !== gate.rollout);
      assert.ok(between.length >= 3, 'a gate at every step of reinforcement, and one for the finished model');
      for (const { learner, rollout: sampler, maxAbs, bound, passed, tokens, checksum } of between) {
        assert.deepEqual([learner, sampler], [device, rollout]);
        assert.ok(passed && maxAbs < 1e-4 && bound === 1e-3, `${maxAbs}, with a bound of ${bound}`);
        assert.ok(maxAbs > 0, 'two accelerators that agree to the bit are one');
        assert.ok(tokens > 4);
        assert.equal(checksum.learner, checksum.rollout);
      }
    });

  test('the losses of the cold start are the same on both', () => {
    const [ours, theirs] = ['webgpu', 'cpu'].map((name) => outcomes.get(name)!.losses);
    assert.equal(ours.length, 3);
    assert.ok(theirs[2] < theirs[0] - 0.1, 'it learns');
    ours.forEach((loss, step) => {
      assert.ok(Math.abs(loss - theirs[step]) < 1e-4, `step ${step + 1}: ${loss} and ${theirs[step]}`);
    });
  });
});
