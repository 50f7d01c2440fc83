/** The page of `tandem chat --web` in a real browser: it runs the model, and its gate sees a wrong one. */
import assert from 'node:assert/strict';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { extname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Browser, Page } from 'playwright-core';
import { writeModel } from '../../src/checkpoint/model.ts';
import { saveTokenizer } from '../../src/checkpoint/tokenizer-files.ts';
import { serveModel } from '../../src/cli/web.ts';
import { openModel } from '../../src/inference/open.ts';
import { initialWeights, modelConfig } from '../../src/training/new-model.ts';
import { chainTask } from '../../src/training/tasks/chain.ts';
import { taskTokenizer } from '../../src/training/tasks/problems.ts';
import { launch, launchWithGpu, NO_GPU, skipWithoutBrowser } from './chromium.ts';

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

describe('the page', { skip: skipWithoutBrowser }, () => {
  let browser: Browser;
  let gpuBrowser: Browser | null;
  let folder: string;
  let expected: string;
  let served: Awaited<ReturnType<typeof serveModel>>;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tandem-page-'));
    expected = await makeModel(folder);
    served = await serveModel(folder, 0);
    browser = await launch();
    gpuBrowser = await launchWithGpu();
  });
  after(async () => {
    await browser?.close();
    await gpuBrowser?.close();
    served?.server.closeAllConnections();
    served?.server.close();
    await rm(folder, { recursive: true, force: true });
  });

  async function open(url: string, inside = browser): Promise<Page> {
    const page = await inside.newPage();
    await page.goto(url);
    await settled(page);
    return page;
  }

  /** Waits until a model is ready, or has failed. */
  async function settled(page: Page, device?: string): Promise<void> {
    await page.waitForFunction(
      (name) => {
        const { tandem } = globalThis as unknown as { tandem?: PageState };
        const there = tandem !== undefined && (name === undefined || tandem.device === name);
        return there && (tandem.ready || tandem.error !== null);
      },
      device,
      { timeout: 60_000 },
    );
  }

  async function assertRuns(page: Page, device: string): Promise<void> {
    const loaded = await stateOf(page);
    assert.equal(loaded.error, null);
    assert.equal(loaded.device, device);
    assert.equal(await page.inputValue('#device'), device);
    assert.ok(loaded.maxAbs !== null && loaded.maxAbs < 1e-5, `max |Δ log p| ${loaded.maxAbs}`);
    assert.match((await page.textContent('#gate')) ?? '', /^yes/u);
    await page.fill('#prompt', PROMPT);
    await page.click('#send');
    await page.waitForFunction(
      () => {
        const { tandem } = globalThis as unknown as { tandem: PageState };
        return tandem.ready || tandem.error !== null;
      },
      undefined,
      { timeout: 60_000 },
    );
    assert.equal((await stateOf(page)).answer.trim(), expected.trim());
    assert.match((await page.textContent('#speed')) ?? '', /tokens\/s/u);
  }

  const why = (page: Page) => page.textContent('#why');

  test('without WebGPU it runs the model on WebAssembly, and says why: the same text, the same log-probabilities', async () => {
    const page = await open(served.url);
    await assertRuns(page, 'wasm');
    assert.match((await why(page)) ?? '', /^WebAssembly.* Not WebGPU: no graphics processor/u);
    assert.equal(await page.isDisabled('#device option[value=webgpu]'), true);
    await page.close();
  });

  test('with WebGPU it runs the model there, and on WebAssembly where a person chooses that', async (t) => {
    if (gpuBrowser === null) return t.skip(NO_GPU);
    const page = await open(served.url, gpuBrowser);
    await assertRuns(page, 'webgpu');
    assert.match((await why(page)) ?? '', /^WebGPU on /u);
    await page.selectOption('#device', 'wasm');
    await settled(page, 'wasm');
    await assertRuns(page, 'wasm');
    assert.match((await why(page)) ?? '', /WebGPU is there too/u);
    await page.close();
  });

  test('where WebGPU fails, WebAssembly takes over unless a person chose', async (t) => {
    if (gpuBrowser === null) return t.skip(NO_GPU);
    const page = await gpuBrowser.newPage();
    await page.addInitScript(() => {
      GPUAdapter.prototype.requestDevice = () => Promise.reject(new Error('planted'));
    });
    await page.goto(served.url);
    await settled(page);
    assert.equal((await stateOf(page)).device, 'wasm');
    assert.match((await why(page)) ?? '', /WebGPU failed: planted/u);
    await page.goto(`${served.url}?device=webgpu`);
    await settled(page);
    assert.match((await stateOf(page)).error ?? '', /planted/u);
    await page.close();
  });

  test('works from any static web server, in any folder, with one thread', async () => {
    const root = await mkdtemp(join(tmpdir(), 'tandem-static-'));
    await cp(fileURLToPath(new URL('../../dist/web/', import.meta.url)), join(root, 'some', 'where'), {
      recursive: true,
    });
    await cp(folder, join(root, 'some', 'where', 'model'), { recursive: true });
    const plain = createServer((request, response) => {
      const { pathname } = new URL(request.url ?? '/', 'http://localhost');
      readFile(join(root, pathname)).then(
        (bytes) => {
          const type = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css' }[
            extname(pathname)
          ];
          response.writeHead(200, type === undefined ? {} : { 'content-type': type }).end(bytes);
        },
        () => response.writeHead(404).end(),
      );
    });
    await new Promise<void>((resolve) => plain.listen(0, '127.0.0.1', resolve));
    try {
      const { port } = plain.address() as AddressInfo;
      const page = await open(`http://127.0.0.1:${port}/some/where/index.html`);
      await assertRuns(page, 'wasm');
      assert.match((await why(page)) ?? '', /one thread, because the server does not isolate the page/u);
      await page.close();
    } finally {
      plain.closeAllConnections();
      plain.close();
      await rm(root, { recursive: true });
    }
  });

  test('a word outside the vocabulary is named, and the page goes on', async () => {
    const page = await open(served.url);
    await page.fill('#prompt', 'nonsense');
    await page.click('#send');
    await page.waitForSelector('#error:not([hidden])');
    assert.match((await page.textContent('#error')) ?? '', /nonsense/u);
    await page.waitForFunction(() => (globalThis as unknown as { tandem: PageState }).tandem.ready);
    await page.close();
  });

  test('the gate sees log-probabilities of another model', async () => {
    const path = join(folder, 'parity.json');
    const text = await readFile(path, 'utf8');
    const parity = JSON.parse(text) as { sequences: { logprobs: number[] }[] };
    parity.sequences[0].logprobs[0] += 0.5;
    await writeFile(path, JSON.stringify(parity));
    try {
      const page = await open(served.url);
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
