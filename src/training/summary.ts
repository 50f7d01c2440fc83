/** What a run comes down to: `summary.json`. */
import type {
  Evaluation,
  EvaluationMode,
  Metrics,
  ParityReport,
  PhaseName,
  SampleTrace,
  Summary,
} from './events.ts';
import type { Progress } from './progress.ts';
import type { Task } from './tasks/task.ts';

/** A line of metrics.jsonl. */
export type StepRecord = Metrics & {
  readonly phase: PhaseName;
  readonly step: number;
  readonly parity?: ParityReport;
  readonly completions?: readonly SampleTrace[];
};

/** Every gate of the run in order, the final ones under the number of the last step. */
export function parityHistory(
  records: readonly StepRecord[],
  final: readonly ParityReport[],
): { step: number; report: ParityReport }[] {
  const steps = records.flatMap(({ step, parity }) => (parity ? [{ step, report: parity }] : []));
  const last = steps.at(-1)?.step ?? 0;
  return [...steps, ...final.map((report) => ({ step: last, report }))];
}

/** Sums a run up. A figure that the run did not measure (no reinforcement, say) is null in the JSON. */
export function summarize(
  task: Task,
  progress: Progress,
  parameters: number,
  seconds: number,
  records: readonly StepRecord[],
  final: readonly ParityReport[],
): Summary {
  const accuracy = (stage: Evaluation['stage'], mode: EvaluationMode) =>
    progress.evaluations.find((evaluation) => evaluation.stage === stage && evaluation.mode === mode)?.result
      .accuracy ?? Number.NaN;
  const finished = progress.phases.includes('reinforcement') ? 'after_rl' : 'cold_start';
  const history = parityHistory(records, final).map(({ report }) => report);
  const largest = (reports: readonly ParityReport[]) =>
    reports.reduce((max, { maxAbs }) => Math.max(max, maxAbs), 0);
  const cross = history.filter(({ learner, rollout }) => learner !== rollout);
  const { learner, rollout } = cross.at(-1) ?? history.at(-1)!;
  const rate = ({ tokens, seconds: spent }: { tokens: number; seconds: number }) =>
    spent > 0 ? tokens / spent : Number.NaN;
  return {
    task: task.name,
    seed: progress.run.seed,
    parameters,
    seconds,
    accuracy: {
      cold_start: accuracy('cold_start', 'free'),
      after_rl: accuracy('after_rl', 'free'),
      thinking: accuracy(finished, 'thinking'),
      no_thinking: accuracy(finished, 'no_thinking'),
    },
    parity: {
      same_accelerator_max_abs: largest(history.filter((report) => report.learner === report.rollout)),
      cross_accelerator_max_abs: largest(cross),
      cross_accelerator: [learner, rollout],
    },
    tokens_per_second: {
      sft: rate(progress.totals.sft),
      rollout: rate(progress.totals.rollout),
      learn: rate(progress.totals.learn),
    },
  };
}
