/** Models with random weights in the shape of published ones, to measure loading and generation with. Needs Node. */
import { mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { cacheFolder } from '../accelerators/cpu/host.ts';
import { exists, writeFileAtomic, writeSafetensors } from '../checkpoint/files.ts';
import { storedShape } from '../checkpoint/layout.ts';
import type { FloatType, StoredTensor } from '../checkpoint/safetensors.ts';
import { fromFloat32 } from '../checkpoint/safetensors.ts';
import type { Qwen3Config } from '../models/config.ts';
import { parseConfig } from '../models/config.ts';
import type { WeightSpec } from '../models/qwen3.ts';
import { weightSpecs } from '../models/qwen3.ts';
import { Random } from '../numerics/random.ts';

export interface SyntheticShape {
  readonly layers?: number;
  readonly vocabulary?: number;
}

/** Qwen3-0.6B (Qwen3 Technical Report, arXiv 2505.09388, table 1, and its published config.json), or a part of it. */
export function qwen3Small({ layers = 28, vocabulary = 151936 }: SyntheticShape = {}): Qwen3Config {
  return parseConfig({
    architectures: ['Qwen3ForCausalLM'],
    model_type: 'qwen3',
    vocab_size: vocabulary,
    hidden_size: 1024,
    intermediate_size: 3072,
    num_hidden_layers: layers,
    num_attention_heads: 16,
    num_key_value_heads: 8,
    head_dim: 128,
    hidden_act: 'silu',
    max_position_embeddings: 40960,
    rms_norm_eps: 1e-6,
    rope_theta: 1000000,
    tie_word_embeddings: true,
  });
}

const POOL = 2 ** 16;

/** Normal values drawn with replacement from a pool: as random to a multiplication as fresh ones, and quick. */
function drawer(dtype: FloatType): (spec: WeightSpec) => StoredTensor {
  const random = new Random(1, 'bench weights');
  const pool = Float32Array.from({ length: POOL }, () => random.normal());
  let state = 0x9e3779b9;
  return (spec) => {
    const shape = storedShape(spec);
    const count = shape.reduce((product, size) => product * size, 1);
    if (spec.kind === 'norm') return fromFloat32(spec.name, shape, new Float32Array(count).fill(1), dtype);
    const scaled = fromFloat32(
      spec.name,
      [POOL],
      pool.map((value) => value * spec.std),
      dtype,
    ).data;
    const Elements = dtype === 'F32' ? Uint32Array : Uint16Array;
    const source = new Elements(scaled.buffer as ArrayBuffer, scaled.byteOffset, POOL);
    const target = new Elements(count);
    for (let i = 0; i < count; i++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      target[i] = source[state & 0xffff];
    }
    return { name: spec.name, dtype, shape, data: new Uint8Array(target.buffer) };
  };
}

/** Writes config.json and model.safetensors into `folder`, which is made where it is missing. */
export async function writeSyntheticModel(
  folder: string,
  config: Qwen3Config,
  dtype: FloatType,
): Promise<void> {
  await writeFileAtomic(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
  await writeSafetensors(join(folder, 'model.safetensors'), weightSpecs(config).map(drawer(dtype)), {
    format: 'pt',
  });
}

/** Where models for benchmarks are kept: TANDEM_BENCH_CACHE, else `tandem/bench` in the user's cache. */
export const benchCache = (): string => process.env.TANDEM_BENCH_CACHE ?? join(cacheFolder(), 'bench');

/** Folder of a model of Qwen3-0.6B's shape in bf16, 1.2 GB, which is made where it is not there yet. */
export async function qwen3SmallFolder(): Promise<string> {
  const folder = join(benchCache(), 'qwen3-0.6b-bf16');
  if (await exists(folder)) return folder;
  // A folder that is there is complete.
  const part = `${folder}.part`;
  await rm(part, { recursive: true, force: true });
  await mkdir(part, { recursive: true });
  await writeSyntheticModel(part, qwen3Small(), 'BF16');
  await rename(part, folder);
  return folder;
}
