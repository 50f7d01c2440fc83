/** One step of GRPO: problems, completions, rewards, advantages, the parity gate, and the update. */
import type { Tokenizer } from '../checkpoint/tokenizer.ts';
import { compareLogProbabilities, explainFailure, judgeParity, ParityError } from '../fleet/parity.ts';
import type { Rollout, Sampler } from '../fleet/rollout.ts';
import type { SamplingDistribution } from '../inference/sampling.ts';
import { groupAdvantages, tokenWeights } from './advantages.ts';
import type { Sequence } from './batches.ts';
import { completionTokens, fromTargets, layOut, onTargets, paddedLength } from './batches.ts';
import type { Metrics, ParityReport, SampleTrace } from './events.ts';
import type { Batch, BatchShape, Learner, StepOutputs } from './learner.ts';
import type { GrpoOptions } from './options.ts';
import { lossOptions } from './options.ts';
import { learningRate } from './schedule.ts';
import { parseCompletion } from './tasks/completion.ts';
import { drawProblem, encodePrompt, scoreCompletion } from './tasks/problems.ts';
import type { Completion, Problem, Task } from './tasks/task.ts';

/** Everything a phase of reinforcement works with; nothing in it changes from step to step but the weights. */
export interface Reinforcement {
  readonly task: Task;
  readonly tokenizer: Tokenizer;
  readonly options: GrpoOptions;
  /** Largest |Δ log p| allowed between the learner and another rollout accelerator. */
  readonly parityBound: number;
  readonly seed: number;
  readonly learner: Learner;
  readonly worker: Sampler;
  /** Checksum of the weights on the learner's side and the worker's, from the last hand-over. */
  readonly checksum: { readonly learner: string; readonly rollout: string };
}

export interface ReinforcementStep {
  readonly metrics: Metrics;
  readonly parity: ParityReport;
  /** `num_completions_to_print` of them; a different prompt's every step. */
  readonly traces: readonly SampleTrace[];
  /** Tokens generated, and the time that took with its rewards. */
  readonly sampled: { readonly tokens: number; readonly seconds: number };
  /** Tokens learned from, prompts included. */
  readonly learned: { readonly tokens: number; readonly seconds: number };
}

interface Judged {
  readonly problem: Problem;
  readonly rollout: Rollout;
  readonly completion: Completion;
  readonly reward: number;
  readonly parts: Readonly<Record<string, number>>;
}

/** What rollouts are sampled from. */
const distributionOf = ({ temperature, top_k, top_p }: GrpoOptions): SamplingDistribution => ({
  temperature,
  topK: top_k,
  topP: top_p,
});

async function sampleAndJudge(
  { task, tokenizer, options, seed, worker }: Reinforcement,
  step: number,
): Promise<Judged[]> {
  const { prompts_per_step: prompts, num_generations: group } = options;
  const problems = Array.from({ length: prompts }, (_, i) =>
    drawProblem(task, 'train', seed, step * prompts + i, 'reinforcement'),
  );
  const encoded = problems.map(({ prompt }) => encodePrompt(task, tokenizer, prompt));
  const rollouts = await worker.sample(
    Array.from({ length: prompts * group }, (_, i) => ({
      tokens: encoded[Math.floor(i / group)],
      id: step * prompts * group + i,
    })),
    {
      maxTokens: options.max_completion_length,
      ...distributionOf(options),
      seed,
      forbidFirst: [],
    },
  );
  return Promise.all(
    rollouts.map(async (rollout, i) => {
      const problem = problems[Math.floor(i / group)];
      const completion = parseCompletion(rollout.tokens, tokenizer, task.format);
      const { total, parts } = await scoreCompletion(task, problem, completion);
      return { problem, rollout, completion, reward: total, parts };
    }),
  );
}

const mean = (values: readonly number[]) =>
  values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);

/** The part of a generation batch that one optimizer step learns from. */
interface Portion {
  readonly judged: readonly Judged[];
  readonly sequences: readonly Sequence[];
  readonly advantages: ArrayLike<number>;
  /** First row of the portion in the generation batch. */
  readonly first: number;
}

