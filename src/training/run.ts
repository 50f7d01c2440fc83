/**
 * A whole run: cold start, reinforcement under the parity gate, evaluation, report. Everything that defines the next
 * step is in the saved state, so a run that was killed continues bit for bit. Needs Node.
 */
import type { Device, DeviceInfo, TracedLaunch } from '../accelerators/device.ts';
import { anotherDevice, listDevices, openDevice } from '../accelerators/registry.ts';
import type { Tokenizer } from '../checkpoint/tokenizer.ts';
import { explainFailure, ParityError } from '../fleet/parity.ts';
import type { Sampler } from '../fleet/rollout.ts';
import { RolloutWorker } from '../fleet/rollout.ts';
import { NoRolloutsError } from '../fleet/tab-pool.ts';
import type { WeightSource } from '../inference/weights.ts';
import { roundWeights } from '../inference/weights.ts';
import type { Qwen3Config } from '../models/config.ts';
import { parameterCount } from '../models/qwen3.ts';
import type { BrowserRollouts } from './browser-rollouts.ts';
import { BROWSER, openBrowserRollouts } from './browser-rollouts.ts';
import { EVALUATION_MODES, evaluate, TRACE_TITLE } from './evaluate.ts';
import type {
  EvaluationMode,
  Metrics,
  ParityReport,
  PhaseName,
  RunEvent,
  SampleTrace,
  Summary,
} from './events.ts';
import type { MeasuredParity } from './hand-over.ts';
import { handOver, measureParity } from './hand-over.ts';
import { Learner } from './learner.ts';
import { MemoryWatch } from './memory.ts';
import { parityBound } from './options.ts';
import { writeOutputs } from './outputs.ts';
import type { Progress } from './progress.ts';
import { reinforcementStep } from './reinforcement.ts';
import type { RunFolder } from './run-folder.ts';
import { supervisedStep } from './supervised.ts';
import { testProblems } from './tasks/problems.ts';
import type { Problem, Task } from './tasks/task.ts';

/** Completions that the finished model's parity is measured on. */
const PARITY_COMPLETIONS = 64;

interface StepResult {
  readonly metrics: Metrics;
  readonly parity?: ParityReport;
  readonly traces?: readonly SampleTrace[];
}

export interface RunParts {
  readonly folder: RunFolder;
  readonly task: Task;
  readonly tokenizer: Tokenizer;
  readonly config: Qwen3Config;
  readonly progress: Progress;
  /** Weights and moments of a resumed run; a new run has weights only. */
  readonly start:
    | { readonly weights: WeightSource }
    | { readonly state: ReadonlyMap<string, { readonly values: Float32Array }> };
  readonly onEvent: (event: RunEvent) => void;
}

/** Told what the learner's accelerator did in one step. */
export type TraceListener = (launches: readonly TracedLaunch[], info: DeviceInfo) => Promise<void>;

/** Thrown by `run` after `stop`: the state is saved, and the run can be resumed. */
export class RunInterrupted extends Error {
  override name = 'RunInterrupted';
}

export class TrainingRun {
  readonly #parts: Omit<RunParts, 'start'>;
  /** Until it is on the learner's accelerator: the host does not keep a second copy. */
  #start: RunParts['start'] | null;
  readonly #progress: Progress;
  readonly #problems: Problem[];
  #learner!: Learner;
  #memory!: MemoryWatch;
  #worker!: Sampler;
  /** Where it is browser tabs. */
  #tabs: BrowserRollouts | null = null;
  #stopping = false;
  #traceListener: TraceListener | null = null;
  #stepsMade = 0;
  #saved = 0;
  #begun = 0;
  #secondsBefore = 0;

  constructor({ start, ...parts }: RunParts) {
    this.#parts = parts;
    this.#start = start;
    this.#progress = structuredClone(parts.progress);
    this.#problems = testProblems(parts.task, this.#progress.run.seed, this.#progress.run.eval_problems);
  }

  /** Path of the run's folder: once the run is complete, that of its model. */
  get folder(): string {
    return this.#parts.folder.path;
  }

  /**
   * Asks the run to save its state after the present step and to end with RunInterrupted. A step that waits for browser
   * tabs is given up.
   */
  stop(): void {
    this.#stopping = true;
    this.#tabs?.pool.interrupt();
  }

  /**
   * Has the second step that `run` makes traced: the first one compiles. Nothing else changes. `run` throws where the
   * learner's accelerator cannot trace.
   */
  traceStep(listener: TraceListener): void {
    this.#traceListener = listener;
  }

