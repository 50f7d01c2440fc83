/** `tandem tune`: what it prints and writes, and how it ends where it cannot. Gains themselves are not judged. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { readUserTable } from '../../src/accelerators/cpu/schedules.ts';
import { listDevices } from '../../src/accelerators/registry.ts';
import type { Tuned } from '../../src/bench/tune.ts';
import { tuneLines } from '../../src/cli/tune.ts';
import { tandem } from './harness.ts';

const model = fileURLToPath(new URL('../golden/qwen3-tied-gqa', import.meta.url));
const cpu = (await listDevices()).find(({ name }) => name === 'cpu');
const skip = cpu?.available ? false : (cpu?.reason ?? 'no cpu accelerator');

interface Printed {
  readonly processor: string;
  readonly written: string | null;
  readonly products: readonly { readonly product: string; readonly before: string; readonly after: string }[];
}

describe('tandem tune', { skip }, () => {
  let folder = '';
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tandem-cli-tune-'));
    process.env.TANDEM_SCHEDULES = join(folder, 'schedules.json');
    process.env.TANDEM_THREADS = '1';
  });
  after(async () => {
    delete process.env.TANDEM_SCHEDULES;
    delete process.env.TANDEM_THREADS;
    await rm(folder, { recursive: true });
  });
  const tune = (...more: string[]) => tandem(['tune', '--no-recipe', '--model', model, ...more]);

  test('a model’s products are measured and what is faster is written; devices says so', async () => {
    const { code, out, err } = await tune('--json');
    assert.equal(code, 0, err);
    const { processor, written, products } = JSON.parse(out) as Printed;
    assert.equal(written, process.env.TANDEM_SCHEDULES);
    assert.match(processor, / 1 thread$/u);
    assert.ok(products.length > 10);
    const better = products.filter(({ before, after }) => before !== after);
    const user = readUserTable(written as string);
    assert.ok(user.state === 'current');
    assert.deepEqual(
      user.table.processors[processor],
      Object.fromEntries(better.map(({ product, after }) => [product, after])),
    );
    const devices = await tandem(['devices']);
    const own = better.length > 0 ? `${better.length} from a table of its own` : '';
    assert.ok(devices.out.includes(`blocks of products: ${own}`), devices.out);
  });

  test('a dry run writes nothing', async () => {
    const path = process.env.TANDEM_SCHEDULES as string;
    await rm(path, { force: true });
    const { code, out } = await tune('--dry-run', '--dtype', 'bf16');
    assert.equal(code, 0);
    assert.match(out, /Nothing was written/u);
    await assert.rejects(stat(path), /ENOENT/u);
  });

  test('a place that cannot be written ends it with a line that says so, after the first product', async () => {
    const file = join(folder, 'file');
    await writeFile(file, '');
    const path = process.env.TANDEM_SCHEDULES;
    process.env.TANDEM_SCHEDULES = join(file, 'schedules.json');
    try {
      const { code, err } = await tune();
      assert.equal(code, 1);
      assert.match(err, /^tandem: what was measured cannot be written to .*schedules\.json: .*\n$/mu);
    } finally {
      process.env.TANDEM_SCHEDULES = path;
    }
  });

  test('wrong options and folders are said', async () => {
    const threads = await tandem(['tune', '--threads', 'two']);
    assert.equal(threads.code, 2);
    assert.match(threads.err, /whole number/u);
    const missing = await tandem(['tune', '--no-recipe', '--model', join(folder, 'nothing')]);
    assert.equal(missing.code, 1);
    assert.match(missing.err, /nothing.config\.json/u);
  });
});

test('the table has what became faster, and counts the rest', () => {
  const blocks = { m: 128, n: 64, k: 32 };
  const product = { operations: 2e9, before: blocks, after: blocks, secondsBefore: 0.02, secondsAfter: 0.02 };
  const tuned: Tuned[] = [
    { name: '8x8x8 n·n f32·f32>f32', ...product, after: { ...blocks, m: 256 }, secondsAfter: 0.016 },
    { name: 'other', ...product },
  ];
  const lines = tuneLines(tuned);
  assert.equal(lines.length, 3);
  assert.match(lines[1], /^8x8x8 n·n f32·f32>f32 +128x64x32 +256x64x32 +100 +125 GFLOP\/s +\+25\.0 %$/u);
  assert.match(lines[2], /^1 of 2 products stay as they are/u);
  assert.equal(tuneLines([tuned[0]]).length, 2);
});