/** Executes step `step` (0-based). Throws ParityError before anything is learned from samples that cannot be trusted. */
export async function reinforcementStep(run: Reinforcement, step: number): Promise<ReinforcementStep> {
  const { options, learner, worker } = run;
  const started = performance.now();
  const judged = await sampleAndJudge(run, step);
  const sampled = performance.now();
  const sequences = judged.map(
    ({ rollout }): Sequence => ({ prompt: rollout.prompt, completion: rollout.tokens }),
  );
  const { epsilon_high, scale_rewards } = lossOptions(options);
  const statistics = groupAdvantages(
    judged.map(({ reward }) => reward),
    options.num_generations,
    scale_rewards,
  );

  const shape = batchShape(sequences);
  const samplerLogprob = onTargets(sequences, shape, (row, i) => judged[row].rollout.logprobs[i]);
  const sampling = distributionOf(options);
  const layout = layOut(sequences, shape);
  // A forward pass of its own is needed where the ratio is to the learner's probabilities, not the sampler's.
  const several = options.num_iterations > 1 || options.steps_per_generation > 1;
  const corrected = options.importance_sampling === 'tis' && worker.name !== learner.device.info.name;
  const recomputed =
    several || corrected ? await learner.logProbabilities(layout, shape, sampling, 'policy') : null;
  const reference =
    options.beta > 0 ? await learner.logProbabilities(layout, shape, sampling, 'reference') : null;
  const old = recomputed ?? samplerLogprob;
  const importance = Float32Array.from(old, (value, i) =>
    corrected && layout.targets[i] >= 0
      ? Math.min(Math.exp(value - samplerLogprob[i]), options.importance_sampling_cap)
      : 1,
  );

  let parity = recomputed === null ? null : gate(run, sequences, shape, recomputed, samplerLogprob);
  const outputs: StepOutputs[] = [];
  let gradNorm = 0;
  let optimizerStep = step * options.num_iterations * options.steps_per_generation;
  let rate = 0;
  for (let iteration = 0; iteration < options.num_iterations; iteration++) {
    for (let part = 0; part < options.steps_per_generation; part++, optimizerStep++) {
      const rows = sequences.length / options.steps_per_generation;
      const lengths = sequences
        .slice(part * rows, (part + 1) * rows)
        .map(({ completion }, i) =>
          options.mask_truncated_completions && !judged[part * rows + i].completion.finished
            ? 0
            : completion.length,
        );
      const weights = tokenWeights(options.loss_type, lengths, options.max_completion_length);
      const micro = rows / options.gradient_accumulation_steps;
      for (let batch = 0; batch < options.gradient_accumulation_steps; batch++) {
        const first = part * rows + batch * micro;
        const portion: Portion = {
          judged,
          sequences: sequences.slice(first, first + micro),
          advantages: statistics.advantages,
          first,
        };
        const input = policyBatch(portion, shape, {
          old,
          reference,
          importance,
          weight: (row) => weights[first - part * rows + row],
        });
        const output = await learner.forwardBackward(
          {
            kind: 'policy',
            loss_type: options.loss_type,
            epsilon: options.epsilon,
            epsilon_high,
            beta: options.beta,
            sampling,
          },
          { sequences: micro, length: shape.length },
          input,
        );
        if (iteration === 0) outputs.push(output);
      }
      if (parity === null) {
        const logprob = concatenate(outputs.map((output) => output.logprob));
        parity = gate(run, sequences, shape, logprob, samplerLogprob);
      }
      const maxSteps = options.max_steps * options.num_iterations * options.steps_per_generation;
      rate = learningRate(optimizerStep, { ...options, max_steps: maxSteps });
      gradNorm = (await learner.optimStep({ ...options, learning_rate: rate })).grad_norm;
    }
  }
  const learned = performance.now();
  const whole = (learned - started) / 1000;
  const generated = completionTokens(sequences);
  const placed = sequences.reduce(
    (sum, { prompt, completion }) => sum + prompt.length + completion.length,
    0,
  );
  return {
    metrics: {
      ...policyMetrics(run, sequences, shape, outputs),
      ...completionMetrics(judged),
      learning_rate: rate,
      grad_norm: gradNorm,
      reward: mean(judged.map(({ reward }) => reward)),
      reward_std: statistics.rewardStd,
      frac_reward_zero_std: statistics.zeroStd,
      'sampling/sampling_logp_difference/mean': parity!.meanAbs,
      'sampling/sampling_logp_difference/max': parity!.maxAbs,
      'sampling/kl': parity!.kl,
      ...(corrected ? importanceMetrics(sequences, shape, importance) : {}),
      num_tokens: placed,
      step_time: whole,
      'perf/throughput': placed / whole,
      'perf/rollout_tokens_per_second': generated / ((sampled - started) / 1000),
      'perf/learn_tokens_per_second': placed / ((learned - sampled) / 1000),
    },
    parity: parity!,
    traces: Array.from({ length: Math.min(options.num_completions_to_print, judged.length) }, (_, i) =>
      trace(judged[(step + i * options.num_generations) % judged.length]),
    ),
    sampled: { tokens: generated, seconds: (sampled - started) / 1000 },
    learned: { tokens: placed, seconds: (learned - sampled) / 1000 },
  };
}

function trace({ problem, completion, reward }: Judged): SampleTrace {
  return { prompt: problem.prompt, completion: completion.text, reward };
}

