/**
 * The learner: a model with its gradients and optimizer on one accelerator, in four primitives (after Tinker):
 * `forwardBackward` adds a batch's gradients, `optimStep` applies them, `saveState` and `loadState` move everything
 * that defines the next step. Sampling is `inference/engine.ts` on the same parameters.
 */
import type { Device } from '../accelerators/device.ts';
import { attentionShape } from '../inference/attention.ts';
import type { SamplingDistribution } from '../inference/sampling.ts';
import { sampledLogProbability } from '../inference/sampling.ts';
import type { WeightSource, WeightType } from '../inference/weights.ts';
import { WeightStore } from '../inference/weights.ts';
import type { Qwen3Config } from '../models/config.ts';
import { declareWeights, hiddenStates, logits, weightSpecs } from '../models/qwen3.ts';
import { adamwHyper } from '../tensor/adamw.ts';
import { gradients } from '../tensor/gradients.ts';
import { Graph } from '../tensor/graph.ts';
import type { Program } from '../tensor/program.ts';
import { compile } from '../tensor/program.ts';
import type { ParameterStore } from '../tensor/store.ts';
import type { Tensor } from '../tensor/tensor.ts';
import { elementCount } from '../tile/ir.ts';
import { collectGarbage } from './heap.ts';
import { likelihoodLoss, policyLoss } from './losses.ts';
import { adviseOnMemory } from './memory.ts';
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
      /** What the tokens were sampled from. */
      readonly sampling: SamplingDistribution;
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

/** Number of values that `adamwHyper` gives. */
const HYPER_VALUES = 7;
/** Keeps a zero gradient from being divided by zero, as in PyTorch's clip_grad_norm_. */
const CLIP_EPSILON = 1e-6;

/** Names of the optimizer's states of a weight. */
const stateNames = (name: string) => ({ grad: `grad.${name}`, m: `adam.m.${name}`, v: `adam.v.${name}` });

export interface LearnerOptions {
  /** Of the activations, keep only what enters each layer, and compute the rest again for the gradients. */
  readonly gradientCheckpointing?: boolean;
  /** Called when a program has its memory and has not used it yet. */
  readonly onCompiled?: () => void;
}

/** Gradients are NaN or infinite: nothing can be learned any more. */
export class DivergedError extends Error {
  override name = 'DivergedError';
  constructor(step: number, norm: number) {
    super(
      `training has diverged: the norm of the gradients of optimizer step ${step} is ${norm}. Lower --learning-rate, ` +
        'warm up longer (--warmup-steps) or clip gradients (--max-grad-norm); a model to start from must hold no NaN',
    );
  }
}

/** A sequence is longer than the model can read. */
export class SequenceLengthError extends RangeError {
  override name = 'SequenceLengthError';
  /** @param tokens of the sequence, at least */
  constructor(tokens: number, positions: number, subject = 'a sequence to learn from') {
    super(
      `${subject} has ${tokens} tokens, but the model has only ${positions} positions (max_position_embeddings): ` +
        'make prompts and solutions shorter, or train a model that is made with more (--max-position-embeddings)',
    );
  }
}

/** `await using learner = new Learner(…)` disposes of it; its device stays open. */
export class Learner implements AsyncDisposable {
  readonly device: Device;
  readonly config: Qwen3Config;
  readonly #dtype: WeightType;
  readonly #checkpointing: boolean;
  readonly #onCompiled: () => void;
  readonly #weights: WeightStore;
  /** The model before reinforcement, for the KL penalty; made when it is first needed. */
  #reference: WeightStore | null = null;
  readonly #programs = new Map<string, Promise<Program>>();
  #step = 0;

