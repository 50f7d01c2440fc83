/** Benchmarks: rows, wrong names, ratios, saved files. Figures themselves are not judged. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import type { MachineLimits } from '../src/accelerators/cpu/limits.ts';
import { listDevices, openDevice } from '../src/accelerators/registry.ts';
import type { Item } from '../src/bench/item.ts';
import { matmulItem } from '../src/bench/matmul.ts';
import { forwardOperations, recipeModel } from '../src/bench/models.ts';
import type { Peer } from '../src/bench/peers.ts';
import { saveResults } from '../src/bench/results.ts';
import { measureItem } from '../src/bench/run.ts';
import { median, secondsEach } from '../src/bench/timing.ts';
import { limitLines, tableHeader, tableRow } from '../src/cli/bench.ts';
import { tandem } from './cli/harness.ts';

const limits: MachineLimits = {
  threads: 2,
  fma: { avx2: { one: 50e9, all: 100e9 }, avx512: { one: 100e9, all: 200e9 } },
  read: { one: 10e9, all: 20e9 },
  copy: { one: 8e9, all: 16e9 },
};
const peer = (value: number | null): Peer => ({
  name: 'other',
  version: '1',
  measure: async (items) => items.map(() => value),
});
const item = (unit: Item['unit'], value: number): Item => ({
  name: 'made up',
  shape: '1',
  dtype: 'f32',
  unit,
  limit: () => 4 * value,
  measure: async () => value,
  peer: { kind: 'made up' },
});
const surroundings = { open: () => openDevice('interpreter'), threads: 1, limits, peers: [] };

const cpu = (await listDevices()).find(({ name }) => name === 'cpu')!;

describe('measuring', () => {
  test('a product on cpu becomes a row', { skip: !cpu.available && cpu.reason }, async () => {
    const open = () => openDevice('cpu', { threads: 1 });
    const row = await measureItem(matmulItem({ m: 64, k: 64, n: 64 }), { ...surroundings, open });
    const { value, fraction, ...rest } = row;
    assert.deepEqual(rest, {
      name: 'matmul',
      shape: '64x64x64',
      dtype: 'f32',
      threads: 1,
      unit: 'GFLOP/s',
      limit: 200,
      peers: {},
    });
    // Between what an interpreter reaches and what no core does.
    assert.ok(value > 0.1 && value < 5000, `${value}`);
    assert.equal(fraction, value / 200);
  });

  test('ratios say how much faster Tandem is, also where less is better', async () => {
    const ratio = async (unit: Item['unit'], theirs: number | null) =>
      (await measureItem(item(unit, 10), { ...surroundings, peers: [peer(theirs)] })).peers;
    assert.deepEqual(await ratio('tokens/s', 5), { other: 2 });
    assert.deepEqual(await ratio('s', 5), { other: 0.5 });
    assert.deepEqual(await ratio('tokens/s', null), {});
  });

  test('without limits there is no fraction', async () => {
    const row = await measureItem(item('tokens/s', 10), { ...surroundings, limits: null });
    assert.deepEqual([row.limit, row.fraction], [null, null]);
  });

  test('the time of one repetition is the median of runs that are long enough', async () => {
    assert.equal(median([9, 1, 5]), 5);
    assert.equal(median([4, 1, 2, 9]), 3);
    const repeats: number[] = [];
    const seconds = await secondsEach(async (repeat) => {
      repeats.push(repeat);
      const end = performance.now() + 2 * repeat;
      while (performance.now() < end);
    });
    assert.ok(seconds >= 0.002 && seconds < 0.02, `${seconds}`);
    assert.ok(repeats.at(-1)! >= 10, `${repeats}`);
    assert.equal(new Set(repeats.slice(-7)).size, 1);
  });

  test('operations of a token: two for every weight that is multiplied, and attention', () => {
    const config = { ...recipeModel(), num_hidden_layers: 1, hidden_size: 8, intermediate_size: 16 };
    const sizes = { vocab_size: 10, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 4 };
    // q, o: 8x8 each; k, v: 8x4 each; three of 8x16; the head: 8x10.
    const weights = 2 * 64 + 2 * 32 + 3 * 128 + 80;
    assert.equal(forwardOperations({ ...config, ...sizes }, 5), 2 * weights + 2 * (2 * 8 * 5));
  });
});

describe('output', () => {
  const row = {
    name: 'matmul',
    shape: '64x64x64',
    dtype: 'f32',
    threads: 2,
    value: 1234.5,
    unit: 'GFLOP/s',
    limit: 2000,
    fraction: 0.61725,
    peers: { pytorch: 1.234 },
  } as const;

  test('a row shows what was achieved, the limit, the share and the ratio', () => {
    assert.deepEqual(tableRow(row, ['pytorch']).trim().split(/\s+/u), [
      ...['matmul', '64x64x64', '1,235', 'GFLOP/s', '2,000', '61.7', '%', '1.23x'],
    ]);
    const bare = tableRow({ ...row, limit: null, fraction: null, peers: {} }, ['pytorch']);
    assert.deepEqual(bare.trim().split(/\s+/u).slice(4), ['-', '-', '-']);
    assert.equal(tableHeader(['pytorch']).length, tableRow(row, ['pytorch']).length);
  });

  test('limits name one thread and all', () => {
    assert.match(limitLines(limits)[1], /avx512 +100 GFLOP\/s with 1 thread, 200 with 2$/u);
  });

  const folders: string[] = [];
  after(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true }))));
  test('saved results name the machine, and never replace others', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'tandem-bench-'));
    folders.push(folder);
    const device = { name: 'cpu', description: 'x', features: [], threads: 2, memory: 1 };
    const date = new Date('2026-01-02T03:04:05.678Z');
    const results = { date, device, limits, peers: { pytorch: '2' }, load: 0.5, rows: [row] };
    const path = await saveResults(join(folder, 'new'), results);
    assert.ok(path.endsWith('2026-01-02T03-04-05Z.json'), path);
    const saved = JSON.parse(await readFile(path, 'utf8'));
    assert.deepEqual(saved.rows, [row]);
    assert.deepEqual([saved.machine.device, saved.machine.load], [device, 0.5]);
    await assert.rejects(saveResults(join(folder, 'new'), results), /EEXIST/u);
  });

  test('an unknown name is wrong usage and lists those that exist', async () => {
    const { code, err, out } = await tandem(['bench', 'matmul', 'matmull']);
    assert.equal(code, 2);
    assert.equal(err, "tandem: there is no benchmark 'matmull': use compile, matmul, train-step, decode\n");
    assert.equal(out, '');
  });
});
