/** Which registers hold a value that is still needed, at each place of the code. */

import { type Code, type Node, type Operands, registerFields } from './codegen-nodes.ts';

/**
 * Where a register is live: disjoint inclusive ranges of slots in ascending order, as [start, end, start, end, …].
 * Node n reads in slot 2n and writes in slot 2n + 1, so that a value read for the last time by the node that defines
 * another may share a register with it.
 */
export type Ranges = number[];

export interface Liveness {
  /** By key; empty for registers that do not occur. */
  readonly ranges: readonly Ranges[];
  /** Nodes whose result nothing reads. */
  readonly dead: Uint8Array;
}

/** Registers that a stretch of code reads before it writes them, and those that it certainly writes. */
interface Region {
  readonly reads: Set<number>;
  readonly writes: Set<number>;
}

/** The registers that each loop's body needs from the iteration before, by the position of the loop's end. */
function loopNeeds(nodes: readonly Node[], { uses, defs }: Operands): Map<number, Set<number>> {
  const needs = new Map<number, Set<number>>();
  const open: { region: Region; thenBranch?: Region; certain: boolean }[] = [];
  let region: Region = { reads: new Set(), writes: new Set() };
  const enter = (certain: boolean): void => {
    open.push({ region, certain });
    region = { reads: new Set(), writes: new Set() };
  };
  const absorb = (into: Region, { reads }: Region): void => {
    for (const key of reads) if (!into.writes.has(key)) into.reads.add(key);
  };
  nodes.forEach((node, n) => {
    if (node.o === 'ifElse') {
      open[open.length - 1].thenBranch = region;
      region = { reads: new Set(), writes: new Set() };
      return;
    }
    for (const key of uses[n]) if (!region.writes.has(key)) region.reads.add(key);
    for (const key of defs[n]) region.writes.add(key);
    if (node.o === 'loopBegin') enter(node.certain);
    else if (node.o === 'ifBegin') enter(false);
    else if (node.o === 'loopEnd') {
      const { region: outer, certain } = open.pop()!;
      needs.set(n, region.reads);
      absorb(outer, region);
      if (certain) for (const key of region.writes) outer.writes.add(key);
      region = outer;
    } else if (node.o === 'ifEnd') {
      const { region: outer, thenBranch } = open.pop()!;
      absorb(outer, thenBranch!);
      absorb(outer, region);
      for (const key of region.writes) if (thenBranch!.writes.has(key)) outer.writes.add(key);
      region = outer;
    }
  });
  return needs;
}

/** Backward data flow over the structured code. A loop needs no iteration: what its body reads first is known. */
export function liveness({ nodes, nextId }: Code, operands: Operands): Liveness {
  const { uses, defs } = operands;
  const needs = loopNeeds(nodes, operands);
  const ranges: Ranges[] = Array.from({ length: 2 * nextId }, () => []);
  const dead = new Uint8Array(nodes.length);
  const ends = new Int32Array(2 * nextId);
  const live = new Set<number>();
  const around: { after: Set<number>; elseLive?: Set<number> }[] = [];

  const open = (key: number, slot: number): void => {
    if (live.has(key)) return;
    live.add(key);
    ends[key] = slot;
  };
  const close = (key: number, slot: number): void => {
    const list = ranges[key];
    const end = live.delete(key) ? ends[key] : slot;
    // Built backward, as [end, start, …], and reversed below.
    if (list.length > 0 && list[list.length - 1] <= end + 1) list[list.length - 1] = slot;
    else list.push(end, slot);
  };

  for (let n = nodes.length - 1; n >= 0; n--) {
    const node = nodes[n];
    if (node.o === 'loopEnd') {
      around.push({ after: new Set(live) });
      for (const key of needs.get(n)!) open(key, 2 * n + 1);
    } else if (node.o === 'ifEnd') around.push({ after: new Set(live) });
    else if (node.o === 'ifElse') {
      const top = around[around.length - 1];
      top.elseLive = new Set(live);
      for (const key of top.elseLive) if (!top.after.has(key)) close(key, 2 * n + 1);
      for (const key of top.after) open(key, 2 * n);
    } else if (node.o === 'loopBegin') {
      const { after } = around.pop()!;
      if (!node.certain) for (const key of after) open(key, 2 * n + 1);
    } else if (node.o === 'ifBegin') {
      for (const key of around.pop()!.elseLive!) open(key, 2 * n + 1);
    } else if (registerFields[node.o].pure) {
      if (!defs[n].some((key) => live.has(key))) {
        dead[n] = 1;
        continue;
      }
    }
    for (const key of defs[n]) close(key, 2 * n + 1);
    for (const key of uses[n]) open(key, 2 * n);
  }
  // Registers that are read though nothing wrote them on some path: their value does not matter, their place does.
  for (const key of [...live]) close(key, 0);
  for (const list of ranges) list.reverse();
  return { ranges, dead };
}

/** Whether two lists of ranges have a slot in common. */
export function intersect(a: Ranges, b: Ranges): boolean {
  let i = 0;
  let j = 0;
  while (i < a.length && j < b.length) {
    if (a[i + 1] < b[j]) i += 2;
    else if (b[j + 1] < a[i]) j += 2;
    else return true;
  }
  return false;
}

/** The union of two disjoint lists of ranges; neighbours grow together. */
export function merge(a: Ranges, b: Ranges): Ranges {
  const merged: Ranges = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    const fromA = j >= b.length || (i < a.length && a[i] < b[j]);
    const start = fromA ? a[i] : b[j];
    const end = fromA ? a[i + 1] : b[j + 1];
    if (fromA) i += 2;
    else j += 2;
    if (merged.length > 0 && merged[merged.length - 1] + 1 >= start) merged[merged.length - 1] = end;
    else merged.push(start, end);
  }
  return merged;
}
