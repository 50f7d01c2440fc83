/** Every benchmark by name. */
import { decodeItems } from './decoding.ts';
import type { Item } from './item.ts';
import { matmulItems } from './matmul.ts';
import { compileItems, trainStepItems } from './training.ts';

/** In the order in which they run: compiling first, while nothing is warm. */
const ITEMS = {
  compile: compileItems,
  matmul: matmulItems,
  'train-step': trainStepItems,
  decode: decodeItems,
} as const satisfies Readonly<Record<string, () => Item[]>>;

export type BenchmarkName = keyof typeof ITEMS;
export const benchmarkNames = Object.keys(ITEMS) as BenchmarkName[];

export const isBenchmarkName = (name: string): name is BenchmarkName => Object.hasOwn(ITEMS, name);

/** The items of these benchmarks; of all where none is named. */
export function benchmarkItems(names: readonly BenchmarkName[]): Item[] {
  return benchmarkNames
    .filter((name) => names.length === 0 || names.includes(name))
    .flatMap((name) => ITEMS[name]());
}
