/** Measuring blocks: what is measured, that results stay the same, and what is written. */
import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { readUserTable, tableVersion } from '../src/accelerators/cpu/schedules.ts';
import type { Device } from '../src/accelerators/device.ts';
import { listDevices, openDevice } from '../src/accelerators/registry.ts';
import { generationProducts, recipeProducts } from '../src/bench/products.ts';
import { improvements, saveTuned } from '../src/bench/schedules.ts';
import type { Tuned, TunedProduct } from '../src/bench/tune.ts';
import { Trial, tuneProduct } from '../src/bench/tune.ts';
import { residualEpilogue } from '../src/kernels/matmul.ts';
import { candidateBlocks, defaultBlocks, productName } from '../src/kernels/schedule.ts';
import { newConfig } from '../src/models/config.ts';

const cpu = (await listDevices()).find(({ name }) => name === 'cpu');
const skip = cpu?.available ? false : (cpu?.reason ?? 'no cpu accelerator');

const PRODUCTS: readonly TunedProduct[] = [
  { m: 150, n: 96, k: 100 },
  { m: 64, n: 96, k: 160, transA: true, aType: 'bf16', bType: 'bf16' },
  { m: 64, n: 96, k: 160, transB: true, epilogue: residualEpilogue('f32') },
  { m: 5, n: 200, k: 130, panel: 32, bType: 'bf16' },
  { m: 40, n: 200, k: 130, panel: 32, aType: 'bf16', bType: 'bf16', cType: 'bf16' },
  { m: 33, n: 40, k: 50, batch: 3, accumulate: true },
];

describe('tuning', { skip }, () => {
  const open = () => openDevice('cpu', { threads: 2 });

  test('every candidate gives the same bits, and what comes out is one of them or what was there', async () => {
    await using device = await open();
    for (const product of PRODUCTS) {
      const { schedule = {} } = device;
      const before = defaultBlocks(product, schedule);
      const candidates = candidateBlocks(product, schedule);
      using trial = await Trial.open(device, product, [before, ...candidates]);
      await trial.verify();
      const tuned = await tuneProduct(device, product, before);
      assert.equal(tuned.name, productName(product));
      assert.ok(
        [before, ...candidates].some((blocks) => JSON.stringify(blocks) === JSON.stringify(tuned.after)),
      );
      assert.ok(tuned.secondsAfter > 0 && tuned.secondsAfter <= tuned.secondsBefore);
      const same = JSON.stringify(tuned.after) === JSON.stringify(before);
      assert.ok(
        same ? tuned.secondsAfter === tuned.secondsBefore : tuned.secondsAfter <= 0.98 * tuned.secondsBefore,
      );
    }
    assert.equal(device.allocatedBytes, 0);
  });

  test('a result that differs is an error that names the kernel', async () => {
    await using device = await open();
    let reads = 0;
    const faulty: Device = Object.create(device, {
      read: {
        value: async (...given: Parameters<Device['read']>) => {
          const bytes = await device.read(...given);
          if (++reads === 2) bytes[17] ^= 1;
          return bytes;
        },
      },
      allocate: { value: device.allocate.bind(device) },
      free: { value: device.free.bind(device) },
      write: { value: device.write.bind(device) },
      compile: { value: device.compile.bind(device) },
    });
    const [product] = PRODUCTS;
    const blocks = [
      { m: 64, n: 32, k: 100 },
      { m: 32, n: 96, k: 50 },
    ];
    using trial = await Trial.open(faulty, product, blocks);
    await assert.rejects(
      trial.verify(),
      /kernel 'matmul_150x96x100_nn_f32' gives another result .* byte 17/u,
    );
  });

  test('the products are those of the programs themselves, once each', async () => {
    await using device = await open();
    const names = (await recipeProducts(device)).map(productName);
    assert.equal(new Set(names).size, names.length);
    // A cold start's feed-forward layer, its gradient, and sampling.
    for (const name of [
      '1280x256x96 n·n f32·f32>f32',
      '96x256x1280 t·n f32·f32>f32 +full f32',
      '512x24x96 n·t f32·f32>f32 +row f32',
    ])
      assert.ok(names.includes(name), name);
    const config = newConfig({
      vocab_size: 64,
      hidden_size: 32,
      intermediate_size: 64,
      num_hidden_layers: 1,
      num_attention_heads: 2,
      num_key_value_heads: 1,
      head_dim: 16,
      max_position_embeddings: 1024,
      rope_theta: 1000,
      bos_token_id: 0,
      eos_token_id: 0,
      pad_token_id: 0,
    });
    const form = { held: 'bf16', computed: 'bf16', layout: 'panels' } as const;
    const products = await generationProducts(device, config, form);
    assert.deepEqual(
      [1, 16, 64, 256].filter((rows) => !products.some(({ m }) => m === rows)),
      [],
    );
    assert.ok(products.every(({ panel, aType }) => panel !== undefined && aType === 'bf16'));
    assert.equal(device.allocatedBytes, 0);
  });
});

describe('the user’s table', () => {
  const blocks = (m: number) => ({ m, n: 64, k: 32 });
  const tuned = (name: string, after: number): Tuned => ({
    name,
    operations: 1,
    before: blocks(128),
    after: blocks(after),
    secondsBefore: 2,
    secondsAfter: 1,
  });
  const inFolder = async (use: (path: string, folder: string) => Promise<void>) => {
    const folder = await mkdtemp(join(tmpdir(), 'tandem-tune-'));
    try {
      await use(join(folder, 'cache', 'schedules.json'), folder);
    } finally {
      await rm(folder, { recursive: true });
    }
  };
  const processors = (path: string) => {
    const user = readUserTable(path);
    assert.equal(user.state, 'current');
    return user.state === 'current' ? user.table.processors : {};
  };

  test('holds what became faster; tuning again replaces an entry, or takes it away; other machines stay', () =>
    inFolder(async (path) => {
      await saveTuned(path, 'one', [tuned('a', 64), tuned('b', 128), tuned('c', 32)]);
      assert.deepEqual(processors(path), { one: { a: '64x64x32', c: '32x64x32' } });
      await saveTuned(path, 'two', [tuned('a', 16)]);
      await saveTuned(path, 'one', [tuned('a', 128), tuned('c', 48)]);
      assert.deepEqual(processors(path), { one: { c: '48x64x32' }, two: { a: '16x64x32' } });
      assert.deepEqual(improvements([tuned('b', 128)]), {});
      assert.deepEqual(await readdir(join(path, '..')), ['schedules.json']);
    }));

  test('of another version, or broken, starts anew', () =>
    inFolder(async (path) => {
      await saveTuned(path, 'one', [tuned('a', 64)]);
      const text = await readFile(path, 'utf8');
      for (const bad of [text.replace(tableVersion(), '0.0.0-0'), text.slice(0, 30)]) {
        await writeFile(path, bad);
        await saveTuned(path, 'one', [tuned('c', 64)]);
        assert.deepEqual(processors(path), { one: { c: '64x64x32' } });
      }
    }));

  test('that cannot be written is an error that names the file, and leaves what was there', () =>
    inFolder(async (_, folder) => {
      const file = join(folder, 'file');
      await writeFile(file, 'kept');
      await assert.rejects(
        saveTuned(join(file, 'schedules.json'), 'one', [tuned('a', 64)]),
        /cannot be written to .*file.schedules\.json: .*TANDEM_SCHEDULES/u,
      );
      assert.equal(await readFile(file, 'utf8'), 'kept');
    }));
});
