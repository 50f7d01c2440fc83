/** Training steps: forward pass, backward pass and optimizer; and what compiling one costs. */
import type { Device } from '../accelerators/device.ts';
import type { Qwen3Config } from '../models/config.ts';
import { ropeTheta } from '../models/config.ts';
import { Random } from '../numerics/random.ts';
import type { Batch, BatchShape, OptimizerSettings } from '../training/learner.ts';
import { Learner } from '../training/learner.ts';
import { initialWeights } from '../training/new-model.ts';
import type { Item } from './item.ts';
import { arithmeticPeak } from './item.ts';
import { forwardOperations, modelSize, recipeModel, widerModel } from './models.ts';
import { secondsEach } from './timing.ts';

const OPTIMIZER: OptimizerSettings = {
  learning_rate: 1e-3,
  weight_decay: 0.01,
  adam_beta1: 0.9,
  adam_beta2: 0.98,
  adam_epsilon: 1e-8,
  max_grad_norm: 1,
};
/** A backward pass has two products for each of the forward pass. */
const PASSES = 3;

const label = (config: Qwen3Config, { sequences, length }: BatchShape) =>
  `${modelSize(config)}, ${sequences}x${length}`;

function randomBatch({ vocab_size }: Qwen3Config, { sequences, length }: BatchShape): Batch {
  const random = new Random(0, 'bench-training');
  const count = sequences * length;
  const ids = Int32Array.from({ length: count }, () => random.below(vocab_size));
  const targets = ids.map((_, i) => ids[(i + 1) % count]);
  return { ids, targets, weight: new Float32Array(count).fill(1 / count) };
}

/** Hands a training step of a fresh model to `use`, and releases everything after it. */
async function withStep<T>(
  device: Device,
  config: Qwen3Config,
  shape: BatchShape,
  use: (step: () => Promise<void>) => Promise<T>,
): Promise<T> {
  const learner = new Learner(device, config, 'f32');
  try {
    learner.setWeights(initialWeights(config, 0));
    learner.resetOptimizer();
    const batch = randomBatch(config, shape);
    return await use(async () => {
      const { loss } = await learner.forwardBackward({ kind: 'likelihood' }, shape, batch);
      // A step that computes nonsense has no speed.
      if (!Number.isFinite(loss)) throw new Error(`the loss of the training step is ${loss}`);
      await learner.optimStep(OPTIMIZER);
    });
  } finally {
    await learner.dispose();
  }
}

/** Tokens a second of whole training steps in f32. */
export function trainStepItem(config: Qwen3Config, shape: BatchShape): Item {
  const { sequences, length } = shape;
  // Causal attention: on average a token attends to half the sequence.
  const operations = PASSES * forwardOperations(config, (length + 1) / 2);
  return {
    name: 'train-step',
    shape: label(config, shape),
    dtype: 'f32',
    unit: 'tokens/s',
    limit: (limits) => arithmeticPeak(limits) / operations,
    peer: {
      kind: 'train-step',
      sequences,
      length,
      vocabulary: config.vocab_size,
      hidden: config.hidden_size,
      inner: config.intermediate_size,
      layers: config.num_hidden_layers,
      heads: config.num_attention_heads,
      kv_heads: config.num_key_value_heads,
      head_dim: config.head_dim,
      rope_theta: ropeTheta(config),
      ...OPTIMIZER,
    },
    async measure(open) {
      const device = await open();
      try {
        const seconds = await withStep(device, config, shape, (step) =>
          secondsEach(async (repeat) => {
            for (let i = 0; i < repeat; i++) await step();
          }),
        );
        return (sequences * length) / seconds;
      } finally {
        await device.close();
      }
    },
  };
}

/** Seconds from nothing until a training step could run: opening the device, building graphs, generating code. */
export function compileItem(config: Qwen3Config, shape: BatchShape): Item {
  return {
    name: 'compile',
    shape: label(config, shape),
    dtype: 'f32',
    unit: 's',
    limit: () => null,
    peer: null,
    async measure(open) {
      const start = performance.now();
      const device = await open();
      try {
        return await withStep(device, config, shape, async (step) => {
          await step();
          const first = performance.now();
          // What the first step itself took, once compiled, is what the second takes.
          await step();
          const second = performance.now();
          return (first - start - (second - first)) / 1000;
        });
      } finally {
        await device.close();
      }
    },
  };
}

const RECIPE_SHAPE = { sequences: 256, length: 32 };
const WIDER_SHAPE = { sequences: 16, length: 256 };

export const trainStepItems = (): Item[] => [
  trainStepItem(recipeModel(), RECIPE_SHAPE),
  trainStepItem(widerModel(), WIDER_SHAPE),
];
export const compileItems = (): Item[] => [compileItem(recipeModel(), RECIPE_SHAPE)];
