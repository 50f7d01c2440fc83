/** The matrix products of programs that people run, from the programs themselves. */
import type { Device, Executable } from '../accelerators/device.ts';
import { Engine } from '../inference/engine.ts';
import type { WeightType } from '../inference/weights.ts';
import { WeightStore } from '../inference/weights.ts';
import type { Schedule } from '../kernels/schedule.ts';
import { productName } from '../kernels/schedule.ts';
import type { Qwen3Config } from '../models/config.ts';
import type { WeightLayout } from '../models/qwen3.ts';
import type { BatchShape } from '../training/learner.ts';
import { Learner } from '../training/learner.ts';
import { POLICY, zeroBatch } from './counters.ts';
import { settings } from './decoding.ts';
import { recipeModel, widerModel } from './models.ts';
import { OutlineDevice } from './outline.ts';
import { WIDER_SHAPE } from './training.ts';
import type { TunedProduct } from './tune.ts';

/** Notes every product that programs for `real` have; compiles and runs nothing. */
class ProductNotes extends OutlineDevice {
  override readonly schedule: Schedule;
  readonly found = new Map<string, TunedProduct>();

  constructor(real: Device) {
    super(real);
    const measured = (product: TunedProduct) => {
      const name = productName(product);
      if (!this.found.has(name)) this.found.set(name, product);
      return undefined;
    };
    // What is asked for is what `matmul` builds, with its epilogue.
    this.schedule = { ...real.schedule, measured: measured as Schedule['measured'] };
  }
  override async compile(): Promise<Executable> {
    return { run: async () => {}, dispose() {} };
  }
}

/** What a model does, as far as its products are concerned. */
type Work = (device: Device) => Promise<void>;

const trainingStep =
  (config: Qwen3Config, dtype: WeightType, shape: BatchShape, kind: 'likelihood' | 'policy'): Work =>
  async (device) => {
    await using learner = new Learner(device, config, dtype);
    await learner.forwardBackward(kind === 'policy' ? POLICY : { kind }, shape, zeroBatch(shape));
  };

/** How a model's matrices are held and multiplied. */
export interface Form {
  readonly held: WeightType;
  readonly computed: WeightType;
  readonly layout: WeightLayout;
}

/** Tokens that are generated: the first one's program and the next one's are different. */
const NEW = 2;

const generation =
  (config: Qwen3Config, { held, computed, layout }: Form, batch: number, prompt: number): Work =>
  async (device) => {
    const weights = new WeightStore(device, config, held, layout);
    const model = { ...config, eos_token_id: null };
    const engine = new Engine(device, weights.store, model, computed, layout);
    try {
      const tokens = new Array<number>(Math.min(prompt, config.max_position_embeddings - NEW)).fill(0);
      await engine.generate(
        Array.from({ length: batch }, (_, id) => ({ id, tokens })),
        settings(NEW),
      );
    } finally {
      await engine.dispose();
      weights.dispose();
    }
  };

async function productsOf(real: Device, works: readonly Work[]): Promise<TunedProduct[]> {
  const notes = new ProductNotes(real);
  for (const work of works) await work(notes);
  return [...notes.found.values()];
}

/** Each product of several lists once, by name. */
export const distinct = (lists: readonly (readonly TunedProduct[])[]): TunedProduct[] => [
  ...new Map(lists.flat().map((product) => [productName(product), product])).values(),
];

/** Rows that the default task's sequences are padded to: short and long examples of its cold start, and completions. */
const RECIPE_LENGTHS = { short: 20, long: 28 };
const COLD_START = 64;
const ROLLOUTS = 512;

/** Of `tandem start`. */
export function recipeProducts(real: Device): Promise<TunedProduct[]> {
  const config = recipeModel();
  const { short, long } = RECIPE_LENGTHS;
  return productsOf(real, [
    trainingStep(config, 'f32', { sequences: COLD_START, length: short }, 'likelihood'),
    trainingStep(config, 'f32', { sequences: COLD_START, length: long }, 'likelihood'),
    trainingStep(config, 'f32', { sequences: ROLLOUTS, length: long }, 'policy'),
    generation(config, { held: 'f32', computed: 'f32', layout: 'rows' }, ROLLOUTS, 16),
  ]);
}

/** Of the training steps that `tandem bench` measures with a wider model. */
export const widerProducts = (real: Device): Promise<TunedProduct[]> =>
  productsOf(
    real,
    (['f32', 'bf16'] as const).map((dtype) => trainingStep(widerModel(), dtype, WIDER_SHAPE, 'likelihood')),
  );

/** Sequences that are generated at once, and tokens of their prompts. */
const GENERATED = [
  { batch: 1, prompt: 512 },
  { batch: 1, prompt: 64 },
  { batch: 16, prompt: 4 },
  { batch: 64, prompt: 1 },
];

/** Of a model that generates: one conversation with a long prompt, and batches. */
export const generationProducts = (real: Device, config: Qwen3Config, form: Form): Promise<TunedProduct[]> =>
  productsOf(
    real,
    GENERATED.map(({ batch, prompt }) => generation(config, form, batch, prompt)),
  );
