/** The learning rate of step `step` (0-based): linear warm-up, then constant or a cosine to a tenth of the peak. */
export interface Schedule {
  readonly learning_rate: number;
  readonly lr_scheduler_type: 'constant' | 'cosine';
  readonly warmup_steps: number;
  readonly max_steps: number;
}

/** Share of the peak at which the cosine ends. */
const COSINE_FLOOR = 0.1;

export function learningRate(step: number, schedule: Schedule): number {
  const { learning_rate, warmup_steps, max_steps } = schedule;
  if (step < warmup_steps) return (learning_rate * (step + 1)) / warmup_steps;
  if (schedule.lr_scheduler_type === 'constant') return learning_rate;
  const progress = Math.min(1, (step - warmup_steps) / Math.max(1, max_steps - warmup_steps));
  return learning_rate * (COSINE_FLOOR + (1 - COSINE_FLOOR) * 0.5 * (1 + Math.cos(Math.PI * progress)));
}
