/**
 * What a task is. A task is one file that exports, as its default, `defineTask({...})`: it makes problems and
 * judges answers. Everything is text; one word, set off by spaces, is one token of a model trained on it.
 *
 * Completions have the form `<think> thinking </think> answer`; the thinking may be empty.
 */
import type { z } from 'zod';
import type { Random } from '../../numerics/random.ts';
import type { grpoOptions, modelOptions, sftOptions } from '../options.ts';

/** How a problem can be solved: the thinking, and the answer that it leads to. */
export interface Solution {
  readonly think: string;
  readonly answer: string;
}

export interface Problem<Data = unknown> {
  /** What the model reads. */
  readonly prompt: string;
  /**
   * What makes it this problem, where several prompts put the same one (such as `2 * 3` and `3 * 2`): problems
   * with the same key are never in both the training and the test set. Default: the prompt.
   */
  readonly key?: string;
  /** A right solution. Only a cold start needs it. */
  readonly solution?: Solution;
  /** Whatever the reward needs to judge an answer. */
  readonly data: Data;
}

/** What the model wrote. */
export interface Completion {
  /** All of it, to before the end-of-text token. */
  readonly text: string;
  /** What stands between `<think>` and `</think>`, or after `<think>` where it is never closed. */
  readonly think: string | null;
  /** What follows `</think>`; null where the completion is malformed. */
  readonly answer: string | null;
  /** Token ids as they were sampled, the end-of-text token included. */
  readonly tokens: readonly number[];
  /** Whether it ended by itself, with the end-of-text token. */
  readonly finished: boolean;
  /** What is wrong with its form; undefined where nothing is. */
  readonly malformed: string | undefined;
}

/** A completion whose form is right, so that it has an answer: what a reward gets to see. */
export interface Answered extends Completion {
  readonly think: string;
  readonly answer: string;
}

/** One number, or several by name, which are added up and logged each for itself. */
export type RewardValue = number | Readonly<Record<string, number>>;

/** The teacher whose examples the cold start learns from. Imperfect, so that reinforcement has something to do. */
export interface Teacher<Data = unknown> {
  /** Share of the examples that think; the others answer directly. From 0 to 1, default 1. */
  readonly think_fraction?: number;
  /** Share of the examples with a wrong answer. From 0 to 1, default 0. */
  readonly error_rate?: number;
  /** A plausible wrong solution. Without it, a wrong example has the answer of another problem. */
  mistake?(problem: Problem<Data>, random: Random): Solution;
}

/**
 * Options with which the task is learned in minutes, by their names in `options.ts`; every one can be
 * overridden where training starts.
 */
export interface TaskDefaults {
  readonly model?: z.input<typeof modelOptions>;
  readonly sft?: z.input<typeof sftOptions>;
  readonly grpo?: z.input<typeof grpoOptions>;
}

export interface Task<Data = unknown> {
  /** Lower-case letters, digits, `-` and `_`. */
  readonly name: string;
  /** One line for people. */
  readonly description?: string;
  /**
   * Every word that can occur in prompts, thinking and answers. Needed to train a model from nothing;
   * a task for a model that has a tokenizer can leave it out.
   */
  readonly vocabulary?: readonly string[];
  /**
   * Makes a problem. All randomness must come from `random`: the same numbers must give the same problem.
   */
  problem(random: Random): Problem<Data>;
  /**
   * Judges a completion; higher is better. Malformed completions get 0 without being shown to it. An evaluation counts
   * an answer as right when its reward (the sum, where there are parts) is above 0.5.
   */
  reward(judged: {
    readonly problem: Problem<Data>;
    readonly completion: Answered;
  }): RewardValue | Promise<RewardValue>;
  /**
   * `think` (default): a completion without exactly one `<think> … </think>` at its start is malformed.
   * `free`: one without any tags is an answer too.
   */
  readonly format?: 'think' | 'free';
  readonly teacher?: Teacher<Data>;
  readonly defaults?: TaskDefaults;
}

/** Gives a task its type; the type of a problem's `data` is inferred. Returns the task itself. */
export function defineTask<Data>(task: Task<Data>): Task<Data> {
  return task;
}

/** A task that does not do what it must; the message names the task and, where there is one, the problem. */
export class TaskError extends Error {
  override readonly name = 'TaskError';

  constructor(task: string, problem: string | undefined, message: string, cause?: unknown) {
    const where = problem === undefined ? '' : `, problem ${JSON.stringify(problem)}`;
    super(`task ${JSON.stringify(task)}${where}: ${message}`, { cause });
  }
}
