/** What a run remembers from step to step beside weights and moments: JSON in the saved state. */
import { z } from 'zod';
import type { Evaluation, NamedTrace } from './events.ts';
import { grpoOptions, runOptions, sftOptions } from './options.ts';

const totals = z.object({ tokens: z.number(), seconds: z.number() });

export const progressSchema = z.object({
  version: z.literal(1),
  /** Name of a built-in task, or the path of the user's file; null where a program gave the task itself. */
  task: z.string().nullable(),
  phases: z.array(z.enum(['cold_start', 'reinforcement'])),
  run: runOptions,
  sft: sftOptions,
  grpo: grpoOptions,
  dtype: z.enum(['f32', 'bf16']),
  /** config.json of the model. */
  config: z.unknown(),
  /** Index into `phases`; equal to their number when all are done. */
  phase: z.number().int().nonnegative(),
  /** Steps of the phase that are done. */
  step: z.number().int().nonnegative(),
  /** Optimizer steps of the phase. */
  optimizerSteps: z.number().int().nonnegative(),
  seconds: z.number(),
  totals: z.object({ sft: totals, rollout: totals, learn: totals }),
  numTokens: z.number(),
  /** Whether the phase's preparations (evaluation before, reference model) are done. */
  entered: z.boolean(),
  evaluations: z.array(z.custom<Evaluation>()),
  traces: z.array(z.custom<NamedTrace>()),
});
export type Progress = z.infer<typeof progressSchema>;
