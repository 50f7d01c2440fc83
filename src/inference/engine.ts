/**
 * Batched generation: prefill and decode are programs, sampling is part of them, and the sampled token stays on the
 * accelerator, so that many tokens are made in one call. What a sequence becomes depends on its tokens, its id and the
 * seed, never on the batch around it.
 */
import type { Device } from '../accelerators/device.ts';
import type { Qwen3Config } from '../models/config.ts';
import type { WeightLayout } from '../models/qwen3.ts';
import { declareWeights, hiddenStates, logits } from '../models/qwen3.ts';
import type { Tensor } from '../tensor/graph.ts';
import { Graph } from '../tensor/graph.ts';
import type { Program } from '../tensor/program.ts';
import { compile } from '../tensor/program.ts';
import type { ParameterStore } from '../tensor/store.ts';
import type { CacheGeometry } from './attention.ts';
import { cachedAttention } from './attention.ts';
import { sampleTokens } from './sampling.ts';
import type { WeightType } from './weights.ts';

export interface SamplingSettings {
  /** Tokens to generate at most. */
  readonly maxTokens: number;
  /** 0: always the likeliest token. */
  readonly temperature: number;
  readonly topP: number;
  /** 0: all tokens. */
  readonly topK: number;
  readonly seed: number;
  /** Tokens that may not be the first to be generated. */
  readonly forbidFirst: readonly number[];
}

export interface GenerationRequest {
  readonly tokens: readonly number[];
  /** With the seed, decides the random numbers of this sequence. */
  readonly id: number;
}

export interface Generation {
  /** The sampled tokens; the end-of-text token, where one was sampled, is the last. */
  readonly tokens: readonly number[];
  /** log p of each under the distribution it was sampled from (temperature and truncation applied). */
  readonly logprobs: readonly number[];
  readonly finishReason: 'stop' | 'length';
}

/** Called for each new token of each sequence. */
export type TokenListener = (sequence: number, token: number) => void;

/** Sequences in one batch at most. */
const MAX_BATCH = 512;
/** Decode steps between two looks at whether all sequences have ended. */
const STEPS_PER_CALL = 16;
/** Prompt widths and cache capacities are rounded up to this, so that few programs are compiled. */
const ROUNDING = 16;

const roundUp = (value: number) => Math.ceil(value / ROUNDING) * ROUNDING;

interface Geometry extends CacheGeometry {
  /** Width of the prompts, padded. */
  readonly width: number;
}

export class Engine {
  readonly #device: Device;
  readonly #store: ParameterStore;
  readonly #config: Qwen3Config;
  readonly #dtype: WeightType;
  readonly #layout: WeightLayout;
  readonly #programs = new Map<string, Promise<Program>>();

  /** Generates with the weights of `store`, whatever they are at the time of a call. */
  constructor(
    device: Device,
    store: ParameterStore,
    config: Qwen3Config,
    dtype: WeightType,
    layout: WeightLayout = 'rows',
  ) {
    this.#device = device;
    this.#store = store;
    this.#layout = layout;
    this.#config = config;
    this.#dtype = dtype;
  }

