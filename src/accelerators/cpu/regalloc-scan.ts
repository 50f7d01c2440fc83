/** The linear scan: a machine register for each interval, or a spill of the cheapest that are in the way. */

import { intersect, type Ranges } from './codegen-liveness.ts';
import type { Temporaries } from './regalloc.ts';
import type { Interval } from './regalloc-intervals.ts';

export class Scan {
  /** Machine registers by the keys that stand for webs; -1: none. */
  readonly registers: Int8Array;
  /** Webs that found no register. */
  readonly spilled = new Set<number>();
  readonly #temporaries: readonly (Temporaries | undefined)[];

  /** `keys`: how many there are. The registers of temporaries are added to `temporaries`. */
  constructor(keys: number, temporaries: readonly (Temporaries | undefined)[]) {
    this.registers = new Int8Array(keys).fill(-1);
    this.#temporaries = temporaries;
  }

  /** Gives machine registers to intervals of one class, in `order` of preference. `blocked`: where each is taken. */
  run(intervals: readonly Interval[], order: readonly number[], blocked: readonly Ranges[]): void {
    const holders: Interval[][] = blocked.map(() => []);
    const isFree = (interval: Interval, register: number): boolean =>
      !intersect(interval.ranges, blocked[register]) &&
      !holders[register].some((holder) => overlap(interval, holder));
    for (const interval of intervals) {
      for (const list of holders) advance(list, interval.start);
      let register =
        interval.preferred >= 0 && isFree(interval, interval.preferred) ? interval.preferred : -1;
      for (const friend of interval.friends) {
        const candidate = this.registers[friend];
        if (register < 0 && candidate >= 0 && isFree(interval, candidate)) register = candidate;
      }
      for (let i = 0; register < 0 && i < order.length; i++) {
        if (isFree(interval, order[i])) register = order[i];
      }
      if (register < 0) register = this.#evict(interval, order, blocked, holders);
      if (register < 0) {
        this.spilled.add(interval.root);
        continue;
      }
      holders[register].push(interval);
      if (interval.root >= 0) this.registers[interval.root] = register;
      else {
        const { general, vector } = this.#temporaries[interval.start >> 1]!;
        (interval.vector ? vector : general).push(register);
      }
    }
  }

  /** Spills the cheapest holders that are in the way of this interval and returns their register; -1: spill this one. */
  #evict(
    interval: Interval,
    order: readonly number[],
    blocked: readonly Ranges[],
    holders: Interval[][],
  ): number {
    let best = -1;
    let lowest = interval.weight;
    for (const register of order) {
      if (intersect(interval.ranges, blocked[register])) continue;
      let cost = 0;
      for (const holder of holders[register]) if (overlap(interval, holder)) cost += holder.weight;
      if (cost < lowest) {
        lowest = cost;
        best = register;
      }
    }
    if (best < 0) {
      if (interval.weight === Number.POSITIVE_INFINITY) {
        throw new Error(
          `register allocation: one node needs more than ${order.length} ${interval.vector ? 'vector' : 'general'} registers`,
        );
      }
      return -1;
    }
    holders[best] = holders[best].filter((holder) => {
      if (!overlap(interval, holder)) return true;
      this.spilled.add(holder.root);
      this.registers[holder.root] = -1;
      return false;
    });
    return best;
  }
}

/** Drops the holders that end before `slot`, and moves the others' cursors up to it. */
function advance(holders: Interval[], slot: number): void {
  for (let i = holders.length - 1; i >= 0; i--) {
    const holder = holders[i];
    if (holder.end < slot) {
      holders[i] = holders[holders.length - 1];
      holders.pop();
    } else while (holder.ranges[holder.cursor + 1] < slot) holder.cursor += 2;
  }
}

/** Whether a new interval and a holder are live at once. */
function overlap({ ranges: a }: Interval, { ranges: b, cursor }: Interval): boolean {
  let i = 0;
  let j = cursor;
  while (i < a.length && j < b.length) {
    if (a[i + 1] < b[j]) i += 2;
    else if (b[j + 1] < a[i]) j += 2;
    else return true;
  }
  return false;
}
