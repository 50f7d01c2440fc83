/** How long something takes on a machine that is never quite idle. */

/** A run shorter than this is repeated until it is as long: clocks and wake-ups cost microseconds. */
const MIN_RUN_MS = 30;
const RUNS = 7;

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/**
 * Seconds that one repetition takes: the median of seven runs of at least 30 ms each, after runs that warm up.
 * @param run does the work `repeat` times
 * @param now a clock in milliseconds
 */
export async function secondsEach(
  run: (repeat: number) => Promise<void>,
  now: () => number = () => performance.now(),
): Promise<number> {
  const timed = async (repeat: number) => {
    const start = now();
    await run(repeat);
    return now() - start;
  };
  await timed(1);
  let repeat = 1;
  for (let last = await timed(1); last < MIN_RUN_MS; last = await timed(repeat)) {
    repeat = Math.max(repeat + 1, Math.ceil((repeat * MIN_RUN_MS * 1.2) / last));
  }
  const runs: number[] = [];
  for (let i = 0; i < RUNS; i++) runs.push(await timed(repeat));
  return median(runs) / repeat / 1000;
}
