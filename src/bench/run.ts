/** Measures items one after the other, each on a device of its own. */
import type { MachineLimits } from '../accelerators/cpu/limits.ts';
import type { Item, OpenDevice, Row } from './item.ts';
import type { Peer } from './peers.ts';

export interface Surroundings {
  readonly open: OpenDevice;
  readonly threads: number;
  /** Null where they cannot be measured. */
  readonly limits: MachineLimits | null;
  readonly peers: readonly Peer[];
}

/** Seconds are better when there are fewer, rates when there are more. */
const speedRatio = (unit: Item['unit'], ours: number, theirs: number) =>
  unit === 's' ? theirs / ours : ours / theirs;

export async function measureItem(item: Item, { open, threads, limits, peers }: Surroundings): Promise<Row> {
  const { name, shape, dtype, unit } = item;
  const value = await item.measure(open);
  const limit = limits === null ? null : item.limit(limits);
  const ratios: Record<string, number> = {};
  if (item.peer !== null) {
    for (const peer of peers) {
      const [theirs] = await peer.measure([item.peer], threads);
      if (theirs !== null) ratios[peer.name] = speedRatio(unit, value, theirs);
    }
  }
  return {
    name,
    shape,
    dtype,
    threads,
    value,
    unit,
    limit,
    fraction: limit === null ? null : value / limit,
    peers: ratios,
  };
}
