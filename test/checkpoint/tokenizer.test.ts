import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers';
import { SPECIAL_TOKENS, Tokenizer, wordTokenizer } from '../../src/checkpoint/tokenizer.ts';
import { loadTokenizer, saveTokenizer } from '../../src/checkpoint/tokenizer-files.ts';
import { Random } from '../../src/numerics/random.ts';

const root = await mkdtemp(join(tmpdir(), 'tandem-tokenizer-'));
after(() => rm(root, { recursive: true }));

const WORDS = [
  '7',
  '12',
  '3',
  '+3',
  '*2',
  '=',
  'a>b',
  '__proto__',
  'constructor',
  "don't",
  'naïve',
  '#',
  '.',
];

test('special tokens come first, then the words in their order', () => {
  const tokenizer = wordTokenizer(WORDS);
  assert.deepEqual(tokenizer.ids, { pad: 0, bos: 1, eos: 2, think: 3, endThink: 4 });
  assert.equal(tokenizer.size, 5 + WORDS.length);
  [...SPECIAL_TOKENS, ...WORDS].forEach((token, id) => {
    assert.equal(tokenizer.id(token), id);
    assert.equal(tokenizer.token(id), token);
  });
  assert.equal(tokenizer.id('8'), undefined);
});

test('text encodes with <bos> before it and decodes to itself', () => {
  const tokenizer = wordTokenizer(WORDS);
  const text = "3 +3 *2 = <think> 12 don't . </think> 7 <eos>";
  const ids = tokenizer.encode(text);
  assert.equal(ids[0], 1);
  assert.deepEqual(tokenizer.encode(text, { special: false }), ids.slice(1));
  assert.equal(tokenizer.decode(ids), `<bos> ${text}`);
  assert.equal(tokenizer.decode(ids, { skipSpecial: true }), text.replace(' <eos>', ''));
  assert.deepEqual(tokenizer.encode('  3\n+3\t'), [1, 7, 8]);
  assert.deepEqual(tokenizer.encode(''), [1]);
  assert.equal(tokenizer.decode([]), '');
});

test('unknown words and ids are errors that name them', () => {
  const tokenizer = wordTokenizer(WORDS);
  assert.throws(() => tokenizer.encode('3 +4 ='), {
    name: 'CheckpointError',
    message: `"+4" is not in this model's vocabulary`,
  });
  assert.throws(() => tokenizer.decode([7, 99]), { message: 'there is no token 99 in a vocabulary of 18' });
});

test('a saved tokenizer is read back by the library itself, with the same ids and text', async () => {
  const folder = join(root, 'saved');
  const tokenizer = wordTokenizer(WORDS);
  await saveTokenizer(folder, tokenizer);
  const read = async (name: string) => JSON.parse(await readFile(join(folder, name), 'utf8'));
  const library = new HuggingFaceTokenizer(await read('tokenizer.json'), await read('tokenizer_config.json'));
  const loaded = await loadTokenizer(folder);
  assert.deepEqual(loaded.ids, tokenizer.ids);
  for (let seed = 0; seed < 200; seed++) {
    const random = new Random(seed, 'text');
    const ids = [1, ...Array.from({ length: random.below(20) }, () => random.below(tokenizer.size))];
    const text = tokenizer.decode(ids);
    assert.equal(library.decode(ids), text);
    assert.equal(loaded.decode(ids), text);
    // Special tokens other than <bos> are part of the text; the first <bos> is added again.
    const body = tokenizer.decode(ids.slice(1));
    assert.deepEqual(library.encode(body).ids, ids);
    assert.deepEqual(loaded.encode(body), ids);
    assert.deepEqual(tokenizer.encode(body), ids);
  }
});

test('vocabularies that could not be encoded again are refused', () => {
  assert.throws(() => wordTokenizer(['a', '']), /"" must be a word/);
  assert.throws(() => wordTokenizer(['a b']), /"a b" must be a word/);
  assert.throws(() => wordTokenizer(['a', 'b', 'a']), /has "a" twice/);
  assert.throws(() => wordTokenizer(['<eos>']), /has "<eos>" twice/);
  assert.throws(() => wordTokenizer(['x<think>']), /must not have the special token <think> in it/);
});

/** A byte-level BPE tokenizer like those of published models, small. */
const bpe = {
  version: '1.0',
  added_tokens: [
    { id: 7, content: '<|end|>', special: true, normalized: false },
    { id: 8, content: '<think>', special: false, normalized: false },
  ],
  normalizer: null,
  pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
  post_processor: null,
  decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
  model: {
    type: 'BPE',
    vocab: { a: 0, b: 1, Ġ: 2, ab: 3, Ġa: 4, Ġab: 5, c: 6 },
    merges: ['a b', 'Ġ ab'],
  },
};

test('other tokenizers of the format load, with special tokens written as objects', async () => {
  const folder = join(root, 'bpe');
  await saveTokenizer(
    folder,
    new Tokenizer({ tokenizer: bpe, config: { eos_token: { content: '<|end|>' }, pad_token: null } }),
  );
  const tokenizer = await loadTokenizer(folder);
  assert.deepEqual(tokenizer.ids, { pad: undefined, bos: undefined, eos: 7, think: 8, endThink: undefined });
  assert.equal(tokenizer.size, 9);
  assert.deepEqual(tokenizer.encode('ab abc<|end|>'), [3, 5, 6, 7]);
  assert.equal(tokenizer.decode([3, 5, 6, 7]), 'ab abc<|end|>');
  assert.equal(tokenizer.decode([3, 5, 6, 7], { skipSpecial: true }), 'ab abc');
});

test('files that are no tokenizer are refused, naming file and place', async () => {
  const folder = join(root, 'bad');
  await saveTokenizer(folder, wordTokenizer(['a']));
  const path = join(folder, 'tokenizer.json');
  const refused = async (content: string, message: RegExp) => {
    await writeFile(path, content);
    await assert.rejects(loadTokenizer(folder), { name: 'CheckpointError', message });
  };
  await refused('', /tokenizer.json: is not valid JSON/);
  await refused('[]', /tokenizer.json: at the top/);
  await refused('{}', /tokenizer.json: at model/);
  await refused(JSON.stringify({ ...bpe, added_tokens: [{ id: -1, content: 'x' }] }), /at added_tokens.0.id/);
  await refused(JSON.stringify({ ...bpe, model: { type: 'Nonsense' } }), /cannot be used: .*Nonsense/);
  await rm(path);
  await assert.rejects(loadTokenizer(folder), /tokenizer.json: there is no such file/);
});
