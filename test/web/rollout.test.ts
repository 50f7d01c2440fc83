/** A run that learns here and samples in tabs of a real browser: tabs that close change nothing, and the gate watches. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Browser, Page } from 'playwright-core';
import { resolveDevice } from '../../src/accelerators/registry.ts';
import type { TabStatus } from '../../src/fleet/tab-client.ts';
import type { RunEvent } from '../../src/training/events.ts';
import type { NewRun } from '../../src/training/open-run.ts';
import { newRun, resumeRun } from '../../src/training/open-run.ts';
import type { TrainingRun } from '../../src/training/run.ts';
import type { Task } from '../../src/training/tasks/task.ts';
import { defineTask } from '../../src/training/tasks/task.ts';
import { launch, launchWithGpu, NO_GPU, skipWithoutBrowser } from './chromium.ts';

const letters = [...'abcdefgh'];
/** A reward that a model of random weights gets some of, so that every step changes the weights. */
const count: Task = defineTask({
  name: 'count',
  format: 'free',
  vocabulary: letters,
  problem(random) {
    const word = [1, 2, 3].map(() => random.pick(letters)).join(' ');
    return { prompt: word, solution: { think: '', answer: 'a' }, data: word };
  },
  reward: ({ completion }) => completion.text.split(' ').filter((letter) => letter >= 'd').length,
});

interface PageState {
  readonly device: string | null;
  readonly status: TabStatus | null;
  readonly error: string | null;
}
const stateOf = (page: Page) => page.evaluate(() => (globalThis as unknown as { tandem: PageState }).tandem);
async function until(page: Page, doing: TabStatus['doing']): Promise<void> {
  await page.waitForFunction(
    (wanted) => (globalThis as unknown as { tandem?: PageState }).tandem?.status?.doing === wanted,
    doing,
  );
}

/** What the run says, in the order in which it does. */
class Told {
  readonly events: RunEvent[] = [];
  #wake: () => void = () => {};
  readonly add = (event: RunEvent) => {
    this.events.push(event);
    this.#wake();
  };
  /** The first event from number `from` on that fits. */
  async first(fits: (event: RunEvent) => boolean, from = 0): Promise<RunEvent> {
    const late = AbortSignal.timeout(40_000);
    for (;;) {
      const found = this.events.slice(from).find(fits);
      if (found !== undefined) return found;
      await new Promise<void>((resolve, reject) => {
        this.#wake = resolve;
        late.onabort = () => reject(new Error(`the run did not say so; it said:\n${this.notices}`));
      });
    }
  }
  async link(from = 0): Promise<string> {
    const event = await this.first(({ type }) => type === 'rollout_link', from);
    return (event as Extract<RunEvent, { type: 'rollout_link' }>).link;
  }
  get notices(): string {
    return this.events.flatMap((event) => (event.type === 'notice' ? [event.message] : [])).join('\n');
  }
  /** Gates of the steps. */
  get gates() {
    return this.events.flatMap((event) => (event.type === 'parity' && event.step > 0 ? [event.report] : []));
  }
}

