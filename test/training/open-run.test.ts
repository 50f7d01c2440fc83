/** Runs begun and continued by a program, with a task of its own. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { listDevices } from '../../src/accelerators/registry.ts';
import { hash32 } from '../../src/numerics/hash.ts';
import type { RunEvent } from '../../src/training/events.ts';
import type { NewRun } from '../../src/training/open-run.ts';
import { newRun, RunError, resumeRun } from '../../src/training/open-run.ts';
import { RunInterrupted } from '../../src/training/run.ts';
import type { Task } from '../../src/training/tasks/task.ts';
import { defineTask } from '../../src/training/tasks/task.ts';

const letters = [...'abcdefgh'];
const echo: Task = defineTask({
  name: 'echo',
  vocabulary: letters,
  problem(random) {
    const word = [1, 2, 3].map(() => random.pick(letters)).join(' ');
    return { prompt: word, solution: { think: '', answer: word }, data: word };
  },
  reward: ({ problem, completion }) => (completion.answer === problem.data ? 1 : 0),
});

const runs = await mkdtemp(join(tmpdir(), 'tandem-runs-'));
after(() => rm(runs, { recursive: true }));

const tiny: NewRun = {
  task: echo,
  phases: ['cold_start'],
  run: { device: 'interpreter', parity_device: 'interpreter', eval_problems: 2 },
  modelOptions: {
    hidden_size: 8,
    num_hidden_layers: 1,
    num_attention_heads: 1,
    head_dim: 8,
    intermediate_size: 8,
  },
  sft: { max_steps: 2, per_device_train_batch_size: 2, think_fraction: 0 },
  grpo: { max_completion_length: 4 },
  runs,
};

describe('runs of a task that a program has', () => {
  test('end in a model in the folder, and can be continued only with the task', async () => {
    const run = await newRun({
      ...tiny,
      onEvent: (event) => {
        if (event.type === 'step' && event.step === 1) run.stop();
      },
    });
    assert.equal(run.folder, join(runs, 'echo'));
    await assert.rejects(run.run(), RunInterrupted);
    await assert.rejects(resumeRun(run.folder), { name: 'RunError', message: /a task of its own/ });
    const steps: number[] = [];
    const resumed = await resumeRun(run.folder, {
      task: echo,
      onEvent: (event) => {
        if (event.type === 'step') steps.push(event.step);
      },
    });
    const summary = await resumed.run();
    assert.equal(summary.task, 'echo');
    assert.deepEqual(steps, [2]);
    // Judged although no reinforcement follows; of what would come after that there is nothing.
    const { after_rl, ...judged } = summary.accuracy;
    assert.equal(after_rl, Number.NaN);
    for (const share of Object.values(judged)) assert.ok(share >= 0 && share <= 1, `${share}`);
    const about = JSON.parse(await readFile(join(run.folder, 'task.json'), 'utf8'));
    assert.equal(about.name, 'echo');
    assert.equal(about.source, undefined);
    await assert.rejects(
      newRun({ ...tiny, task: undefined, model: run.folder }),
      /does not say what task it was trained on/,
    );
  });

  test('get a folder of their own as soon as there is something to keep', async () => {
    const cut = { ...tiny, run: { ...tiny.run, name: 'cut' } };
    const never = await newRun(cut);
    const again = await newRun({ ...cut, onEvent: (event) => event.type === 'step' && again.stop() });
    assert.deepEqual([never.folder, again.folder], [join(runs, 'cut'), join(runs, 'cut')]);
    await assert.rejects(again.run(), RunInterrupted);
    await assert.rejects(newRun(cut), /already holds a run/);
  });

  test('a wrong option is named, as is what is wrong with the task', async () => {
    await assert.rejects(newRun({ ...tiny, sft: { max_steps: 0 }, run: {} }), (error) => {
      assert.ok(error instanceof RunError);
      assert.match(error.message, /^sft\.max_steps: /);
      return true;
    });
    await assert.rejects(
      newRun({ ...tiny, grpo: { loss_typ: 'grpo' } as never }),
      /^RunError: grpo: .*loss_typ/,
    );
    await assert.rejects(
      newRun({ ...tiny, grpo: { ...tiny.grpo, prompts_per_step: 3, steps_per_generation: 5 } }),
      /^RunError: grpo: 48 completions .* do not divide into steps_per_generation 5 × gradient_accumulation_steps 1/,
    );
    await assert.rejects(
      newRun({ ...tiny, run: { name: 'no-gpu', rollout: 'gpu' } }),
      /there is no device 'gpu'/,
    );
    assert.ok(!(await readdir(runs)).includes('no-gpu'));
    await assert.rejects(newRun({ ...tiny, task: { ...echo, vocabulary: ['a'] } }), /^TaskError: .*echo/);
    await assert.rejects(
      newRun({ ...tiny, run: { ...tiny.run, name: 'unheard', port: 80 } }),
      /^RunError: run\.port: .*rollouts in a browser/,
    );
    await assert.rejects(
      newRun({ ...tiny, model: 'elsewhere', run: { ...tiny.run, name: 'unheard' } }),
      /^RunError: modelOptions\.hidden_size, .*new model.*: elsewhere/,
    );
    await assert.rejects(
      newRun({ ...tiny, task: { name: 'x' } as never }),
      /^TaskError: .*problem: must be a function/,
    );
  });
});

test('what a model cannot take in is said before there is a folder', async () => {
  const wrong = (more: Partial<NewRun>, says: RegExp) =>
    assert.rejects(newRun({ ...tiny, ...more, run: { ...tiny.run, name: 'too-long' } }), says);
  await wrong(
    { grpo: { max_completion_length: 1022 } },
    /a prompt of 4 tokens and a completion of up to 1022 .*1024/,
  );
  const think = Array(1100).fill('a').join(' ');
  const wordy: Task = {
    ...echo,
    problem: (random) => ({ ...echo.problem(random), solution: { think, answer: 'a' } }),
  };
  const sft = { ...tiny.sft, think_fraction: 1 };
  await wrong(
    { task: wordy, sft },
    /^SequenceLengthError: task "echo": an example .* 11\d\d tokens, .* 1024 positions/,
  );
  await wrong(
    { task: { ...echo, problem: (random) => ({ ...echo.problem(random), solution: undefined }) } },
    /no solution/,
  );
  assert.ok(!(await readdir(runs)).includes('too-long'));
  const modelOptions = { ...tiny.modelOptions, max_position_embeddings: 1200 };
  await newRun({ ...tiny, task: wordy, sft, modelOptions, run: { ...tiny.run, name: 'long-enough' } });
});

test('a folder belongs to one process; what a killed one left half-written is removed', async () => {
  const path = join(runs, 'claimed');
  const claim = new URL('../../src/training/run-claim.ts', import.meta.url).href;
  const code = `const { claimFolder } = await import(${JSON.stringify(claim)}); await claimFolder(process.argv[1]); console.log('claimed'); setInterval(() => {}, 1000)`;
  const args = ['--import', import.meta.resolve('tsx'), '--input-type=module', '--eval', code, path];
  const other = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(other, 'exit');
  const begin = () => newRun({ ...tiny, run: { ...tiny.run, name: 'claimed' } });
  try {
    await once(other.stdout, 'data');
    await assert.rejects(begin(), /claimed: another process is training in this folder/);
    await writeFile(join(path, '.state.safetensors.0123456789ab.tmp'), 'half');
  } finally {
    other.kill('SIGKILL');
    await ended;
  }
  await begin();
  assert.deepEqual(
    (await readdir(path)).filter((name) => name.startsWith('.')),
    [],
  );
});

test('metrics that were cut off or are gone are said', async () => {
  const run = await newRun({
    ...tiny,
    run: { ...tiny.run, name: 'metrics' },
    onEvent: (event) => event.type === 'step' && run.stop(),
  });
  await assert.rejects(run.run(), RunInterrupted);
  const path = join(run.folder, 'metrics.jsonl');
  await writeFile(path, '');
  await assert.rejects(resumeRun(run.folder, { task: echo }), /has 0 lines, but the state was saved after 1/);
  await rm(path);
  await assert.rejects(resumeRun(run.folder, { task: echo }), /metrics\.jsonl: there is no such file/);
});

test('a step of the cold start is the same in one batch and in micro-batches, which sort by length', async () => {
  const steps = async (micro: number, parts: number) => {
    const seen: { loss: number; gradNorm: number; tokens: number }[] = [];
    const run = await newRun({
      ...tiny,
      task: {
        ...echo,
        problem(random) {
          const problem = echo.problem(random);
          const think = letters.slice(0, random.below(8)).join(' ');
          return { ...problem, solution: { think, answer: problem.solution!.answer } };
        },
      },
      run: { ...tiny.run, name: `micro-${parts}` },
      sft: {
        max_steps: 3,
        per_device_train_batch_size: micro,
        gradient_accumulation_steps: parts,
        think_fraction: 0.7,
        warmup_steps: 0,
      },
      onEvent(event) {
        if (event.type !== 'step') return;
        const { loss, grad_norm, num_tokens } = event.metrics;
        seen.push({ loss: loss!, gradNorm: grad_norm!, tokens: num_tokens! });
      },
    });
    await run.run();
    return seen;
  };
  const [whole, split] = [await steps(6, 1), await steps(2, 3)];
  assert.equal(whole.length, 3);
  for (const [i, { loss, gradNorm, tokens }] of whole.entries()) {
    assert.ok(Math.abs(split[i].loss - loss) < 1e-4 * loss, `loss ${split[i].loss}, not ${loss}`);
    assert.ok(Math.abs(split[i].gradNorm - gradNorm) < 1e-3 * gradNorm);
    assert.equal(split[i].tokens, tokens);
  }
});

/** What a run left, apart from times. */
async function outcome(folder: string) {
  const metrics = (await readFile(join(folder, 'metrics.jsonl'), 'utf8')).trim().split('\n');
  return {
    weights: hash32(Buffer.from(await readFile(join(folder, 'model.safetensors'))).toString('latin1')),
    metrics: metrics.map((line) =>
      JSON.stringify(JSON.parse(line), (key, value) => (/^perf\/|time/u.test(key) ? undefined : value)),
    ),
  };
}