  /** Runs what is left of the run. Throws what went wrong; the last saved state stays. */
  async run(): Promise<Summary> {
    const { run } = this.#progress;
    const devices = new Map<string, Device>();
    const device = async (name: string) => {
      const open = devices.get(name) ?? (await openDevice(name, { threads: run.threads }));
      devices.set(name, open);
      return open;
    };
    this.#begun = performance.now();
    this.#saved = this.#begun;
    this.#secondsBefore = this.#progress.seconds;
    let complete = false;
    try {
      const rollout = run.rollout ?? run.device;
      const parity = run.parity_device ?? (await anotherDevice(run.device));
      this.#emit({ type: 'devices', found: await listDevices(), learner: run.device, rollout, parity });
      const { config, task } = this.#parts;
      this.#emit({
        type: 'model',
        task: task.name,
        parameters: parameterCount(config),
        vocabulary: config.vocab_size,
        layers: config.num_hidden_layers,
        hidden: config.hidden_size,
      });
      await this.#open(await device(run.device), rollout === BROWSER ? null : await device(rollout));
      while (this.#progress.phase < this.#progress.phases.length) await this.#phase();
      const summary = await this.#finish(await device(parity));
      complete = true;
      return summary;
    } finally {
      if (this.#tabs !== null) await this.#tabs.close(complete ? 'ended' : 'interrupted');
      else await this.#worker?.dispose();
      await this.#learner?.dispose();
      for (const open of devices.values()) await open.close();
    }
  }

