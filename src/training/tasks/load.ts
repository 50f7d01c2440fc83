/** Tasks by name, or from a user's own TypeScript or JavaScript file, which needs no build and no package. */
import { stat } from 'node:fs/promises';
import { extname, resolve } from 'node:path';
import { createJiti } from 'jiti';
import { z } from 'zod';
import { grpoOptions, modelOptions, sftOptions } from '../options.ts';
import { completionText, parseCompletion } from './completion.ts';
import { TASKS } from './index.ts';
import { drawProblem, encodeExample, encodePrompt, scoreCompletion, taskTokenizer } from './problems.ts';
import type { Answered, Task } from './task.ts';
import { TaskError } from './task.ts';

const EXTENSIONS = ['.ts', '.mts', '.cts', '.js', '.mjs', '.cjs'];

// A class instance would lose its methods if it were copied, so functions are only looked at.
const method = z.custom((value) => typeof value === 'function', 'must be a function');

const taskSchema = z.strictObject({
  name: z.string().regex(/^[a-z0-9][a-z0-9_-]*$/, 'must be lower-case letters, digits, - and _'),
  description: z.string().optional(),
  vocabulary: z.array(z.string()).min(1).optional(),
  problem: method,
  reward: method,
  format: z.enum(['think', 'free']).optional(),
  teacher: z
    .strictObject({
      think_fraction: z.number().min(0).max(1).optional(),
      error_rate: z.number().min(0).max(1).optional(),
      mistake: method.optional(),
    })
    .optional(),
  defaults: z
    .strictObject({
      model: modelOptions.optional(),
      sft: sftOptions.optional(),
      grpo: grpoOptions.optional(),
    })
    .optional(),
});

/**
 * A task by the name of one that comes with Tandem, or by the path of a file that exports one as its default.
 * What looks like a path (it has a slash or a script's extension) is one; relative paths start at `folder`.
 * @throws TaskError that says what is wrong and where
 */
export async function loadTask(nameOrPath: string, folder = process.cwd()): Promise<Task> {
  const known = TASKS.get(nameOrPath);
  if (known !== undefined) return known;
  if (!/[/\\]/.test(nameOrPath) && !EXTENSIONS.includes(extname(nameOrPath))) {
    throw new TaskError(
      nameOrPath,
      undefined,
      `there is no such task. There are ${[...TASKS.keys()].join(', ')}; or give the path of your own ` +
        'TypeScript file, such as ./my-task.ts',
    );
  }
  const path = resolve(folder, nameOrPath);
  return checkTask(await importDefault(nameOrPath, path), nameOrPath);
}

/**
 * The value as a task, after a few of its problems have been made and judged.
 * @param shown what messages call it where it has no name that could be trusted
 * @throws TaskError that says what is wrong and where
 */
export async function checkTask(value: unknown, shown = 'the given task'): Promise<Task> {
  const task = checkedTask(shown, value);
  await tryOut(task);
  return task;
}

async function importDefault(shown: string, path: string): Promise<unknown> {
  let isFile: boolean;
  try {
    isFile = (await stat(path)).isFile();
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new TaskError(shown, undefined, code === 'ENOENT' ? `there is no file ${path}` : message, error);
  }
  if (!isFile || !EXTENSIONS.includes(extname(path))) {
    throw new TaskError(shown, undefined, `${path} is not a file that ends in ${EXTENSIONS.join(', ')}`);
  }
  // The running package itself: a user's file gets the same `defineTask` and classes as the program that loads
  // it, wherever it lies and whether or not a package of that name is installed there.
  const jiti = createJiti(path, {
    virtualModules: { tandem: await import('../../index.ts') },
    moduleCache: false,
    fsCache: false,
    interopDefault: false,
  });
  let loaded: { default?: unknown };
  try {
    loaded = await jiti.import<{ default?: unknown }>(path);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new TaskError(shown, undefined, `${path} cannot be loaded: ${message}`, error);
  }
  if (loaded.default === undefined) {
    throw new TaskError(
      shown,
      undefined,
      `${path} has no default export: it must \`export default defineTask({ … })\``,
    );
  }
  return unwrapped(loaded.default);
}

/** A CommonJS module that sets `exports.default` shows up one level deeper where it was loaded as an ES module. */
function unwrapped(value: unknown): unknown {
  const nested = typeof value === 'object' && value !== null && 'default' in value && !('problem' in value);
  return nested ? value.default : value;
}

function checkedTask(shown: string, value: unknown): Task {
  const result = taskSchema.safeParse(value);
  // The object itself, not the parser's copy, which would have every option's default filled in.
  if (result.success) return value as Task;
  const issue = result.error.issues[0]!;
  const where = issue.path.length === 0 ? 'the default export' : issue.path.join('.');
  throw new TaskError(shown, undefined, `${where}: ${issue.message}`);
}

const TRIED_PROBLEMS = 8;

/**
 * Runs everything a training run will need of a task, on a few problems of each kind, so that a mistake shows
 * at once and not after the cold start.
 */
async function tryOut(task: Task): Promise<void> {
  const tokenizer = task.vocabulary === undefined ? undefined : taskTokenizer(task);
  for (const split of ['train', 'test'] as const) {
    for (let index = 0; index < TRIED_PROBLEMS; index++) {
      const problem = drawProblem(task, split, 0, index, 'try-out');
      if (drawProblem(task, split, 0, index, 'try-out').prompt !== problem.prompt) {
        throw new TaskError(
          task.name,
          problem.prompt,
          'problem() made another problem from the same random numbers: it must take all of them from its ' +
            'argument, not from Math.random, and keep nothing between calls',
        );
      }
      await scoreCompletion(task, problem, EMPTY_ANSWER);
      // Without its own vocabulary the task's texts cannot become tokens before a model is chosen.
      if (tokenizer === undefined) continue;
      encodePrompt(task, tokenizer, problem.prompt);
      if (problem.solution === undefined) continue;
      const completion = completionText(problem.solution);
      const tokens = encodeExample(task, tokenizer, { prompt: problem.prompt, completion }).completion;
      await scoreCompletion(task, problem, parseCompletion(tokens, tokenizer, task.format));
    }
  }
}

/** Models write this too, and a reward must be able to judge it. */
const EMPTY_ANSWER: Answered = {
  text: completionText({ think: '', answer: '' }),
  think: '',
  answer: '',
  tokens: [],
  finished: true,
  malformed: undefined,
};
