/** What the process takes of memory while it trains is what the memory plans say, and little more. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { cpuFactory } from '../../src/accelerators/cpu/device.ts';
import { interpreterFactory } from '../../src/accelerators/interpreter.ts';
import { memoryItem } from '../../src/bench/memory.ts';
import { widerModel } from '../../src/bench/models.ts';
import { WIDER_SHAPE } from '../../src/bench/training.ts';
import { parseConfig } from '../../src/models/config.ts';
import { Learner } from '../../src/training/learner.ts';

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

test('a plan that does not fit is an error that says how to train in less', async () => {
  const factory = available ? cpuFactory : interpreterFactory;
  await using device = await factory.open();
  const allocate = device.allocate.bind(device);
  // As cpu and the interpreter say it, and as wasm does.
  let words = 'out of memory on the device';
  device.allocate = (bytes) => {
    if (bytes > 1_000_000) throw new RangeError(words);
    return allocate(bytes);
  };
  const config = parseConfig({
    ...widerModel(),
    hidden_size: 32,
    intermediate_size: 64,
    num_hidden_layers: 2,
    vocab_size: 32,
  });
  for (const gradientCheckpointing of [false, true]) {
    let compiled = 0;
    const options = { gradientCheckpointing, onCompiled: () => compiled++ };
    await using learner = new Learner(device, config, 'f32', options);
    await assert.rejects(learner.prepare({ kind: 'likelihood' }, { sequences: 256, length: 16 }), (error) => {
      assert.ok(error instanceof RangeError);
      assert.ok(error.message.startsWith(words));
      assert.match(error.message, /--per-device-train-batch-size/u);
      assert.equal(error.message.includes('--gradient-checkpointing'), !gradientCheckpointing);
      return true;
    });
    assert.equal(compiled, 0);
    words = 'out of WebAssembly memory';
    // A smaller batch fits the same learner.
    await learner.prepare({ kind: 'likelihood' }, { sequences: 1, length: 4 });
    assert.equal(compiled, 2);
  }
});