test('a run that ends at any moment is continued bit for bit', async () => {
  const name = (await listDevices()).find((device) => device.available)!.name;
  const options: NewRun = {
    ...tiny,
    phases: ['cold_start', 'reinforcement'],
    grpo: { max_steps: 2, prompts_per_step: 2, num_generations: 4, max_completion_length: 6, beta: 0.1 },
  };
  const begin = (folder: string, seconds: number, onEvent: (event: RunEvent) => void) =>
    newRun({
      ...options,
      run: { device: name, parity_device: name, eval_problems: 2, name: folder, save_seconds: seconds },
      onEvent,
    });
  // How often a run is saved must not change where it ends; and nothing is saved between a step and what is told of it.
  const counts = (type: RunEvent['type']) => !['checkpoint', 'sample', 'parity'].includes(type);
  const events: RunEvent['type'][] = [];
  const whole = await begin('whole', 1000, ({ type }) => counts(type) && events.push(type));
  await whole.run();
  const expected = await outcome(whole.folder);
  const first = events.indexOf('phase');
  assert.ok(first >= 0 && events.filter((type) => type === 'step').length === 4, events.join(' '));

  for (let last = first; last <= events.indexOf('traces'); last++) {
    // Saved after every step, or only when a phase begins and ends.
    const seconds = last % 2 === 0 ? 1e-9 : 1000;
    let count = 0;
    const cut = await begin(`ends-${last}`, seconds, ({ type }) => {
      if (counts(type) && count++ === last) throw new Error('cut');
    });
    await assert.rejects(cut.run(), /cut/);
    await (await resumeRun(cut.folder, { task: echo })).run();
    assert.deepEqual(await outcome(cut.folder), expected, `ended at event ${last}, ${events[last]}`);
  }
});
