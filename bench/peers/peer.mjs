// What the peers that run in Node share: the protocol of `tandem bench`, and its way to take time.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const MIN_RUN_MS = 30;
const RUNS = 7;

export const median = (values) => {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

/** Median of seven runs of at least 30 ms, after a warm-up: the procedure of src/bench/timing.ts. */
export async function secondsEach(work) {
  const timed = async (repeat) => {
    const start = performance.now();
    for (let i = 0; i < repeat; i++) await work();
    return performance.now() - start;
  };
  await timed(1);
  let repeat = 1;
  for (let last = await timed(1); last < MIN_RUN_MS; last = await timed(repeat)) {
    repeat = Math.max(repeat + 1, Math.ceil((repeat * MIN_RUN_MS * 1.2) / last));
  }
  const runs = [];
  for (let i = 0; i < RUNS; i++) runs.push(await timed(repeat));
  return median(runs) / repeat / 1000;
}

/** Values between -0.5 and 0.5. */
export const randomValues = (count) => Float32Array.from({ length: count }, () => Math.random() - 0.5);

const versionOf = (name) => {
  // Some packages do not export their package.json: it lies above what they do export.
  const path = createRequire(import.meta.url).resolve(name);
  const folder = path.slice(0, path.lastIndexOf(`/node_modules/${name}/`) + `/node_modules/${name}/`.length);
  return JSON.parse(readFileSync(`${folder}package.json`, 'utf8')).version;
};

/**
 * Answers `--version`, or reads a JSON list of items on standard input and prints a JSON list: of each item the figure in
 * Tandem's unit, or null for a kind that is not in `kinds`.
 */
export async function answer(name, kinds) {
  if (process.argv[2] === '--version') {
    console.log(versionOf(name));
    return;
  }
  const values = [];
  for (const item of JSON.parse(readFileSync(0, 'utf8'))) {
    values.push(Object.hasOwn(kinds, item.kind) ? await kinds[item.kind](item) : null);
  }
  console.log(JSON.stringify(values));
  // Threads of native libraries may keep the process alive.
  process.exit(0);
}
