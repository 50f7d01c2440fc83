/** Begins a run or opens an interrupted one. Needs Node. */
import { join, resolve } from 'node:path';
import { z } from 'zod';
import type { DeviceInfo } from '../accelerators/device.ts';
import type { DeviceName } from '../accelerators/registry.ts';
import { listDevices, resolveDevice } from '../accelerators/registry.ts';
import { exists, readJsonFile } from '../checkpoint/files.ts';
import { readModel } from '../checkpoint/model.ts';
import type { Tokenizer } from '../checkpoint/tokenizer.ts';
import { loadTokenizer, saveTokenizer } from '../checkpoint/tokenizer-files.ts';
import type { WeightSource } from '../inference/weights.ts';
import type { Qwen3Config } from '../models/config.ts';
import { parseConfig } from '../models/config.ts';
import { BROWSER } from './browser-rollouts.ts';
import type { PhaseName, RunEvent } from './events.ts';
import { initialWeightSource, modelConfig } from './new-model.ts';
import type { GrpoOptions, RunOptions } from './options.ts';
import { definedOnly, grpoOptions, modelOptions, runOptions, sftOptions } from './options.ts';
import type { Progress } from './progress.ts';
import { progressSchema } from './progress.ts';
import { TrainingRun } from './run.ts';
import { RunFolder } from './run-folder.ts';
import { checkModelSize, checkRunSizes } from './sizes.ts';
import { TASKS } from './tasks/index.ts';
import { checkTask, loadTask } from './tasks/load.ts';
import { taskTokenizer } from './tasks/problems.ts';
import type { Task } from './tasks/task.ts';
import { tryOutModel } from './try-out.ts';

/** Options that do not go together, or that the run cannot be begun with. */
export class RunError extends Error {
  override name = 'RunError';
}

export interface NewRun {
  /**
   * A task, or the name or path of one. Left out: what `model` was trained on, or without a model 'chain'. Only a name
   * or path is found again by `tandem train --resume`.
   */
  readonly task?: string | Task;
  /** Folder of a model to start from; without it a new one is made. */
  readonly model?: string;
  readonly phases: readonly PhaseName[];
  /** Options; the task's and then the general defaults fill the rest. */
  readonly run?: Partial<z.input<typeof runOptions>>;
  /** The shape of a new model. */
  readonly modelOptions?: z.input<typeof modelOptions>;
  readonly sft?: z.input<typeof sftOptions>;
  readonly grpo?: z.input<typeof grpoOptions>;
  /** Folder below which the run gets its own, named `run.name` or after the task; 'runs' when left out. */
  readonly runs?: string;
  readonly onEvent?: (event: RunEvent) => void;
}

async function taskOfModel(folder: string): Promise<string> {
  if (!(await exists(join(folder, 'config.json'))))
    throw new RunError(`${folder} is no model's folder: it has no config.json`);
  const path = join(folder, 'task.json');
  const { source } = (await exists(path))
    ? await readJsonFile(path, z.looseObject({ source: z.string().optional() }))
    : {};
  if (source === undefined)
    throw new RunError(`${folder} does not say what task it was trained on: give one with --task`);
  return source;
}

/** Creates the run's folder and everything the run needs. Nothing is trained before `run()`. */
export async function newRun(options: NewRun): Promise<TrainingRun> {
  const wanted = options.task ?? (options.model === undefined ? 'chain' : await taskOfModel(options.model));
  const task = typeof wanted === 'string' ? await loadTask(wanted) : await checkTask(wanted);
  const runs = options.runs ?? 'runs';
  const defaults = task.defaults ?? {};
  const sft = checked('sft', sftOptions, { ...defaults.sft, ...options.sft });
  const grpo = checked('grpo', grpoOptions, { ...defaults.grpo, ...options.grpo });
  checkDivision(grpo);
  const shape = checked('modelOptions', modelOptions, {
    ...defaults.model,
    ...definedOnly(options.modelOptions ?? {}),
  });
  const given = checked('run', runOptions.partial({ name: true }), options.run ?? {});
  checkUsed(options);
  // Before there is a folder: a run that cannot begin leaves nothing behind.
  const devices = {
    device: await resolveDevice(given.device),
    rollout: given.rollout && (await resolveRollout(given.rollout)),
    parity_device: given.parity_device && (await resolveDevice(given.parity_device)),
  };
  const name = given.name ?? (await freeName(runs, task.name));

  const learner = await infoOf(devices.device);
  const rollout = devices.rollout || devices.device;
  const start =
    options.model === undefined ? fresh(task, shape, given.seed, learner) : await existing(options.model);
  const tokens = tryOutModel({
    task,
    ...start,
    phases: options.phases,
    seed: given.seed,
    teacher: definedOnly({ think_fraction: sft.think_fraction, error_rate: sft.teacher_error }),
    maxCompletion: grpo.max_completion_length,
  });
  checkRunSizes({
    config: start.config,
    phases: options.phases,
    sft,
    grpo,
    evalProblems: given.eval_problems,
    tokens,
    learner,
    rollout: rollout === BROWSER ? null : await infoOf(rollout),
  });
  const progress: Progress = {
    version: 1,
    task: typeof wanted === 'string' ? located(wanted) : null,
    phases: [...options.phases],
    run: { ...given, name, ...devices },
    sft,
    grpo,
    dtype: shape.dtype,
    config: start.config,
    phase: 0,
    step: 0,
    optimizerSteps: 0,
    entered: false,
    seconds: 0,
    totals: { sft: none(), rollout: none(), learn: none() },
    numTokens: 0,
    evaluations: [],
    traces: [],
  };
  const folder = await RunFolder.create(join(runs, name));
  await saveTokenizer(folder.path, start.tokenizer);
  return new TrainingRun({
    folder,
    task,
    ...start,
    progress,
    start: { weights: start.weights },
    onEvent: options.onEvent ?? (() => {}),
  });
}

