/** Accuracy on held-out problems, as the model likes, with thinking forced, and with thinking suppressed. */
import type { Tokenizer } from '../checkpoint/tokenizer.ts';
import type { Sampler } from '../fleet/rollout.ts';
import type { Accuracy, Evaluation, EvaluationMode, SampleTrace } from './events.ts';
import { parseCompletion } from './tasks/completion.ts';
import { encodePrompt, scoreCompletion } from './tasks/problems.ts';
import type { Problem, Task } from './tasks/task.ts';

export const EVALUATION_MODES: readonly EvaluationMode[] = ['free', 'thinking', 'no_thinking'];

/** What people read above an answer of each evaluation. */
export const TRACE_TITLE: {
  readonly [S in Evaluation['stage']]: { readonly [M in EvaluationMode]: string };
} = {
  cold_start: {
    free: 'before reinforcement',
    thinking: 'before, thinking forced',
    no_thinking: 'before, thinking suppressed',
  },
  after_rl: {
    free: 'after reinforcement',
    thinking: 'after, thinking forced',
    no_thinking: 'after, thinking suppressed',
  },
};

export interface EvaluationOptions {
  readonly task: Task;
  readonly tokenizer: Tokenizer;
  readonly problems: readonly Problem[];
  readonly mode: EvaluationMode;
  readonly maxCompletionLength: number;
  readonly seed: number;
}

/** Tokens that are put after the prompt, and tokens that may not come first after them. */
function forcing(mode: EvaluationMode, tokenizer: Tokenizer): { beginning: number[]; forbidFirst: number[] } {
  const { think, endThink } = tokenizer.ids;
  if (mode === 'free') return { beginning: [], forbidFirst: [] };
  if (think === undefined || endThink === undefined) {
    throw new Error(
      'the tokenizer has no <think> and </think> tokens, so thinking can be neither forced nor suppressed',
    );
  }
  return mode === 'thinking'
    ? { beginning: [think], forbidFirst: [endThink] }
    : { beginning: [think, endThink], forbidFirst: [] };
}

/** Greedy answers to every problem; returns their accuracy and, for each problem, what was written. */
export async function evaluate(
  worker: Sampler,
  options: EvaluationOptions,
): Promise<{ result: Accuracy; traces: SampleTrace[] }> {
  const { task, tokenizer, problems, mode, maxCompletionLength, seed } = options;
  const { beginning, forbidFirst } = forcing(mode, tokenizer);
  const rollouts = await worker.sample(
    problems.map(({ prompt }, id) => ({
      tokens: [...encodePrompt(task, tokenizer, prompt), ...beginning],
      id,
    })),
    {
      maxTokens: maxCompletionLength - beginning.length,
      temperature: 0,
      topP: 1,
      topK: 0,
      seed,
      forbidFirst,
    },
  );
  let right = 0;
  let thinks = 0;
  let tokens = 0;
  const traces: SampleTrace[] = [];
  for (const [i, rollout] of rollouts.entries()) {
    const completion = parseCompletion([...beginning, ...rollout.tokens], tokenizer, task.format);
    const reward = (await scoreCompletion(task, problems[i], completion)).total;
    if (reward > 0.5) right++;
    if (completion.think) thinks++;
    tokens += completion.tokens.length;
    traces.push({ prompt: problems[i].prompt, completion: completion.text, reward });
  }
  const total = Math.max(1, problems.length);
  return {
    result: {
      accuracy: right / total,
      problems: problems.length,
      thinkFraction: thinks / total,
      meanLength: tokens / total,
    },
    traces,
  };
}
