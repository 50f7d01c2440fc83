/** One step of supervised fine-tuning: examples of the task's teacher, their likelihood, and the update. */
import type { Tokenizer } from '../checkpoint/tokenizer.ts';
import type { Sequence } from './batches.ts';
import { completionTokens, likelihoodBatch, paddedLength, teacherSequences } from './batches.ts';
import type { Metrics } from './events.ts';
import type { Learner, Objective } from './learner.ts';
import type { SftOptions } from './options.ts';
import { definedOnly } from './options.ts';
import { learningRate } from './schedule.ts';
import type { Task } from './tasks/task.ts';

/** Everything a phase of supervised fine-tuning works with; nothing in it changes from step to step but the weights. */
export interface Supervision {
  readonly task: Task;
  readonly tokenizer: Tokenizer;
  readonly options: SftOptions;
  readonly seed: number;
  readonly learner: Learner;
}

export interface SupervisedStep {
  readonly metrics: Metrics;
  /** Tokens learned from, prompts included. */
  readonly learned: { readonly tokens: number; readonly seconds: number };
}

const LIKELIHOOD: Objective = { kind: 'likelihood' };

const length = ({ prompt, completion }: Sequence) => prompt.length + completion.length;

/** Executes step `step` (0-based). */
export async function supervisedStep(
  { task, tokenizer, options, seed, learner }: Supervision,
  step: number,
): Promise<SupervisedStep> {
  const { per_device_train_batch_size: micro, gradient_accumulation_steps: parts } = options;
  const started = performance.now();
  const teacher = { think_fraction: options.think_fraction, error_rate: options.teacher_error };
  const examples = micro * parts;
  const sequences = teacherSequences(task, tokenizer, seed, step * examples, examples, definedOnly(teacher));
  const completed = completionTokens(sequences);
  // Short ones together, so that only the micro-batches of long ones are long.
  sequences.sort((a, b) => length(a) - length(b));
  let loss = 0;
  for (let part = 0; part < parts; part++) {
    const chosen = sequences.slice(part * micro, (part + 1) * micro);
    const shape = { sequences: micro, length: paddedLength(length(chosen.at(-1)!)) };
    const batch = likelihoodBatch(chosen, shape, completed);
    loss += (await learner.forwardBackward(LIKELIHOOD, shape, batch)).loss;
  }
  const rate = learningRate(step, options);
  const { grad_norm } = await learner.optimStep({ ...options, learning_rate: rate });
  const tokens = sequences.reduce((sum, sequence) => sum + length(sequence), 0);
  const seconds = (performance.now() - started) / 1000;
  return {
    metrics: {
      loss,
      learning_rate: rate,
      grad_norm,
      num_tokens: tokens,
      'perf/throughput': tokens / seconds,
      'perf/learn_tokens_per_second': tokens / seconds,
    },
    learned: { tokens, seconds },
  };
}
