/** A model's weights in an accelerator's memory. */
import type { Device } from '../accelerators/device.ts';
import { transposed } from '../checkpoint/layout.ts';
import { packPanels, unpackPanels } from '../kernels/panels.ts';
import type { QuantizedType } from '../kernels/quantized.ts';
import { isQuantized, quantizedTypes } from '../kernels/quantized.ts';
import type { Qwen3Config } from '../models/config.ts';
import type { WeightTensors } from '../models/linear.ts';
import type { WeightLayout, WeightSpec } from '../models/qwen3.ts';
import { declareWeights, heldTensors, matrixShape, weightSpecs } from '../models/qwen3.ts';
import type { DType } from '../numerics/dtype.ts';
import { bf16ToF32, f32ToBf16 } from '../numerics/float.ts';
import type { Graph } from '../tensor/graph.ts';
import { ParameterStore } from '../tensor/store.ts';
import { elementCount } from '../tile/ir.ts';

export type WeightType = 'f32' | 'bf16';

/** Types in which inference can hold matrices. */
export type HeldType = WeightType | QuantizedType;
export const HELD_TYPES: readonly HeldType[] = ['f32', 'bf16', ...quantizedTypes];

/** What inference multiplies in, and how the matrices lie. */
export interface WeightForm {
  readonly dtype: HeldType;
  readonly layout: WeightLayout;
}

/** The weights in `store` as those of a graph for inference. f32 may be multiplied with what is held in bf16. */
export function inferenceWeights(
  g: Graph,
  config: Qwen3Config,
  store: ParameterStore,
  { dtype, layout }: WeightForm,
): WeightTensors {
  if (isQuantized(dtype)) return declareWeights(g, config, dtype, { layout });
  const embedding = weightSpecs(config).find(({ kind }) => kind === 'embedding') as WeightSpec;
  const held = store.get(embedding.name).type.dtype === 'bf16' ? 'bf16' : 'f32';
  return declareWeights(g, config, held, { layout, compute: dtype });
}

/** Weights by checkpoint name, f32, in the layout of `weightSpecs`. */
export type Weights = ReadonlyMap<string, Float32Array>;

/**
 * Where weights are asked for one by one, so that not all of them need to be in the host's memory at once: what `get`
 * returned may change when it is called again.
 */
export type WeightSource = Pick<Weights, 'get'>;

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
  readonly layout: WeightLayout;
  readonly #config: Qwen3Config;
  readonly #dtype: HeldType;

  /** Allocates every weight, as zeros. Throws RangeError where a matrix cannot be held in `dtype` and `layout`. */
  constructor(device: Device, config: Qwen3Config, dtype: HeldType, layout: WeightLayout = 'rows') {
    const held = weightSpecs(config).flatMap((spec) => heldTensors(config, spec, dtype, layout));
    this.store = new ParameterStore(device);
    this.layout = layout;
    this.#config = config;
    this.#dtype = dtype;
    for (const { name, dtype, shape } of held) this.store.create(name, dtype, shape);
  }

  /** Overwrites every weight. Throws where one is missing or has a wrong number of values, or they are quantized. */
  write(weights: WeightSource): void {
    this.#checkPlain();
    for (const spec of weightSpecs(this.#config)) {
      const { name, shape, kind } = spec;
      const values = weights.get(name);
      if (values === undefined) throw new Error(`the weight '${name}' is missing`);
      const count = elementCount(shape);
      if (values.length !== count)
        throw new Error(`the weight '${name}' has ${values.length} values, not ${count}`);
      const matrix = this.layout === 'rows' ? null : matrixShape(this.#config, spec);
      if (matrix === null) this.store.write(name, values);
      else {
        const rows = kind === 'embedding' ? transposed(values, matrix[1], matrix[0]) : values;
        this.store.write(name, packPanels(rows, ...matrix, this.store.get(name).type.dtype));
      }
    }
  }

  /** The weights' values. Throws where they are quantized. */
  async read(): Promise<Map<string, Float32Array>> {
    this.#checkPlain();
    const weights = new Map<string, Float32Array>();
    for (const spec of weightSpecs(this.#config)) {
      const values = (await this.store.read(spec.name)) as Float32Array;
      const matrix = this.layout === 'rows' ? null : matrixShape(this.#config, spec);
      if (matrix === null) weights.set(spec.name, values);
      else {
        const rows = unpackPanels(values, ...matrix, this.store.get(spec.name).type.dtype);
        weights.set(spec.name, spec.kind === 'embedding' ? transposed(rows, ...matrix) : rows);
      }
    }
    return weights;
  }

  #checkPlain(): void {
    if (isQuantized(this.#dtype))
      throw new Error(`weights held in ${this.#dtype} come from files (loadWeights), not from or to arrays`);
  }

  dispose(): void {
    this.store.dispose();
  }
}
