/** Problems of a task for training and testing, the teacher's examples, and the reward of completions. */
import type { Tokenizer } from '../../checkpoint/tokenizer.ts';
import { wordTokenizer } from '../../checkpoint/tokenizer.ts';
import { hash32 } from '../../numerics/hash.ts';
import { Random } from '../../numerics/random.ts';
import { completionText } from './completion.ts';
import type { Answered, Completion, Problem, Solution, Task, Teacher } from './task.ts';
import { TaskError } from './task.ts';

export type Split = 'train' | 'test';

/** One problem in so many is for testing. */
const TEST_SHARE = 16;

/** What makes a problem the one it is. White space does not count, because the tokens do not show it. */
export function keyOf({ prompt, key = prompt }: Pick<Problem, 'prompt' | 'key'>): string {
  return key.trim().split(/\s+/u).join(' ');
}

/**
 * Whether a problem is for training or testing: a matter of its prompt, or its key where it has one, alone, so
 * that a problem is never in both, in any run, with any seed.
 */
export function splitOf(problem: Pick<Problem, 'prompt' | 'key'>): Split {
  return hash32(keyOf(problem)) % TEST_SHARE === 0 ? 'test' : 'train';
}

/** So many problems in a row in the other split mean that there are hardly any in this one. */
const MAX_ATTEMPTS = 2000;

/**
 * The problem number `index` of a sequence, which is fixed by the task's name, the split, the seed and the purpose.
 * @param purpose separates the sequences of the phases of a run, so that they do not see the same problems
 * @throws TaskError where the task throws, makes something that is no problem, or has none for this split
 */
export function drawProblem<Data>(
  task: Task<Data>,
  split: Split,
  seed: number,
  index: number,
  purpose = '',
): Problem<Data> {
  const random = new Random(seed, `problem/${task.name}/${split}/${purpose}`, index);
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    const problem = makeProblem(task, random);
    if (splitOf(problem) === split) return problem;
  }
  throw new TaskError(
    task.name,
    undefined,
    `none of ${MAX_ATTEMPTS} problems fell to the ${split} set. It gets those whose prompt's or key's hash says so ` +
      `(1 in ${TEST_SHARE} is for testing), so the task must make many different ones`,
  );
}

function makeProblem<Data>(task: Task<Data>, random: Random): Problem<Data> {
  const state = JSON.stringify(random.state);
  let problem: Problem<Data>;
  try {
    problem = task.problem(random);
  } catch (error) {
    throw new TaskError(
      task.name,
      undefined,
      `problem() threw with random state ${state}: ${reason(error)}`,
      error,
    );
  }
  if (typeof problem?.prompt !== 'string' || problem.prompt.trim() === '') {
    const got = problem instanceof Promise ? 'a promise' : JSON.stringify(problem);
    throw new TaskError(
      task.name,
      undefined,
      `problem() must return an object with a prompt, but returned ${got}`,
    );
  }
  const { solution, key } = problem;
  if (key !== undefined && typeof key !== 'string') {
    throw new TaskError(task.name, problem.prompt, `its key must be a text, but is ${JSON.stringify(key)}`);
  }
  if (solution !== undefined && !isSolution(solution)) {
    throw new TaskError(task.name, problem.prompt, 'its solution must have texts think and answer');
  }
  return problem;
}

const isSolution = (value: unknown): value is Solution =>
  typeof value === 'object' &&
  value !== null &&
  'think' in value &&
  typeof value.think === 'string' &&
  'answer' in value &&
  typeof value.answer === 'string';

/**
 * Different problems for testing, always the same for a seed.
 * @returns `count` problems, or fewer where the task seems to have no more
 */
export function testProblems<Data>(task: Task<Data>, seed: number, count: number): Problem<Data>[] {
  const problems = new Map<string, Problem<Data>>();
  for (let index = 0; problems.size < count && index < 4 * count; index++) {
    const problem = drawProblem(task, 'test', seed, index);
    const key = keyOf(problem);
    if (!problems.has(key)) problems.set(key, problem);
  }
  return [...problems.values()];
}

/** An example for the cold start. */
export interface Example {
  readonly prompt: string;
  /** `<think> … </think> answer`, without the end-of-text token. */
  readonly completion: string;
  readonly thinks: boolean;
  /** Whether the teacher made a mistake. */
  readonly mistaken: boolean;
}

/**
 * The example number `index` that the teacher gives, from the training problems.
 * @param teacher replaces the task's own, wholly or in part
 * @throws TaskError where the problem has no solution
 */
export function coldStartExample<Data>(
  task: Task<Data>,
  seed: number,
  index: number,
  teacher: Teacher<Data> = {},
): Example {
  const mistake = teacher.mistake ?? task.teacher?.mistake;
  const problem = drawProblem(task, 'train', seed, index, 'cold-start');
  if (problem.solution === undefined) {
    throw new TaskError(task.name, problem.prompt, 'has no solution, which a cold start needs');
  }
  const random = new Random(seed, `teacher/${task.name}`, index);
  const thinks = random.chance(teacher.think_fraction ?? task.teacher?.think_fraction ?? 1);
  const mistaken = random.chance(teacher.error_rate ?? task.teacher?.error_rate ?? 0);
  let solution = problem.solution;
  if (mistaken) {
    solution = mistake
      ? mistakenSolution(task, problem, () => mistake(problem, random))
      : othersAnswer(task, problem.solution, random);
  }
  if (!thinks) solution = { think: '', answer: solution.answer };
  return { prompt: problem.prompt, completion: completionText(solution), thinks, mistaken };
}

