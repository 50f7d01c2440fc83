/** Decoding, prefill and the start of a model of the size that people run: Qwen3-0.6B's shape, random weights. */
import { spawn } from 'node:child_process';
import type { Device } from '../accelerators/device.ts';
import type { GenerationRequest } from '../inference/engine.ts';
import { Engine } from '../inference/engine.ts';
import { loadWeights } from '../inference/load.ts';
import type { HeldType } from '../inference/weights.ts';
import type { Qwen3Config } from '../models/config.ts';
import { attentionType, weightSpecs } from '../models/qwen3.ts';
import { byteLength } from '../numerics/dtype.ts';
import { Random } from '../numerics/random.ts';
import { elementCount } from '../tile/ir.ts';
import { settings } from './decoding.ts';
import type { Item, Limits } from './item.ts';
import { leastSeconds, readBandwidth } from './item.ts';
import { forwardOperations } from './models.ts';
import { benchCache, qwen3Small, qwen3SmallFolder } from './synthetic.ts';
import { median } from './timing.ts';

/** How each type of weights is called by llama.cpp, which is compared at the same bits. */
const LLAMA_TYPES = { bf16: 'bf16', int8: 'q8_0', int4: 'q4_0' } as const satisfies {
  readonly [T in HeldType]?: string;
};
type MeasuredType = keyof typeof LLAMA_TYPES;
const TYPES = Object.keys(LLAMA_TYPES) as MeasuredType[];

const RUNS = 3;
const DECODE_PROMPT = 16;
/** Fewer where there are many sequences, whose steps are long. */
const generatedTokens = (batch: number) => (batch === 1 ? 48 : 16);
const PREFILL = 512;
const START_TOKENS = [101, 2023, 14, 90123, 77, 4096, 31, 8];
const SHAPE = 'Qwen3-0.6B';

interface Loaded {
  readonly engine: Engine;
  readonly config: Qwen3Config;
  /** Bytes of the weights as they are held. */
  readonly weightBytes: number;
}

async function withModel<T>(
  device: Device,
  dtype: MeasuredType,
  use: (loaded: Loaded) => Promise<T>,
): Promise<T> {
  const { config, weights } = await loadWeights(await qwen3SmallFolder(), device, dtype);
  const { store, layout } = weights;
  const weightBytes = store.bytes;
  // Without an end-of-text token every sequence has its full length.
  const endless = { ...config, eos_token_id: null };
  const engine = new Engine(device, store, endless, dtype, layout);
  try {
    return await use({ engine, config, weightBytes });
  } finally {
    await engine.dispose();
    weights.dispose();
  }
}

function randomRequests({ vocab_size }: Qwen3Config, count: number, length: number): GenerationRequest[] {
  const random = new Random(0, 'bench-generation');
  return Array.from({ length: count }, (_, id) => ({
    id,
    tokens: Array.from({ length }, () => random.below(vocab_size)),
  }));
}

async function secondsToGenerate(
  engine: Engine,
  requests: readonly GenerationRequest[],
  maxTokens: number,
): Promise<number> {
  const start = performance.now();
  await engine.generate(requests, settings(maxTokens));
  return (performance.now() - start) / 1000;
}

/** Bytes of keys and values that one token attends to. */
const cacheBytes = (config: Qwen3Config, dtype: MeasuredType, context: number) =>
  2 *
  byteLength(attentionType(dtype), 1) *
  config.num_hidden_layers *
  config.num_key_value_heads *
  config.head_dim *
  context;

/**
 * Generated tokens a second, without the prompts. The limit: every step reads all weights once and the keys and values
 * of every sequence, and multiplies for each.
 */
export function largeDecodeItem(dtype: MeasuredType, batch: number, device: string): Item {
  const generated = generatedTokens(batch);
  let weightBytes = 0;
  return {
    name: 'decode',
    shape: `${SHAPE}, batch ${batch}`,
    dtype,
    device,
    unit: 'tokens/s',
    limit(limits) {
      const context = DECODE_PROMPT + generated / 2;
      const seconds = leastSeconds(limits, device, {
        dtype,
        operations: batch * forwardOperations(qwen3Small(), context),
        bytes: weightBytes + batch * cacheBytes(qwen3Small(), dtype, context),
      });
      return seconds === null ? null : batch / seconds;
    },
    peers: {
      'llama.cpp': {
        kind: 'decode',
        folder: benchCache(),
        quantization: LLAMA_TYPES[dtype],
        batch,
        prompt: DECODE_PROMPT,
        generated,
      },
    },
    async measure(open) {
      const opened = await open();
      try {
        return await withModel(opened, dtype, async (loaded) => {
          weightBytes = loaded.weightBytes;
          const requests = randomRequests(loaded.config, batch, DECODE_PROMPT);
          // Warms up: caches of keys and values grow on the way, for which other code is made.
          await secondsToGenerate(loaded.engine, requests, generated + 1);
          const runs: number[] = [];
          for (let run = 0; run < RUNS; run++) {
            const whole = await secondsToGenerate(loaded.engine, requests, generated + 1);
            runs.push(whole - (await secondsToGenerate(loaded.engine, requests, 1)));
          }
          return (batch * generated) / median(runs);
        });
      } finally {
        await opened.close();
      }
    },
    profile: (opened, trace) =>
      withModel(opened, dtype, async ({ engine, config }) => {
        const requests = randomRequests(config, batch, DECODE_PROMPT);
        await secondsToGenerate(engine, requests, 2);
        await trace(() => secondsToGenerate(engine, requests, 2));
      }),
  };
}

