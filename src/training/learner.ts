/**
 * The learner: a model with its gradients and optimizer on one accelerator, in four primitives (after Tinker):
 * `forwardBackward` adds a batch's gradients, `optimStep` applies them, `saveState` and `loadState` move everything
 * that defines the next step. Sampling is `inference/engine.ts` on the same parameters.
 */
import type { Device } from '../accelerators/device.ts';
import type { Qwen3Config } from '../models/config.ts';
import { declareWeights, hiddenStates, logits, weightSpecs } from '../models/qwen3.ts';
import { gradients } from '../tensor/gradients.ts';
import type { Tensor } from '../tensor/graph.ts';
import { Graph } from '../tensor/graph.ts';
import type { Program } from '../tensor/program.ts';
import { compile } from '../tensor/program.ts';
import type { ParameterStore } from '../tensor/store.ts';
import { likelihoodLoss, policyLoss } from './losses.ts';
import type { LossType } from './options.ts';

/** Sequences of equal padded length; token arrays are [sequences * length], sequence after sequence. */
export interface BatchShape {
  readonly sequences: number;
  readonly length: number;
}

/** What a step trains for; a program is compiled for each. */
export type Objective =
  | { readonly kind: 'likelihood' }
  | {
      readonly kind: 'policy';
      readonly loss_type: LossType;
      readonly epsilon: number;
      readonly epsilon_high: number;
      readonly beta: number;
      readonly temperature: number;
      readonly top_k: number;
      readonly top_p: number;
    };

/** Token arrays, all [sequences * length]; those that an objective does not use may be left out. */
export interface Batch {
  readonly ids: Int32Array;
  /** The token that follows each token; negative: none. */
  readonly targets: Int32Array;
  /** Weight of each target in the loss (`advantages.ts`). */
  readonly weight: Float32Array;
  readonly advantage?: Float32Array;
  readonly oldLogprob?: Float32Array;
  readonly refLogprob?: Float32Array;
  readonly importance?: Float32Array;
  readonly sequenceMean?: Float32Array;
}

export interface StepOutputs {
  readonly loss: number;
  /** log p of each target, [sequences * length]. */
  readonly logprob: Float32Array;
  readonly entropy: Float32Array;
  /** Policy objectives only. */
  readonly ratio: Float32Array | null;
  readonly kl: Float32Array | null;
}

export interface OptimizerSettings {
  readonly learning_rate: number;
  readonly weight_decay: number;
  readonly adam_beta1: number;
  readonly adam_beta2: number;
  readonly adam_epsilon: number;
  readonly max_grad_norm: number;
}

/** Names of the optimizer's states of a weight. */
const stateNames = (name: string) => ({ grad: `grad.${name}`, m: `adam.m.${name}`, v: `adam.v.${name}` });

/** Values of `adamwHyper`, then the largest gradient norm. */
const HYPER_VALUES = 8;

/** Sampling settings whose log-probabilities a policy objective uses. */
export type SamplingDistribution = Pick<Objective & { kind: 'policy' }, 'temperature' | 'top_k' | 'top_p'>;

export class Learner {
  readonly device: Device;
  readonly config: Qwen3Config;
  readonly #dtype: 'f32' | 'bf16';
  readonly #weights: WeightStore;
  /** Reference model of the KL penalty, made when it is first needed. */
  #reference: WeightStore | null = null;
  readonly #programs = new Map<string, Promise<Program>>();
  #version = 0;

  constructor(device: Device, config: Qwen3Config, dtype: 'f32' | 'bf16') {
    this.device = device;
    this.config = config;
    this.#dtype = dtype;
    // The optimizer needs all of f32; bf16 copies are made for the multiplications.
    this.#weights = new WeightStore(device, config, 'f32');
  }

  get store(): ParameterStore {
    return this.#weights.store;
  }
  /** Optimizer steps behind the weights. */
  get version(): number {
    return this.#version;
  }

  setWeights(weights: ReadonlyMap<string, Float32Array>): void {
    this.#weights.write(weights);
  }
  weights(): Promise<Map<string, Float32Array>> {
    return this.#weights.read();
  }
  /** Keeps the present weights as the reference of the KL penalty. */
  async setReference(weights?: ReadonlyMap<string, Float32Array>): Promise<void> {
    this.#reference ??= new WeightStore(this.device, this.config, 'f32');
    this.#reference.write(weights ?? (await this.weights()));
  }
  /** The reference's weights, or null where there is none. */
  async reference(): Promise<Map<string, Float32Array> | null> {
    return this.#reference === null ? null : this.#reference.read();
  }
  /** Starts a new optimization: moments become zero, the step count 0. */
  resetOptimizer(): void {
    for (const { name, shape } of weightSpecs(this.config)) {
      const zeros = new Float32Array(elementCount(shape));
      for (const state of Object.values(stateNames(name))) this.store.write(state, zeros);
    }
    this.#version = 0;
  }
}