  /**
   * Allocates weights, gradients and moments, as zeros: `setWeights` or `loadState` comes next.
   * @param dtype type in which matrices are multiplied; weights and optimizer state are f32
   */
  constructor(device: Device, config: Qwen3Config, dtype: WeightType, options: LearnerOptions = {}) {
    this.device = device;
    this.config = config;
    this.#dtype = dtype;
    this.#checkpointing = options.gradientCheckpointing ?? false;
    this.#onCompiled = options.onCompiled ?? (() => {});
    this.#weights = new WeightStore(device, config, 'f32');
    for (const { name, shape } of weightSpecs(config)) {
      for (const state of Object.values(stateNames(name))) this.#weights.store.create(state, 'f32', shape);
    }
  }

  /** Optimizer steps since the optimizer was last reset. */
  get step(): number {
    return this.#step;
  }
  /** Overwrites the weights; gradients and moments stay. */
  setWeights(weights: WeightSource): void {
    this.#weights.write(weights);
  }
  /** The present weights, for `RolloutWorker.receive` or `writeModel`. */
  weights(): Promise<Map<string, Float32Array>> {
    return this.#weights.read();
  }
  /** Keeps weights as the reference of the KL penalty. */
  setReference(weights: WeightSource): void {
    this.#reference ??= new WeightStore(this.device, this.config, 'f32');
    this.#reference.write(weights);
  }

  /** Starts a new optimization: gradients and moments become zero, the step count 0. */
  resetOptimizer(): void {
    const sizes = weightSpecs(this.config).map(({ name, shape }) => ({ name, count: elementCount(shape) }));
    const zeros = new Float32Array(Math.max(...sizes.map(({ count }) => count)));
    for (const { name, count } of sizes)
      for (const state of Object.values(stateNames(name)))
        this.#weights.store.write(state, zeros.subarray(0, count));
    this.#step = 0;
  }

  /** Compiles what `forwardBackward` of such batches and `optimStep` take, and allocates its memory, ahead of both. */
  async prepare(objective: Objective, shape: BatchShape): Promise<void> {
    await this.#stepProgram(objective, shape);
    await this.#optimizerProgram();
  }

  /**
   * Adds the gradients of a batch to those that wait for `optimStep`.
   * @throws SequenceLengthError where a sequence has more tokens than the model has positions
   */
  async forwardBackward(objective: Objective, shape: BatchShape, batch: Batch): Promise<StepOutputs> {
    this.#checkPositions(shape, batch.targets);
    // The optimizer too: what compiling takes for a while comes before the blocks of programs are in use, not on top.
    await this.prepare(objective, shape);
    const program = await this.#stepProgram(objective, shape);
    for (const [name, values] of Object.entries(batch)) {
      if (values !== undefined && program.inputs.has(name)) program.write(name, values as Float32Array);
    }
    await program.run();
    const floats = async (name: string) => (await program.read(name)) as Float32Array;
    const policy = objective.kind === 'policy';
    return {
      loss: (await floats('loss'))[0],
      logprob: await floats('logprob'),
      entropy: await floats('entropy'),
      ratio: policy ? await floats('ratio') : null,
      kl: policy && objective.beta > 0 ? await floats('kl') : null,
    };
  }

