/** A run killed at any moment and resumed ends with the same bits as one that was not. */
import assert from 'node:assert/strict';
import { cp, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Random } from '../../src/numerics/random.ts';
import type { PhaseName } from '../../src/training/events.ts';
import { tandem } from '../cli/harness.ts';

const TINY =
  '--task chain --seed 3 --device cpu --rollout cpu --parity-device wasm --threads 1 --hidden-size 32 ' +
  '--num-hidden-layers 1 --num-attention-heads 2 --num-key-value-heads 1 --head-dim 8 --intermediate-size 24 ' +
  '--eval-problems 16 --prompts-per-step 8 --num-generations 8 --max-steps 20 --beta 0.01 --save-seconds 0.05';

/** The cold start is shortened by a task of one's own, whose defaults the command line cannot reach. */
const TASK = `
import { TASKS } from 'tandem';
const chain = TASKS.get('chain');
export default { ...chain, defaults: { ...chain.defaults, sft: { ...chain.defaults.sft, max_steps: 30, per_device_train_batch_size: 32, warmup_steps: 2 } } };
`;

/** Metrics without what depends on the clock. */
async function steps(folder: string): Promise<Record<string, unknown>[]> {
  const lines = (await readFile(join(folder, 'metrics.jsonl'), 'utf8')).trim().split('\n');
  return lines.map((line) => {
    const record = JSON.parse(line) as Record<string, unknown>;
    for (const key of Object.keys(record))
      if (key === 'step_time' || key.startsWith('perf/')) delete record[key];
    return record;
  });
}

describe('a run that is killed', () => {
  let root: string;
  let args: string[];
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'tandem-resume-'));
    await writeFile(join(root, 'task.ts'), TASK);
    args = TINY.split(' ').map((arg) => (arg === 'chain' ? join(root, 'task.ts') : arg));
    const whole = await tandem(['train', 'grpo', ...args, '--name', 'whole'], { cwd: root });
    assert.equal(whole.code, 0, whole.err);
  });
  after(() => rm(root, { recursive: true, force: true }));

  async function compare(name: string): Promise<void> {
    const [wanted, got] = ['whole', name].map((run) => join(root, 'runs', run));
    assert.deepEqual(await steps(got), await steps(wanted));
    for (const file of ['model.safetensors', 'parity.json']) {
      assert.ok(
        (await readFile(join(got, file))).equals(await readFile(join(wanted, file))),
        `${file} differs`,
      );
    }
  }

  /** Kills the run soon after a random step of each of these phases in turn, and lets it get to its end. */
  async function killAndResume(
    name: string,
    signal: NodeJS.Signals,
    phases: readonly PhaseName[],
  ): Promise<void> {
    const random = new Random(phases.length, 'kills');
    let killed = 0;
    let command = ['train', 'grpo', ...args, '--name', name, '--json'];
    while (true) {
      const at = random.integer(2, 6);
      const step = `"type":"step","phase":"${phases[killed]}"`;
      let done = false;
      const outcome = await tandem(command, {
        cwd: root,
        onOutput(out, kill) {
          if (done || killed === phases.length || out.split(step).length <= at) return;
          done = true;
          // Not only right after an event.
          setTimeout(() => kill(signal), random.integer(0, 60));
        },
      });
      if (outcome.code === 0) break;
      // Ctrl-C is answered by saving; any other failure is one.
      const ended = outcome.signal === signal || (signal === 'SIGINT' && /train --resume/u.test(outcome.err));
      assert.ok(ended, `${outcome.code} ${outcome.signal} ${outcome.err}`);
      killed++;
      command = ['train', '--resume', join('runs', name), '--json'];
    }
    assert.equal(killed, phases.length, 'the run was killed as often as it was meant to be');
  }

  test('by SIGKILL, several times: the same weights and metrics', async () => {
    await killAndResume('killed', 'SIGKILL', ['cold_start', 'reinforcement', 'reinforcement']);
    await compare('killed');
  });

  test('by Ctrl-C: the state is saved, and the same bits follow', async () => {
    await killAndResume('interrupted', 'SIGINT', ['cold_start', 'reinforcement']);
    await compare('interrupted');
  });

  test('a complete run, a missing one and a damaged state are told apart', async () => {
    const complete = await tandem(['train', '--resume', join('runs', 'whole')], { cwd: root });
    assert.equal(complete.code, 1);
    assert.match(complete.err, /complete/u);
    const missing = await tandem(['train', '--resume', 'runs/nowhere'], { cwd: root });
    assert.equal(missing.code, 1);
    assert.match(missing.err, /nowhere/u);
    await cp(join(root, 'runs', 'whole'), join(root, 'runs', 'damaged'), { recursive: true });
    await truncate(join(root, 'runs', 'damaged', 'state.safetensors'), 5000);
    const damaged = await tandem(['train', '--resume', join('runs', 'damaged')], { cwd: root });
    assert.equal(damaged.code, 1);
    assert.match(damaged.err, /^tandem: [^\n]*state\.safetensors[^\n]*\n$/u);
    const again = await tandem(['train', 'grpo', ...args, '--name', 'whole'], { cwd: root });
    assert.equal(again.code, 1);
    assert.match(again.err, /already holds a run/u);
  });
});