/** A task's name, or the whole path of its file, so that the run can be resumed from any folder. */
function located(source: string): string {
  return TASKS.has(source) ? source : resolve(source);
}

/** Of an accelerator that is available. */
async function infoOf(device: DeviceName): Promise<DeviceInfo> {
  return (await listDevices([device]))[0].info as DeviceInfo;
}

function resolveRollout(name: string): typeof BROWSER | Promise<DeviceName> {
  return name === BROWSER ? name : resolveDevice(name);
}

/** The options with their defaults; RunError names each that is wrong. */
function checked<T>(group: string, schema: z.ZodType<T>, given: unknown): T {
  const result = schema.safeParse(given);
  if (result.success) return result.data;
  throw new RunError(
    result.error.issues.map(({ path, message }) => `${[group, ...path].join('.')}: ${message}`).join('; '),
  );
}

/** Said before the cold start, not after it. */
function checkDivision(grpo: GrpoOptions): void {
  const { prompts_per_step, num_generations, steps_per_generation, gradient_accumulation_steps } = grpo;
  const completions = prompts_per_step * num_generations;
  if (completions % (steps_per_generation * gradient_accumulation_steps) === 0) return;
  throw new RunError(
    `grpo: ${completions} completions (prompts_per_step ${prompts_per_step} × num_generations ${num_generations}) do ` +
      `not divide into steps_per_generation ${steps_per_generation} × gradient_accumulation_steps ${gradient_accumulation_steps}`,
  );
}

/** Options that the run would not heed: what they ask for would silently not happen. */
function checkUsed({ model, modelOptions: shape = {}, run = {} }: NewRun): void {
  const refuse = (group: string, names: readonly string[], why: string) => {
    if (names.length > 0) throw new RunError(`${names.map((name) => `${group}.${name}`).join(', ')}: ${why}`);
  };
  const sizes = Object.keys(definedOnly(shape)).filter((name) => name !== 'dtype');
  if (model !== undefined)
    refuse('modelOptions', sizes, `this is for a new model, but there is one to start from: ${model}`);
  const serving = Object.keys(definedOnly(run)).filter((name) => BROWSER_OPTIONS.has(name));
  if (run.rollout !== BROWSER)
    refuse('run', serving, `this is for rollouts in a browser (rollout: ${BROWSER})`);
}

const BROWSER_OPTIONS: ReadonlySet<string> = new Set<keyof RunOptions>(['host', 'port', 'rollout_wait']);

const none = () => ({ tokens: 0, seconds: 0 });

/** The task's name, with a number where runs of that name exist. */
async function freeName(runs: string, base: string): Promise<string> {
  for (let number = 1; ; number++) {
    const name = number === 1 ? base : `${base}-${number}`;
    if (!(await RunFolder.holdsRun(join(runs, name)))) return name;
  }
}

interface Start {
  readonly config: Qwen3Config;
  readonly weights: WeightSource;
  readonly tokenizer: Tokenizer;
}

function fresh(task: Task, shape: z.output<typeof modelOptions>, seed: number, learner: DeviceInfo): Start {
  const tokenizer = taskTokenizer(task);
  const config = modelConfig(tokenizer, shape);
  checkModelSize(config, learner);
  return { config, weights: initialWeightSource(config, seed), tokenizer };
}

async function existing(folder: string): Promise<Start> {
  const { config, weights } = await readModel(folder);
  const tokenizer = await loadTokenizer(folder);
  if (tokenizer.size > config.vocab_size) {
    throw new RunError(
      `${folder}: its tokenizer has ${tokenizer.size} tokens, more than the model's vocabulary of ${config.vocab_size}`,
    );
  }
  return { config, weights, tokenizer };
}

export interface ResumeOptions {
  /** The run's task, where it was begun with one itself and not with a name or path. */
  readonly task?: Task;
  readonly onEvent?: (event: RunEvent) => void;
}

/** Opens the run in `path` where its last saved state left it. */
export async function resumeRun(path: string, options: ResumeOptions = {}): Promise<TrainingRun> {
  const { folder, state } = await RunFolder.resume(path);
  const parsed = progressSchema.safeParse(state.progress);
  if (!parsed.success) {
    const { path: where, message } = parsed.error.issues[0];
    throw new RunError(
      `${path}: its state was saved by another version of Tandem (${where.join('.')}: ${message})`,
    );
  }
  const progress = parsed.data;
  // The report is the last file that a run writes: without it the run ended before it was complete.
  if (progress.phase >= progress.phases.length && (await exists(join(path, 'report.html')))) {
    throw new RunError(
      `${path}: the run is complete. To go on from its model: tandem train grpo --model ${path}`,
    );
  }
  const wanted = options.task ?? progress.task;
  if (wanted === null) {
    throw new RunError(
      `${path}: the run was begun by a program with a task of its own, so only that program can continue it: ` +
        'resumeRun(path, { task })',
    );
  }
  const task = typeof wanted === 'string' ? await loadTask(wanted) : await checkTask(wanted);
  const tokenizer = await loadTokenizer(path);
  return new TrainingRun({
    folder,
    task,
    tokenizer,
    config: parseConfig(progress.config, `${path}: state`),
    progress,
    start: { state: state.tensors },
    onEvent: options.onEvent ?? (() => {}),
  });
}
