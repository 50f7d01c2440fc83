/** A model's weights in an accelerator's memory. */
import type { Device } from '../accelerators/device.ts';
import type { Qwen3Config } from '../models/config.ts';
import { weightSpecs } from '../models/qwen3.ts';
import type { DType } from '../numerics/dtype.ts';
import { bf16ToF32, f32ToBf16 } from '../numerics/float.ts';
import { ParameterStore } from '../tensor/store.ts';

export type WeightType = 'f32' | 'bf16';

/** Weights by checkpoint name, f32, in the layout of `weightSpecs`. */
export type Weights = ReadonlyMap<string, Float32Array>;

/** The type in which a weight is stored: norms are few, and stay in f32. */
export function storedType(kind: 'embedding' | 'matrix' | 'norm', dtype: WeightType): DType {
  return kind === 'norm' ? 'f32' : dtype;
}

/** Weights as a model of type `dtype` sees them: rounded to it, and widened again. */
export function roundWeights(config: Qwen3Config, weights: Weights, dtype: WeightType): Weights {
  if (dtype === 'f32') return weights;
  return new Map(
    weightSpecs(config).map(({ name, kind }) => {
      const values = weights.get(name)!;
      return [name, storedType(kind, dtype) === 'f32' ? values : bf16ToF32(f32ToBf16(values))];
    }),
  );
}

export class WeightStore {
  readonly store: ParameterStore;
  readonly #config: Qwen3Config;

  /** Allocates every weight, as zeros. */
  constructor(device: Device, config: Qwen3Config, dtype: WeightType) {
    this.store = new ParameterStore(device);
    this.#config = config;
    for (const { name, shape, kind } of weightSpecs(config))
      this.store.create(name, storedType(kind, dtype), shape);
  }

  /** Overwrites every weight. Throws where one is missing or has a wrong number of values. */
  write(weights: Weights): void {
    for (const { name } of weightSpecs(this.#config)) {
      const values = weights.get(name);
      if (values === undefined) throw new Error(`the weight '${name}' is missing`);
      this.store.write(name, values);
    }
  }

  async read(): Promise<Map<string, Float32Array>> {
    const weights = new Map<string, Float32Array>();
    for (const { name } of weightSpecs(this.#config))
      weights.set(name, (await this.store.read(name)) as Float32Array);
    return weights;
  }

  dispose(): void {
    this.store.dispose();
  }
}
