/**
 * Batched generation: prefill, in chunks, and decode are programs, sampling is part of them, and the sampled token stays on the
 * accelerator, so that many tokens are made in one call. What a sequence becomes depends on its tokens, its id and the
 * seed, never on the batch around it.
 */
import type { Device } from '../accelerators/device.ts';
import type { Qwen3Config } from '../models/config.ts';
import type { WeightTensors } from '../models/linear.ts';
import type { WeightLayout } from '../models/qwen3.ts';
import { hiddenStates, logits } from '../models/qwen3.ts';
import type { SequencePlace } from '../tensor/graph.ts';
import { Graph } from '../tensor/graph.ts';
import type { Program } from '../tensor/program.ts';
import { compile } from '../tensor/program.ts';
import type { ParameterStore } from '../tensor/store.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { CacheGeometry } from './attention.ts';
import { cachedAttention } from './attention.ts';
import type { SamplingDistribution } from './sampling.ts';
import { sampleTokens } from './sampling.ts';
import type { HeldType, WeightForm } from './weights.ts';
import { inferenceWeights } from './weights.ts';

/** With a temperature of 0 always the likeliest token is taken. */
export interface SamplingSettings extends SamplingDistribution {
  /** Tokens to generate at most. */
  readonly maxTokens: number;
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
/**
 * A prompt goes through the model in chunks of these many tokens of each sequence, the last filled up with padding: few
 * programs, and little padding.
 */
const CHUNKS = [4, 16, 64, 256];
/** Tokens of all sequences in a chunk, if chunks of the smallest width allow it: bounds the intermediate values. */
const CHUNK_TOKENS = 8192;
/** Capacities of caches are doublings of this, so that few programs are compiled. */
const SMALLEST_CAPACITY = 64;
/** Geometries whose programs and caches are kept. */
const KEPT_GEOMETRIES = 4;

/** Tokens of each sequence in the next chunk, where the longest sequence has `left` to go. */
function chunkWidth(batch: number, left: number): number {
  const allowed = CHUNKS.filter((width) => width === CHUNKS[0] || batch * width <= CHUNK_TOKENS);
  return allowed.find((width) => width >= left) ?? allowed[allowed.length - 1];
}

/** The chunks in which prompts of at most `longest` tokens go through the model. */
function* chunks(batch: number, longest: number): Generator<{ start: number; width: number }> {
  for (let start = 0, width = 0; start < longest; start += width) {
    width = chunkWidth(batch, longest - start);
    yield { start, width };
  }
}

/** Places for so many tokens, rounded up to a doubling; not beyond what the model can use. */
function cacheCapacity(needed: number, positions: number): number {
  let capacity = SMALLEST_CAPACITY;
  while (capacity < needed) capacity *= 2;
  return Math.max(needed, Math.min(capacity, positions));
}

/** What batches of one size share. */
interface Geometry extends CacheGeometry {
  readonly programs: Map<string, Program>;
}

/** Engines that share a store keep their states apart. */
let engines = 0;

export class Engine {
  readonly #device: Device;
  readonly #store: ParameterStore;
  readonly #config: Qwen3Config;
  readonly #form: WeightForm;
  readonly #name = `engine${engines++}.`;
  /** Those used last come last. */
  readonly #geometries = new Map<string, Geometry>();
  #turn: Promise<unknown> = Promise.resolve();

  /**
   * Generates with the weights of `store`, whatever they are at the time of a call.
   * @param dtype what is multiplied in; in f32 also with matrices that the store holds in bf16
   */
  constructor(
    device: Device,
    store: ParameterStore,
    config: Qwen3Config,
    dtype: HeldType,
    layout: WeightLayout = 'rows',
  ) {
    this.#device = device;
    this.#store = store;
    this.#config = config;
    this.#form = { dtype, layout };
  }

  /**
   * Continues every request; results are in the order of the requests. Calls are carried out one after the other.
   * @throws RangeError where a request has no tokens, or more with those to generate than the model has positions
   */
  async generate(
    requests: readonly GenerationRequest[],
    settings: SamplingSettings,
    onToken?: TokenListener,
  ): Promise<Generation[]> {
    for (const { tokens } of requests) this.#check(tokens.length, settings.maxTokens);
    if (requests.length === 0) return [];
    const result = this.#turn.then(() => this.#generate(requests, settings, onToken));
    this.#turn = result.catch(() => {});
    return result;
  }

