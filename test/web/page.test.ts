/** The page of `tandem chat --web` in a real browser: it runs the model, and its gate sees a wrong one. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Browser, Page } from 'playwright-core';
import { chromium } from 'playwright-core';
import { writeModel } from '../../src/checkpoint/model.ts';
import { saveTokenizer } from '../../src/checkpoint/tokenizer-files.ts';
import { serveModel } from '../../src/cli/web.ts';
import { openModel } from '../../src/inference/open.ts';
import { initialWeights, modelConfig } from '../../src/training/new-model.ts';
import { chainTask } from '../../src/training/tasks/chain.ts';
import { taskTokenizer } from '../../src/training/tasks/problems.ts';

const candidates = [
  process.env.CHROMIUM_PATH,
  '/usr/bin/chromium',
  '/usr/bin/google-chrome',
  '/usr/bin/chromium-browser',
];
const executablePath = candidates.find((path) => path !== undefined && existsSync(path));
const built = existsSync(new URL('../../dist/web/page.js', import.meta.url));
const skip =
  executablePath === undefined
    ? 'no Chromium here (CHROMIUM_PATH)'
    : built
      ? false
      : 'the page is not built (npm run build)';

const PROMPT = '1 +2 *3 =';

/** A small random model with what a run leaves beside it. */
async function makeModel(folder: string): Promise<string> {
  const tokenizer = taskTokenizer(chainTask());
  const shape = {
    hidden_size: 32,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    head_dim: 16,
    intermediate_size: 48,
    dtype: 'f32',
  } as const;
  const config = modelConfig(tokenizer, shape);
  await writeModel(folder, { config, weights: initialWeights(config, 7) });
  await saveTokenizer(folder, tokenizer);
  await using model = await openModel(folder, { device: 'interpreter' });
  const prompt = model.encode(PROMPT);
  const { tokens } = await model.generate(prompt, { maxTokens: 12, temperature: 1, seed: 5 });
  const logprobs = (await model.score([...prompt, ...tokens])).slice(prompt.length);
  const parity = {
    learner: 'interpreter',
    checksum: '',
    bound: 1e-3,
    sequences: [{ prompt, completion: tokens, logprobs }],
  };
  await writeFile(join(folder, 'parity.json'), JSON.stringify(parity));
  await writeFile(join(folder, 'task.json'), JSON.stringify({ name: 'chain', example: PROMPT }));
  const greedy = await model.generate(prompt, { maxTokens: 256 });
  return tokenizer.decode(greedy.tokens, { skipSpecial: true });
}

interface PageState {
  device: string | null;
  maxAbs: number | null;
  ready: boolean;
  answer: string;
  error: string | null;
}
const stateOf = (page: Page) => page.evaluate(() => (globalThis as unknown as { tandem: PageState }).tandem);

describe('the page', { skip }, () => {
  let browser: Browser;
  let folder: string;
  let expected: string;
  let served: Awaited<ReturnType<typeof serveModel>>;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tandem-page-'));
    expected = await makeModel(folder);
    served = await serveModel(folder, 0);
    browser = await chromium.launch({
      executablePath,
      args: [
        '--no-sandbox',
        '--disable-gpu',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
      ],
    });
  });
  after(async () => {
    await browser?.close();
    served?.server.closeAllConnections();
    served?.server.close();
    await rm(folder, { recursive: true, force: true });
  });

  async function open(device: string): Promise<Page> {
    const page = await browser.newPage();
    await page.goto(`${served.url}?device=${device}`);
    await page.waitForFunction(
      () => {
        const { tandem } = globalThis as unknown as { tandem?: PageState };
        return tandem !== undefined && (tandem.ready || tandem.error !== null);
      },
      undefined,
      { timeout: 60_000 },
    );
    return page;
  }

  test('runs the model on WebAssembly: the same text, the same log-probabilities', async () => {
    const page = await open('wasm');
    const loaded = await stateOf(page);
    assert.equal(loaded.error, null);
    assert.equal(loaded.device, 'wasm');
    assert.ok(loaded.maxAbs !== null && loaded.maxAbs < 1e-5, `max |Δ log p| ${loaded.maxAbs}`);
    assert.match((await page.textContent('#gate')) ?? '', /^yes/u);
    await page.fill('#prompt', PROMPT);
    await page.click('#send');
    await page.waitForFunction(() =>
      (document.getElementById('speed')?.textContent ?? '').includes('tokens/s'),
    );
    assert.equal((await stateOf(page)).answer.trim(), expected.trim());
    await page.close();
  });

  test('a word outside the vocabulary is named, and the page goes on', async () => {
    const page = await open('wasm');
    await page.fill('#prompt', 'nonsense');
    await page.click('#send');
    await page.waitForSelector('#error:not([hidden])');
    assert.match((await page.textContent('#error')) ?? '', /nonsense/u);
    await page.waitForFunction(() => (globalThis as unknown as { tandem: PageState }).tandem.ready);
    await page.close();
  });

  test('the gate sees log-probabilities of another model', async () => {
    const path = join(folder, 'parity.json');
    const { readFile } = await import('node:fs/promises');
    const text = await readFile(path, 'utf8');
    const parity = JSON.parse(text) as { sequences: { logprobs: number[] }[] };
    parity.sequences[0].logprobs[0] += 0.5;
    await writeFile(path, JSON.stringify(parity));
    try {
      const page = await open('wasm');
      assert.match((await page.textContent('#gate')) ?? '', /^NO/u);
      await page.close();
    } finally {
      await writeFile(path, text);
    }
  });

  test('nothing but the page and the model is served', async () => {
    for (const path of [
      'state.safetensors',
      'model/state.safetensors',
      'model/../package.json',
      '..%2fpackage.json',
      'main.js',
    ]) {
      const response = await fetch(new URL(path, served.url));
      assert.equal(response.status, 404, path);
      await response.body?.cancel();
    }
  });
});