function batchShape(sequences: readonly Sequence[]): BatchShape {
  const longest = Math.max(...sequences.map(({ prompt, completion }) => prompt.length + completion.length));
  return { sequences: sequences.length, length: paddedLength(longest) };
}

interface PolicyColumns {
  readonly old: Float32Array;
  readonly reference: Float32Array | null;
  readonly importance: Float32Array;
  readonly weight: (row: number) => number;
}

function policyBatch(
  { sequences, advantages, first }: Portion,
  { length }: BatchShape,
  columns: PolicyColumns,
): Batch {
  const shape = { sequences: sequences.length, length };
  const rows = <T extends Float32Array>(values: T) =>
    values.subarray(first * length, (first + sequences.length) * length);
  return {
    ...layOut(sequences, shape),
    weight: onTargets(sequences, shape, columns.weight),
    advantage: onTargets(sequences, shape, (row) => advantages[first + row]),
    oldLogprob: rows(columns.old),
    refLogprob: columns.reference === null ? undefined : rows(columns.reference),
    importance: rows(columns.importance),
    sequenceMean: onTargets(sequences, shape, (row) => 1 / sequences[row].completion.length),
  };
}

function gate(
  { learner, worker, options, parityBound, checksum }: Reinforcement,
  sequences: readonly Sequence[],
  shape: BatchShape,
  learned: Float32Array,
  sampled: Float32Array,
): ParityReport {
  const report = judgeParity({
    learner: learner.device.info.name,
    rollout: worker.name,
    weightVersion: worker.weightVersion,
    checksum,
    difference: compareLogProbabilities(
      fromTargets(sequences, shape, learned),
      fromTargets(sequences, shape, sampled),
    ),
    bound: parityBound,
  });
  const excused =
    options.importance_sampling === 'tis' &&
    report.checksum.learner === report.checksum.rollout &&
    Number.isFinite(report.maxAbs) &&
    report.learner !== report.rollout;
  if (!report.passed && !excused) throw new ParityError(report, explainFailure(report));
  return report;
}

function concatenate(parts: readonly Float32Array[]): Float32Array {
  const out = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

function policyMetrics(
  { options }: Reinforcement,
  sequences: readonly Sequence[],
  shape: BatchShape,
  outputs: readonly StepOutputs[],
): Metrics {
  const pick = (select: (output: StepOutputs) => Float32Array | null) => {
    const parts = outputs.map(select).filter((part) => part !== null);
    return parts.length === outputs.length ? fromTargets(sequences, shape, concatenate(parts)) : [];
  };
  const ratio = pick((output) => output.ratio);
  const kl = pick((output) => output.kl);
  const { epsilon_high } = lossOptions(options);
  const upper = options.loss_type === 'cispo' ? epsilon_high : 1 + epsilon_high;
  const low = mean(ratio.map((value) => (value < 1 - options.epsilon ? 1 : 0)));
  const above = mean(ratio.map((value) => (value > upper ? 1 : 0)));
  return {
    loss: outputs.reduce((sum, output) => sum + output.loss, 0),
    entropy: mean(pick((output) => output.entropy)),
    'clip_ratio/low_mean': low,
    'clip_ratio/high_mean': above,
    'clip_ratio/region_mean': low + above,
    ...(kl.length > 0 ? { kl: mean(kl) } : {}),
  };
}

function importanceMetrics(
  sequences: readonly Sequence[],
  shape: BatchShape,
  importance: Float32Array,
): Metrics {
  const ratios = fromTargets(sequences, shape, importance);
  return {
    'sampling/importance_sampling_ratio/mean': mean(ratios),
    'sampling/importance_sampling_ratio/min': ratios.reduce(
      (a, b) => Math.min(a, b),
      Number.POSITIVE_INFINITY,
    ),
    'sampling/importance_sampling_ratio/max': ratios.reduce(
      (a, b) => Math.max(a, b),
      Number.NEGATIVE_INFINITY,
    ),
  };
}

function completionMetrics(judged: readonly Judged[]): Metrics {
  const lengths = judged.map(({ completion }) => completion.tokens.length);
  const ended = judged
    .filter(({ completion }) => completion.finished)
    .map(({ completion }) => completion.tokens.length);
  const names = [...new Set(judged.flatMap(({ parts }) => Object.keys(parts)))];
  return {
    think_fraction: mean(judged.map(({ completion }) => (completion.think ? 1 : 0))),
    'completions/mean_length': mean(lengths),
    'completions/min_length': Math.min(...lengths),
    'completions/max_length': Math.max(...lengths),
    'completions/clipped_ratio': 1 - ended.length / judged.length,
    'completions/mean_terminated_length': mean(ended),
    ...Object.fromEntries(
      names.map((name) => [`rewards/${name}/mean`, mean(judged.map(({ parts }) => parts[name] ?? 0))]),
    ),
  };
}
