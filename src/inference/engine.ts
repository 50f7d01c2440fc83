/**
 * Batched generation: prefill, in chunks, and decode are programs, sampling is part of them, and the sampled token stays on the
 * accelerator, so that many tokens are made in one call. What a sequence becomes depends on its tokens, its id and the
 * seed, never on the batch around it.
 */
import type { Device } from '../accelerators/device.ts';
import type { Qwen3Config } from '../models/config.ts';
import type { WeightLayout } from '../models/qwen3.ts';
import { attentionType } from '../models/qwen3.ts';
import type { Graph } from '../tensor/graph.ts';
import type { Program } from '../tensor/program.ts';
import { compile } from '../tensor/program.ts';
import type { ParameterStore } from '../tensor/store.ts';
import type { CacheGeometry } from './attention.ts';
import { allocateCache } from './attention.ts';
import type { GeneratingModel } from './generation-graphs.ts';
import { decodeGraph, firstGraph, prefillGraph } from './generation-graphs.ts';
import type { SamplingDistribution } from './sampling.ts';
import type { HeldType } from './weights.ts';

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
  readonly #model: GeneratingModel;
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
    this.#model = { config, store, form: { dtype, layout } };
  }

  /**
   * Continues every request; results are in the order of the requests. Calls are carried out one after the other.
   * @throws RangeError where a request has no tokens, or more with those to generate than the model has positions, or the
   *   device has no memory for as many
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
    const known = this.#geometries.get(key);
    if (known === undefined && this.#geometries.size === KEPT_GEOMETRIES)
      this.#forget(this.#geometries.keys().next().value as string);
    const geometry = known ?? this.#newGeometry(batch, capacity, `${this.#name}${key}.`);
    this.#geometries.delete(key);
    this.#geometries.set(key, geometry);
    return geometry;
  }

  #newGeometry(batch: number, capacity: number, prefix: string): Geometry {
    const type = attentionType(this.#model.form.dtype);
    const geometry = { batch, capacity, prefix, type, programs: new Map() };
    allocateCache(this.#store, this.#config, geometry);
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
      const decode = await this.#program('decode', geometry, () => decodeGraph(this.#model, geometry));
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
    return this.#program('first', geometry, () => firstGraph(this.#model, geometry));
  }

  #prefillProgram(geometry: Geometry, width: number): Promise<Program> {
    return this.#program(`prefill ${width}`, geometry, () => prefillGraph(this.#model, geometry, width));
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

  async dispose(): Promise<void> {
    await this.#turn;
    for (const key of [...this.#geometries.keys()]) this.#forget(key);
  }
}

function write(program: Program, inputs: Readonly<Record<string, Float32Array | Int32Array>>): void {
  for (const [name, values] of Object.entries(inputs)) program.write(name, values);
}

const MAX_I32 = 2 ** 31 - 1;

/** The settings that both programs sample with. */
function rowSettings(batch: number, { temperature, topK, topP, seed }: SamplingSettings) {
  return {
    temperature: new Float32Array(batch).fill(temperature),
    // More than there are tokens is all of them.
    topK: new Int32Array(batch).fill(Math.min(topK, MAX_I32)),
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

/** Tokens after which a sequence is complete. */
export function stopTokens(config: Qwen3Config): ReadonlySet<number> {
  const { eos_token_id: eos } = config;
  return new Set(eos === null || eos === undefined ? [] : Array.isArray(eos) ? eos : [eos]);
}
