/**
 * Writes a model of the shape of Qwen3-0.6B (or of another) with random weights, to measure loading and generation with.
 * node --import tsx bench/make-model.ts <folder> [--layers 28] [--vocab 151936] [--dtype BF16|F16|F32]
 */
import { parseArgs } from 'node:util';
import { qwen3Small, writeSyntheticModel } from '../src/bench/synthetic.ts';
import type { FloatType } from '../src/checkpoint/safetensors.ts';

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
const config = qwen3Small({ layers: Number(options.layers), vocabulary: Number(options.vocab) });
await writeSyntheticModel(folder, config, options.dtype as FloatType);
