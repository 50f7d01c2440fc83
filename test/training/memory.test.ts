/** What the process takes of memory while it trains is what the memory plans say, and little more. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { cpuFactory } from '../../src/accelerators/cpu/device.ts';
import { memoryItem } from '../../src/bench/memory.ts';
import { widerModel } from '../../src/bench/models.ts';
import { WIDER_SHAPE } from '../../src/bench/training.ts';

const { available, reason } = await cpuFactory.probe();

/**
 * Beyond the plan, in MB: what V8 compiles of the compiler, launches, and the heap's garbage, 10 to 17 in all. A copy of
 * the weights that the host keeps makes 25 of it, a heap that grows as V8 likes 35.
 */
const ROOM = 21;

describe('memory of training', { skip: available ? false : reason }, () => {
  for (const gradientCheckpointing of [false, true])
    test(`the plan ${gradientCheckpointing ? 'with' : 'without'} checkpoints is kept`, async () => {
      const item = memoryItem(widerModel(), WIDER_SHAPE, 'cpu', { gradientCheckpointing });
      const measured = await item.measure(() => assert.fail('it opens a device of its own'));
      assert.ok(typeof measured === 'object' && measured.limit !== null);
      const { value, limit } = measured;
      // Less than planned would be a plan that promises too much.
      assert.ok(value > limit && value < limit + ROOM, `${value} MB instead of ${limit}`);
    });
});
