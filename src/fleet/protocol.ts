/**
 * What a run and the browser tabs that sample for it say to each other, over a WebSocket. Text messages are JSON, one
 * object each; binary messages are parts of a file of weights (`weight-transfer.ts`), which a `weights` message
 * announces.
 *
 * The tab: `join`; then for each `weights` a `loaded`, for each `work` a `result`; `failed` when it cannot go on.
 * The run: `welcome` after `join`; `weights` and `work` as they come up; `end` when there is no more to do.
 *
 * A run that is interrupted says no `end`. Resumed, it has another token, which an open tab does not know, but knows the
 * tabs of before by the ticket that came with their `welcome`. A tab shows it to nobody who has not shown the proof that
 * came with it: until then, something else may be listening in the run's place.
 */
import { z } from 'zod';
import type { GenerationRequest, SamplingSettings } from '../inference/engine.ts';
import { stopTokens } from '../inference/engine.ts';
import type { Qwen3Config } from '../models/config.ts';

export const PROTOCOL_VERSION = 1;
/** Path of the WebSocket, below the page. */
export const SOCKET_PATH = 'rollout';
/** Header in which a resumed run shows its proof to a tab that brings a token of before. */
export const PROOF_HEADER = 'tandem-proof';
/** Subprotocol of the WebSocket; the other one offered is the token, because a page can send no header. */
export const SUBPROTOCOL = `tandem.${PROTOCOL_VERSION}`;
/** Bytes of a message from a tab at most. */
export const MAX_MESSAGE_BYTES = 16 * 2 ** 20;
/** Bytes of weights in one binary message at most. */
export const PART_BYTES = 2 ** 20;
/** Bytes that a sampled token takes in a `result` at most: its id, its log-probability, its version, three commas. */
export const RESULT_TOKEN_BYTES = 48;
/** How a connection is closed: the codes of RFC 6455, section 7.4.1. Who was `interrupted` may come back. */
export const CLOSE = { done: 1000, interrupted: 1001, refused: 1008, failed: 1011 } as const;

/** The other side said what it must not say. */
export class ProtocolError extends Error {
  override name = 'ProtocolError';
}

const count = z.number().int().nonnegative();
const ids = z.array(count);
const checksum = z.string().regex(/^[0-9a-f]{16}$/u);

const completion = z.strictObject({
  tokens: ids,
  /** JSON has no NaN and no infinities: null stands for them, and is read as NaN, which no parity gate lets pass. */
  logprobs: z.array(
    z
      .number()
      .nullable()
      .transform((value) => value ?? Number.NaN),
  ),
  /** Version of the weights that sampled each token. */
  weightVersions: ids,
  finishReason: z.enum(['stop', 'length']),
});

const tabMessage = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('join'),
    protocol: z.literal(PROTOCOL_VERSION),
    /** Name of its accelerator. */
    accelerator: z.string().regex(/^[a-z0-9-]{1,32}$/u),
    description: z.string().max(200),
  }),
  /** The checksum is that of what lies in the accelerator's memory. */
  z.strictObject({ type: z.literal('loaded'), version: count, checksum }),
  z.strictObject({ type: z.literal('result'), job: count, completions: z.array(completion) }),
  z.strictObject({ type: z.literal('failed'), reason: z.string().max(2000) }),
]);
/** As it is written; `parseTabMessage` gives what was read. */
export type TabMessage = z.input<typeof tabMessage>;
export type ReadTabMessage = z.output<typeof tabMessage>;

const settings = z.strictObject({
  maxTokens: count,
  temperature: z.number(),
  topP: z.number(),
  topK: count,
  seed: count,
  forbidFirst: ids,
}) satisfies z.ZodType<SamplingSettings>;

/** By what a run that is resumed and the tabs of before know each other: made anew whenever a run listens. */
export const comeback = z.strictObject({ proof: z.string().min(16), ticket: z.string().min(16) });
export type Comeback = z.infer<typeof comeback>;

const runMessage = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('welcome'),
    run: z.string(),
    learner: z.string(),
    dtype: z.enum(['f32', 'bf16']),
    /** config.json of the model. */
    config: z.unknown(),
    /** Null where the run cannot be resumed. */
    comeback: comeback.nullable(),
  }),
  z.strictObject({
    type: z.literal('weights'),
    kind: z.enum(['full', 'delta']),
    version: count,
    /** Of the file, which follows in binary messages. */
    bytes: count,
  }),
  z.strictObject({
    type: z.literal('work'),
    job: count,
    settings,
    requests: z.array(z.strictObject({ tokens: ids, id: count })),
  }),
  z.strictObject({ type: z.literal('end'), reason: z.string() }),
]);
export type RunMessage = z.infer<typeof runMessage>;

function parse<T>(schema: z.ZodType<T>, text: string): T {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new ProtocolError('a message is not JSON');
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const { path, message } = result.error.issues[0];
  throw new ProtocolError(`a message is wrong: ${path.join('.') || 'message'}: ${message}`);
}

/** Throws ProtocolError. */
export const parseTabMessage = (text: string): ReadTabMessage => parse(tabMessage, text);
/** Throws ProtocolError. */
export const parseRunMessage = (text: string): RunMessage => parse(runMessage, text);

/** What a `result` has to answer. */
export interface Assignment {
  readonly requests: readonly GenerationRequest[];
  readonly settings: SamplingSettings;
  readonly version: number;
}

export type Completions = Extract<ReadTabMessage, { type: 'result' }>['completions'];

/** Throws ProtocolError where a result cannot be one of the work given, whatever its numbers are. */
export function checkCompletions(completions: Completions, work: Assignment, config: Qwen3Config): void {
  const { requests, settings, version } = work;
  const wrong = (problem: string) => new ProtocolError(`a result is wrong: ${problem}`);
  if (completions.length !== requests.length)
    throw wrong(`${completions.length} completions, not ${requests.length}`);
  const stops = stopTokens(config);
  for (const { tokens, logprobs, weightVersions, finishReason } of completions) {
    if (tokens.length === 0 || tokens.length > settings.maxTokens)
      throw wrong(`a completion of ${tokens.length} tokens, where 1 to ${settings.maxTokens} were asked for`);
    if (logprobs.length !== tokens.length || weightVersions.length !== tokens.length)
      throw wrong('a completion has not one log-probability and one version for each token');
    const [foreign] = tokens.filter((token) => token >= config.vocab_size);
    if (foreign !== undefined)
      throw wrong(`token ${foreign}, but the vocabulary has ${config.vocab_size} tokens`);
    const [other] = weightVersions.filter((of) => of !== version);
    if (other !== undefined) throw wrong(`sampled from weights of version ${other}, not ${version}`);
    const stop = tokens.findIndex((token) => stops.has(token));
    const ends = stop === -1 ? tokens.length === settings.maxTokens : stop === tokens.length - 1;
    if (!ends || (finishReason === 'stop') !== (stop !== -1))
      throw wrong('a completion does not end where it says');
  }
}

/** The parts of a file that binary messages carry. */
export function* partsOf(file: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < file.length; at += PART_BYTES) yield file.subarray(at, at + PART_BYTES);
}
