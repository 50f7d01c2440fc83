/** The recipe as a user runs it: what reinforcement and thinking must be worth with the defaults of two tasks. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { Summary } from '../../src/training/events.ts';
import { tandem } from '../cli/harness.ts';

const root = await mkdtemp(join(tmpdir(), 'tandem-recipe-'));
after(() => rm(root, { recursive: true }));

/** In shares of the held-out problems: right answers more than before reinforcement, and more than without thinking. */
const GOALS: readonly { task: string; seeds: readonly number[]; gain: number; thinking: number }[] = [
  { task: 'chain', seeds: [0, 1, 2], gain: 0.2, thinking: 0.2 },
  { task: 'deduction', seeds: [0], gain: 0.2, thinking: 0.2 },
];

for (const { task, seeds, gain, thinking } of GOALS) {
  for (const seed of seeds) {
    test(`${task}, seed ${seed}: reinforcement lifts the model, and thinking pays`, async () => {
      const name = `${task}-${seed}`;
      const run = await tandem(['start', '--task', task, '--seed', String(seed), '--name', name], {
        cwd: root,
      });
      assert.equal(run.code, 0, run.err);
      const { accuracy, parity } = JSON.parse(
        await readFile(join(root, 'runs', name, 'summary.json'), 'utf8'),
      ) as Summary;
      const found = JSON.stringify(accuracy);
      assert.ok(accuracy.after_rl >= accuracy.cold_start + gain, found);
      assert.ok(accuracy.thinking >= accuracy.no_thinking + thinking, found);
      assert.equal(parity.same_accelerator_max_abs, 0);
      assert.ok(parity.cross_accelerator_max_abs < 1e-3, `${parity.cross_accelerator_max_abs}`);
    });
  }
}
