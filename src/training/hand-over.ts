/** Weights from the learner to a rollout worker, with their checksums, and the difference between the two sides. */
import type { Tokenizer } from '../checkpoint/tokenizer.ts';
import { compareLogProbabilities, judgeParity } from '../fleet/parity.ts';
import type { Sampler } from '../fleet/rollout.ts';
import { weightsChecksum } from '../fleet/rollout.ts';
import { UNTRUNCATED } from '../inference/sampling.ts';
import type { WeightType } from '../inference/weights.ts';
import { roundWeights } from '../inference/weights.ts';
import type { Qwen3Config } from '../models/config.ts';
import type { Sequence } from './batches.ts';
import { fromTargets, layOut } from './batches.ts';
import type { ParityReport } from './events.ts';
import type { Learner } from './learner.ts';
import { encodePrompt } from './tasks/problems.ts';
import type { Problem, Task } from './tasks/task.ts';

/** Gives the worker the learner's weights; returns the checksums of what was sent and of what arrived. */
export async function handOver(learner: Learner, worker: Sampler, config: Qwen3Config, dtype: WeightType) {
  const weights = roundWeights(config, await learner.weights(), dtype);
  return {
    learner: weightsChecksum(config, weights),
    rollout: await worker.receive({ version: learner.step, weights }),
  };
}

export interface ParityMeasurement {
  readonly learner: Learner;
  readonly worker: Sampler;
  readonly config: Qwen3Config;
  readonly dtype: WeightType;
  readonly task: Task;
  readonly tokenizer: Tokenizer;
  readonly problems: readonly Problem[];
  readonly maxTokens: number;
  readonly bound: number;
  readonly seed: number;
}

/** A completion with the learner's log-probability of each of its tokens: what any other accelerator must reproduce. */
export interface RecordedSequence {
  readonly prompt: readonly number[];
  readonly completion: readonly number[];
  readonly logprobs: readonly number[];
}

export interface MeasuredParity {
  readonly report: ParityReport;
  readonly recorded: readonly RecordedSequence[];
}

/** The gate for its own sake: hands over, samples answers to problems, and has the learner recompute their log-probabilities. */
export async function measureParity(measurement: ParityMeasurement): Promise<MeasuredParity> {
  const { learner, worker, config, dtype, task, tokenizer, problems, maxTokens, bound, seed } = measurement;
  const checksum = await handOver(learner, worker, config, dtype);
  const rollouts = await worker.sample(
    problems.map(({ prompt }, id) => ({ tokens: encodePrompt(task, tokenizer, prompt), id })),
    { ...UNTRUNCATED, maxTokens, seed, forbidFirst: [] },
  );
  const sequences = rollouts.map(({ prompt, tokens }): Sequence => ({ prompt, completion: tokens }));
  const length = Math.max(...sequences.map(({ prompt, completion }) => prompt.length + completion.length));
  const shape = { sequences: sequences.length, length };
  const learned = await learner.logProbabilities(layOut(sequences, shape), shape, UNTRUNCATED, 'policy');
  const report = judgeParity({
    learner: learner.device.info.name,
    rollout: worker.name,
    weightVersion: worker.weightVersion,
    checksum,
    difference: compareLogProbabilities(
      fromTargets(sequences, shape, learned),
      rollouts.flatMap(({ logprobs }) => logprobs),
    ),
    bound,
  });
  const recorded = sequences.map((sequence, row) => ({
    ...sequence,
    logprobs: fromTargets(
      [sequence],
      { sequences: 1, length },
      learned.subarray(row * length, (row + 1) * length),
    ),
  }));
  return { report, recorded };
}
