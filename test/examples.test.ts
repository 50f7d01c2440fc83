/** Every example, run as its first line says. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { listDevices, loadTask, Random } from '../src/index.ts';
import { testProblems } from '../src/training/tasks/problems.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const scratch = await mkdtemp(join(tmpdir(), 'tandem-examples-'));
after(() => rm(scratch, { recursive: true }));

async function run(file: string, ...args: string[]): Promise<string> {
  const command = ['--import', 'tsx', join('examples', file), ...args];
  const { stdout } = await promisify(execFile)(process.execPath, command, { cwd: root });
  return stdout;
}

const available = (await listDevices()).filter((device) => device.available).map((device) => device.name);
const needs = (...names: string[]) => {
  const missing = names.filter((name) => !available.includes(name));
  return { skip: missing.length > 0 && `not available here: ${missing.join(', ')}` };
};

test(
  'train-and-talk: reinforcement teaches thinking, and the model says how sure it is',
  needs('cpu'),
  async () => {
    const output = await run('train-and-talk.ts', scratch);
    const accuracy = /held-out problems: \{ cold_start: ([\d.]+), after_rl: ([\d.]+)/u.exec(output);
    assert.ok(accuracy, output);
    assert.ok(Number(accuracy[2]) > Number(accuracy[1]) + 0.2, output);
    const logprobs = [...output.matchAll(/^(\S+) (-[\d.e-]+|0)$/gmu)].map((match) => Number(match[2]));
    // <think>, six steps, </think>, the answer, the end.
    assert.equal(logprobs.length, 10, output);
    assert.ok(
      logprobs.every((logprob) => logprob > -1),
      output,
    );
  },
);

test('primitives: the sampler is what the learner learned, and the reward rises', async () => {
  const names = ['cpu', 'wasm'].filter((name) => available.includes(name));
  const output = await run('primitives.ts', ...(names.length === 2 ? names : ['interpreter', 'interpreter']));
  const steps = [...output.matchAll(/reward ([\d.]+) of 6, parity (\S+)/gu)];
  assert.equal(steps.length, 20, output);
  assert.ok(Number(steps[19][1]) > 5 && Number(steps[0][1]) < 2, output);
  for (const [, , parity] of steps) assert.ok(Number(parity) < 1e-4, output);
});

test('own-kernel: the kernel is right, and training with it agrees on two accelerators', async () => {
  const names = ['cpu', 'wasm'].filter((name) => available.includes(name));
  const output = await run('own-kernel.ts', ...(names.length === 2 ? names : ['interpreter', 'interpreter']));
  const errors = [...output.matchAll(/largest error (\S+)/gu)].map((match) => Number(match[1]));
  assert.equal(errors.length, 3, output);
  assert.ok(
    errors.every((error) => error < 1e-6),
    output,
  );
  const losses = [...output.matchAll(/loss (\S+) before training, (\S+) after/gu)];
  assert.equal(losses.length, 2, output);
  for (const [, before, trained] of losses) assert.ok(Number(trained) < Number(before) / 10, output);
  const difference = /losses differ by (\S+) at most/u.exec(output);
  assert.ok(difference && Number(difference[1]) < 1e-5, output);
});

test('my-task: its teacher is right, its mistakes mostly are not', async () => {
  const task = await loadTask('./examples/my-task.ts', root);
  const problems = testProblems(task, 0, 40);
  const reward = async (problem: (typeof problems)[number], { think, answer } = problem.solution!) => {
    const completion = { text: '', think, answer, tokens: [], finished: true, malformed: undefined };
    return (await task.reward({ problem, completion })) as { answer: number; steps: number };
  };
  let wrong = 0;
  for (const [i, problem] of problems.entries()) {
    assert.deepEqual(await reward(problem), { answer: 1, steps: 0.2 });
    const mistaken = await reward(problem, task.teacher!.mistake!(problem, new Random(i, 'mistake', 0)));
    assert.equal(mistaken.answer === 1, mistaken.steps === 0.2);
    if (mistaken.answer === 0) wrong++;
  }
  assert.ok(wrong > 15, `${wrong} of 40 mistakes are wrong`);
});
