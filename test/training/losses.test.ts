/** The objectives against plain formulas: values, and gradients by differences of the formulas in float64. */
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { openDevice } from '../../src/accelerators/registry.ts';
import { Random } from '../../src/numerics/random.ts';
import { gradients } from '../../src/tensor/gradients.ts';
import { Graph } from '../../src/tensor/graph.ts';
import { compile } from '../../src/tensor/program.ts';
import { ParameterStore } from '../../src/tensor/store.ts';
import { groupAdvantages, tokenWeights } from '../../src/training/advantages.ts';
import { policyLoss } from '../../src/training/losses.ts';
import type { LossType } from '../../src/training/options.ts';
import { LOSS_TYPES } from '../../src/training/options.ts';
import { learningRate } from '../../src/training/schedule.ts';
import type { Columns } from './plain-objectives.ts';
import { policyFormula } from './plain-objectives.ts';

const SEQUENCES = 3;
const LENGTH = 5;
/** For cispo epsilon_high is the largest ratio itself: some are below it, where a factor that is no constant would show. */
const settings = (loss_type: LossType) => ({
  loss_type,
  epsilon: 0.2,
  epsilon_high: loss_type === 'cispo' ? 1.1 : 0.3,
  beta: 0.05,
});
const LENGTHS = [4, 2, 3];

/** Ratios below, within and above the bounds, advantages of both signs, prompts and padding without weight. */
function example(): Columns {
  const random = new Random(4, 'losses');
  const rows = SEQUENCES * LENGTH;
  const active = (row: number) => row % LENGTH < LENGTHS[Math.floor(row / LENGTH)];
  const column = (value: (row: number) => number) =>
    Array.from({ length: rows }, (_, row) => (active(row) ? value(row) : 0));
  const old = column(() => -3 * random.float());
  return {
    old,
    // Inactive places hold what a model says about padding: anything.
    logprob: Array.from({ length: rows }, (_, row) =>
      active(row) ? old[row] + 0.9 * (random.float() - 0.5) : -2 * random.float(),
    ),
    ref: column((row) => old[row] + 0.4 * (random.float() - 0.5)),
    advantage: column((row) => [1.3, -0.7, 0.4][Math.floor(row / LENGTH)]),
    weight: column((row) => 1 / (LENGTHS[Math.floor(row / LENGTH)] * SEQUENCES)),
    importance: column((row) => (row % 2 === 0 ? 0.8 : 1)),
    sequenceMean: column((row) => 1 / LENGTHS[Math.floor(row / LENGTH)]),
  };
}

const places = LENGTHS.map((length, sequence) => Array.from({ length }, (_, i) => sequence * LENGTH + i));

/** `frozen`: ratios that count as constant. */
const formula = (type: LossType, c: Columns, frozen: Columns) =>
  policyFormula(settings(type), places, c, frozen);

describe('policy objectives', async () => {
  const device = await openDevice('interpreter');
  after(() => device.close());

  for (const type of LOSS_TYPES) {
    test(`${type}: value and gradient`, async () => {
      const c = example();
      const rows = SEQUENCES * LENGTH;
      const g = new Graph();
      const store = new ParameterStore(device);
      store.create('logprob', 'f32', [rows], Float32Array.from(c.logprob));
      const input = (name: keyof Columns) => g.literal(Float32Array.from(c[name]));
      const logprob = g.parameter('logprob', 'f32', [rows]);
      const { loss } = policyLoss(
        g,
        {
          logprob,
          oldLogprob: input('old'),
          refLogprob: input('ref'),
          advantage: input('advantage'),
          weight: input('weight'),
          importance: input('importance'),
          sequenceMean: input('sequenceMean'),
          sequences: SEQUENCES,
          length: LENGTH,
        },
        settings(type),
      );
      const [gradient] = gradients(g, loss, [logprob]);
      const program = await compile(g, device, store, { outputs: { loss, gradient } });
      await program.run();
      const value = (await program.read('loss'))[0];
      const wanted = formula(type, c, c);
      assert.ok(Math.abs(value - wanted) < 1e-5, `loss ${value}, by the formula ${wanted}`);
      const got = await program.read('gradient');
      const step = 1e-6;
      for (let row = 0; row < rows; row++) {
        const at = (shift: number) =>
          formula(type, { ...c, logprob: c.logprob.map((x, i) => (i === row ? x + shift : x)) }, c);
        const slope = (at(step) - at(-step)) / (2 * step);
        assert.ok(
          Math.abs(got[row] - slope) < 1e-5,
          `gradient of token ${row}: ${got[row]}, by differences ${slope}`,
        );
      }
      program.dispose();
      store.dispose();
    });
  }
});

test('advantages: mean and standard deviation of each group, and nothing where all are equal', () => {
  const { advantages, rewardStd, zeroStd } = groupAdvantages([1, 0, 0, 1, 0.1, 0.1, 0.1, 0.1], 4, 'group');
  const std = Math.sqrt((4 * 0.25) / 3);
  for (const [i, sign] of [1, -1, -1, 1].entries())
    assert.ok(Math.abs(advantages[i] - (sign * 0.5) / (std + 1e-4)) < 1e-6);
  assert.deepEqual([...advantages.slice(4)], [0, 0, 0, 0]);
  assert.ok(Math.abs(rewardStd - std / 2) < 1e-12);
  assert.equal(zeroStd, 0.5);
  assert.deepEqual([...groupAdvantages([1, 0], 2, 'none').advantages], [0.5, -0.5]);
  assert.throws(() => groupAdvantages([1, 0, 1], 2, 'none'), /groups of 2/u);
});

test('token weights: what each variant divides by', () => {
  const lengths = [4, 0, 2];
  const close = (type: LossType, wanted: number[]) => {
    for (const [i, weight] of tokenWeights(type, lengths, 10).entries()) {
      assert.ok(Math.abs(weight - wanted[i]) < 1e-7, `${type} ${i}: ${weight}`);
    }
  };
  close('grpo', [1 / 8, 0, 1 / 4]);
  close('gspo', [1 / 8, 0, 1 / 4]);
  close('dapo', [1 / 6, 0, 1 / 6]);
  close('cispo', [1 / 6, 0, 1 / 6]);
  close('dr_grpo', [1 / 30, 0, 1 / 30]);
});

test('the learning rate warms up, stays or follows a cosine to a tenth', () => {
  const constant = {
    learning_rate: 1,
    lr_scheduler_type: 'constant',
    warmup_steps: 4,
    max_steps: 10,
  } as const;
  assert.deepEqual(
    [0, 1, 3, 4, 9].map((step) => learningRate(step, constant)),
    [0.25, 0.5, 1, 1, 1],
  );
  const cosine = { ...constant, lr_scheduler_type: 'cosine' } as const;
  assert.equal(learningRate(4, cosine), 1);
  assert.ok(Math.abs(learningRate(7, cosine) - 0.55) < 1e-12);
  assert.ok(Math.abs(learningRate(10, cosine) - 0.1) < 1e-12);
  assert.equal(learningRate(0, { ...constant, warmup_steps: 0 }), 1);
});
