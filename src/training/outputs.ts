/** What a finished run leaves in its folder for people and programs. Needs Node. */
import { writeModel } from '../checkpoint/model.ts';
import type { Tokenizer } from '../checkpoint/tokenizer.ts';
import { saveTokenizer } from '../checkpoint/tokenizer-files.ts';
import type { ParityReport } from '../fleet/parity.ts';
import type { Weights } from '../inference/weights.ts';
import type { Qwen3Config } from '../models/config.ts';
import { parameterCount } from '../models/qwen3.ts';
import type { Metrics, Summary } from './events.ts';
import type { RecordedSequence } from './hand-over.ts';
import { parityBound } from './options.ts';
import type { Progress } from './progress.ts';
import { renderReport } from './report.ts';
import type { RunFolder } from './run-folder.ts';
import type { StepRecord } from './summary.ts';
import { parityHistory, summarize } from './summary.ts';
import type { Task } from './tasks/task.ts';

export interface FinishedRun {
  readonly folder: RunFolder;
  readonly task: Task;
  readonly tokenizer: Tokenizer;
  readonly config: Qwen3Config;
  readonly progress: Progress;
  readonly weights: Weights;
  readonly seconds: number;
  /** A prompt that the model understands. */
  readonly example: string | undefined;
  /** The gates of the finished model. */
  readonly final: readonly ParityReport[];
  readonly recorded: readonly RecordedSequence[];
}

const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;

/** Sequences in parity.json: enough to find a difference, few enough to be checked while a page loads. */
const RECORDED_SEQUENCES = 8;

/**
 * Writes tokenizer, task.json (name, example), model, parity.json (log-probabilities that another accelerator must
 * reproduce), summary.json and report.html, each atomically; returns the summary.
 */
export async function writeOutputs(run: FinishedRun): Promise<Summary> {
  const { folder, task, tokenizer, config, progress, weights, seconds, example, final, recorded } = run;
  const records = (await folder.readMetrics()) as StepRecord[];
  const summary = summarize(task, progress, parameterCount(config), seconds, records, final);
  const about = {
    name: task.name,
    source: progress.task ?? undefined,
    description: task.description,
    example,
  };
  await saveTokenizer(folder.path, tokenizer);
  await folder.write('task.json', json(about));
  await writeModel(folder.path, { config, weights });
  const { learner, checksum } = final.find((report) => report.learner !== report.rollout) ?? final[0];
  const sequences = recorded.slice(0, RECORDED_SEQUENCES);
  await folder.write(
    'parity.json',
    json({
      learner,
      checksum: checksum.learner,
      bound: parityBound(progress.grpo, progress.dtype),
      sequences,
    }),
  );
  await folder.write('summary.json', json(summary));
  await folder.write(
    'report.html',
    renderReport({
      name: progress.run.name,
      summary,
      learner: progress.run.device,
      rollout: progress.run.rollout ?? progress.run.device,
      steps: records.map(({ phase, step, parity: _parity, completions: _completions, ...metrics }) => ({
        phase,
        step,
        metrics: metrics as Metrics,
      })),
      evaluations: progress.evaluations,
      parity: parityHistory(records, final),
      traces: progress.traces,
    }),
  );
  return summary;
}
