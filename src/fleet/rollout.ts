/** The rollout role: holds a copy of the model on its accelerator, takes new weights, samples completions. */
import type { Device } from '../accelerators/device.ts';
import type { Generation, GenerationRequest, SamplingSettings } from '../inference/engine.ts';
import { Engine } from '../inference/engine.ts';
import { WeightStore } from '../inference/weights.ts';
import type { Qwen3Config } from '../models/config.ts';
import { weightSpecs } from '../models/qwen3.ts';
import { Checksum } from '../numerics/checksum.ts';
import type { ParameterStore } from '../tensor/store.ts';

/** A completion as it was sampled. It carries its tokens, so that text is never tokenised again. */
export interface Rollout extends Generation {
  readonly prompt: readonly number[];
  /** Version of the weights (optimizer steps behind them) that sampled each token. */
  readonly weightVersions: readonly number[];
}

export interface WeightUpdate {
  readonly version: number;
  readonly weights: ReadonlyMap<string, Float32Array>;
}

/** Whoever samples for the learner. */
export interface Sampler {
  /** Its accelerator, for people and for the parity gate: equal names mean equal to the bit. */
  readonly name: string;
  /** Version of the weights that were received last; -1 before. */
  readonly weightVersion: number;
  /** Takes new weights, and returns the checksum of what then lies in the accelerator's memory. */
  receive(update: WeightUpdate): Promise<string>;
  /**
   * A completion for each request, in their order. With the seed, a request's id decides its random numbers, whatever
   * else is in the batch: for several completions of one prompt give several ids.
   */
  sample(requests: readonly GenerationRequest[], settings: SamplingSettings): Promise<Rollout[]>;
  dispose(): Promise<void>;
}

/** Checksum of a model's weights, in the order of its weight list. */
export function weightsChecksum(config: Qwen3Config, weights: ReadonlyMap<string, Float32Array>): string {
  const checksum = new Checksum();
  for (const { name } of weightSpecs(config)) {
    const values = weights.get(name)!;
    checksum.update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  }
  return checksum.digest();
}

/** `await using worker = new RolloutWorker(…)` disposes of it; its device stays open. */
export class RolloutWorker implements Sampler, AsyncDisposable {
  readonly device: Device;
  readonly #config: Qwen3Config;
  readonly #weights: WeightStore;
  readonly #engine: Engine;
  #version = -1;

  /** Allocates the weights, as zeros: `receive` some before sampling. `dtype`: type in which matrices are stored. */
  constructor(device: Device, config: Qwen3Config, dtype: 'f32' | 'bf16') {
    this.device = device;
    this.#config = config;
    this.#weights = new WeightStore(device, config, dtype);
    this.#engine = new Engine(device, this.#weights.store, config, dtype);
  }

  /** The weights, for other programs on this accelerator. */
  get store(): ParameterStore {
    return this.#weights.store;
  }

  get name(): string {
    return this.device.info.name;
  }

  get weightVersion(): number {
    return this.#version;
  }

  async receive({ version, weights }: WeightUpdate): Promise<string> {
    this.#weights.write(weights);
    this.#version = version;
    return weightsChecksum(this.#config, await this.#weights.read());
  }

  async sample(requests: readonly GenerationRequest[], settings: SamplingSettings): Promise<Rollout[]> {
    const version = this.#version;
    const generations = await this.#engine.generate(requests, settings);
    return generations.map((generation, i) => ({
      ...generation,
      prompt: requests[i].tokens,
      weightVersions: generation.tokens.map(() => version),
    }));
  }

  async dispose(): Promise<void> {
    await this.#engine.dispose();
    this.#weights.dispose();
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}