  /**
   * Continues every request; results are in the order of the requests.
   * @throws RangeError where a request has no tokens, or more with those to generate than the model has positions
   */
  async generate(
    requests: readonly GenerationRequest[],
    settings: SamplingSettings,
    onToken?: TokenListener,
  ): Promise<Generation[]> {
    for (const { tokens } of requests) this.#check(tokens.length, settings.maxTokens);
    if (requests.length === 0) return [];
    const batch = Math.min(requests.length, MAX_BATCH);
    const width = roundUp(Math.max(...requests.map(({ tokens }) => tokens.length)));
    const geometry = { batch, width, capacity: roundUp(width + settings.maxTokens) };
    const generations: Generation[] = [];
    for (let first = 0; first < requests.length; first += batch) {
      const part = requests.slice(first, first + batch);
      const listener: TokenListener | undefined =
        onToken && ((sequence, token) => onToken(first + sequence, token));
      generations.push(...(await this.#batch(part, geometry, settings, listener)));
    }
    return generations;
  }

  #check(prompt: number, more: number): void {
    const { max_position_embeddings: positions } = this.#config;
    if (prompt === 0) throw new RangeError('a prompt has no tokens');
    if (prompt + more > positions) {
      throw new RangeError(
        `a prompt of ${prompt} tokens and ${more} to generate are more than the model's ${positions} positions`,
      );
    }
  }

  async #batch(
    requests: readonly GenerationRequest[],
    geometry: Geometry,
    settings: SamplingSettings,
    onToken?: TokenListener,
  ): Promise<Generation[]> {
    const { batch, capacity, width } = geometry;
    const prefill = await this.#program('prefill', geometry);
    const ids = new Int32Array(batch * width);
    const lengths = new Int32Array(batch);
    const sequences = new Int32Array(batch);
    for (let row = 0; row < batch; row++) {
      // The last part of a large job may be smaller: its rows are filled with the first request.
      const { tokens, id } = requests[row] ?? requests[0];
      ids.set(tokens, row * width);
      lengths[row] = tokens.length;
      sequences[row] = id;
    }
    const shared = { sequences, ...rowSettings(batch, settings) };
    write(prefill, { ids, lengths, bias: firstTokenBias(this.#config, settings), ...shared });
    await prefill.run();

    const stops = stopTokens(this.#config);
    const progress = requests.map(() => ({
      tokens: [] as number[],
      logprobs: [] as number[],
      stopped: false,
    }));
    let done = 0;
    const collect = async (steps: number) => {
      const tokens = (await this.#store.read(historyName('tokens', geometry))) as Int32Array;
      const logprobs = (await this.#store.read(historyName('logprobs', geometry))) as Float32Array;
      for (const [row, sequence] of progress.entries()) {
        for (let step = done; step < done + steps && !sequence.stopped; step++) {
          const at = row * capacity + lengths[row] - 1 + step;
          sequence.tokens.push(tokens[at]);
          sequence.logprobs.push(logprobs[at]);
          sequence.stopped = stops.has(tokens[at]);
          onToken?.(row, tokens[at]);
        }
      }
      done += steps;
    };
    await collect(1);
    if (settings.maxTokens > 1) {
      const decode = await this.#program('decode', geometry);
      write(decode, shared);
      while (done < settings.maxTokens && progress.some(({ stopped }) => !stopped)) {
        const steps = Math.min(onToken ? 1 : STEPS_PER_CALL, settings.maxTokens - done);
        await decode.run(steps);
        await collect(steps);
      }
    }
    return progress.map(({ tokens, logprobs, stopped }) => ({
      tokens,
      logprobs,
      finishReason: stopped ? 'stop' : 'length',
    }));
  }

  #program(kind: 'prefill' | 'decode', geometry: Geometry): Promise<Program> {
    // Decoding does not depend on the width of the prompts.
    const key = `${kind} ${geometry.batch} ${geometry.capacity} ${kind === 'prefill' ? geometry.width : ''}`;
    let program = this.#programs.get(key);
    if (program === undefined) {
      const g = kind === 'prefill' ? this.#prefillGraph(geometry) : this.#decodeGraph(geometry);
      program = compile(g, this.#device, this.#store, { outputs: {} });
      this.#programs.set(key, program);
    }
    return program;
  }

  /** Samples the first token of every sequence, and fills the cache. */
  #prefillGraph(geometry: Geometry): Graph {
    const { batch, width } = geometry;
    const g = new Graph();
    const lengths = g.input('lengths', 'i32', [batch]);
    const positions = Int32Array.from({ length: batch * width }, (_, i) => i % width);
    const weights = declareWeights(g, this.#config, this.#dtype, { layout: this.#layout });
    const hidden = hiddenStates(g, this.#config, weights, {
      ids: g.input('ids', 'i32', [batch * width]),
      positions: g.literal(positions),
      attend: cachedAttention(g, this.#config, geometry, g.literal(positions), { lengths }),
    });
    const firsts = g.literal(Int32Array.from({ length: batch }, (_, row) => row * width - 1));
    const last = g.embedding(hidden, g.add(firsts, lengths));
    const biased = g.add(
      logits(g, this.#config, weights, last),
      g.input('bias', 'f32', [this.#config.vocab_size]),
    );
    this.#sampleAndAdvance(g, geometry, biased, g.sub(lengths, 1));
    return g;
  }

  /** One token more for every sequence. */
  #decodeGraph(geometry: Geometry): Graph {
    const g = new Graph();
    const { token, position } = frontier(g, geometry);
    const weights = declareWeights(g, this.#config, this.#dtype, { layout: this.#layout });
    const hidden = hiddenStates(g, this.#config, weights, {
      ids: token,
      positions: position,
      attend: cachedAttention(g, this.#config, geometry, position, { start: position }),
    });
    this.#sampleAndAdvance(g, geometry, logits(g, this.#config, weights, hidden), position);
    return g;
  }

  /**
   * Samples from logits [batch, vocabulary] the token that follows the one at `position` (i32 [batch]), writes it
   * into the history, and makes it the next step's input.
   */
  #sampleAndAdvance(g: Graph, geometry: Geometry, scores: Tensor, position: Tensor): void {
    const { batch, capacity } = geometry;
    const row = {
      temperature: g.input('temperature', 'f32', [batch]),
      topK: g.input('topK', 'i32', [batch]),
      topP: g.input('topP', 'f32', [batch]),
    };
    const sampled = sampleTokens(g, scores, row, {
      seed: g.input('seed', 'i32', [2]),
      sequences: g.input('sequences', 'i32', [batch]),
      positions: g.add(position, 1),
    });
    const rows = cacheRows(g, batch, capacity, position);
    const history = (part: 'tokens' | 'logprobs', values: Tensor) => {
      const state = g.state(historyName(part, geometry), values.dtype, [batch * capacity, 1]);
      g.scatterRows(state, rows, g.reshape(values, [batch, 1]));
    };
    history('tokens', sampled.tokens);
    history('logprobs', sampled.logprobs);
    const next = frontier(g, geometry);
    const following = g.add(position, 1);
    g.assign(next.token, sampled.tokens);
    g.assign(next.position, following);
  }

  async dispose(): Promise<void> {
    for (const program of this.#programs.values()) (await program).dispose();
    this.#programs.clear();
  }
}

function write(program: Program, inputs: Readonly<Record<string, Float32Array | Int32Array>>): void {
  for (const [name, values] of Object.entries(inputs)) program.write(name, values);
}

/** The settings that both programs sample with. */
function rowSettings(batch: number, { temperature, topK, topP, seed }: SamplingSettings) {
  return {
    temperature: new Float32Array(batch).fill(temperature),
    topK: new Int32Array(batch).fill(topK),
    topP: new Float32Array(batch).fill(topP),
    seed: Int32Array.of(seed | 0, Math.floor(seed / 2 ** 32) | 0),
  };
}

/** What is added to the first token's logits. */
function firstTokenBias({ vocab_size }: Qwen3Config, { forbidFirst }: SamplingSettings): Float32Array {
  const bias = new Float32Array(vocab_size);
  for (const token of forbidFirst) bias[token] = Number.NEGATIVE_INFINITY;
  return bias;
}

const historyName = (part: 'tokens' | 'logprobs', { batch, capacity }: CacheGeometry) =>
  `history.${batch}x${capacity}.${part}`;

/** The token that every sequence continues from, and its position. */
function frontier(g: Graph, { batch, capacity }: CacheGeometry) {
  const name = (part: string) => `frontier.${batch}x${capacity}.${part}`;
  return {
    token: g.state(name('token'), 'i32', [batch]),
    position: g.state(name('position'), 'i32', [batch]),
  };
}

/** Rows of the cache at `position` of each sequence. */
function cacheRows(g: Graph, batch: number, capacity: number, position: Tensor): Tensor {
  return g.add(g.literal(Int32Array.from({ length: batch }, (_, row) => row * capacity)), position);
}

/** Tokens after which a sequence is complete. */
export function stopTokens(config: Qwen3Config): ReadonlySet<number> {
  const { eos_token_id: eos } = config;
  return new Set(eos === null || eos === undefined ? [] : Array.isArray(eos) ? eos : [eos]);
}
