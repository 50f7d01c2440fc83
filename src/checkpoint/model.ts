/** A model's folder: `config.json` and its weights, read and written in the layout of `transformers`. Needs Node. */
import { join } from 'node:path';
import { z } from 'zod';
import type { Qwen3Config } from '../models/config.ts';
import { parseConfig } from '../models/config.ts';
import { weightSpecs } from '../models/qwen3.ts';
import { CheckpointError } from './error.ts';
import { openCheckpoint, readJsonFile, writeFileAtomic, writeSafetensors } from './files.ts';
import { checkWeight, storedShape, transposed, weightValues } from './layout.ts';
import type { FloatType, StoredTensor } from './safetensors.ts';
import { fromFloat32 } from './safetensors.ts';

export interface LoadedModel {
  readonly config: Qwen3Config;
  /** Values by name, f32, in the layout of `weightSpecs`: matrices as [in, out]. */
  readonly weights: ReadonlyMap<string, Float32Array>;
}

/**
 * Reads a Qwen3 model.
 * @throws CheckpointError or ConfigError where a file is missing, damaged, or lacks a weight or has one of a wrong shape
 */
export async function readModel(folder: string): Promise<LoadedModel> {
  const configPath = join(folder, 'config.json');
  const config = parseConfig(await readJsonFile(configPath, z.unknown()), configPath);
  await using checkpoint = await openCheckpoint(folder);
  const weights = new Map<string, Float32Array>();
  for (const spec of weightSpecs(config)) {
    const info = checkpoint.tensors.get(spec.name);
    checkWeight(spec, info, folder);
    weights.set(spec.name, weightValues(spec, await checkpoint.read(spec.name)));
  }
  return { config, weights };
}

/** The weights as a checkpoint holds them. */
export function storedWeights(
  config: Qwen3Config,
  weights: ReadonlyMap<string, Float32Array>,
  dtype: FloatType = 'F32',
): StoredTensor[] {
  return weightSpecs(config).map((spec) => {
    const values = weights.get(spec.name);
    if (values === undefined) throw new CheckpointError(`the weight '${spec.name}' is missing`);
    const stored = spec.kind === 'matrix' ? transposed(values, spec.shape[0], spec.shape[1]) : values;
    return fromFloat32(spec.name, storedShape(spec), stored, dtype);
  });
}

/** Writes `config.json`, `generation_config.json` and `model.safetensors`, each atomically, the weights last. */
export async function writeModel(
  folder: string,
  { config, weights }: LoadedModel,
  dtype: FloatType = 'F32',
): Promise<void> {
  const generation = {
    bos_token_id: config.bos_token_id ?? null,
    eos_token_id: config.eos_token_id ?? null,
    pad_token_id: config.pad_token_id ?? null,
    do_sample: true,
    temperature: 1,
  };
  await writeFileAtomic(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
  await writeFileAtomic(join(folder, 'generation_config.json'), `${JSON.stringify(generation, null, 2)}\n`);
  // transformers refuses files whose metadata does not name their format.
  await writeSafetensors(join(folder, 'model.safetensors'), storedWeights(config, weights, dtype), {
    format: 'pt',
  });
}
