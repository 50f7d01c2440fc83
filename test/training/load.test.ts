import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { parseCompletion } from '../../src/training/tasks/completion.ts';
import { loadTask } from '../../src/training/tasks/load.ts';
import { drawProblem, scoreCompletion, splitOf, taskTokenizer } from '../../src/training/tasks/problems.ts';
import { TaskError } from '../../src/training/tasks/task.ts';

const root = await mkdtemp(join(tmpdir(), 'tandem-load-'));
after(() => rm(root, { recursive: true }));

let files = 0;
async function taskFile(source: string, extension = '.ts'): Promise<string> {
  const path = join(root, `task-${files++}${extension}`);
  await writeFile(path, source);
  return path;
}

const REVERSE = `
import { defineTask } from 'tandem';
import type { Solution } from 'tandem';
import { letters } from './letters.ts';

interface Data { word: string }

export default defineTask<Data>({
  name: 'reverse',
  vocabulary: [...letters, '='],
  problem(random) {
    const word = Array.from({ length: 5 }, () => random.pick(letters));
    const answer = word.toReversed().join(' ');
    return { prompt: word.join(' ') + ' =', solution: { think: '', answer } satisfies Solution, data: { word: answer } };
  },
  reward: ({ problem, completion }) => ({ exact: completion.answer === problem.data.word ? 1 : 0 }),
});
`;

test('a task in TypeScript, far from any package, with types and an import of its own', async () => {
  await writeFile(
    join(root, 'letters.ts'),
    "export const letters: readonly string[] = ['a', 'b', 'c', 'd'];\n",
  );
  const path = await taskFile(REVERSE);
  const task = await loadTask(path);
  assert.equal(task.name, 'reverse');
  const problem = drawProblem(task, 'train', 0, 0);
  const tokenizer = taskTokenizer(task);
  const score = (text: string) =>
    scoreCompletion(task, problem, parseCompletion(tokenizer.encode(text, { special: false }), tokenizer));
  assert.deepEqual(await score(`<think> </think> ${problem.solution!.answer} <eos>`), {
    total: 1,
    parts: { exact: 1 },
  });
  assert.deepEqual(await score('<think> </think> a <eos>'), { total: 0, parts: { exact: 0 } });
  assert.equal((await loadTask(`./${path.slice(root.length + 1)}`, root)).name, 'reverse');
});

test('tasks in JavaScript: module and CommonJS', async () => {
  const body = `{
    name: 'yes', vocabulary: ['yes', 'a', 'b', 'c', 'd', 'e', 'f'],
    problem: (random) => ({ prompt: random.shuffle(['a', 'b', 'c', 'd', 'e', 'f']).join(' '), data: 0 }),
    reward: async ({ completion }) => (completion.answer === 'yes' ? 1 : 0),
  }`;
  for (const extension of ['.js', '.mjs', '.ts']) {
    assert.equal((await loadTask(await taskFile(`export default ${body};`, extension))).name, 'yes');
  }
  const common = `const { defineTask } = require('tandem');\nmodule.exports.default = defineTask(${body});`;
  assert.equal((await loadTask(await taskFile(common, '.cjs'))).name, 'yes');
});

test("a task's file gets the running package's own classes", async () => {
  const source = `
    import { defineTask, TaskError } from 'tandem';
    export default defineTask({ name: 'same', description: 'x', problem: (r) => ({ prompt: String(r.uint32()), data: TaskError }),
      reward: () => 0 });`;
  const task = await loadTask(await taskFile(source));
  assert.equal(drawProblem(task, 'train', 0, 0).data, TaskError);
});

test('a changed file is loaded anew', async () => {
  const path = await taskFile(
    "export default { name: 'one', problem: (r) => ({ prompt: String(r.uint32()), data: 0 }), reward: () => 0 };",
  );
  assert.equal((await loadTask(path)).name, 'one');
  await writeFile(
    path,
    "export default { name: 'two', problem: (r) => ({ prompt: String(r.uint32()), data: 0 }), reward: () => 0 };",
  );
  assert.equal((await loadTask(path)).name, 'two');
});

test('tasks that come with Tandem are found by name, others are listed', async () => {
  assert.equal((await loadTask('chain')).name, 'chain');
  await assert.rejects(loadTask('chains'), {
    name: 'TaskError',
    message:
      /task "chains": there is no such task. There are chain, multiplication, countdown, deduction; or give/,
  });
});

const parts = {
  name: "'mine'",
  vocabulary: "['a', 'b', 'c', '=']",
  problem: `(random) => ({ prompt: Array.from({ length: 8 }, () => random.pick(['a', 'b', 'c'])).join(' '),
    solution: { think: 'a', answer: 'b' }, data: {} })`,
  reward: '() => 1',
};
const withParts = (changed: Record<string, string>) =>
  `export default { ${Object.entries({ ...parts, ...changed })
    .map(([key, value]) => `${key}: ${value}`)
    .join(', ')} };`;

