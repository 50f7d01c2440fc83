/** What there is to allocate: the webs and temporaries with their live ranges, what a spill costs, and their wishes. */

import type { Reg } from '../loops/ir.ts';
import type { Ranges } from './codegen-liveness.ts';
import { isVectorKey, keyOf, type Node, type NodeOf } from './codegen-nodes.ts';
import type { Target, Temporaries } from './regalloc.ts';
import type { Analysis } from './regalloc-webs.ts';

export interface Interval {
  readonly ranges: Ranges;
  readonly start: number;
  readonly end: number;
  /** What a spill would cost, per slot that it frees; infinite for those that a spill cannot help. */
  readonly weight: number;
  /** The web's representative key; -1 for temporaries. */
  readonly root: number;
  readonly vector: boolean;
  /** Webs whose register it would like to share. */
  readonly friends: readonly number[];
  readonly preferred: number;
  /** First range that the scan has not passed. */
  cursor: number;
}

export interface Intervals {
  /** By start. */
  readonly intervals: readonly Interval[];
  /** Slots in which each general register is overwritten. */
  readonly clobbered: readonly Ranges[];
  /** By node; the scan fills them. */
  readonly temporaries: readonly (Temporaries | undefined)[];
  /** The only definition of a web, where it is a constant. */
  readonly constants: ReadonlyMap<number, Constant>;
}

/** How often something at this depth of loops is executed, about. */
export const depthWeight = (depth: number): number => 10 ** Math.min(depth, 6);
/** A constant is made anew rather than stored and loaded. */
const rematerialised = 0.3;

export type Constant = NodeOf<'vconst' | 'iconst' | 'viota'>;
export const isConstant = (node: Node): node is Constant =>
  node.o === 'vconst' || node.o === 'iconst' || node.o === 'viota';

/** The intervals of one version of the code. */
export function intervalsOf(analysis: Analysis, target: Target): Intervals {
  const { code, operands, dead, webs, shortLived } = analysis;
  const { nodes, depths } = code;
  const count = webs.ranges.length;
  const weights = new Float64Array(count);
  const unspillable = new Uint8Array(count);
  const definitions = new Int32Array(count);
  const preferred = new Int8Array(count).fill(-1);
  const friends = new Map<number, number[]>();
  const clobbered: Ranges[] = Array.from({ length: 16 }, () => []);
  const temporaries: (Temporaries | undefined)[] = new Array(nodes.length);
  const constants = new Map<number, Constant>();
  const befriend = (x: Reg, y: Reg): void => {
    const a = webs.find(keyOf(x));
    const b = webs.find(keyOf(y));
    if (a === b || isVectorKey(a) !== isVectorKey(b)) return;
    for (const [one, other] of [
      [a, b],
      [b, a],
    ]) {
      const list = friends.get(one);
      if (list) list.push(other);
      else friends.set(one, [other]);
    }
  };
  for (const key of shortLived) unspillable[webs.find(key)] = 1;
  const intervals: Interval[] = [];
  nodes.forEach((node, n) => {
    if (dead[n]) return;
    const weight = depthWeight(depths[n]);
    for (const key of operands.uses[n]) weights[webs.find(key)] += weight;
    for (const key of operands.defs[n]) {
      const root = webs.find(key);
      weights[root] += weight;
      if (++definitions[root] === 1 && isConstant(node)) constants.set(root, node);
      else constants.delete(root);
    }
    befriendOperands(node, befriend);
    if (node.o === 'entry') {
      for (const name of ['views', 'scratch', 'from', 'to'] as const) {
        preferred[webs.find(keyOf(node[name]))] = target.parameters[name];
      }
    }
    const { general, vector, clobbers } = target.needs(node);
    for (const register of clobbers) clobbered[register].push(2 * n, 2 * n + 1);
    if (general + vector > 0) {
      temporaries[n] = { general: [], vector: [] };
      for (let i = 0; i < general + vector; i++) intervals.push(temporary(n, i >= general));
    }
  });
  webs.ranges.forEach((ranges, root) => {
    if (ranges.length === 0) return;
    let size = 0;
    for (let i = 0; i < ranges.length; i += 2) size += ranges[i + 1] - ranges[i] + 1;
    const cost = weights[root] * (constants.has(root) ? rematerialised : 1);
    intervals.push({
      ranges,
      start: ranges[0],
      end: ranges[ranges.length - 1],
      weight: unspillable[root] ? Number.POSITIVE_INFINITY : cost / size,
      root,
      vector: isVectorKey(root),
      friends: friends.get(root) ?? [],
      preferred: preferred[root],
      cursor: 0,
    });
  });
  intervals.sort((a, b) => a.start - b.start);
  return { intervals, clobbered, temporaries, constants };
}

/** Registers that would save an instruction if they were the same machine register. */
function befriendOperands(node: Node, befriend: (x: Reg, y: Reg) => void): void {
  switch (node.o) {
    case 'imove':
    case 'vmove':
    case 'ibin':
      befriend(node.dst, node.a);
      break;
    case 'iselect':
      befriend(node.dst, node.b);
      befriend(node.dst, node.a);
      break;
    case 'vfma':
      befriend(node.dst, node.c);
      befriend(node.dst, node.a);
      befriend(node.dst, node.b);
      break;
    case 'vfmaload':
      befriend(node.dst, node.c);
      befriend(node.dst, node.a);
      break;
    case 'vdot2':
    case 'vdot4':
      befriend(node.dst, node.c);
      break;
  }
}

function temporary(n: number, vector: boolean): Interval {
  const start = 2 * n;
  return {
    ranges: [start, start + 1],
    start,
    end: start + 1,
    weight: Number.POSITIVE_INFINITY,
    root: -1,
    vector,
    friends: [],
    preferred: -1,
    cursor: 0,
  };
}
