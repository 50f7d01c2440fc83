// Writes a model of the shape of Qwen3-0.6B with random weights as a GGUF file, which llama.cpp reads.
// node make_gguf.mjs FILE bf16|f16|q8_0|q4_0
// The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
import { existsSync } from 'node:fs';
import { mkdir, open, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { pathToFileURL } from 'node:url';

// Qwen3 Technical Report (arXiv 2505.09388), table 1, and the published config.json.
const SHAPE = { hidden: 1024, layers: 28, heads: 16, kvHeads: 8, headDim: 128, inner: 3072, vocabulary: 151936 };
const POOL = 2 ** 16;
const ALIGNMENT = 32;

const pool = (() => {
  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  return Float32Array.from({ length: POOL }, () => 0.02 * normal());
})();
const bitsOf = (value) => new Uint32Array(Float32Array.of(value).buffer)[0];

/** Nearest f16 of a value whose f16 is normal or zero, which is all that occurs here. */
function half(value) {
  const bits = bitsOf(value);
  const exponent = ((bits >>> 23) & 0xff) - 112;
  if (exponent <= 0) return (bits >>> 16) & 0x8000;
  return ((bits >>> 16) & 0x8000) | ((exponent << 10) + (((bits & 0x7fffff) + 0x1000) >>> 13));
}

/** Of each type: its number in GGUF and llama.cpp, and the pool's values in blocks of `block` values. */
const TYPES = {
  f16: { id: 1, file: 1, block: 1, encode: (values) => new Uint8Array(Uint16Array.from(values, half).buffer) },
  bf16: {
    id: 30,
    file: 32,
    block: 1,
    encode: (values) => new Uint8Array(Uint16Array.from(values, (value) => (bitsOf(value) + 0x8000) >>> 16).buffer),
  },
  q8_0: {
    id: 8,
    file: 7,
    block: 32,
    encode: (values) =>
      blocks(values, 34, (block, out, view) => {
        const scale = Math.max(...block.map(Math.abs)) / 127;
        view.setUint16(0, half(scale), true);
        block.forEach((value, i) => {
          view.setInt8(2 + i, Math.round(value / scale));
        });
      }),
  },
  q4_0: {
    id: 2,
    file: 2,
    block: 32,
    encode: (values) =>
      blocks(values, 18, (block, out, view) => {
        const scale = Math.max(...block.map(Math.abs)) / 8;
        const code = (i) => Math.min(15, Math.max(0, Math.round(block[i] / scale) + 8));
        view.setUint16(0, half(scale), true);
        for (let i = 0; i < 16; i++) out[2 + i] = code(i) | (code(i + 16) << 4);
      }),
  },
};

function blocks(values, bytes, write) {
  const out = new Uint8Array((values.length / 32) * bytes);
  for (let i = 0; i < values.length / 32; i++) {
    const at = out.subarray(i * bytes, (i + 1) * bytes);
    write(values.subarray(i * 32, i * 32 + 32), at, new DataView(at.buffer, at.byteOffset, bytes));
  }
  return out;
}

const u32 = (value) => new Uint8Array(Uint32Array.of(value).buffer);
const u64 = (value) => new Uint8Array(BigUint64Array.of(BigInt(value)).buffer);
const string = (value) => {
  const bytes = new TextEncoder().encode(value);
  return Buffer.concat([u64(bytes.length), bytes]);
};
const VALUES = {
  u32: (value) => [u32(4), u32(value)],
  f32: (value) => [u32(6), new Uint8Array(Float32Array.of(value).buffer)],
  string: (value) => [u32(8), string(value)],
  strings: (values) => [u32(9), u32(8), u64(values.length), ...values.map(string)],
  i32s: (values) => [u32(9), u32(5), u64(values.length), new Uint8Array(Int32Array.from(values).buffer)],
};
const entry = (key, type, value) => Buffer.concat([string(key), ...VALUES[type](value)]);

function metadata(type) {
  const { hidden, layers, heads, kvHeads, headDim, inner, vocabulary } = SHAPE;
  // A tokenizer is obligatory. Nobody tokenizes with this one.
  const tokens = Array.from({ length: vocabulary }, (_, i) => (i < 256 ? String.fromCodePoint(0x100 + i) : `t${i}`));
  return [
    entry('general.architecture', 'string', 'qwen3'),
    entry('general.name', 'string', 'random weights'),
    entry('general.file_type', 'u32', TYPES[type].file),
    entry('qwen3.block_count', 'u32', layers),
    entry('qwen3.context_length', 'u32', 40960),
    entry('qwen3.embedding_length', 'u32', hidden),
    entry('qwen3.feed_forward_length', 'u32', inner),
    entry('qwen3.attention.head_count', 'u32', heads),
    entry('qwen3.attention.head_count_kv', 'u32', kvHeads),
    entry('qwen3.attention.key_length', 'u32', headDim),
    entry('qwen3.attention.value_length', 'u32', headDim),
    entry('qwen3.attention.layer_norm_rms_epsilon', 'f32', 1e-6),
    entry('qwen3.rope.freq_base', 'f32', 1e6),
    entry('tokenizer.ggml.model', 'string', 'gpt2'),
    entry('tokenizer.ggml.pre', 'string', 'qwen2'),
    entry('tokenizer.ggml.tokens', 'strings', tokens),
    entry('tokenizer.ggml.token_type', 'i32s', new Array(vocabulary).fill(1)),
    entry('tokenizer.ggml.merges', 'strings', [`${tokens[0]} ${tokens[1]}`]),
    entry('tokenizer.ggml.bos_token_id', 'u32', vocabulary - 2),
    entry('tokenizer.ggml.eos_token_id', 'u32', vocabulary - 1),
  ];
}

/** Name and shape [rows, columns]; norms have one row. */
function tensors() {
  const { hidden, layers, heads, kvHeads, headDim, inner, vocabulary } = SHAPE;
  return [
    ['token_embd.weight', vocabulary, hidden],
    ['output_norm.weight', 1, hidden],
    ...Array.from({ length: layers }, (_, layer) =>
      [
        ['attn_norm', 1, hidden],
        ['ffn_norm', 1, hidden],
        ['attn_q_norm', 1, headDim],
        ['attn_k_norm', 1, headDim],
        ['attn_q', heads * headDim, hidden],
        ['attn_k', kvHeads * headDim, hidden],
        ['attn_v', kvHeads * headDim, hidden],
        ['attn_output', hidden, heads * headDim],
        ['ffn_gate', inner, hidden],
        ['ffn_up', inner, hidden],
        ['ffn_down', hidden, inner],
      ].map(([name, rows, columns]) => [`blk.${layer}.${name}.weight`, rows, columns]),
    ).flat(),
  ];
}

/** Blocks drawn with replacement from the pool: as random to a multiplication as fresh ones, and quick. */
function drawn(encoded, blockBytes, count) {
  const out = Buffer.allocUnsafe(count * blockBytes);
  let state = (Math.random() * 2 ** 32) | 1;
  const mask = encoded.length / blockBytes - 1;
  for (let i = 0; i < count; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    const from = (state & mask) * blockBytes;
    for (let byte = 0; byte < blockBytes; byte++) out[i * blockBytes + byte] = encoded[from + byte];
  }
  return out;
}

const padding = (bytes) => Buffer.alloc((ALIGNMENT - (bytes % ALIGNMENT)) % ALIGNMENT);

/** Makes the file where it is not there yet. */
export async function makeGguf(path, type) {
  if (!Object.hasOwn(TYPES, type)) throw new Error(`there is no type '${type}': use ${Object.keys(TYPES).join(', ')}`);
  if (existsSync(path)) return;
  await mkdir(dirname(path), { recursive: true });
  const { id, block, encode } = TYPES[type];
  const encoded = encode(pool);
  const blockBytes = (encoded.length / POOL) * block;
  const list = tensors().map(([name, rows, columns]) => ({
    name,
    rows,
    columns,
    bytes: rows === 1 ? 4 * columns : ((rows * columns) / block) * blockBytes,
  }));
  const entries = metadata(type);
  const parts = [Buffer.from('GGUF'), u32(3), u64(list.length), u64(entries.length), ...entries];
  let offset = 0;
  for (const { name, rows, columns, bytes } of list) {
    const sizes = rows === 1 ? [columns] : [columns, rows];
    parts.push(string(name), u32(sizes.length), ...sizes.map(u64), u32(rows === 1 ? 0 : id), u64(offset));
    offset += bytes + padding(bytes).length;
  }
  const header = Buffer.concat(parts);
  const file = await open(`${path}.part`, 'w');
  try {
    await file.write(header);
    await file.write(padding(header.length));
    for (const { rows, columns, bytes } of list) {
      await file.write(
        rows === 1
          ? new Uint8Array(new Float32Array(columns).fill(1).buffer)
          : drawn(encoded, blockBytes, (rows * columns) / block),
      );
      await file.write(padding(bytes));
    }
  } finally {
    await file.close();
  }
  await rename(`${path}.part`, path);
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [path, type] = process.argv.slice(2);
  if (type === undefined) throw new Error('usage: node make_gguf.mjs FILE bf16|f16|q8_0|q4_0');
  await makeGguf(path, type);
}
