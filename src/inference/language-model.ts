/** A model with its tokenizer on an accelerator: generate text, score tokens. */
import type { Device } from '../accelerators/device.ts';
import type { Tokenizer } from '../checkpoint/tokenizer.ts';
import type { Qwen3Config } from '../models/config.ts';
import { hiddenStates, logits } from '../models/qwen3.ts';
import { Graph } from '../tensor/graph.ts';
import { compile } from '../tensor/program.ts';
import { attentionShape } from './attention.ts';
import type { Generation, SamplingSettings } from './engine.ts';
import { Engine } from './engine.ts';
import { sampledLogProbability, UNTRUNCATED } from './sampling.ts';
import type { HeldType, Weights } from './weights.ts';
import { inferenceWeights, WeightStore } from './weights.ts';

export interface LanguageModelParts {
  readonly device: Device;
  readonly config: Qwen3Config;
  /** Values, or weights that are on the device already, in `dtype` or, for f32, bf16; they are disposed of with the model. */
  readonly weights: Weights | WeightStore;
  readonly tokenizer: Tokenizer | null;
  /** A prompt that the model understands, for people who do not know what to ask. */
  readonly example?: string | null;
  readonly dtype?: HeldType;
  /** Close the device together with the model. */
  readonly ownsDevice?: boolean;
}

export interface GenerateOptions extends Partial<Omit<SamplingSettings, 'forbidFirst'>> {
  /** Called with each token as soon as it is there. */
  readonly onToken?: (token: number) => void;
}

/** What `generate` does where it is not told otherwise. */
export const GENERATE_DEFAULTS = { maxTokens: 256, temperature: 0, topP: 1, topK: 0, seed: 0 } as const;

const SMALLEST_TEMPERATURE = 1e-3;

/** Tokens or settings that this model cannot work with. */
export class PromptError extends RangeError {
  override name = 'PromptError';
}

/** A model whose log-probabilities are NaN: what it says means nothing. */
export class ProbabilityError extends Error {
  override name = 'ProbabilityError';
}

function checkNumbers(logprobs: ArrayLike<number>): void {
  for (let i = 0; i < logprobs.length; i++)
    if (Number.isNaN(logprobs[i]))
      throw new ProbabilityError(
        'the model gives no probabilities (NaN): its weights hold NaN or infinite values, because training diverged or a file is damaged',
      );
}

/** `await using model = await openModel(…)` closes it, and its device where it opened that itself. */
export class LanguageModel implements AsyncDisposable {
  readonly device: Device;
  readonly config: Qwen3Config;
  readonly tokenizer: Tokenizer | null;
  readonly example: string | null;
  readonly #dtype: HeldType;
  readonly #weights: WeightStore;
  readonly #engine: Engine;
  readonly #ownsDevice: boolean;
  #closed = false;

  constructor({
    device,
    config,
    weights,
    tokenizer,
    example = null,
    dtype = 'f32',
    ownsDevice = false,
  }: LanguageModelParts) {
    this.device = device;
    this.config = config;
    this.tokenizer = tokenizer;
    this.example = example;
    this.#dtype = dtype;
    this.#ownsDevice = ownsDevice;
    if (weights instanceof WeightStore) this.#weights = weights;
    else {
      this.#weights = new WeightStore(device, config, dtype, 'panels');
      this.#weights.write(weights);
    }
    this.#engine = new Engine(device, this.#weights.store, config, dtype, this.#weights.layout);
  }

  /** Token ids of a prompt. Throws where the model has no tokenizer, or the tokenizer lacks a word. */
  encode(prompt: string): number[] {
    if (this.tokenizer === null)
      throw new PromptError('the model has no tokenizer (tokenizer.json): give token ids instead of text');
    return this.tokenizer.encode(prompt);
  }

  #checkTokens(tokens: readonly number[], more: number): void {
    if (this.#closed) throw new Error('the model is closed');
    const { vocab_size: vocabulary, max_position_embeddings: positions } = this.config;
    if (tokens.length === 0) throw new PromptError('there are no tokens');
    const wrong = tokens.find((token) => !Number.isInteger(token) || token < 0 || token >= vocabulary);
    if (wrong !== undefined)
      throw new PromptError(`there is no token ${wrong} in a vocabulary of ${vocabulary}`);
    if (tokens.length + more > positions) {
      throw new PromptError(
        `${tokens.length} tokens${more > 0 ? ` and ${more} to generate` : ''} are more than the model's ${positions} positions`,
      );
    }
  }