describe('rollouts in a browser', { skip: skipWithoutBrowser }, () => {
  let browser: Browser;
  let runs: string;
  let learner: string;
  /** The model of a run that nothing disturbed. */
  let undisturbed: Buffer;
  before(async () => {
    runs = await mkdtemp(join(tmpdir(), 'tandem-tabs-'));
    browser = await launch();
    // The machine code, where this processor has it.
    learner = await resolveDevice('cpu').catch(() => 'wasm');
  });
  after(async () => {
    await browser?.close();
    await rm(runs, { recursive: true, force: true });
  });

  function options(name: string, wait = 60): NewRun {
    return {
      task: count,
      phases: ['reinforcement'],
      runs,
      run: {
        name,
        device: learner,
        parity_device: learner,
        rollout: 'browser',
        rollout_wait: wait,
        eval_problems: 8,
      },
      modelOptions: {
        hidden_size: 16,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 8,
        intermediate_size: 16,
      },
      grpo: {
        max_steps: 3,
        prompts_per_step: 4,
        num_generations: 4,
        max_completion_length: 8,
        learning_rate: 0.01,
        warmup_steps: 0,
      },
    };
  }
  const model = (run: TrainingRun) => readFile(join(run.folder, 'model.safetensors'));
  const open = async (link: string, inside = browser): Promise<Page> => {
    const page = await inside.newPage();
    await page.goto(link);
    return page;
  };
  /** A tab that samples, but keeps the first result of the last step back. */
  const openHolding = async (link: string, inside = browser): Promise<Page> => {
    const page = await inside.newPage();
    await page.addInitScript(() => {
      const { send } = WebSocket.prototype;
      WebSocket.prototype.send = function (data) {
        const scope = globalThis as { held?: boolean };
        const result = String(data).includes('"result"') && String(data).includes('"weightVersions":[2');
        if (result && !scope.held) scope.held = true;
        else send.call(this, data);
      };
    });
    await page.goto(link);
    return page;
  };
  const held = (page: Page) => page.waitForFunction(() => (globalThis as { held?: boolean }).held === true);

  test('a tab samples for a run, under the gate', async () => {
    const told = new Told();
    const run = await newRun({ ...options('whole'), onEvent: told.add });
    const finished = run.run();
    const link = await told.link();
    assert.match(link, /^http:\/\/127\.0\.0\.1:/u);
    const page = await open(link);
    await finished;
    undisturbed = await model(run);
    await until(page, 'ended');
    const { device, status } = await stateOf(page);
    assert.equal(device, 'wasm');
    // Evaluations of 8 problems before and, in three modes, after.
    assert.equal(status?.completions, 3 * 16 + 4 * 8);
    assert.ok(status.bytes.full > 0 && status.bytes.delta > 0 && status.bytes.delta < 6 * status.bytes.full);
    assert.equal(told.gates.length, 3);
    for (const { rollout, passed, checksum, maxAbs } of told.gates) {
      assert.equal(rollout, 'browser (wasm)');
      assert.ok(passed && checksum.learner === checksum.rollout, `${maxAbs}`);
    }
    assert.equal(new Set(told.gates.map(({ checksum }) => checksum.learner)).size, 3);
    assert.match((await page.textContent('#doing')) ?? '', /the run has ended/u);
    assert.match((await page.textContent('#why')) ?? '', /Not WebGPU/u);
    await page.close();
  });

  test('a tab that closes with work in hand, and two others that share what follows, change no bit', async () => {
    const told = new Told();
    const run = await newRun({ ...options('disturbed'), onEvent: told.add });
    const finished = run.run();
    const link = await told.link();
    const page = await openHolding(link);
    await held(page);
    const before = told.events.length;
    await page.close();
    await told.first((event) => event.type === 'notice' && event.message.startsWith('Waiting'), before);
    const others = [await open(link), await open(link)];
    await finished;
    assert.match(told.notices, /Browser tab 1 left; its 8 completions will be sampled again \(0 tabs\)/u);
    assert.ok((await model(run)).equals(undisturbed));
    for (const other of others) await other.close();
  });

  test('a run that nobody samples for stops in time, and continues to the same bits', async () => {
    const told = new Told();
    const run = await newRun({ ...options('stopped', 5), onEvent: told.add });
    const finished = run.run();
    const page = await openHolding(await told.link());
    await held(page);
    await page.close();
    await assert.rejects(finished, {
      name: 'RunInterrupted',
      message:
        /^stopped, because no browser tab joined for 5 seconds.*; continue with: tandem train --resume /u,
    });
    // On a busy machine the next tab may be late as well; then the run stops once more.
    for (let done = false; !done; ) {
      const resumed = await resumeRun(run.folder, { task: count, onEvent: told.add });
      const before = told.events.length;
      const continued = resumed.run().then(
        () => true,
        (error: Error) => {
          assert.equal(error.name, 'RunInterrupted', error.message);
          return false;
        },
      );
      const another = await open(await told.link(before));
      done = await continued;
      await another.close();
    }
    assert.deepEqual(
      told.events.flatMap((event) => (event.type === 'step' ? [event.step] : [])),
      [1, 2, 3],
    );
    assert.ok((await model(run)).equals(undisturbed));
  });

  test('a tab that is open when the run is interrupted samples for it again once it is resumed', async () => {
    const told = new Told();
    const run = await newRun({ ...options('interrupted'), onEvent: told.add });
    const finished = run.run();
    const page = await openHolding(await told.link());
    await held(page);
    run.stop();
    await assert.rejects(finished, { name: 'RunInterrupted' });
    const resumed = await resumeRun(run.folder, { task: count, onEvent: told.add });
    await resumed.run();
    await until(page, 'ended');
    assert.ok((await model(run)).equals(undisturbed));
    await page.close();
  });

  test('the gate stops the run where a tab reports other log-probabilities', async () => {
    const told = new Told();
    const run = await newRun({ ...options('wrong'), onEvent: told.add });
    const finished = run.run();
    const page = await browser.newPage();
    await page.addInitScript(() => {
      const { send } = WebSocket.prototype;
      WebSocket.prototype.send = function (data) {
        const message = JSON.parse(String(data));
        for (const { logprobs } of message.completions ?? []) logprobs[0] -= 0.1;
        send.call(this, JSON.stringify(message));
      };
    });
    await page.goto(await told.link());
    await assert.rejects(finished, {
      name: 'ParityError',
      message: new RegExp(`between ${learner} and browser \\(wasm\\), beyond the bound of 0.001`, 'u'),
    });
    await page.close();
  });

  test('a link without its token, or with another, is refused, and the page says why', async () => {
    const told = new Told();
    const run = await newRun({ ...options('refused', 3), onEvent: told.add });
    const finished = run.run();
    const link = await told.link();
    const page = await open(`${link}x`);
    await page.waitForSelector('#error:not([hidden])');
    assert.match((await page.textContent('#error')) ?? '', /the token is wrong/u);
    await page.goto('about:blank');
    await page.goto(link.replace(/#.*/u, ''));
    await page.waitForSelector('#error:not([hidden])');
    assert.match((await page.textContent('#error')) ?? '', /token.* is missing/u);
    run.stop();
    await assert.rejects(finished, { name: 'RunInterrupted', message: /^stopped; continue with/u });
    await page.close();
  });

  test('a tab samples on WebGPU, and changes to WebAssembly when a person chooses that', async (t) => {
    const gpuBrowser = await launchWithGpu();
    if (gpuBrowser === null) return t.skip(NO_GPU);
    try {
      const told = new Told();
      const run = await newRun({ ...options('gpu'), onEvent: told.add });
      const finished = run.run();
      const page = await openHolding(await told.link(), gpuBrowser);
      await held(page);
      await page.selectOption('#device', 'wasm');
      await finished;
      assert.deepEqual(
        told.gates.map(({ rollout }) => rollout),
        ['browser (webgpu)', 'browser (webgpu)', 'browser (wasm)'],
      );
    } finally {
      await gpuBrowser.close();
    }
  });
});
