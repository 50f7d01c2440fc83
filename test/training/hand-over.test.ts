import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parityBound } from '../../src/training/hand-over.ts';
import { grpoOptions } from '../../src/training/options.ts';

test('bf16 is allowed more between accelerators than f32, and the user decides', () => {
  const unset = grpoOptions.parse({});
  assert.equal(parityBound({ grpo: unset, dtype: 'f32' }), 1e-3);
  assert.equal(parityBound({ grpo: unset, dtype: 'bf16' }), 0.05);
  const strict = grpoOptions.parse({ parity_bound: 1e-6 });
  for (const dtype of ['f32', 'bf16'] as const) assert.equal(parityBound({ grpo: strict, dtype }), 1e-6);
});