  /**
   * Compiles what the first of up to `maxTokens` tokens after `tokens` takes, ahead of `generate`. May be called while
   * the weights are loaded.
   */
  async prepare(tokens: readonly number[], maxTokens?: number): Promise<void> {
    this.#checkTokens(tokens, 1);
    await this.#engine.prepare(1, tokens.length, this.#allowed(tokens, maxTokens));
  }

  /** How many tokens may be generated after these where `asked` are asked for. */
  #allowed(tokens: readonly number[], asked: number = GENERATE_DEFAULTS.maxTokens): number {
    return Math.min(asked, Math.max(1, this.config.max_position_embeddings - tokens.length));
  }

  #checkSettings({ maxTokens, temperature, topP, topK, seed }: SamplingSettings): void {
    const wrong = (name: string, value: number, needed: string) =>
      new PromptError(`${name} is ${value}: ${needed}`);
    if (!Number.isInteger(maxTokens) || maxTokens < 1)
      throw wrong('maxTokens', maxTokens, 'it must be a whole number from 1 on');
    // Divided by less, logits leave the range of f32.
    if (temperature !== 0 && !(temperature >= SMALLEST_TEMPERATURE && temperature < Infinity))
      throw wrong(
        'temperature',
        temperature,
        `it must be 0 (always the likeliest) or from ${SMALLEST_TEMPERATURE} on`,
      );
    if (!(topP > 0 && topP <= 1)) throw wrong('topP', topP, 'it must be above 0, and 1 at most');
    if (!Number.isInteger(topK) || topK < 0)
      throw wrong('topK', topK, 'it must be a whole number, 0 for all tokens');
    if (!Number.isInteger(seed) || seed < 0 || seed > 0xffffffff)
      throw wrong('seed', seed, 'it must be a whole number from 0 to 2^32 - 1');
  }

  /**
   * Continues tokens until the end-of-text token or `maxTokens`. Greedy unless a temperature is given.
   * @throws PromptError where the model cannot work with the tokens or the options; ProbabilityError where it gives NaN
   */
  async generate(tokens: readonly number[], options: GenerateOptions = {}): Promise<Generation> {
    const { onToken } = options;
    const { maxTokens: asked, temperature, topP, topK, seed } = GENERATE_DEFAULTS;
    const settings: SamplingSettings = {
      maxTokens: this.#allowed(tokens, options.maxTokens ?? asked),
      temperature: options.temperature ?? temperature,
      topP: options.topP ?? topP,
      topK: options.topK ?? topK,
      seed: options.seed ?? seed,
      forbidFirst: [],
    };
    this.#checkTokens(tokens, 1);
    this.#checkSettings(settings);
    const [generation] = await this.#engine.generate(
      [{ tokens, id: 0 }],
      settings,
      onToken && ((_, token) => onToken(token)),
    );
    checkNumbers(generation.logprobs);
    return generation;
  }

  /** log p of each token given those before it; null for the first. Throws as `generate`. */
  async score(tokens: readonly number[]): Promise<(number | null)[]> {
    this.#checkTokens(tokens, 0);
    const { config } = this;
    const g = new Graph();
    const count = tokens.length;
    const ids = g.literal(Int32Array.from(tokens));
    const positions = g.literal(Int32Array.from(tokens.keys()));
    const targets = g.literal(Int32Array.from([...tokens.slice(1), -1]));
    const { store, layout } = this.#weights;
    const weights = inferenceWeights(g, config, store, { dtype: this.#dtype, layout });
    const shape = attentionShape(config, 1);
    const hidden = hiddenStates(g, config, weights, {
      ids,
      positions,
      maxPositions: count,
      attend: (_, q, k, v) => g.attention(q, k, v, shape),
    });
    const logprob = sampledLogProbability(g, logits(g, config, weights, hidden), targets, UNTRUNCATED);
    const program = await compile(g, this.device, this.#weights.store, { outputs: { logprob } });
    try {
      await program.run();
      const values = (await program.read('logprob')) as Float32Array;
      const logprobs = values.subarray(0, count - 1);
      checkNumbers(logprobs);
      return [null, ...logprobs];
    } finally {
      program.dispose();
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#engine.dispose();
    this.#weights.dispose();
    if (this.#ownsDevice) await this.device.close();
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