  #emit(event: RunEvent): void {
    this.#parts.onEvent(event);
  }

  /** `rolloutDevice`: null for browser tabs. */
  async #open(learnerDevice: Device, rolloutDevice: Device | null): Promise<void> {
    const { config } = this.#parts;
    const start = this.#start;
    if (start === null) throw new Error('this run ran before: resumeRun opens it again');
    this.#start = null;
    const { dtype, run } = this.#progress;
    this.#memory = new MemoryWatch(learnerDevice, (event) => this.#emit(event));
    this.#learner = new Learner(learnerDevice, config, dtype, {
      gradientCheckpointing: run.gradient_checkpointing,
      onCompiled: () => this.#memory.compiled(),
    });
    if (rolloutDevice === null) {
      const { path } = this.#parts.folder;
      this.#tabs = await openBrowserRollouts(path, config, this.#progress, (event) => this.#emit(event));
      this.#worker = this.#tabs.pool;
    } else this.#worker = new RolloutWorker(rolloutDevice, config, dtype);
    if ('state' in start) this.#learner.loadState(start.state, this.#progress.optimizerSteps);
    else this.#learner.setWeights(start.weights);
  }

  /** Where nobody samples, the run is saved as it was before the step, and can be resumed. */
  async #phase(): Promise<void> {
    const { phase, phases } = this.#progress;
    try {
      await this.#steps();
    } catch (error) {
      if (!(error instanceof NoRolloutsError)) throw error;
      await this.#save(phases[phase]);
      const reason = this.#stopping ? 'stopped' : `stopped, because ${error.message}`;
      throw new RunInterrupted(`${reason}; continue with: tandem train --resume ${this.#parts.folder.path}`);
    }
  }

  async #steps(): Promise<void> {
    const progress = this.#progress;
    const phase = progress.phases[progress.phase];
    const steps = phase === 'cold_start' ? progress.sft.max_steps : progress.grpo.max_steps;
    if (!progress.entered) {
      await this.#enter(phase);
      progress.entered = true;
      // From here on the run can be resumed.
      await this.#save(phase);
    }
    this.#emit({ type: 'phase', phase, steps, firstStep: progress.step });
    while (progress.step < steps) {
      const started = performance.now();
      const { metrics, parity, traces } = await this.#traced(() =>
        phase === 'cold_start' ? this.#likelihoodStep() : this.#policyStep(),
      );
      progress.step++;
      progress.numTokens += metrics.num_tokens ?? 0;
      const full: Metrics = {
        ...metrics,
        num_tokens: progress.numTokens,
        step_time: (performance.now() - started) / 1000,
      };
      await this.#parts.folder.appendMetrics({
        phase,
        step: progress.step,
        ...full,
        ...(parity && { parity }),
        ...(traces && { completions: traces }),
      });
      this.#emit({ type: 'step', phase, step: progress.step, steps, metrics: full });
      const [trace] = traces ?? [];
      if (trace) this.#emit({ type: 'sample', phase, step: progress.step, trace });
      if (parity) this.#emit({ type: 'parity', step: progress.step, report: parity });
      if (this.#stopping) {
        await this.#save(phase);
        throw new RunInterrupted(
          `stopped after step ${progress.step} of ${steps}; continue with: tandem train --resume ${this.#parts.folder.path}`,
        );
      }
      if (performance.now() - this.#saved > 1000 * progress.run.save_seconds) await this.#save(phase);
    }
    await this.#leave(phase);
    progress.phase++;
    progress.step = 0;
    progress.entered = false;
    progress.numTokens = 0;
    await this.#save(phase);
  }

  async #traced(step: () => Promise<StepResult>): Promise<StepResult> {
    const listener = this.#traceListener;
    if (listener === null || this.#stepsMade++ === 0) return step();
    this.#traceListener = null;
    const { device } = this.#learner;
    if (device.trace === undefined)
      throw new Error(`the accelerator ${device.info.name} cannot trace: a profile needs --device cpu`);
    const { value, launches } = await device.trace(step);
    await listener(launches, device.info);
    return value;
  }

  async #enter(phase: PhaseName): Promise<void> {
    this.#learner.resetOptimizer();
    if (phase !== 'reinforcement') return;
    await this.#evaluate('cold_start', 'free');
    if (this.#progress.grpo.beta > 0) this.#learner.setReference(await this.#learner.weights());
  }

  /** Judges the finished model in every mode. */
  async #leave(phase: PhaseName): Promise<void> {
    const { phases } = this.#progress;
    if (phase !== phases.at(-1)) return;
    const stage = phase === 'reinforcement' ? 'after_rl' : 'cold_start';
    const { evaluations, traces } = this.#progress;
    const before = evaluations.length;
    try {
      for (const mode of EVALUATION_MODES) await this.#evaluate(stage, mode);
    } catch (error) {
      // A resumed run judges in every mode anew.
      evaluations.length = traces.length = before;
      throw error;
    }
  }

  async #likelihoodStep(): Promise<StepResult> {
    const { task, tokenizer } = this.#parts;
    const { sft, run, step, totals } = this.#progress;
    const learning = { task, tokenizer, options: sft, seed: run.seed, learner: this.#learner };
    const { metrics, learned } = await supervisedStep(learning, step);
    totals.sft.tokens += learned.tokens;
    totals.sft.seconds += learned.seconds;
    return { metrics };
  }

  async #policyStep(): Promise<StepResult> {
    const { task, tokenizer } = this.#parts;
    const { grpo, run, step, totals, dtype } = this.#progress;
    const checksum = await this.#handOver(this.#worker);
    const result = await reinforcementStep(
      {
        task,
        tokenizer,
        options: grpo,
        parityBound: parityBound(grpo, dtype),
        seed: run.seed,
        learner: this.#learner,
        worker: this.#worker,
        checksum,
      },
      step,
    );
    totals.rollout.tokens += result.sampled.tokens;
    totals.rollout.seconds += result.sampled.seconds;
    totals.learn.tokens += result.learned.tokens;
    totals.learn.seconds += result.learned.seconds;
    return result;
  }

  #handOver(worker: Sampler): Promise<{ learner: string; rollout: string }> {
    const { config } = this.#parts;
    return handOver(this.#learner, worker, config, this.#progress.dtype);
  }

  async #evaluate(stage: 'cold_start' | 'after_rl', mode: EvaluationMode): Promise<void> {
    const { task, tokenizer } = this.#parts;
    const { grpo, run } = this.#progress;
    await this.#handOver(this.#worker);
    const { result, traces } = await evaluate(this.#worker, {
      task,
      tokenizer,
      problems: this.#problems,
      mode,
      maxCompletionLength: grpo.max_completion_length,
      seed: run.seed,
    });
    this.#progress.evaluations.push({ stage, mode, result });
    this.#progress.traces.push({ title: TRACE_TITLE[stage][mode], trace: traces[0] });
    this.#emit({ type: 'evaluation', stage, mode, result });
  }

  async #save(phase: PhaseName): Promise<void> {
    const { folder } = this.#parts;
    this.#progress.seconds = this.#seconds();
    this.#progress.optimizerSteps = this.#learner.step;
    await folder.save({ progress: this.#progress, tensors: await this.#learner.saveState() });
    this.#saved = performance.now();
    this.#emit({ type: 'checkpoint', phase, step: this.#progress.step, path: folder.path });
  }

  /** Hands the finished model over, writes everything a user needs, and sums the run up. */
  async #finish(parityDevice: Device): Promise<Summary> {
    const { folder, task, tokenizer, config } = this.#parts;
    const progress = this.#progress;
    const same = await this.#measureParity(this.#learner.device);
    const cross = await this.#measureParity(parityDevice);
    const final = [same.report, cross.report];
    for (const report of final) {
      this.#emit({ type: 'parity', step: 0, report });
      if (!report.passed) throw new ParityError(report, explainFailure(report));
    }
    this.#emit({ type: 'traces', traces: progress.traces });
    const summary = await writeOutputs({
      folder,
      task,
      tokenizer,
      config,
      progress,
      weights: roundWeights(config, await this.#learner.weights(), progress.dtype),
      seconds: this.#seconds(),
      example: this.#problems[0]?.prompt,
      final,
      recorded: same.recorded,
    });
    this.#memory.finished();
    this.#emit({ type: 'done', folder: folder.path, summary });
    return summary;
  }

  /** Samples on `device` with the learner's weights, and compares the log-probabilities on both sides. */
  async #measureParity(device: Device): Promise<MeasuredParity> {
    const { config, task, tokenizer } = this.#parts;
    const { dtype, grpo, run } = this.#progress;
    const own = this.#worker instanceof RolloutWorker && this.#worker.device === device;
    const worker = own ? this.#worker : new RolloutWorker(device, config, dtype);
    try {
      return await measureParity({
        learner: this.#learner,
        worker,
        config,
        dtype,
        task,
        tokenizer,
        problems: this.#problems.slice(0, PARITY_COMPLETIONS),
        maxTokens: grpo.max_completion_length,
        bound: parityBound(grpo, dtype),
        seed: run.seed,
      });
    } finally {
      if (worker !== this.#worker) await worker.dispose();
    }
  }

  #seconds(): number {
    return this.#secondsBefore + (performance.now() - this.#begun) / 1000;
  }
}
