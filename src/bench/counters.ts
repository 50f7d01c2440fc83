/** What a decode step and a training step take of a device: launches, barriers, bytes and the host's part. */
import type { Device } from '../accelerators/device.ts';
import { Engine } from '../inference/engine.ts';
import { UNTRUNCATED } from '../inference/sampling.ts';
import type { HeldType, WeightType } from '../inference/weights.ts';
import { WeightStore } from '../inference/weights.ts';
import type { Qwen3Config } from '../models/config.ts';
import type { Batch, BatchShape, Objective } from '../training/learner.ts';
import { Learner } from '../training/learner.ts';
import { settings } from './decoding.ts';
import { modelSize, recipeModel } from './models.ts';
import type { Counters } from './outline.ts';
import { combineCounters, OutlineDevice } from './outline.ts';
import { qwen3Small } from './synthetic.ts';
import { OPTIMIZER } from './training.ts';

export interface CountedStep {
  readonly step: 'decode' | 'train';
  readonly model: string;
  readonly shape: string;
  readonly dtype: HeldType;
  /** Of one step; those of the host may be fractions, where it looks at the device once in several steps. */
  readonly counters: Counters;
  /** Launches that one more transformer layer adds to a step. */
  readonly launchesPerLayer: number;
}

/** Of tokens a sequence has room for, prompt included. */
const CAPACITY = 1024;
const PROMPT = 4;
/** A multiple of the steps that the engine hands over at once. */
const TOKENS = 64;

/** One token more for each of `batch` sequences, with matrices as inference holds them. */
export async function countDecoding(
  real: Device,
  config: Qwen3Config,
  dtype: HeldType,
  batch: number,
): Promise<Counters> {
  // The outline samples zeros: without an end-of-text token every sequence has its full length.
  const model = { ...config, eos_token_id: null };
  const generated = async (maxTokens: number) => {
    const device = new OutlineDevice(real);
    const weights = new WeightStore(device, model, dtype, 'panels');
    const engine = new Engine(device, weights.store, model, dtype, 'panels');
    const tokens = new Array<number>(PROMPT).fill(0);
    // The longest answer first: its cache serves the short one too.
    await engine.generate(
      Array.from({ length: batch }, (_, id) => ({ id, tokens })),
      settings(maxTokens),
    );
    await engine.dispose();
    weights.dispose();
    return device.counters;
  };
  const most = CAPACITY - PROMPT;
  const [long, short] = [await generated(most), await generated(most - TOKENS)];
  return combineCounters(long, short, (a, b) => (a - b) / TOKENS);
}

/** What reinforcement maximises by default. */
export const POLICY: Objective = {
  kind: 'policy',
  loss_type: 'dapo',
  epsilon: 0.2,
  epsilon_high: 0.28,
  beta: 0,
  sampling: UNTRUNCATED,
};

/** A batch for what runs nothing. */
export function zeroBatch({ sequences, length }: BatchShape): Batch {
  const count = sequences * length;
  const integers = () => new Int32Array(count);
  const floats = () => new Float32Array(count);
  return {
    ids: integers(),
    targets: integers(),
    weight: floats(),
    advantage: floats(),
    oldLogprob: floats(),
    importance: floats(),
    sequenceMean: floats(),
  };
}

/** A step of reinforcement learning on one batch: gradients of the objective, and AdamW. */
export async function countTraining(
  real: Device,
  config: Qwen3Config,
  dtype: WeightType,
  shape: BatchShape,
): Promise<Counters> {
  const device = new OutlineDevice(real);
  await using learner = new Learner(device, config, dtype);
  const before = device.counters;
  await learner.forwardBackward(POLICY, shape, zeroBatch(shape));
  await learner.optimStep(OPTIMIZER);
  return combineCounters(device.counters, before, (a, b) => a - b);
}

/**
 * What is counted: the model that `tandem start` trains, and one of the size of Qwen3-0.6B, which decodes with quantized
 * matrices too. Nothing is computed.
 */
export async function countSteps(real: Device): Promise<CountedStep[]> {
  const steps: CountedStep[] = [];
  for (const { model, name, dtypes, train } of [
    { model: recipeModel(), dtypes: ['f32'], train: { sequences: 512, length: 24 } },
    {
      model: qwen3Small(),
      name: 'Qwen3-0.6B',
      dtypes: ['bf16', 'int8', 'int4'],
      train: { sequences: 8, length: 512 },
    },
  ] as const) {
    const add = async (
      step: CountedStep['step'],
      dtype: HeldType,
      shape: string,
      count: (config: Qwen3Config) => Promise<Counters>,
    ) => {
      const layers = model.num_hidden_layers;
      const [counters, fewer] = [
        await count(model),
        await count({ ...model, num_hidden_layers: layers - 1 }),
      ];
      const launchesPerLayer = counters.launches - fewer.launches;
      steps.push({ step, model: name ?? modelSize(model), shape, dtype, counters, launchesPerLayer });
    };
    for (const dtype of dtypes)
      await add('decode', dtype, 'batch 1', (config) => countDecoding(real, config, dtype, 1));
    const [trained] = dtypes;
    await add('train', trained, `${train.sequences}x${train.length}`, (config) =>
      countTraining(real, config, trained, train),
    );
  }
  return steps;
}
