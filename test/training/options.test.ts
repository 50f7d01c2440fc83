/** Defaults that depend on other options: what a run works with, and what the help says of them. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { LossType } from '../../src/training/options.ts';
import { grpoOptions, LOSS_TYPES, lossOptions, parityBound } from '../../src/training/options.ts';

const help = (name: keyof typeof grpoOptions.shape) => String(grpoOptions.shape[name].description);

describe('defaults by variant of the loss', () => {
  const expected: { readonly [L in LossType]: ReturnType<typeof lossOptions> } = {
    grpo: { epsilon_high: 0.1, scale_rewards: 'group' },
    dr_grpo: { epsilon_high: 0.1, scale_rewards: 'none' },
    dapo: { epsilon_high: 0.28, scale_rewards: 'group' },
    gspo: { epsilon_high: 0.1, scale_rewards: 'group' },
    cispo: { epsilon_high: 5, scale_rewards: 'group' },
  };
  for (const loss_type of LOSS_TYPES) {
    test(loss_type, () => {
      assert.deepEqual(lossOptions(grpoOptions.parse({ loss_type, epsilon: 0.1 })), expected[loss_type]);
      const given = { epsilon_high: 0.4, scale_rewards: 'none' } as const;
      assert.deepEqual(lossOptions(grpoOptions.parse({ loss_type, ...given })), given);
    });
  }

  test('the help says them', () => {
    assert.match(help('epsilon_high'), /default: 0\.28 for dapo, 5 for cispo, else epsilon$/u);
    assert.match(help('scale_rewards'), /default: none for dr_grpo, else group$/u);
  });
});

test('bf16 is allowed more between accelerators than f32, and the user decides', () => {
  const unset = grpoOptions.parse({});
  assert.equal(parityBound(unset, 'f32'), 1e-3);
  assert.equal(parityBound(unset, 'bf16'), 0.05);
  const strict = grpoOptions.parse({ parity_bound: 1e-6 });
  for (const dtype of ['f32', 'bf16'] as const) assert.equal(parityBound(strict, dtype), 1e-6);
  assert.match(help('parity_bound'), /default: 0\.001, with bf16 0\.05$/u);
});
