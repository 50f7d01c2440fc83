import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hash32 } from '../../src/numerics/hash.ts';
import { philox4x32, Random } from '../../src/numerics/random.ts';

const hex = (words: Iterable<number>) =>
  [...words].map((word) => word.toString(16).padStart(8, '0')).join(' ');

test('philox4x32-10 gives the published answers', () => {
  const ones = 0xffffffff;
  const answers: [number[], number[], string][] = [
    [[0, 0, 0, 0], [0, 0], '6627e8d5 e169c58d bc57ac4c 9b00dbd8'],
    [[ones, ones, ones, ones], [ones, ones], '408f276d 41c83b0e a20bc7c6 6d5451fd'],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      'd16cfe09 94fdcceb 5001e420 24126ea1',
    ],
  ];
  for (const [counter, key, expected] of answers) assert.equal(hex(philox4x32(counter, key)), expected);
});

test('philox agrees with 64-bit integer arithmetic on random inputs', () => {
  const random = new Random(3, 'inputs');
  const words = (n: number) => Array.from({ length: n }, () => random.uint32());
  for (let trial = 0; trial < 300; trial++) {
    const counter = words(4);
    const key = words(2);
    let [c0, c1, c2, c3] = counter.map(BigInt) as [bigint, bigint, bigint, bigint];
    let [k0, k1] = key.map(BigInt) as [bigint, bigint];
    for (let round = 0; round < 10; round++) {
      const p0 = 0xd2511f53n * c0;
      const p1 = 0xcd9e8d57n * c2;
      [c0, c1, c2, c3] = [(p1 >> 32n) ^ c1 ^ k0, p1 & 0xffffffffn, (p0 >> 32n) ^ c3 ^ k1, p0 & 0xffffffffn];
      k0 = (k0 + 0x9e3779b9n) & 0xffffffffn;
      k1 = (k1 + 0xbb67ae85n) & 0xffffffffn;
    }
    assert.equal(hex(philox4x32(counter, key)), hex([c0, c1, c2, c3].map(Number)));
  }
});

test('murmur3 gives the published answers', () => {
  assert.equal(hash32(''), 0);
  assert.equal(hash32('', 1), 0x514e28b7);
  assert.equal(hash32('', 0xffffffff), 0x81f16f39);
  assert.equal(hash32('test'), 0xba6bd213);
  assert.equal(hash32('Hello, world!'), 0xc0363e43);
  assert.equal(hash32('The quick brown fox jumps over the lazy dog'), 0x2e4ff723);
});

const take = (random: Random, count: number) => Array.from({ length: count }, () => random.uint32());

test('seed, stream and index each give another sequence; the same three give the same', () => {
  const sequences = [
    new Random(1),
    new Random(2),
    new Random(1 + 2 ** 32),
    new Random(1, 'a'),
    new Random(1, 'b'),
    new Random(1, 'a', 1),
    new Random(1, 'a', 2 ** 32),
  ].map((random) => hex(take(random, 8)));
  assert.equal(new Set(sequences).size, sequences.length);
  assert.deepEqual(take(new Random(7, 'x', 9), 50), take(new Random(7, 'x', 9), 50));
});

test('a generator goes on from its saved state, at every position', () => {
  const whole = take(new Random(5, 'resume', 3), 40);
  for (let cut = 0; cut < 30; cut++) {
    const random = new Random(5, 'resume', 3);
    take(random, cut);
    const restored = Random.restore(JSON.parse(JSON.stringify(random.state)));
    assert.deepEqual(take(restored, 10), whole.slice(cut, cut + 10));
  }
});

test('below has no modulo bias: words beyond the last whole run are drawn again', () => {
  // With this bound a plain remainder would give values under 2^30 twice the probability of the others.
  const bound = 3 * 2 ** 30;
  const random = new Random(11);
  let low = 0;
  const draws = 30_000;
  for (let i = 0; i < draws; i++) if (random.below(bound) < 2 ** 30) low++;
  assert.ok(Math.abs(low / draws - 1 / 3) < 0.015, `${low} of ${draws} are in the lowest third`);
});

test('integers, floats, shuffles and normals are distributed as they should be', () => {
  const random = new Random(0, 'distributions');
  const counts = new Array<number>(7).fill(0);
  for (let i = 0; i < 14_000; i++) counts[random.integer(3, 9) - 3]!++;
  for (const count of counts) assert.ok(Math.abs(count - 2000) < 220, `a count of ${count} instead of 2000`);

  let sum = 0;
  let sumNormal = 0;
  let squares = 0;
  for (let i = 0; i < 20_000; i++) {
    const value = random.float();
    assert.ok(value >= 0 && value < 1);
    sum += value;
    const normal = random.normal();
    sumNormal += normal;
    squares += normal * normal;
  }
  assert.ok(Math.abs(sum / 20_000 - 0.5) < 0.01);
  assert.ok(Math.abs(sumNormal / 20_000) < 0.03);
  assert.ok(Math.abs(squares / 20_000 - 1) < 0.05);

  const orders = new Map<string, number>();
  for (let i = 0; i < 6000; i++) {
    const order = random.shuffle(['a', 'b', 'c']).join('');
    orders.set(order, (orders.get(order) ?? 0) + 1);
  }
  assert.equal(orders.size, 6);
  for (const count of orders.values())
    assert.ok(Math.abs(count - 1000) < 150, `an order came ${count} times`);
});

test('values out of range are refused with their name', () => {
  assert.throws(() => new Random(-1), /seed must be an integer from 0/);
  assert.throws(() => new Random(1.5), /seed must be an integer/);
  assert.throws(() => new Random(1, 2 ** 32), /stream must be an integer from 0 to 4294967295/);
  assert.throws(() => new Random(1, 0, -1), /index must be/);
  assert.throws(() => new Random(1).below(0), /bound must be an integer from 1/);
  assert.throws(() => new Random(1).integer(5, 4), /low <= high/);
  assert.throws(() => new Random(1).pick([]), /nothing to pick/);
  assert.throws(() => Random.restore({ seed: 1, stream: 0, index: 0, position: -1 }), /position/);
});
