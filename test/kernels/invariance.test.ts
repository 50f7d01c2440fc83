/** The bits that must not depend on block sizes, batch, or whether a token came from prefill or decode. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { attention } from '../../src/kernels/attention.ts';
import { crossEntropy } from '../../src/kernels/crossentropy.ts';
import { matmul } from '../../src/kernels/matmul.ts';
import { philoxWord, sample, sampledLogp } from '../../src/kernels/sampling.ts';
import { philox4x32 } from '../../src/numerics/random.ts';
import { buildKernel } from '../../src/tile/builder.ts';
import { interpret } from '../../src/tile/interpret.ts';
import type { Kernel } from '../../src/tile/ir.ts';
import { buffersOf, decode, normals } from './buffers.ts';
import { STORAGES, type Storage } from './storage.ts';

/** Runs a kernel and returns one of its views. */
function run(
  kernel: Kernel,
  inputs: { readonly [view: string]: ArrayLike<number> },
  output: string,
): number[] {
  const buffers = buffersOf(kernel, inputs);
  interpret(kernel, buffers);
  const index = kernel.views.findIndex((view) => view.name === output);
  return decode(kernel.views[index].dtype, buffers[index]);
}

test('matmul: block sizes and number of rows change no bit', () => {
  const [n, k] = [13, 50];
  const [a, b] = [normals(1, 7 * k), normals(2, k * n)];
  const whole = run(matmul({ m: 7, n, k }), { a, b }, 'c');
  assert.deepEqual(run(matmul({ m: 7, n, k, blocks: { m: 3, n: 5, k: 16 } }), { a, b }, 'c'), whole);
  for (let row = 0; row < 7; row++) {
    assert.deepEqual(
      run(matmul({ m: 1, n, k }), { a: a.slice(row * k, (row + 1) * k), b }, 'c'),
      whole.slice(row * n, (row + 1) * n),
    );
  }
});

for (const type of STORAGES)
  test(`attention: decode, chunked prefill and training give the same bits, ${type}`, () =>
    sameAttention(type));

function sameAttention(type: Storage): void {
  const length = 70;
  const shape = { heads: 4, kvHeads: 2, headDim: 4, slots: 1 };
  const common = { ...shape, layout: 'cache', type, kvType: type } as const;
  const width = common.heads * common.headDim;
  const q = normals(3, length * width, type);
  const perHead = length * common.headDim;
  const [keys, values] = [normals(4, 2 * perHead, type), normals(5, 2 * perHead, type)];
  const whole = run(
    attention({ ...common, sequences: 1, queryLength: length, maxLength: length, training: true }),
    { q, keys: keys, values, slots: [0], start: [0], lengths: [length] },
    'o',
  );
  const byToken = (x: number[]) =>
    Array.from({ length: x.length }, (_, i) => {
      const [position, head, d] = [Math.floor(i / 8), Math.floor(i / 4) % 2, i % 4];
      return x[head * perHead + position * 4 + d];
    });
  const training = run(
    attention({ ...common, layout: 'tokens', sequences: 1, queryLength: length, maxLength: length }),
    { q, keys: byToken(keys), values: byToken(values), slots: [0], start: [0], lengths: [length] },
    'o',
  );
  assert.deepEqual(training, whole);
  // A longer cache, with other contents beyond the sequence.
  const longer = (x: number[]) =>
    [x.slice(0, perHead), normals(6, 60 * 4), x.slice(perHead), normals(7, 60 * 4)].flat();
  const decode1 = attention({ ...common, sequences: 1, queryLength: 1, maxLength: length + 60 });
  for (const position of [0, 1, 31, 32, 63, 64, 69]) {
    const part = run(
      decode1,
      {
        q: q.slice(position * width, (position + 1) * width),
        keys: longer(keys),
        values: longer(values),
        slots: [0],
        start: [position],
        lengths: [1],
      },
      'o',
    );
    assert.deepEqual(part, whole.slice(position * width, (position + 1) * width), `position ${position}`);
  }
  const chunk = attention({ ...common, sequences: 1, queryLength: 9, maxLength: length, blockQueries: 2 });
  const part = run(
    chunk,
    {
      q: q.slice(58 * width, 67 * width),
      keys: keys,
      values,
      slots: [0],
      start: [58],
      lengths: [9],
    },
    'o',
  );
  assert.deepEqual(part, whole.slice(58 * width, 67 * width));
}

