/** Measures items one after the other, each on a device of its own. */
import type { Comparison, Item, Limits, OpenDevice, Row } from './item.ts';
import { lessIsBetter } from './item.ts';
import type { Peer, PeerName } from './peers.ts';
import { largerLimits } from './yardstick.ts';

export interface Surroundings {
  readonly open: OpenDevice;
  readonly threads: number;
  /** What the machine can do now, for items on this accelerator. */
  readonly limits: (device: string) => Promise<Limits>;
  /** Null: not installed. Those that are not asked for are left out. */
  readonly peers: ReadonlyMap<PeerName, Peer | null>;
  /** Told why a peer has no figure although it is installed. */
  readonly warn: (line: string) => void;
}

export async function measureItem(item: Item, surroundings: Surroundings): Promise<Row> {
  const { open, threads, limits } = surroundings;
  const { name, shape, dtype, device, unit } = item;
  const before = await limits(device);
  const measured = await item.measure(open);
  const around = largerLimits(before, await limits(device));
  const { value, limit } =
    typeof measured === 'number' ? { value: measured, limit: item.limit(around) } : measured;
  const share = (part: number) => (lessIsBetter[unit] ? part / value : value / part);
  return {
    name,
    shape,
    dtype,
    device,
    threads,
    value,
    unit,
    limit,
    fraction: limit === null ? null : share(limit),
    peers: await comparisons(item, value, surroundings),
  };
}

async function comparisons(
  { peers: works, unit, name, shape }: Item,
  ours: number,
  { peers, threads, warn }: Surroundings,
): Promise<Record<string, Comparison>> {
  const ratios: Record<string, Comparison> = {};
  for (const [peer, found] of peers) {
    const work = works[peer];
    if (work === undefined) continue;
    if (found === null) ratios[peer] = 'not installed';
    else {
      try {
        const [theirs] = await found.measure([work], threads);
        if (theirs !== null) ratios[peer] = lessIsBetter[unit] ? theirs / ours : ours / theirs;
      } catch (error) {
        // Tandem's own figure stands; the gap is shown, and said.
        ratios[peer] = 'failed';
        warn(`${peer} failed at ${name} ${shape}: ${error instanceof Error ? error.message : error}`);
      }
    }
  }
  return ratios;
}