  /**
   * Compiles what the first token of a batch of so many prompts takes, the longest of `longest` tokens, ahead of
   * `generate` with up to `maxTokens`. Values of the weights are not needed.
   * @throws RangeError as `generate`
   */
  async prepare(batch: number, longest: number, maxTokens: number): Promise<void> {
    this.#check(longest, maxTokens);
    const result = this.#turn.then(async () => {
      const geometry = this.#geometryOf(batch, longest, maxTokens);
      for (const { width } of chunks(geometry.batch, longest)) await this.#prefillProgram(geometry, width);
      await this.#firstProgram(geometry);
    });
    this.#turn = result.catch(() => {});
    return result;
  }

  async #generate(
    requests: readonly GenerationRequest[],
    settings: SamplingSettings,
    onToken?: TokenListener,
  ): Promise<Generation[]> {
    const longest = Math.max(...requests.map(({ tokens }) => tokens.length));
    const geometry = this.#geometryOf(requests.length, longest, settings.maxTokens);
    const { batch } = geometry;
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

  #geometryOf(requests: number, longest: number, maxTokens: number): Geometry {
    const positions = this.#config.max_position_embeddings;
    return this.#geometry(Math.min(requests, MAX_BATCH), cacheCapacity(longest + maxTokens, positions));
  }

  /** Looks it up, or makes it in the place of the one that has not been used for longest. */
  #geometry(batch: number, capacity: number): Geometry {
    const key = `${batch}x${capacity}`;
    const geometry = this.#geometries.get(key) ?? {
      batch,
      capacity,
      prefix: `${this.#name}${key}.`,
      programs: new Map(),
    };
    this.#geometries.delete(key);
    if (this.#geometries.size === KEPT_GEOMETRIES)
      this.#forget(this.#geometries.keys().next().value as string);
    this.#geometries.set(key, geometry);
    return geometry;
  }

  #forget(key: string): void {
    const { programs, prefix } = this.#geometries.get(key) as Geometry;
    for (const program of programs.values()) program.dispose();
    for (const { name } of this.#store.list()) if (name.startsWith(prefix)) this.#store.delete(name);
    this.#geometries.delete(key);
  }

  async #batch(
    requests: readonly GenerationRequest[],
    geometry: Geometry,
    settings: SamplingSettings,
    onToken?: TokenListener,
  ): Promise<Generation[]> {
    const { batch, capacity } = geometry;
    // The last part of a large job may be smaller: its rows are filled with the first request.
    const rows = Array.from({ length: batch }, (_, row) => requests[row] ?? requests[0]);
    const lengths = Int32Array.from(rows, ({ tokens }) => tokens.length);
    const sequences = Int32Array.from(rows, ({ id }) => id);
    await this.#prefill(rows, geometry);
    const shared = { sequences, ...rowSettings(batch, settings) };
    const first = await this.#firstProgram(geometry);
    write(first, { lengths, bias: firstTokenBias(this.#config, settings), ...shared });
    await first.run();

    const stops = stopTokens(this.#config);
    const progress = requests.map(() => ({
      tokens: [] as number[],
      logprobs: [] as number[],
      stopped: false,
    }));
    let done = 0;
    const collect = async (steps: number) => {
      const tokens = (await this.#store.read(`${geometry.prefix}tokens`)) as Int32Array;
      const logprobs = (await this.#store.read(`${geometry.prefix}logprobs`)) as Float32Array;
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
      const decode = await this.#program('decode', geometry, () => this.#decodeGraph(geometry));
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

  async #program(kind: string, { programs }: Geometry, graph: () => Graph): Promise<Program> {
    const program = programs.get(kind) ?? (await compile(graph(), this.#device, this.#store));
    programs.set(kind, program);
    return program;
  }

  #firstProgram(geometry: Geometry): Promise<Program> {
    return this.#program('first', geometry, () => this.#firstGraph(geometry));
  }

  #prefillProgram(geometry: Geometry, width: number): Promise<Program> {
    return this.#program(`prefill ${width}`, geometry, () => this.#prefillGraph(geometry, width));
  }

  /** Fills the cache with the prompts, and keeps the last hidden state of each. */
  async #prefill(rows: readonly GenerationRequest[], geometry: Geometry): Promise<void> {
    const { batch } = geometry;
    const longest = Math.max(...rows.map(({ tokens }) => tokens.length));
    for (const { start, width } of chunks(batch, longest)) {
      const program = await this.#prefillProgram(geometry, width);
      const ids = new Int32Array(batch * width);
      const positions = new Int32Array(batch * width).fill(-1);
      const lengths = new Int32Array(batch);
      const last = new Int32Array(batch).fill(-1);
      const ending = new Int32Array(batch).fill(-1);
      for (const [row, { tokens }] of rows.entries()) {
        const part = tokens.slice(start, start + width);
        ids.set(part, row * width);
        for (let i = 0; i < part.length; i++) positions[row * width + i] = start + i;
        lengths[row] = part.length;
        if (tokens.length <= start || tokens.length > start + width) continue;
        last[row] = row * width + part.length - 1;
        ending[row] = row;
      }
      write(program, { ids, positions, lengths, last, ending, start: new Int32Array(batch).fill(start) });
      await program.run();
    }
  }

  /** `width` tokens of every sequence into the cache. Padding has position -1, which nothing is written for. */
  #prefillGraph(geometry: Geometry, width: number): Graph {
    const { batch } = geometry;
    const g = new Graph();
    const positions = g.input('positions', 'i32', [batch * width]);
    const place = { start: g.input('start', 'i32', [batch]), lengths: g.input('lengths', 'i32', [batch]) };
    const hidden = this.#hidden(g, geometry, g.input('ids', 'i32', [batch * width]), positions, place);
    const last = g.embedding(hidden, g.input('last', 'i32', [batch]));
    g.scatterRows(this.#lastHidden(g, geometry), g.input('ending', 'i32', [batch]), last);
    return g;
  }

  #lastHidden(g: Graph, { batch, prefix }: Geometry): Tensor {
    return g.state(`${prefix}hidden`, 'f32', [batch, this.#config.hidden_size]);
  }

  #hidden(g: Graph, geometry: Geometry, ids: Tensor, positions: Tensor, place: SequencePlace): Tensor {
    return hiddenStates(g, this.#config, this.#weights(g), {
      ids,
      positions,
      maxPositions: geometry.capacity,
      attend: cachedAttention(g, this.#config, geometry, positions, place),
    });
  }

  #weights(g: Graph): WeightTensors {
    return inferenceWeights(g, this.#config, this.#store, this.#form);
  }

  /** Samples the first token of every sequence. */
  #firstGraph(geometry: Geometry): Graph {
    const g = new Graph();
    const scores = logits(g, this.#config, this.#weights(g), this.#lastHidden(g, geometry));
    const biased = g.add(scores, g.input('bias', 'f32', [this.#config.vocab_size]));
    this.#sampleAndAdvance(g, geometry, biased, g.sub(g.input('lengths', 'i32', [geometry.batch]), 1));
    return g;
  }

  /** One token more for every sequence. */
  #decodeGraph(geometry: Geometry): Graph {
    const g = new Graph();
    const { token, position } = frontier(g, geometry);
    const hidden = this.#hidden(g, geometry, token, position, { start: position });
    this.#sampleAndAdvance(g, geometry, logits(g, this.#config, this.#weights(g), hidden), position);
    return g;
  }

  /**
   * Samples from logits [batch, vocabulary] the token that follows the one at `position` (i32 [batch]), writes it
   * into the history, and makes it the next step's input.
   */
  #sampleAndAdvance(g: Graph, geometry: Geometry, scores: Tensor, position: Tensor): void {
    const { batch, capacity, prefix } = geometry;
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
      const state = g.state(`${prefix}${part}`, values.dtype, [batch * capacity, 1]);
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
    await this.#turn;
    for (const key of [...this.#geometries.keys()]) this.#forget(key);
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

/** The token that every sequence continues from, and its position. */
function frontier(g: Graph, { batch, prefix }: CacheGeometry) {
  return {
    token: g.state(`${prefix}token`, 'i32', [batch]),
    position: g.state(`${prefix}position`, 'i32', [batch]),
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
