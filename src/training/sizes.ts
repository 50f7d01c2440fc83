/**
 * What the sizes among a run's options take of memory at least, compared with what there is before anything of it is
 * made: beyond that, V8 would end the process without a word that a user can act on. Needs Node.
 */
import { getHeapStatistics } from 'node:v8';
import { formatBytes } from '../accelerators/bytes.ts';
import type { DeviceInfo } from '../accelerators/device.ts';
import type { Qwen3Config } from '../models/config.ts';
import { weightSpecs } from '../models/qwen3.ts';
import { elementCount } from '../tile/ir.ts';
import { paddedLength } from './batches.ts';
import type { PhaseName } from './events.ts';
import type { GrpoOptions, SftOptions } from './options.ts';

/** Options ask for more memory than there is. */
export class SizeError extends RangeError {
  override name = 'SizeError';
}

/** Bytes of V8's heap for a sequence, beside 8 a token: an example of the task 'chain' takes 340. */
const SEQUENCE_BYTES = 300;

interface Memory {
  readonly name: string;
  readonly bytes: number;
}

interface Need {
  /** Options and their values. */
  readonly options: string;
  readonly what: string;
  /** At least. */
  readonly bytes: number;
  readonly memory: Memory;
}

const memoryOf = ({ name, memory }: DeviceInfo): Memory => ({ name, bytes: memory });

/** What JavaScript's values of a run lie in. */
function heap(): Memory {
  return { name: 'the heap of Node.js', bytes: getHeapStatistics().heap_size_limit };
}

function check(needs: readonly Need[]): void {
  for (const { options, what, bytes, memory } of needs) {
    if (bytes <= memory.bytes) continue;
    throw new SizeError(
      `${options}: ${what} at least ${formatBytes(bytes)}, but ${memory.name} has ${formatBytes(memory.bytes)}: ` +
        'choose less',
    );
  }
}

/** Throws SizeError where a new model has a weight that alone is larger than the memory of the learner's accelerator. */
export function checkModelSize(config: Qwen3Config, learner: DeviceInfo): void {
  const { vocab_size, hidden_size, intermediate_size, num_attention_heads, num_key_value_heads, head_dim } =
    config;
  const sizes = {
    hidden_size,
    intermediate_size,
    num_attention_heads,
    num_key_value_heads,
    head_dim,
    vocab_size,
  };
  check([
    {
      options: Object.entries(sizes)
        .map(([name, value]) => `${name} ${value}`)
        .join(', '),
      what: 'the largest weight takes',
      bytes: 4 * Math.max(...weightSpecs(config).map(({ shape }) => elementCount(shape))),
      memory: memoryOf(learner),
    },
  ]);
}

export interface RunSizes {
  readonly config: Qwen3Config;
  readonly phases: readonly PhaseName[];
  readonly sft: SftOptions;
  readonly grpo: GrpoOptions;
  readonly evalProblems: number;
  /** Tokens that are usual here, of a prompt and of a teacher's example. */
  readonly tokens: { readonly prompt: number; readonly example: number };
  readonly learner: DeviceInfo;
  /** Null where browser tabs sample. */
  readonly rollout: DeviceInfo | null;
}

/** Throws SizeError, which names the options, where a step or an evaluation cannot fit. */
export function checkRunSizes(run: RunSizes): void {
  const { phases, grpo, evalProblems, tokens } = run;
  check([
    ...(phases.includes('cold_start') ? supervisedNeeds(run) : []),
    ...(phases.includes('reinforcement') ? reinforcementNeeds(run) : []),
    {
      options: `eval_problems ${evalProblems}`,
      what: 'the problems of an evaluation take',
      bytes: sequences(evalProblems, tokens.prompt),
      memory: heap(),
    },
    ...cacheNeeds(run, `max_completion_length ${grpo.max_completion_length}`),
  ]);
}

const sequences = (count: number, tokens: number) => count * (SEQUENCE_BYTES + 8 * tokens);

/** Of the values of a micro-batch, those that enter each layer: the backward pass needs them, also where it recomputes. */
const microBatch = ({ hidden_size, num_hidden_layers }: Qwen3Config, count: number, tokens: number) =>
  4 * num_hidden_layers * hidden_size * count * paddedLength(tokens);

function supervisedNeeds({ config, sft, tokens, learner }: RunSizes): Need[] {
  const { per_device_train_batch_size: micro, gradient_accumulation_steps: parts } = sft;
  const size = `per_device_train_batch_size ${micro}`;
  return [
    {
      options: size,
      what: 'a micro-batch takes',
      bytes: microBatch(config, micro, tokens.example),
      memory: memoryOf(learner),
    },
    {
      options: `${size} × gradient_accumulation_steps ${parts}`,
      what: 'the examples of a step take',
      bytes: sequences(micro * parts, tokens.example),
      memory: heap(),
    },
  ];
}

function reinforcementNeeds({ config, grpo, tokens, learner }: RunSizes): Need[] {
  const { prompts_per_step, num_generations, steps_per_generation, gradient_accumulation_steps } = grpo;
  const completions = prompts_per_step * num_generations;
  const options = `prompts_per_step ${prompts_per_step} × num_generations ${num_generations}`;
  return [
    {
      options,
      what: 'the completions of a generation batch take',
      bytes: sequences(completions, tokens.prompt),
      memory: heap(),
    },
    {
      options: `${options} / (steps_per_generation ${steps_per_generation} × gradient_accumulation_steps ${gradient_accumulation_steps})`,
      what: 'a micro-batch takes',
      bytes: microBatch(
        config,
        completions / (steps_per_generation * gradient_accumulation_steps),
        tokens.prompt,
      ),
      memory: memoryOf(learner),
    },
  ];
}

/** The keys of one sequence in one layer. */
function cacheNeeds({ config, grpo, rollout }: RunSizes, options: string): Need[] {
  if (rollout === null) return [];
  const { num_key_value_heads, head_dim } = config;
  const bytes = 4 * num_key_value_heads * head_dim * grpo.max_completion_length;
  return [{ options, what: 'the cache of one sequence takes', bytes, memory: memoryOf(rollout) }];
}
