/** Whether a model can take in what a task says, found out before anything is trained. */
import type { Tokenizer } from '../checkpoint/tokenizer.ts';
import type { Qwen3Config } from '../models/config.ts';
import { teacherSequences } from './batches.ts';
import type { PhaseName } from './events.ts';
import { SequenceLengthError } from './learner.ts';
import { drawProblem, encodePrompt } from './tasks/problems.ts';
import type { Task, Teacher } from './tasks/task.ts';
import { TaskError } from './tasks/task.ts';

const TRIED = 8;

export interface Trial {
  readonly task: Task;
  readonly tokenizer: Tokenizer;
  readonly config: Qwen3Config;
  readonly phases: readonly PhaseName[];
  readonly seed: number;
  readonly teacher: Teacher;
  /** Tokens of a completion at most. */
  readonly maxCompletion: number;
}

/**
 * Encodes the first of a run's problems and, where there is a cold start, of its teacher's examples.
 * @throws TaskError where one has no solution, has a word that the tokenizer lacks, or with `maxCompletion` tokens is
 *   longer than the model can read; SequenceLengthError where an example is
 * @returns tokens of the longest prompt, and of the longest example, 0 without a cold start
 */
export function tryOutModel({ task, tokenizer, config, phases, seed, teacher, maxCompletion }: Trial): {
  readonly prompt: number;
  readonly example: number;
} {
  const positions = config.max_position_embeddings;
  let longestPrompt = 0;
  for (let index = 0; index < TRIED; index++) {
    const { prompt } = drawProblem(task, 'train', seed, index);
    const { length } = encodePrompt(task, tokenizer, prompt);
    longestPrompt = Math.max(longestPrompt, length);
    if (length + maxCompletion <= positions) continue;
    throw new TaskError(
      task.name,
      prompt.length > 200 ? `${prompt.slice(0, 200)}…` : prompt,
      `a prompt of ${length} tokens and a completion of up to ${maxCompletion} (max_completion_length) are more than ` +
        `the model's ${positions} positions (max_position_embeddings): make one of them shorter, or train a model that ` +
        'is made with more (--max-position-embeddings)',
    );
  }
  if (!phases.includes('cold_start')) return { prompt: longestPrompt, example: 0 };
  const examples = teacherSequences(task, tokenizer, seed, 0, TRIED, teacher);
  const longest = Math.max(...examples.map(({ prompt, completion }) => prompt.length + completion.length));
  if (longest > positions)
    throw new SequenceLengthError(longest, positions, `task "${task.name}": an example of the teacher's`);
  return { prompt: longestPrompt, example: longest };
}
