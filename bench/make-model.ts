/**
 * Writes a model of the shape of Qwen3-0.6B (or of another) with random weights, to measure loading and generation with.
 * node --import tsx bench/make-model.ts <folder> [--layers 28] [--vocab 151936] [--dtype BF16|F16|F32]
 */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { writeFileAtomic, writeSafetensors } from '../src/checkpoint/files.ts';
import { storedShape } from '../src/checkpoint/layout.ts';
import type { FloatType, StoredTensor } from '../src/checkpoint/safetensors.ts';
import { fromFloat32 } from '../src/checkpoint/safetensors.ts';
import { parseConfig } from '../src/models/config.ts';
import type { WeightSpec } from '../src/models/qwen3.ts';
import { weightSpecs } from '../src/models/qwen3.ts';
import { Random } from '../src/numerics/random.ts';

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    layers: { type: 'string', default: '28' },
    vocab: { type: 'string', default: '151936' },
    dtype: { type: 'string', default: 'BF16' },
  },
});
const [folder] = positionals;
if (folder === undefined) throw new Error('name the folder that the model is to be written to');
const dtype = options.dtype as FloatType;

// Qwen3 Technical Report (arXiv 2505.09388), table 1, and the published config.json.
const config = parseConfig({
  architectures: ['Qwen3ForCausalLM'],
  model_type: 'qwen3',
  vocab_size: Number(options.vocab),
  hidden_size: 1024,
  intermediate_size: 3072,
  num_hidden_layers: Number(options.layers),
  num_attention_heads: 16,
  num_key_value_heads: 8,
  head_dim: 128,
  hidden_act: 'silu',
  max_position_embeddings: 40960,
  rms_norm_eps: 1e-6,
  rope_theta: 1000000,
  tie_word_embeddings: true,
});

/** Normal values drawn with replacement from a pool: as random to a multiplication as fresh ones, and quick. */
const random = new Random(1, 'bench weights');
const pool = Float32Array.from({ length: 2 ** 16 }, () => random.normal());
let state = 0x9e3779b9;

function weight(spec: WeightSpec): StoredTensor {
  const shape = storedShape(spec);
  const count = shape.reduce((product, size) => product * size, 1);
  if (spec.kind === 'norm') return fromFloat32(spec.name, shape, new Float32Array(count).fill(1), dtype);
  const scaled = fromFloat32(
    spec.name,
    [pool.length],
    pool.map((value) => value * spec.std),
    dtype,
  ).data;
  const Elements = dtype === 'F32' ? Uint32Array : Uint16Array;
  const source = new Elements(scaled.buffer as ArrayBuffer, scaled.byteOffset, pool.length);
  const target = new Elements(count);
  for (let i = 0; i < count; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    target[i] = source[state & 0xffff];
  }
  return { name: spec.name, dtype, shape, data: new Uint8Array(target.buffer) };
}

await writeFileAtomic(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
await writeSafetensors(join(folder, 'model.safetensors'), weightSpecs(config).map(weight), { format: 'pt' });
