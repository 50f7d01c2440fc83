import assert from 'node:assert/strict';
import { test } from 'node:test';
import { paddedLength } from '../../src/training/batches.ts';

test('rows are padded to few lengths, and by little', () => {
  const lengths = new Set<number>();
  for (let longest = 1; longest <= 4096; longest++) {
    const length = paddedLength(longest);
    lengths.add(length);
    assert.ok(length >= longest && length % 4 === 0, `${longest} to ${length}`);
    assert.ok(length - longest < Math.max(4, longest / 4), `${longest} to ${length}`);
    assert.equal(paddedLength(length), length);
  }
  // A program each: eight up to 32, then four from each power of two to the next.
  assert.equal(lengths.size, 8 + 4 * 7);
});
