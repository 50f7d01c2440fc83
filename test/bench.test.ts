/** Benchmarks: rows, wrong names, ratios, saved files. Figures themselves are not judged. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { listDevices, openDevice } from '../src/accelerators/registry.ts';
import type { Item, Limits } from '../src/bench/item.ts';
import { benchmarkItems, benchmarkNames } from '../src/bench/items.ts';
import { markdownReport } from '../src/bench/markdown.ts';
import { matmulItem } from '../src/bench/matmul.ts';
import { forwardOperations, recipeModel } from '../src/bench/models.ts';
import type { Peer } from '../src/bench/peers.ts';
import type { Results } from '../src/bench/results.ts';
import { machineName, saveResults } from '../src/bench/results.ts';
import { measureItem } from '../src/bench/run.ts';
import { median, secondsEach } from '../src/bench/timing.ts';
import { limitLines, tableHeader, tableRow } from '../src/cli/bench.ts';
import { tandem } from './cli/harness.ts';

const limits: Limits = {
  machine: {
    threads: 2,
    fma: { avx2: { one: 50e9, all: 100e9 }, avx512: { one: 100e9, all: 200e9 } },
    dots: {},
    tiles: {},
    read: { one: 10e9, all: 20e9 },
    copy: { one: 8e9, all: 16e9 },
  },
  wasm: { threads: 2, instructions: 'f32x4.mul, f32x4.add', one: 20e9, all: 40e9 },
};
const peer = (value: number | null | Error): Peer => ({
  name: 'pytorch',
  about: 'other 1',
  version: '1',
  measure: async (items) => {
    if (value instanceof Error) throw value;
    return items.map(() => value);
  },
});
const item = (unit: Item['unit'], value: number): Item => ({
  name: 'made up',
  shape: '1',
  dtype: 'f32',
  device: 'interpreter',
  unit,
  limit: ({ machine }) => (machine === null ? null : 4 * value),
  measure: async () => value,
  peers: { pytorch: { kind: 'made up' } },
});
const surroundings = {
  open: () => openDevice('interpreter'),
  threads: 1,
  limits: async () => limits,
  peers: new Map(),
  warn: (line: string) => assert.fail(line),
};

const cpu = (await listDevices()).find(({ name }) => name === 'cpu')!;

describe('measuring', () => {
  test('a product on cpu becomes a row', { skip: !cpu.available && cpu.reason }, async () => {
    const open = () => openDevice('cpu', { threads: 1 });
    const row = await measureItem(matmulItem({ m: 64, k: 64, n: 64 }, 'cpu'), { ...surroundings, open });
    const { value, fraction, ...rest } = row;
    assert.deepEqual(rest, {
      name: 'matmul',
      shape: '64x64x64',
      dtype: 'f32',
      device: 'cpu',
      threads: 1,
      unit: 'GFLOP/s',
      limit: 200,
      peers: {},
    });
    // Between what an interpreter reaches and what no core does.
    assert.ok(value > 0.1 && value < 5000, `${value}`);
    assert.equal(fraction, value / 200);
  });

  test('a product on wasm is measured against what WebAssembly can do', () => {
    assert.equal(matmulItem({ m: 64, k: 64, n: 64 }, 'wasm').limit(limits), 40);
    assert.equal(matmulItem({ m: 64, k: 64, n: 64 }, 'wasm').limit({ ...limits, wasm: null }), null);
    assert.deepEqual(Object.keys(matmulItem({ m: 64, k: 64, n: 64 }, 'wasm').peers), ['jax-js']);
  });

  test('ratios say how much faster Tandem is, also where less is better', async () => {
    const ratio = async (unit: Item['unit'], theirs: number | null) =>
      (await measureItem(item(unit, 10), { ...surroundings, peers: new Map([['pytorch', peer(theirs)]]) }))
        .peers;
    assert.deepEqual(await ratio('tokens/s', 5), { pytorch: 2 });
    assert.deepEqual(await ratio('s', 5), { pytorch: 0.5 });
    assert.deepEqual(await ratio('MB', 30), { pytorch: 3 });
    assert.deepEqual(await ratio('tokens/s', null), {});
  });

  test('a peer that is not installed, or fails, leaves no gap, and Tandem’s own figure stands', async () => {
    const missing = await measureItem(item('s', 10), {
      ...surroundings,
      peers: new Map([['pytorch', null]]),
    });
    assert.deepEqual([missing.value, missing.peers], [10, { pytorch: 'not installed' }]);
    const said: string[] = [];
    const failed = await measureItem(item('s', 10), {
      ...surroundings,
      peers: new Map([['pytorch', peer(new Error('out of memory'))]]),
      warn: (line) => said.push(line),
    });
    assert.deepEqual([failed.value, failed.peers], [10, { pytorch: 'failed' }]);
    assert.deepEqual(said, ['pytorch failed at made up 1: out of memory']);
  });

  test('the share of a limit is at most 1, also where less is better', async () => {
    const fraction = async (unit: Item['unit'], value: number, limit: number) =>
      (await measureItem({ ...item(unit, value), measure: async () => ({ value, limit }) }, surroundings))
        .fraction;
    assert.equal(await fraction('tokens/s', 5, 20), 0.25);
    assert.equal(await fraction('MB', 20, 5), 0.25);
    assert.equal(await fraction('s', 20, 5), 0.25);
  });

  test('the limit is the larger of what the machine could do before and after', async () => {
    const slow = { ...limits.machine!, fma: { avx512: { one: 60e9, all: 90e9 } } };
    const times = [{ ...limits, machine: slow }, limits, { ...limits, machine: slow }];
    const seen: string[] = [];
    const twice = async (device: string) => {
      seen.push(device);
      return times[(seen.length - 1) % 2];
    };
    const peak = { ...item('GFLOP/s', 10), limit: ({ machine }: Limits) => machine!.fma.avx512!.all / 1e9 };
    assert.equal((await measureItem(peak, { ...surroundings, limits: twice })).limit, 200);
    times.shift();
    assert.equal((await measureItem(peak, { ...surroundings, limits: twice })).limit, 200);
    assert.deepEqual(seen, new Array(4).fill('interpreter'));
  });

  test('without limits there is no fraction', async () => {
    const none = { machine: null, wasm: null };
    const row = await measureItem(item('tokens/s', 10), { ...surroundings, limits: async () => none });
    assert.deepEqual([row.limit, row.fraction], [null, null]);
  });

  test('decoding can be no faster than its weights are read, and many sequences no faster than they are multiplied', () => {
    const decode = (batch: number) =>
      benchmarkItems(['decode'], 'cpu', false)
        .find(({ shape, dtype }) => shape === `Qwen3-0.6B, batch ${batch}` && dtype === 'bf16')!
        .limit({ ...limits, machine: { ...limits.machine!, read: { one: 1e3, all: 1e3 } } })!;
    // With instructions for bf16 the arithmetic is faster, not the reading.
    const dots = { bf16: { one: 200e9, all: 400e9 } };
    const [item] = benchmarkItems(['prefill'], 'cpu', false);
    const narrow = { ...limits, machine: { ...limits.machine!, dots } };
    assert.equal(item.dtype, 'bf16');
    assert.equal(item.limit(narrow), 2 * item.limit(limits)!);
    // The weights count once they are loaded; keys and values alone take a second for every 4 KB here.
    assert.ok(decode(1) < 1e-3, `${decode(1)}`);
    const free = (batch: number) =>
      benchmarkItems(['decode'], 'cpu', false)
        .find(({ shape, dtype }) => shape === `Qwen3-0.6B, batch ${batch}` && dtype === 'bf16')!
        .limit({ ...limits, machine: { ...limits.machine!, read: { one: 1e15, all: 1e15 } } })!;
    // 0.6 billion weights, two operations each, at 200 GFLOP/s.
    assert.ok(free(1) > 150 && free(1) < 180, `${free(1)}`);
    assert.ok(Math.abs(free(64) / free(1) - 1) < 0.05, 'tokens of a batch share reads, not arithmetic');
  });

  test('what is large runs only when it is asked for', () => {
    const names = (items: readonly Item[]) => new Set(items.map(({ name }) => name));
    const usual = benchmarkItems([], 'cpu', false);
    assert.ok(!usual.some(({ shape }) => shape.includes('0.6B')));
    assert.deepEqual(names(benchmarkItems([], 'cpu', true)), new Set(benchmarkNames));
    assert.ok(names(benchmarkItems(['start'], 'cpu', false)).has('start'));
    assert.ok(usual.some(({ name, device }) => name === 'matmul' && device === 'wasm'));
    assert.ok(!benchmarkItems([], 'wasm', true).some(({ device }) => device !== 'wasm'));
  });

  test('the time of one repetition is the median of runs that are long enough', async () => {
    assert.equal(median([9, 1, 5]), 5);
    assert.equal(median([4, 1, 2, 9]), 3);
    // 16 ms while it warms up, then 2 ms a repetition, and of the seven runs of 36 ms all but one are disturbed.
    let now = 1000;
    const repeats: number[] = [];
    const disturbances = [0, 0, 0, 500, 1, 18, 0, 2, 90, 40];
    const seconds = await secondsEach(
      async (repeat) => {
        const each = repeats.length === 0 ? 16 : 2;
        now += each * repeat + disturbances[repeats.length];
        repeats.push(repeat);
      },
      () => now,
    );
    // Once to warm up, once for the first estimate, then as often as takes 36 ms: by that estimate 18 times.
    assert.deepEqual(repeats, [1, 1, 18, ...new Array(7).fill(18)]);
    assert.equal(seconds, (36 + 18) / 18 / 1000);
  });

  test('an estimate that was too long is corrected until runs are long enough', async () => {
    let now = 0;
    const repeats: number[] = [];
    const seconds = await secondsEach(
      async (repeat) => {
        // The first estimate is disturbed by 10 ms, the second by 9.
        now += repeat + ([0, 10, 9][repeats.length] ?? 0);
        repeats.push(repeat);
      },
      () => now,
    );
    // 36 / 11 and 4 * 36 / 13, rounded up; 12 ms are too short as well, 36 are not.
    assert.deepEqual(repeats, [1, 1, 4, 12, 36, ...new Array(7).fill(36)]);
    assert.equal(seconds, 0.001);
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
    device: 'cpu',
    threads: 2,
    value: 1234.5,
    unit: 'GFLOP/s',
    limit: 2000,
    fraction: 0.61725,
    peers: { pytorch: 1.234 },
  } as const;

  test('a row shows what was achieved, the limit, the share and the ratio', () => {
    assert.deepEqual(tableRow(row, ['pytorch']).trim().split(/\s+/u), [
      ...['matmul', '64x64x64', 'f32', 'cpu', '1,235', 'GFLOP/s', '2,000', '61.7', '%', '1.23x'],
    ]);
    const bare = tableRow({ ...row, limit: null, fraction: null, peers: {} }, ['pytorch']);
    assert.deepEqual(bare.trim().split(/\s+/u).slice(6), ['-', '-', '-']);
    assert.equal(tableHeader(['pytorch']).length, tableRow(row, ['pytorch']).length);
  });

  test('limits name one thread and all', () => {
    assert.match(limitLines(limits)[1], /avx512 +100 GFLOP\/s with 1 thread, 200 with 2$/u);
    assert.match(limitLines(limits).at(-1)!, /wasm, f32x4.mul, f32x4.add +20 GFLOP\/s with 1 thread, 40/u);
  });

  const folders: string[] = [];
  after(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true }))));
  const device = { name: 'cpu', description: 'x', features: [], threads: 2, memory: 1 };
  const results: Results = {
    date: '2026-01-02T03:04:05.678Z',
    machine: {
      processor: 'ACME (R) 12',
      processors: 2,
      memory: 2 ** 34,
      system: 'linux 6',
      node: 'v20',
      load: 0.5,
      device,
    },
    limits,
    peers: { pytorch: 'PyTorch 2', 'jax-js': null },
    rows: [row, { ...row, device: 'wasm', peers: { 'jax-js': 'not installed' } }],
  };

  test('saved results are one file a machine, and a page of all machines', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'tandem-bench-'));
    folders.push(folder);
    const page = join(folder, 'docs', 'page.md');
    const path = await saveResults(join(folder, 'new'), page, results);
    assert.ok(path.endsWith('acme-r-12-cpu-2-threads.json'), path);
    assert.deepEqual(JSON.parse(await readFile(path, 'utf8')), results);
    assert.equal(machineName(results.machine), 'acme-r-12-cpu-2-threads');
    const other = { ...results, machine: { ...results.machine, processor: 'Other' } };
    await saveResults(join(folder, 'new'), page, other);
    await saveResults(join(folder, 'new'), page, results);
    const text = await readFile(page, 'utf8');
    assert.deepEqual(text.match(/^## .*$/gmu), ['## ACME (R) 12, 2 threads', '## Other, 2 threads']);
  });

  test('the page has one table a benchmark, with the peers that were asked', () => {
    const lines = markdownReport([results]).split('\n');
    assert.ok(lines.includes('Peers: PyTorch 2; jax-js: not installed.'));
    const at = lines.indexOf('### Matrix products');
    assert.deepEqual(lines.slice(at + 2, at + 6), [
      '| work | type | on | achieved | limit | share | vs pytorch | vs jax-js |',
      '| :-- | :-- | :-- | --: | --: | --: | --: | --: |',
      '| 64x64x64 | f32 | cpu | 1,235 GFLOP/s | 2,000 GFLOP/s | 62% | 1.23x | - |',
      '| 64x64x64 | f32 | wasm | 1,235 GFLOP/s | 2,000 GFLOP/s | 62% | - | not installed |',
    ]);
  });

  test('an unknown name is wrong usage and lists those that exist', async () => {
    const { code, err, out } = await tandem(['bench', 'matmul', 'matmull']);
    assert.equal(code, 2);
    assert.equal(
      err,
      "tandem: there is no benchmark 'matmull': use compile, matmul, train-step, memory, decode, prefill, start\n",
    );
    assert.equal(out, '');
  });
});