  /**
   * Applies the gradients that have been added up, clipped to `max_grad_norm`, and clears them.
   * @throws DivergedError where they are no numbers; the weights are none either then
   */
  async optimStep(settings: OptimizerSettings): Promise<{ grad_norm: number }> {
    const program = await this.#optimizerProgram();
    this.#step++;
    const hyper = adamwHyper({
      learningRate: settings.learning_rate,
      beta1: settings.adam_beta1,
      beta2: settings.adam_beta2,
      eps: settings.adam_epsilon,
      weightDecay: settings.weight_decay,
      step: this.#step,
    });
    program.write('hyper', hyper);
    program.write(
      'max_grad_norm',
      Float32Array.of(settings.max_grad_norm > 0 ? settings.max_grad_norm : Number.POSITIVE_INFINITY),
    );
    await program.run();
    const grad_norm = ((await program.read('grad_norm')) as Float32Array)[0];
    if (!Number.isFinite(grad_norm)) throw new DivergedError(this.#step, grad_norm);
    return { grad_norm };
  }

  /** log p of each target under the present model or the reference, [sequences * length]; 0 where there is no target. */
  async logProbabilities(
    tokens: { readonly ids: Int32Array; readonly targets: Int32Array },
    shape: BatchShape,
    sampling: SamplingDistribution,
    model: 'policy' | 'reference',
  ): Promise<Float32Array> {
    if (model === 'reference' && this.#reference === null) throw new Error('no reference model was set');
    const store = model === 'policy' ? this.#weights.store : this.#reference!.store;
    const program = await this.#program(JSON.stringify(['score', model, sampling, shape]), store, () => {
      const g = new Graph();
      const targets = g.input('targets', 'i32', [shape.sequences * shape.length]);
      return {
        g,
        outputs: { logprob: sampledLogProbability(g, this.#forward(g, shape), targets, sampling) },
      };
    });
    program.write('ids', tokens.ids);
    program.write('targets', tokens.targets);
    await program.run();
    return (await program.read('logprob')) as Float32Array;
  }

  /** Everything that defines the next step, by name: weights, moments, and the reference if there is one. */
  async saveState(): Promise<Map<string, { shape: readonly number[]; values: Float32Array }>> {
    const state = new Map<string, { shape: readonly number[]; values: Float32Array }>();
    for (const { name, shape } of weightSpecs(this.config)) {
      const { m, v } = stateNames(name);
      for (const key of [name, m, v])
        state.set(key, { shape, values: (await this.#weights.store.read(key)) as Float32Array });
      if (this.#reference !== null) {
        state.set(`reference.${name}`, {
          shape,
          values: (await this.#reference.store.read(name)) as Float32Array,
        });
      }
    }
    return state;
  }

  /** Restores what `saveState` returned, at optimizer step `step`. Throws where something is missing. */
  loadState(state: ReadonlyMap<string, { readonly values: Float32Array }>, step: number): void {
    const specs = weightSpecs(this.config);
    const values = (key: string) => {
      const found = state.get(key);
      if (found === undefined) throw new Error(`the saved state has no '${key}'`);
      return found.values;
    };
    this.resetOptimizer();
    for (const { name } of specs) {
      const { m, v } = stateNames(name);
      for (const key of [name, m, v]) this.#weights.store.write(key, values(key));
    }
    if (state.has(`reference.${specs[0].name}`)) {
      this.setReference(new Map(specs.map(({ name }) => [name, values(`reference.${name}`)])));
    }
    this.#step = step;
  }

  async dispose(): Promise<void> {
    for (const program of this.#programs.values()) (await program).dispose();
    this.#programs.clear();
    this.#weights.dispose();
    this.#reference?.dispose();
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  /** A longer sequence would be learned at positions at which the model can never be used. Padding may lie there. */
  #checkPositions({ length }: BatchShape, targets: Int32Array): void {
    const { max_position_embeddings: positions } = this.config;
    if (length <= positions) return;
    for (const [place, target] of targets.entries()) {
      // The target of a place stands at the next one.
      const tokens = (place % length) + 2;
      if (target >= 0 && tokens > positions) throw new SequenceLengthError(tokens, positions);
    }
  }

  #stepProgram(objective: Objective, shape: BatchShape): Promise<Program> {
    return this.#program(JSON.stringify(['step', objective, shape]), this.#weights.store, () =>
      this.#stepGraph(objective, shape),
    );
  }
  #optimizerProgram(): Promise<Program> {
    return this.#program('optimizer', this.#weights.store, () => this.#optimizerGraph());
  }

  #program(
    key: string,
    store: ParameterStore,
    build: () => { g: Graph; outputs: Record<string, Tensor> },
  ): Promise<Program> {
    let program = this.#programs.get(key);
    if (program === undefined) {
      const { g, outputs } = build();
      program = compile(g, this.device, store, { outputs })
        .then((compiled) => {
          this.#onCompiled();
          return compiled;
        })
        .catch((error) => {
          this.#programs.delete(key);
          throw adviseOnMemory(error, this.#checkpointing);
        })
        .finally(collectGarbage);
      this.#programs.set(key, program);
    }
    return program;
  }

  /** Logits of every token of a batch; declares the input `ids`. `atLayer` is called with what enters each layer. */
  #forward(g: Graph, { sequences, length }: BatchShape, atLayer?: (x: Tensor) => void): Tensor {
    const { config } = this;
    const rows = sequences * length;
    const ids = g.input('ids', 'i32', [rows]);
    const positions = g.literal(Int32Array.from({ length: rows }, (_, row) => row % length));
    const weights = declareWeights(g, config, 'f32', { compute: this.#dtype });
    const shape = attentionShape(config, sequences);
    const hidden = hiddenStates(g, config, weights, {
      ids,
      positions,
      maxPositions: length,
      attend: (_, q, k, v) => g.attention(q, k, v, shape),
      atLayer,
    });
    return logits(g, config, weights, hidden);
  }

  #stepGraph(objective: Objective, shape: BatchShape): { g: Graph; outputs: Record<string, Tensor> } {
    const g = new Graph();
    const rows = shape.sequences * shape.length;
    const column = (name: keyof Batch) => g.input(name, 'f32', [rows]);
    const checkpoints: Tensor[] = [];
    const scores = this.#forward(g, shape, (x) => checkpoints.push(x));
    const targets = g.input('targets', 'i32', [rows]);
    const { logprob: likelihood, entropy } = g.tokenLogProbability(
      scores,
      targets,
      objective.kind === 'policy' ? objective.sampling.temperature : 1,
    );
    // A policy is judged by the probabilities its tokens were sampled with.
    const logprob =
      objective.kind === 'policy'
        ? sampledLogProbability(g, scores, targets, objective.sampling)
        : likelihood;
    const outputs: Record<string, Tensor> = { logprob, entropy };
    if (objective.kind === 'likelihood') {
      outputs.loss = likelihoodLoss(g, logprob, column('weight'));
    } else {
      const { loss, ratio, kl } = policyLoss(
        g,
        {
          logprob,
          oldLogprob: column('oldLogprob'),
          refLogprob: objective.beta > 0 ? column('refLogprob') : null,
          advantage: column('advantage'),
          weight: column('weight'),
          importance: column('importance'),
          sequenceMean: column('sequenceMean'),
          ...shape,
        },
        objective,
      );
      Object.assign(outputs, { loss, ratio }, kl === null ? {} : { kl });
    }
    const parameters = weightSpecs(this.config).map(({ name }) => g.find(name)!);
    const grads = gradients(g, outputs.loss, parameters, this.#checkpointing ? { checkpoints } : {});
    for (const [i, { name, shape: size }] of weightSpecs(this.config).entries()) {
      const sum = g.state(stateNames(name).grad, 'f32', size);
      g.assign(sum, g.add(sum, grads[i]));
    }
    return { g, outputs };
  }

  #optimizerGraph(): { g: Graph; outputs: Record<string, Tensor> } {
    const g = new Graph();
    const hyper = g.input('hyper', 'f32', [HYPER_VALUES]);
    const limit = g.input('max_grad_norm', 'f32', [1]);
    const specs = weightSpecs(this.config);
    const grads = specs.map(({ name, shape }) => g.state(stateNames(name).grad, 'f32', shape));
    const squares = grads.map((grad) => g.sum(g.mul(grad, grad)));
    const norm = g.sqrt(squares.reduce((sum, square) => g.add(sum, square)));
    const scale = g.min(g.div(limit, g.add(norm, CLIP_EPSILON)), 1);
    specs.forEach(({ name, shape, kind }, i) => {
      const names = stateNames(name);
      const parameter = g.parameter(name, 'f32', shape);
      const [m, v] = [g.state(names.m, 'f32', shape), g.state(names.v, 'f32', shape)];
      g.adamw(parameter, g.mul(grads[i], scale), m, v, hyper, { decay: kind !== 'norm' });
      g.assign(grads[i], g.constant(0, 'f32', shape));
    });
    return { g, outputs: { grad_norm: norm } };
  }
}
