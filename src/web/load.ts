/** A model from a web server: the same files that a run leaves in its folder. */
import { CheckpointError } from '../checkpoint/error.ts';
import { checkWeight, weightValues } from '../checkpoint/layout.ts';
import { parseSafetensors } from '../checkpoint/safetensors.ts';
import { Tokenizer } from '../checkpoint/tokenizer.ts';
import type { Weights } from '../inference/weights.ts';
import type { Qwen3Config } from '../models/config.ts';
import { parseConfig } from '../models/config.ts';
import { weightSpecs } from '../models/qwen3.ts';

/** parity.json: what the learner computed for these tokens. */
export interface RecordedParity {
  readonly learner: string;
  readonly checksum: string;
  readonly bound: number;
  readonly sequences: readonly {
    readonly prompt: readonly number[];
    readonly completion: readonly number[];
    readonly logprobs: readonly number[];
  }[];
}

export interface FetchedModel {
  readonly config: Qwen3Config;
  readonly weights: Weights;
  readonly tokenizer: Tokenizer | null;
  readonly about: { readonly name?: string; readonly description?: string; readonly example?: string };
  readonly parity: RecordedParity | null;
}

async function get(url: URL, optional: boolean): Promise<Response | null> {
  const response = await fetch(url);
  if (response.ok) return response;
  if (optional && response.status === 404) return null;
  throw new CheckpointError(`${url}: the server answered ${response.status} ${response.statusText}`);
}

/** Fetches a model's files from the folder `base` (a URL that ends in '/'). Throws where one is missing or damaged. */
export async function fetchModel(base: URL): Promise<FetchedModel> {
  const json = async (name: string, optional = false) => (await get(new URL(name, base), optional))?.json();
  const config = parseConfig(await json('config.json'), 'config.json');
  const file = await get(new URL('model.safetensors', base), false);
  const { tensors } = parseSafetensors(new Uint8Array(await file!.arrayBuffer()));
  const weights = new Map<string, Float32Array>();
  for (const spec of weightSpecs(config)) {
    const tensor = tensors.get(spec.name);
    checkWeight(spec, tensor, 'model.safetensors');
    weights.set(spec.name, weightValues(spec, tensor as NonNullable<typeof tensor>));
  }
  const tokenizer = await json('tokenizer.json', true);
  const tokenizerConfig = await json('tokenizer_config.json', true);
  return {
    config,
    weights,
    tokenizer: tokenizer && tokenizerConfig ? new Tokenizer({ tokenizer, config: tokenizerConfig }) : null,
    about: (await json('task.json', true)) ?? {},
    parity: (await json('parity.json', true)) ?? null,
  };
}
