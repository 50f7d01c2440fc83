/** What a benchmark is made of: work items, and the rows that their measurements become. */
import type { MachineLimits, NarrowType } from '../accelerators/cpu/limits.ts';
import type { Device } from '../accelerators/device.ts';
import type { WasmLimits } from '../accelerators/wasm/limits.ts';
import type { PeerName } from './peers.ts';

/** Opens the accelerator that is measured; whoever calls it closes the device. */
export type OpenDevice = () => Promise<Device>;

/** The same work for another program: what the scripts in `bench/peers/` read. */
export type PeerItem = { readonly kind: string } & Readonly<
  Record<string, string | number | boolean | readonly number[]>
>;

/** What can be had at most; null where it cannot be measured. */
export interface Limits {
  readonly machine: MachineLimits | null;
  readonly wasm: WasmLimits | null;
}

export type Unit = 'GFLOP/s' | 'tokens/s' | 's' | 'MB';

export interface Item {
  readonly name: string;
  readonly shape: string;
  readonly dtype: string;
  /** Name of the accelerator. */
  readonly device: string;
  readonly unit: Unit;
  /** The best that `unit` could be; null where that is unknown, or says nothing about the work. */
  limit(limits: Limits): number | null;
  /** The figure in `unit`. */
  measure(open: OpenDevice): Promise<Measured>;
  /** Prepares the work and hands it to `trace` once, for a profile; left out where there is nothing to see. */
  profile?(device: Device, trace: (work: () => Promise<unknown>) => Promise<void>): Promise<void>;
  /** Those that do the same. */
  readonly peers: { readonly [P in PeerName]?: PeerItem };
}

/** A figure, or one with a limit that only the measurement itself could tell. */
export type Measured = number | { readonly value: number; readonly limit: number };

/** A ratio, or why there is none. */
export type Comparison = number | 'not installed' | 'failed';

/** One measured item. */
export interface Row {
  readonly name: string;
  readonly shape: string;
  readonly dtype: string;
  readonly device: string;
  readonly threads: number;
  readonly value: number;
  readonly unit: Unit;
  /** In `unit`; null where there is none, or the limits could not be measured. */
  readonly limit: number | null;
  /** How much of the limit was reached, at most about 1: value / limit, or the other way round where less is better. */
  readonly fraction: number | null;
  /** Our speed over the peer's, by peer: above 1 Tandem is faster. Peers that do not do the same work are left out. */
  readonly peers: { readonly [peer: string]: Comparison };
}

/** Seconds and bytes are better when there are fewer, rates when there are more. */
export const lessIsBetter: { readonly [U in Unit]: boolean } = {
  'GFLOP/s': false,
  'tokens/s': false,
  s: true,
  MB: true,
};

/** Which measured instructions can multiply a type of weights; those for f32 where the processor has none. */
const MULTIPLIED_AS: Readonly<Record<string, NarrowType>> = { bf16: 'bf16', int8: 'int8', int4: 'int8' };

/**
 * Multiply-adds with all threads, two operations each, a second: of the processor's widest instructions for values of
 * this type, or of WebAssembly's. Null where nothing measures it.
 */
export function arithmeticPeak({ machine, wasm }: Limits, device: string, dtype = 'f32'): number | null {
  if (device === 'cpu' && machine !== null) {
    const type = MULTIPLIED_AS[dtype];
    return (
      (machine.tiles[type] ?? machine.dots[type])?.all ??
      Math.max(...Object.values(machine.fma).map(({ all }) => all))
    );
  }
  return device === 'wasm' && wasm !== null ? wasm.all : null;
}

/** Bytes a second that all threads read from memory beyond the caches; null on other devices than the processor. */
export function readBandwidth({ machine }: Limits, device: string): number | null {
  return machine !== null && (device === 'cpu' || device === 'wasm') ? machine.read.all : null;
}

/**
 * Seconds that work takes at least: its arithmetic and its reads overlap, so the longer of the two. `bytes`: what has to
 * come from memory, 0 where it fits the caches. `dtype`: of what is multiplied, f32 where left out.
 */
export function leastSeconds(
  limits: Limits,
  device: string,
  work: { readonly operations: number; readonly bytes: number; readonly dtype?: string },
): number | null {
  const peak = arithmeticPeak(limits, device, work.dtype);
  const bandwidth = readBandwidth(limits, device);
  if (peak === null || bandwidth === null) return null;
  return Math.max(work.operations / peak, work.bytes / bandwidth);
}
