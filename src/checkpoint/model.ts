/** A model's folder: `config.json` and its weights, read and written in the layout of `transformers`. Needs Node. */
import { join } from 'node:path';
import { z } from 'zod';
import type { Qwen3Config } from '../models/config.ts';
import { parseConfig } from '../models/config.ts';
import type { WeightSpec } from '../models/qwen3.ts';
import { weightSpecs } from '../models/qwen3.ts';
import { CheckpointError } from './error.ts';
import { openCheckpoint, readJsonFile, writeFileAtomic, writeSafetensors } from './files.ts';
import type { FloatType, StoredTensor } from './safetensors.ts';
import { fromFloat32, toFloat32 } from './safetensors.ts';

export interface LoadedModel {
  readonly config: Qwen3Config;
  /** Values by name, f32, in the layout of `weightSpecs`: matrices as [in, out]. */
  readonly weights: ReadonlyMap<string, Float32Array>;
}

/** [rows, columns] to [columns, rows]. */
export function transposed(values: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++)
      out[column * rows + row] = values[row * columns + column];
  }
  return out;
}

/** The shape that a checkpoint holds. */
function storedShape({ kind, shape }: WeightSpec): readonly number[] {
  return kind === 'matrix' ? [shape[1], shape[0]] : shape;
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
    if (info === undefined)
      throw new CheckpointError(`${folder}: the weight '${spec.name}' that config.json calls for is missing`);
    const expected = storedShape(spec);
    if (info.shape.length !== expected.length || info.shape.some((size, axis) => size !== expected[axis])) {
      throw new CheckpointError(
        `${folder}: the weight '${spec.name}' has shape [${info.shape}], but config.json calls for [${expected}]`,
      );
    }
    const values = toFloat32(await checkpoint.read(spec.name));
    weights.set(spec.name, spec.kind === 'matrix' ? transposed(values, expected[0], expected[1]) : values);
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