test('sample and sampledLogp agree to the bit; the noise is a pure function of its counters', () => {
  const [rows, vocabulary] = [6, 1500];
  const logits = normals(8, rows * vocabulary, 'f32', 2);
  const temperature = [1, 0.7, 1.3, 0, 1, 1];
  const topK = [0, 20, 5, 3, 1, 0];
  const topP = [1, 0.9, 0.5, 0.4, 1, 1];
  const random = Array.from({ length: rows }, (_, r) => [12345, 6, r, 99]).flat();
  const inputs = { logits, temperature, topK, topP };
  const tokens = run(sample({ rows, vocabulary }), { ...inputs, random }, 'tokens');
  const logp = run(sample({ rows, vocabulary }), { ...inputs, random }, 'logp');
  assert.deepEqual(run(sampledLogp({ rows, vocabulary }), { ...inputs, tokens }, 'logp'), logp);
  const row = (r: number) => logits.slice(r * vocabulary, (r + 1) * vocabulary);
  const rank = (r: number) => row(r).filter((x) => x > row(r)[tokens[r]]).length;
  assert.equal(rank(3), 0);
  assert.equal(rank(4), 0);
  assert.equal(logp[4], 0);
  assert.ok(rank(1) < 20 && rank(2) < 5);
  // An untruncated row is the plain cross-entropy of the token.
  const plain = run(crossEntropy({ rows, vocabulary }), { logits, temperature, targets: tokens }, 'logp');
  for (const r of [0, 3, 5]) assert.equal(logp[r], plain[r]);
  // One row alone, as another batch, gives the same token and bits.
  const alone = { logits: row(2), temperature: [1.3], topK: [5], topP: [0.5], random: random.slice(8, 12) };
  assert.deepEqual(
    [
      run(sample({ rows: 1, vocabulary }), alone, 'tokens')[0],
      run(sample({ rows: 1, vocabulary }), alone, 'logp')[0],
    ],
    [tokens[2], logp[2]],
  );
});

test('samples follow the softmax', () => {
  const rows = 600;
  const p = [0.5, 0.3, 0.15, 0.05];
  const logits = Array.from({ length: rows }, () => p.map(Math.log)).flat();
  const fill = (value: number) => new Array<number>(rows).fill(value);
  const random = Array.from({ length: rows }, (_, r) => [1, 2, 3, r]).flat();
  const tokens = run(
    sample({ rows, vocabulary: 4 }),
    { logits, temperature: fill(1), topK: fill(0), topP: fill(1), random },
    'tokens',
  );
  p.forEach((share, token) => {
    const count = tokens.filter((t) => t === token).length;
    assert.ok(
      Math.abs(count - rows * share) < 4 * Math.sqrt(rows * share * (1 - share)),
      `token ${token}: ${count} of ${rows}`,
    );
  });
});

test('samples follow the softmax over several blocks of the vocabulary, and leave out those that truncation empties', () => {
  const [rows, vocabulary] = [800, 3500];
  // Blocks have 1024 tokens: nothing in the second that is likely, and the last is not whole.
  const shares = new Map([
    [5, 0.1],
    [1023, 0.2],
    [2048, 0.4],
    [3499, 0.25],
    [3100, 0.05],
  ]);
  const line = Array.from({ length: vocabulary }, (_, token) => Math.log(shares.get(token) ?? 1e-12));
  const fill = (value: number) => new Array<number>(rows).fill(value);
  const random = Array.from({ length: rows }, (_, r) => [1, 2, 3, r]).flat();
  const count = (topK: number) => {
    const inputs = {
      logits: fill(0).flatMap(() => line),
      temperature: fill(1),
      topK: fill(topK),
      topP: fill(1),
    };
    const tokens = run(sample({ rows, vocabulary }), { ...inputs, random }, 'tokens');
    return (token: number) => tokens.filter((t) => t === token).length;
  };
  const check = (of: (token: number) => number, kept: readonly number[]) => {
    const mass = kept.reduce((sum, token) => sum + (shares.get(token) ?? 0), 0);
    assert.equal(
      kept.reduce((sum, token) => sum + of(token), 0),
      rows,
    );
    for (const token of kept) {
      const share = (shares.get(token) ?? 0) / mass;
      const spread = 4 * Math.sqrt(rows * share * (1 - share));
      assert.ok(Math.abs(of(token) - rows * share) <= spread, `token ${token}: ${of(token)} of ${rows}`);
    }
  };
  check(count(0), [...shares.keys()]);
  // The first block is left with nothing.
  check(count(2), [2048, 3499]);
  check(count(1), [2048]);
});

test('philoxWord is the first word of philox4x32', () => {
  const kernel = buildKernel('philox', (k) => {
    const out = k.output('out', 'u32', [8]);
    const u = (value: number) => k.constant(value, 'u32');
    k.store(out, [0], philoxWord(k, k.iota([8]).cast('u32'), [u(0xdeadbeef), u(7)], u(11), u(0xfffffff0)));
  });
  const words = Array.from(
    { length: 8 },
    (_, i) => philox4x32([i, 11, 0xfffffff0, 0x53414d50], [0xdeadbeef, 7])[0],
  );
  assert.deepEqual(run(kernel, {}, 'out'), words);
});
