/** A run killed at any moment and resumed ends with the same bits as one that was not. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Random } from '../../src/numerics/random.ts';
import { tandem } from '../cli/harness.ts';

const TINY =
  '--task chain --seed 3 --device cpu --rollout cpu --parity-device wasm --threads 1 --hidden-size 32 ' +
  '--num-hidden-layers 1 --num-attention-heads 2 --num-key-value-heads 1 --head-dim 8 --intermediate-size 24 ' +
  '--eval-problems 16 --prompts-per-step 8 --num-generations 8 --max-steps 20 --beta 0.01 --save-seconds 0.05';

/** The cold start is shortened by a task of one's own, whose defaults the command line cannot reach. */
const TASK = `
import { TASKS } from 'tandem';
const chain = TASKS.get('chain');
export default { ...chain, defaults: { ...chain.defaults, sft: { ...chain.defaults.sft, max_steps: 30, per_device_train_batch_size: 128, warmup_steps: 2 } } };
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

  /** Kills the run at a random event, again and again, until it gets to its end. */
  async function killAndResume(name: string, signal: NodeJS.Signals, seed: number): Promise<number> {
    const random = new Random(seed, 'kills');
    let killed = 0;
    let command = ['train', 'grpo', ...args, '--name', name, '--json'];
    for (let attempt = 0; attempt < 12; attempt++) {
      const at = random.integer(2, 30);
      let done = false;
      const outcome = await tandem(command, {
        cwd: root,
        onOutput(out, kill) {
          // Only what was saved can be resumed, so the first death comes after the first checkpoint.
          if (done || killed >= 4 || !out.includes('"type":"checkpoint"')) return;
          if (out.split('\n').length > at + 3) {
            done = true;
            kill(signal);
          }
        },
      });
      if (outcome.code === 0) return killed;
      assert.ok(
        outcome.signal === signal || outcome.code === 1,
        `${outcome.code} ${outcome.signal} ${outcome.err}`,
      );
      killed++;
      command = ['train', '--resume', join('runs', name), '--json'];
    }
    throw new Error('the run never ended');
  }

  test('by SIGKILL, several times: the same weights and metrics', async () => {
    assert.ok((await killAndResume('killed', 'SIGKILL', 1)) >= 2, 'it was killed');
    await compare('killed');
  });

  test('by Ctrl-C: the state is saved, and the same bits follow', async () => {
    assert.ok((await killAndResume('interrupted', 'SIGINT', 2)) >= 2, 'it was interrupted');
    await compare('interrupted');
  });

  test('a complete run, a missing one and a damaged state are told apart', async () => {
    const complete = await tandem(['train', '--resume', join('runs', 'whole')], { cwd: root });
    assert.equal(complete.code, 1);
    assert.match(complete.err, /complete/u);
    const missing = await tandem(['train', '--resume', 'runs/nowhere'], { cwd: root });
    assert.equal(missing.code, 1);
    assert.match(missing.err, /nowhere/u);
    const again = await tandem(['train', 'grpo', ...args, '--name', 'whole'], { cwd: root });
    assert.equal(again.code, 1);
    assert.match(again.err, /already holds a run/u);
  });
});
