/** What a benchmark is made of: work items, and the rows that their measurements become. */
import type { MachineLimits } from '../accelerators/cpu/limits.ts';
import type { Device } from '../accelerators/device.ts';

/** Opens the accelerator that is measured; whoever calls it closes the device. */
export type OpenDevice = () => Promise<Device>;

/** The same work for another program: what `bench/peers/torch_bench.py` reads. */
export type PeerItem = { readonly kind: string } & Readonly<Record<string, string | number | boolean>>;

export interface Item {
  readonly name: string;
  readonly shape: string;
  readonly dtype: string;
  readonly unit: 'GFLOP/s' | 'tokens/s' | 's';
  /** What `unit` would be at the machine's arithmetic peak; null where that says nothing about the work. */
  limit(limits: MachineLimits): number | null;
  /** The figure in `unit`. */
  measure(open: OpenDevice): Promise<number>;
  /** Null where no peer does the same. */
  readonly peer: PeerItem | null;
}

/** One measured item. */
export interface Row {
  readonly name: string;
  readonly shape: string;
  readonly dtype: string;
  readonly threads: number;
  readonly value: number;
  readonly unit: Item['unit'];
  /** In `unit`; null where there is none, or the machine's limits could not be measured. */
  readonly limit: number | null;
  /** value / limit. */
  readonly fraction: number | null;
  /** Our speed over the peer's, by peer: above 1 Tandem is faster. Empty where no peer was measured. */
  readonly peers: Readonly<Record<string, number>>;
}

/** f32 multiply-adds of the widest instructions, all threads, in floating-point operations a second. */
export function arithmeticPeak({ fma }: MachineLimits): number {
  return Math.max(...Object.values(fma).map(({ all }) => all));
}
