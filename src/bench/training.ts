/** Training steps: forward pass, backward pass and optimizer; and what compiling one costs. */
import type { Device } from '../accelerators/device.ts';
import type { Weights, WeightType } from '../inference/weights.ts';
import type { Qwen3Config } from '../models/config.ts';
import { ropeTheta } from '../models/config.ts';
import { Random } from '../numerics/random.ts';
import type { Batch, BatchShape, LearnerOptions, OptimizerSettings } from '../training/learner.ts';
import { Learner } from '../training/learner.ts';
import { initialWeightSource, initialWeights } from '../training/new-model.ts';
import type { Item, PeerItem } from './item.ts';
import { arithmeticPeak } from './item.ts';
import { forwardOperations, modelSize, recipeModel, widerModel } from './models.ts';
import { secondsEach } from './timing.ts';

export const OPTIMIZER: OptimizerSettings = {
  learning_rate: 1e-3,
  weight_decay: 0.01,
  adam_beta1: 0.9,
  adam_beta2: 0.98,
  adam_epsilon: 1e-8,
  max_grad_norm: 1,
};
/** A backward pass has two products for each of the forward pass. */
const PASSES = 3;

export interface TrainingOptions extends LearnerOptions {
  /** What is multiplied in; f32 where left out. */
  readonly dtype?: WeightType;
}

export const label = (
  config: Qwen3Config,
  { sequences, length }: BatchShape,
  { gradientCheckpointing }: LearnerOptions = {},
) => `${modelSize(config)}, ${sequences}x${length}${gradientCheckpointing ? ', recomputing' : ''}`;

function randomBatch({ vocab_size }: Qwen3Config, { sequences, length }: BatchShape): Batch {
  const random = new Random(0, 'bench-training');
  const count = sequences * length;
  const ids = Int32Array.from({ length: count }, () => random.below(vocab_size));
  const targets = ids.map((_, i) => ids[(i + 1) % count]);
  return { ids, targets, weight: new Float32Array(count).fill(1 / count) };
}

/** Hands a training step of a fresh model to `use`, and releases everything after it. */
export async function withStep<T>(
  device: Device,
  config: Qwen3Config,
  shape: BatchShape,
  { dtype = 'f32', ...options }: TrainingOptions,
  use: (step: () => Promise<void>) => Promise<T>,
): Promise<T> {
  const learner = new Learner(device, config, dtype, options);
  try {
    learner.setWeights(initialWeightSource(config, 0));
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

/** The same training for PyTorch. */
export function trainingPeer(
  kind: string,
  config: Qwen3Config,
  { sequences, length }: BatchShape,
  dtype: WeightType = 'f32',
): PeerItem {
  return {
    kind,
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
    dtype,
  };
}

/** Tokens a second of whole training steps. */
export function trainStepItem(
  config: Qwen3Config,
  shape: BatchShape,
  device: string,
  options: TrainingOptions = {},
): Item {
  const { sequences, length } = shape;
  const { dtype = 'f32' } = options;
  const peer = trainingPeer('train-step', config, shape, dtype);
  // Causal attention: on average a token attends to half the sequence.
  const operations = PASSES * forwardOperations(config, (length + 1) / 2);
  return {
    name: 'train-step',
    shape: label(config, shape, options),
    dtype,
    device,
    unit: 'tokens/s',
    limit: (limits) => {
      const peak = arithmeticPeak(limits, device, dtype);
      return peak === null ? null : peak / operations;
    },
    // Peers keep what they computed.
    peers: options.gradientCheckpointing
      ? {}
      : { pytorch: peer, 'torch.compile': { ...peer, compile: true } },
    async measure(open) {
      const opened = await open();
      try {
        const seconds = await withStep(opened, config, shape, options, (step) =>
          secondsEach(async (repeat) => {
            for (let i = 0; i < repeat; i++) await step();
          }),
        );
        return (sequences * length) / seconds;
      } finally {
        await opened.close();
      }
    },
    profile: (opened, trace) =>
      withStep(opened, config, shape, options, async (step) => {
        await step();
        await trace(step);
      }),
  };
}

/**
 * Seconds until a training step could run. Cold: from nothing, with opening the device, building graphs and generating
 * code. Cached: of a second learner on a device that has the code.
 */
export function compileItem(
  config: Qwen3Config,
  shape: BatchShape,
  device: string,
  when: 'cold' | 'cached',
): Item {
  return {
    name: 'compile',
    shape: `${label(config, shape)}, ${when}`,
    dtype: 'f32',
    device,
    unit: 's',
    limit: () => null,
    peers: {},
    async measure(open) {
      const weights = initialWeights(config, 0);
      const start = performance.now();
      const opened = await open();
      try {
        const cold = await secondsToPrepare(opened, config, shape, weights, start);
        if (when === 'cold') return cold;
        return await secondsToPrepare(opened, config, shape, weights, performance.now());
      } finally {
        await opened.close();
      }
    },
  };
}

/** From `start` until a new learner could run a step. Memory that its programs have not touched costs nothing yet. */
async function secondsToPrepare(
  device: Device,
  config: Qwen3Config,
  shape: BatchShape,
  weights: Weights,
  start: number,
): Promise<number> {
  await using learner = new Learner(device, config, 'f32');
  learner.setWeights(weights);
  learner.resetOptimizer();
  await learner.prepare({ kind: 'likelihood' }, shape);
  return (performance.now() - start) / 1000;
}

const RECIPE_SHAPE = { sequences: 256, length: 32 };
export const WIDER_SHAPE = { sequences: 16, length: 256 };

export const trainStepItems = (device: string): Item[] => [
  trainStepItem(recipeModel(), RECIPE_SHAPE, device),
  trainStepItem(widerModel(), WIDER_SHAPE, device),
  // The activations of layers are computed a second time rather than kept: a third more arithmetic, not counted here.
  trainStepItem(widerModel(), WIDER_SHAPE, device, { gradientCheckpointing: true }),
  trainStepItem(widerModel(), WIDER_SHAPE, device, { dtype: 'bf16' }),
];
export const compileItems = (device: string): Item[] =>
  (['cold', 'cached'] as const).map((when) => compileItem(recipeModel(), RECIPE_SHAPE, device, when));