/** Tokens of a prompt a second; its limit is arithmetic, of which only the last token's includes the vocabulary. */
export function prefillItem(dtype: MeasuredType, device: string): Item {
  return {
    name: 'prefill',
    shape: `${SHAPE}, ${PREFILL} tokens`,
    dtype,
    device,
    unit: 'tokens/s',
    limit(limits) {
      const config = qwen3Small();
      const vocabulary = weightSpecs(config).find(({ kind }) => kind === 'embedding');
      const each = forwardOperations(config, (PREFILL + 1) / 2);
      const head = 2 * elementCount(vocabulary?.shape ?? []);
      const seconds = leastSeconds(limits, device, {
        dtype,
        operations: PREFILL * (each - head) + head,
        bytes: 0,
      });
      return seconds === null ? null : PREFILL / seconds;
    },
    peers: {
      'llama.cpp': {
        kind: 'prefill',
        folder: benchCache(),
        quantization: LLAMA_TYPES[dtype],
        prompt: PREFILL,
      },
    },
    async measure(open) {
      const opened = await open();
      try {
        return await withModel(opened, dtype, async ({ engine, config }) => {
          const requests = randomRequests(config, 1, PREFILL);
          await secondsToGenerate(engine, requests, 1);
          const runs: number[] = [];
          for (let run = 0; run < RUNS; run++) runs.push(await secondsToGenerate(engine, requests, 1));
          return PREFILL / median(runs);
        });
      } finally {
        await opened.close();
      }
    },
    profile: (opened, trace) =>
      withModel(opened, dtype, async ({ engine, config }) => {
        const requests = randomRequests(config, 1, PREFILL);
        await secondsToGenerate(engine, requests, 1);
        await trace(() => secondsToGenerate(engine, requests, 1));
      }),
  };
}

/** Runs this command with other arguments to its end; throws with its last words where it fails. */
function runSelf(args: readonly string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...process.execArgv, process.argv[1], ...args], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const complaints: Buffer[] = [];
    child.stderr.on('data', (data: Buffer) => complaints.push(data));
    child.on('error', reject);
    child.on('close', (code, signal) => {
      if (code === 0) return resolve();
      const last = Buffer.concat(complaints).toString().trim().split('\n').at(-1);
      reject(new Error(`tandem ${args[0]} ended with ${code ?? signal}: ${last}`));
    });
  });
}

/** Bytes of a model's file that every start reads. */
const fileBytes = (config: Qwen3Config) =>
  2 * weightSpecs(config).reduce((total, { shape }) => total + elementCount(shape), 0);

/**
 * Seconds of a whole `tandem generate` to its first token, the file in the page cache. The limit: the weights are read
 * once.
 */
export function startItem(dtype: MeasuredType, device: string): Item {
  return {
    name: 'start',
    shape: `${SHAPE}, first token`,
    dtype,
    device,
    unit: 's',
    limit(limits: Limits) {
      const bandwidth = readBandwidth(limits, device);
      return bandwidth === null ? null : fileBytes(qwen3Small()) / bandwidth;
    },
    peers: {
      'llama.cpp': {
        kind: 'start',
        folder: benchCache(),
        quantization: LLAMA_TYPES[dtype],
        tokens: START_TOKENS,
      },
    },
    async measure() {
      const folder = await qwen3SmallFolder();
      const args = ['generate', folder, '--tokens', START_TOKENS.join(','), '--max-tokens', '1'];
      const once = async () => {
        const start = performance.now();
        await runSelf([...args, '--dtype', dtype, '--device', device]);
        return (performance.now() - start) / 1000;
      };
      // The first one brings the file into the page cache.
      await once();
      const runs: number[] = [];
      for (let run = 0; run < RUNS; run++) runs.push(await once());
      return median(runs);
    },
  };
}

export const largeDecodeItems = (device: string): Item[] =>
  TYPES.flatMap((dtype) => [1, 16, 64].map((batch) => largeDecodeItem(dtype, batch, device)));
export const prefillItems = (device: string): Item[] => TYPES.map((dtype) => prefillItem(dtype, device));
export const startItems = (device: string): Item[] => TYPES.map((dtype) => startItem(dtype, device));