function mistakenSolution<Data>(task: Task<Data>, problem: Problem<Data>, make: () => unknown): Solution {
  let made: unknown;
  try {
    made = make();
  } catch (error) {
    throw new TaskError(task.name, problem.prompt, `teacher.mistake() threw: ${reason(error)}`, error);
  }
  if (isSolution(made)) return made;
  const got = made instanceof Promise ? 'a promise' : JSON.stringify(made);
  throw new TaskError(
    task.name,
    problem.prompt,
    `teacher.mistake() must return texts think and answer, but returned ${got}`,
  );
}

function othersAnswer<Data>(task: Task<Data>, solution: Solution, random: Random): Solution {
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    const other = makeProblem(task, random).solution;
    if (other !== undefined && other.answer !== solution.answer) return { ...solution, answer: other.answer };
  }
  throw new TaskError(
    task.name,
    undefined,
    'every problem has the same answer, so the teacher cannot make mistakes',
  );
}

export interface Reward {
  /** The sum of the parts. */
  readonly total: number;
  /** Each part by its name; a reward that is one number has the task's name. Empty for malformed completions. */
  readonly parts: Readonly<Record<string, number>>;
}

/**
 * The reward of a completion: 0 where it is malformed, otherwise what the task says.
 * @throws TaskError where the task's reward throws or is not a finite number, or an object of those
 */
export async function scoreCompletion<Data>(
  task: Task<Data>,
  problem: Problem<Data>,
  completion: Completion,
): Promise<Reward> {
  if (!isAnswered(completion)) return { total: 0, parts: {} };
  let value: unknown;
  try {
    value = await task.reward({ problem, completion });
  } catch (error) {
    throw new TaskError(task.name, problem.prompt, `reward() threw: ${reason(error)}`, error);
  }
  const parts = typeof value === 'object' && value !== null ? { ...value } : { [task.name]: value };
  let total = 0;
  for (const [name, part] of Object.entries(parts)) {
    if (typeof part !== 'number' || !Number.isFinite(part)) {
      const which = typeof value === 'object' ? ` for ${JSON.stringify(name)}` : '';
      throw new TaskError(
        task.name,
        problem.prompt,
        `reward() returned ${typeof part === 'number' ? part : JSON.stringify(part)}${which}, but must return a ` +
          `finite number, or an object of them, for the completion ${JSON.stringify(completion.text)}`,
      );
    }
    total += part;
  }
  if (!Number.isFinite(total) || Array.isArray(value)) {
    const what = Array.isArray(value)
      ? `an array, ${JSON.stringify(value)}`
      : `parts that add up to ${total}`;
    throw new TaskError(
      task.name,
      problem.prompt,
      `reward() returned ${what}, but must return a finite number, or an object of numbers with a finite sum`,
    );
  }
  return { total, parts: parts as Record<string, number> };
}

const isAnswered = (completion: Completion): completion is Answered => completion.answer !== null;

const reason = (error: unknown) => (error instanceof Error ? error.message : String(error));

/**
 * The tokenizer of a model that is trained on a task from nothing.
 * @throws TaskError where the task has no vocabulary, or one that cannot be used
 */
export function taskTokenizer<Data>(task: Task<Data>): Tokenizer {
  if (task.vocabulary === undefined) {
    throw new TaskError(task.name, undefined, 'has no vocabulary, which a model trained from nothing needs');
  }
  try {
    return wordTokenizer(task.vocabulary);
  } catch (error) {
    throw new TaskError(task.name, undefined, reason(error), error);
  }
}

/**
 * Token ids of a prompt, with the tokens that the tokenizer puts before a text.
 * @throws TaskError where the prompt has a word that the vocabulary lacks
 */
export function encodePrompt(task: Pick<Task, 'name'>, tokenizer: Tokenizer, prompt: string): number[] {
  return encode(task, tokenizer, prompt, prompt, true);
}

/**
 * Token ids of an example: its prompt, and its completion with the end-of-text token.
 * @throws TaskError where it has a word that the vocabulary lacks
 */
export function encodeExample(
  task: Pick<Task, 'name'>,
  tokenizer: Tokenizer,
  { prompt, completion }: Pick<Example, 'prompt' | 'completion'>,
): { prompt: number[]; completion: number[] } {
  const { eos } = tokenizer.ids;
  if (eos === undefined)
    throw new TaskError(task.name, undefined, 'the tokenizer names no end-of-text token');
  const tokens = encode(task, tokenizer, prompt, completion, false);
  tokens.push(eos);
  return { prompt: encodePrompt(task, tokenizer, prompt), completion: tokens };
}

function encode(
  task: Pick<Task, 'name'>,
  tokenizer: Tokenizer,
  prompt: string,
  text: string,
  special: boolean,
): number[] {
  try {
    return tokenizer.encode(text, { special });
  } catch (error) {
    throw new TaskError(task.name, prompt, reason(error), error);
  }
}
