/** `tandem start` and `tandem train`: whole runs and their parts. */
import { open, writeFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { AUTO, anotherDevice, resolveDevice } from '../accelerators/registry.ts';
import { traceFile } from '../bench/profile.ts';
import type { PhaseName, RunEvent } from '../training/events.ts';
import { keepHeapSmall } from '../training/heap.ts';
import { newRun, resumeRun } from '../training/open-run.ts';
import { grpoOptions, modelOptions, runOptions, sftOptions } from '../training/options.ts';
import type { TrainingRun } from '../training/run.ts';
import { RunInterrupted } from '../training/run.ts';
import { limitsHere } from './bench.ts';
import { createDisplay } from './display.ts';
import { EXIT, UsageError } from './errors.ts';
import { addFlags, checkOptions, givenOptions } from './flags.ts';
import { traceLines } from './trace.ts';

interface Common {
  readonly task?: string;
  readonly model?: string;
  readonly json?: boolean;
  readonly resume?: string;
  readonly profile?: string;
}

const PROFILE = [
  '--profile <file>',
  'write a trace of the second step: every launch, its threads, bytes, operations and share of the limit; for ui.perfetto.dev',
] as const;

export function addStart(program: Command): void {
  const command = program
    .command('start')
    .description('The whole recipe in minutes: cold start, reinforcement, parity gate, evaluation, report')
    .option(
      '--task <name|file>',
      'chain, multiplication, countdown, deduction, or a TypeScript file of your own',
      'chain',
    )
    .option(
      '--rollout <value>',
      'Accelerator of the rollouts, or browser: tabs that open a link sample; default: another one than the learner’s',
    )
    .option('--json', 'print events as JSON lines instead of the display')
    .addHelpText(
      'after',
      '\nExamples:\n  $ tandem start\n  $ tandem start --task deduction --seed 1\n  $ tandem start --rollout wasm --name chain-on-wasm\n  $ tandem start --rollout browser',
    );
  addFlags(command, runOptions, ['rollout']);
  addFlags(command, modelOptions);
  command.action(async (parsed: Record<string, unknown> & Common) => {
    const { device, rollout } = givenOptions(runOptions, parsed) as { device?: string; rollout?: string };
    // What sets Tandem apart is shown at once: learning here, sampling there.
    const other = rollout ?? (await anotherDevice(await resolveDevice(device ?? AUTO)));
    await begin({ ...parsed, rollout: other }, ['cold_start', 'reinforcement'], {}, {});
  });
}

export function addTrain(program: Command): void {
  const train = program
    .command('train')
    // An option after 'sft' or 'grpo' is that command's own.
    .enablePositionalOptions()
    // So that a wrong name gets a message that lists the right ones.
    .allowExcessArguments()
    .description('Fine-tune or reinforce a model, or continue an interrupted run')
    .option('--resume <run>', 'continue the run in this folder, bit for bit')
    .option('--json', 'print events as JSON lines instead of the display')
    .option(...PROFILE)
    .addHelpText(
      'after',
      '\nExamples:\n  $ tandem train sft --task chain --max-steps 200\n  $ tandem train grpo --model runs/chain --loss-type dr_grpo\n  $ tandem train grpo --task ./my-task.ts\n  $ tandem train --resume runs/chain',
    );
  train.action(async (parsed: Common, { args }: Command) => {
    if (args.length > 0)
      throw new UsageError(
        `there is no 'tandem train ${args[0]}': use 'tandem train sft' or 'tandem train grpo'`,
      );
    if (parsed.resume === undefined)
      throw new UsageError(
        "say what to train: 'tandem train sft', 'tandem train grpo', or 'tandem train --resume <run>'",
      );
    await checkProfile(parsed.profile);
    keepHeapSmall();
    await finish(await resumeRun(parsed.resume, { onEvent: listener(parsed) }), parsed);
  });

  const sft = train.command('sft').description("Supervised fine-tuning on the task's teacher");
  const grpo = train
    .command('grpo')
    .description(
      'Group-relative policy optimization with the reward of a task; without --model, after a cold start',
    );
  for (const command of [sft, grpo]) {
    command
      .allowExcessArguments(false)
      .option(
        '--task <name|file>',
        'chain, multiplication, countdown, deduction, or a TypeScript file of your own; default: what the model was trained on, without one chain',
      )
      .option('--model <folder>', 'start from this model instead of from nothing')
      .option('--json', 'print events as JSON lines instead of the display')
      .option(...PROFILE);
    addFlags(command, runOptions);
    addFlags(command, modelOptions);
  }
  addFlags(sft, sftOptions).addHelpText(
    'after',
    '\nExamples:\n  $ tandem train sft --task chain --max-steps 200 --name short\n  $ tandem train sft --task ./my-task.ts --think-fraction 0.5 --dtype bf16',
  );
  addFlags(grpo, grpoOptions).addHelpText(
    'after',
    '\nExamples:\n  $ tandem train grpo --model runs/chain --loss-type dr_grpo --name chain-2\n  $ tandem train grpo --task ./my-task.ts --rollout wasm --beta 0.01\n  $ tandem train grpo --model runs/chain --rollout browser --max-steps 50',
  );
  sft.action(async (parsed: Record<string, unknown> & Common) => {
    await begin(withCommon(train, parsed), ['cold_start'], givenOptions(sftOptions, parsed), {});
  });
  grpo.action(async (parsed: Record<string, unknown> & Common) => {
    const phases: PhaseName[] =
      parsed.model === undefined ? ['cold_start', 'reinforcement'] : ['reinforcement'];
    await begin(withCommon(train, parsed), phases, {}, givenOptions(grpoOptions, parsed));
  });
}

/** The options of `sft` or `grpo` with those that stand before its name. */
function withCommon(train: Command, parsed: Record<string, unknown> & Common): typeof parsed {
  const { resume, ...common } = train.opts<Common>();
  if (resume !== undefined)
    throw new UsageError(
      `a run is continued as it was begun: 'tandem train --resume ${resume}', without sft, grpo or their options`,
    );
  return { ...common, ...parsed };
}

async function begin(
  parsed: Record<string, unknown> & Common,
  phases: readonly PhaseName[],
  sft: Record<string, unknown>,
  grpo: Record<string, unknown>,
): Promise<void> {
  keepHeapSmall();
  // Checked here against the schemas alone, so that a wrong value is a usage error before anything is opened.
  checkOptions(runOptions.partial(), givenOptions(runOptions, parsed));
  checkOptions(sftOptions, sft);
  checkOptions(grpoOptions, grpo);
  checkOptions(modelOptions, givenOptions(modelOptions, parsed));
  await checkProfile(parsed.profile);
  const run = await newRun({
    task: parsed.task,
    model: parsed.model,
    phases,
    run: givenOptions(runOptions, parsed),
    modelOptions: givenOptions(modelOptions, parsed),
    sft,
    grpo,
    onEvent: listener(parsed),
  });
  await finish(run, parsed);
}

let display: ReturnType<typeof createDisplay> | null = null;

function listener({ json }: Common): (event: RunEvent) => void {
  if (json) {
    const { log } = console;
    // What a task prints must not stand among the events.
    console.log = console.info = console.debug = console.error;
    return (event) => log(JSON.stringify(event));
  }
  display = createDisplay(process.stdout);
  return (event) => display?.show(event);
}

/** Said before the run, not after its second step. */
async function checkProfile(path: string | undefined): Promise<void> {
  if (path === undefined) return;
  try {
    await (await open(path, 'a')).close();
  } catch (error) {
    throw new UsageError(`--profile: ${(error as Error).message}`);
  }
}

/** Runs to the end; the first Ctrl-C saves and stops, the second kills. */
async function finish(run: TrainingRun, { json, profile }: Common): Promise<void> {
  let asked = false;
  let traced: readonly string[] = [];
  if (profile !== undefined) {
    // Before the run: nothing else must go on while limits are measured.
    const limits = await limitsHere(['cpu'], undefined, (line) => console.error(line));
    run.traceStep(async (launches, info) => {
      await writeFile(profile, JSON.stringify(traceFile(launches, info, limits, `a step of ${run.folder}`)));
      traced = traceLines(launches, profile);
    });
  }
  const stop = () => {
    if (asked) process.exit(130);
    asked = true;
    run.stop();
    if (!json)
      display?.show({
        type: 'warning',
        message: 'saving after this step; press Ctrl-C again to stop at once',
      });
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  try {
    await run.run();
  } catch (error) {
    display?.stop();
    if (!(error instanceof RunInterrupted)) throw error;
    console.error(`tandem: ${error.message}`);
    process.exitCode = EXIT.failure;
  } finally {
    process.off('SIGINT', stop);
    process.off('SIGTERM', stop);
    display?.stop();
    if (!json) for (const line of traced) console.log(line);
  }
  if (profile !== undefined && traced.length === 0) {
    console.error(`tandem: ${profile} holds no trace: the second step is traced, and the run made only one`);
    process.exitCode = EXIT.failure;
  }
}
