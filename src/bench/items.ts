/** Every benchmark by name. */
import { decodeItems } from './decoding.ts';
import { largeDecodeItems, prefillItems, startItems } from './generation.ts';
import type { Item } from './item.ts';
import { matmulItems } from './matmul.ts';
import { memoryItems } from './memory.ts';
import { compileItems, trainStepItems } from './training.ts';

/** Items on a device. `large`: they need the model of Qwen3-0.6B's shape, gigabytes of memory, and minutes. */
interface Benchmark {
  readonly items: (device: string) => Item[];
  readonly large?: (device: string) => Item[];
}
const none = () => [];

/** In the order in which they run: compiling first, while nothing is warm. */
const BENCHMARKS = {
  compile: { items: compileItems },
  matmul: { items: matmulItems },
  'train-step': { items: trainStepItems },
  memory: { items: memoryItems },
  decode: { items: decodeItems, large: largeDecodeItems },
  prefill: { items: none, large: prefillItems },
  start: { items: none, large: startItems },
} as const satisfies Readonly<Record<string, Benchmark>>;

export type BenchmarkName = keyof typeof BENCHMARKS;
export const benchmarkNames = Object.keys(BENCHMARKS) as BenchmarkName[];

export const isBenchmarkName = (name: string): name is BenchmarkName => Object.hasOwn(BENCHMARKS, name);

/**
 * The items of these benchmarks on a device, large ones among them; where none is named, those of all benchmarks,
 * large ones only if `large`.
 */
export function benchmarkItems(names: readonly BenchmarkName[], device: string, large: boolean): Item[] {
  return benchmarkNames
    .filter((name) => names.length === 0 || names.includes(name))
    .flatMap((name) => {
      const benchmark: Benchmark = BENCHMARKS[name];
      const more = names.length > 0 || large ? (benchmark.large?.(device) ?? []) : [];
      return [...benchmark.items(device), ...more];
    });
}