const wrong: [string, string, RegExp][] = [
  ['a syntax error', 'export default {', /task-\d+\.ts cannot be loaded: .*(Unexpected token|ParseError)/s],
  ['an error while loading', "throw new Error('boom');", /cannot be loaded: boom/],
  [
    'an import that does not exist',
    "import './nowhere.ts'; export default {};",
    /cannot be loaded: .*nowhere/,
  ],
  [
    'no default export',
    'export const task = 1;',
    /has no default export: it must `export default defineTask/,
  ],
  ['a default export that is no object', 'export default 5;', /the default export: .*expected object/],
  ['no name', withParts({ name: 'undefined' }), /name: .*expected string/],
  ['a name that is no file name', withParts({ name: "'../x'" }), /name: must be lower-case letters/],
  ['no reward', withParts({ reward: 'undefined' }), /reward: must be a function/],
  ['a reward that is a number', withParts({ reward: '1' }), /reward: must be a function/],
  ['a misspelt member', withParts({ rewards: '() => 1' }), /the default export: .*"rewards"/],
  ['a share over 1', withParts({ teacher: '{ think_fraction: 20 }' }), /teacher.think_fraction: /],
  ['an unknown default', withParts({ defaults: '{ grpo: { lr: 1 } }' }), /defaults.grpo: .*"lr"/],
  [
    'a vocabulary with a space',
    withParts({ vocabulary: "['a b']" }),
    /task "mine": vocabulary: "a b" must be a word/,
  ],
  [
    'a word that is missing',
    withParts({ vocabulary: "['a', 'b']" }),
    /task "mine", problem ".*": "c" is not in/,
  ],
  [
    'a problem that throws',
    withParts({ problem: "() => { throw new Error('none left'); }" }),
    /task "mine": problem\(\) threw .*: none left/,
  ],
  [
    'one problem only',
    withParts({ problem: "() => ({ prompt: 'a', data: {} })" }),
    /task "mine": none of 2000 problems fell to/,
  ],
  [
    'randomness of its own',
    withParts({
      problem:
        "() => ({ prompt: Array.from({ length: 20 }, () => (Math.random() < 0.5 ? 'a' : 'b')).join(' '), data: {} })",
    }),
    /task "mine", problem "[ab ]+": problem\(\) made another problem from the same random numbers/,
  ],
  [
    'a reward that fails on an empty answer',
    withParts({
      vocabulary: 'undefined',
      reward: '({ completion }) => completion.answer.match(/./)[0].length',
    }),
    /task "mine", problem "[abc ]+": reward\(\) threw: Cannot read properties of null/,
  ],
  [
    'a reward that throws',
    withParts({ reward: '({ problem }) => problem.data.x.y' }),
    /task "mine", problem "[abc ]+": reward\(\) threw: Cannot read/,
  ],
  [
    'a reward that is NaN',
    withParts({ reward: '() => 0 / 0' }),
    /task "mine", problem "[abc ]+": reward\(\) returned NaN/,
  ],
  [
    'a reward without return',
    withParts({ reward: '() => {}' }),
    /task "mine", problem "[abc ]+": reward\(\) returned undefined/,
  ],
];

for (const [name, source, message] of wrong) {
  test(`refused with a clear message: ${name}`, async () => {
    await assert.rejects(loadTask(await taskFile(source)), (error: Error) => {
      assert.ok(error instanceof TaskError, `${error.stack}`);
      assert.match(error.message, message);
      return true;
    });
  });
}

test('missing files, folders and other kinds of file are refused', async () => {
  await assert.rejects(loadTask('./nothing.ts', root), {
    message: `task "./nothing.ts": there is no file ${join(root, 'nothing.ts')}`,
  });
  await mkdir(join(root, 'folder.ts'));
  await assert.rejects(loadTask(join(root, 'folder.ts')), /folder.ts is not a file that ends in \.ts/);
  await assert.rejects(loadTask(await taskFile('{}', '.json')), /is not a file that ends in/);
});

test('the helper that decides about training and testing agrees across processes', async () => {
  const script = `import { splitOf } from ${JSON.stringify(new URL('../../src/training/tasks/problems.ts', import.meta.url).href)};
    console.log(Array.from({ length: 64 }, (_, i) => splitOf({ prompt: 'p ' + i })).join());`;
  const file = join(root, 'split.mts');
  await writeFile(file, script);
  const tsx = fileURLToPath(import.meta.resolve('tsx'));
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', tsx, file]);
  assert.equal(stdout.trim(), Array.from({ length: 64 }, (_, i) => splitOf({ prompt: `p ${i}` })).join());
});
