/** Webs: registers that get one machine register because a move or an accumulator joins them. */

import { intersect, liveness, merge, type Ranges } from './codegen-liveness.ts';
import { type Code, keyOf, type Operands, operandsOf } from './codegen-nodes.ts';

/** Which registers belong together, by keys, and where each web is live. */
export class Webs {
  readonly #parents: Int32Array;
  readonly #ranges: Ranges[];

  constructor(ranges: readonly Ranges[]) {
    this.#parents = Int32Array.from(ranges.keys());
    this.#ranges = ranges.slice();
  }

  /** By key; empty for all of a web's keys but the one that stands for it. */
  get ranges(): readonly Ranges[] {
    return this.#ranges;
  }

  /** The key that stands for this one's web. */
  find(key: number): number {
    const parents = this.#parents;
    while (parents[key] !== key) key = parents[key] = parents[parents[key]];
    return key;
  }

  /** Makes one web of two that are never live at once. */
  join(x: number, y: number): void {
    const a = this.find(x);
    const b = this.find(y);
    if (a === b || intersect(this.#ranges[a], this.#ranges[b])) return;
    this.#ranges[a] = merge(this.#ranges[a], this.#ranges[b]);
    this.#ranges[b] = [];
    this.#parents[b] = a;
  }
}

/** One version of the code, and what is known of it. */
export interface Analysis {
  readonly code: Code;
  readonly operands: Operands;
  /** Nodes that need not be emitted. */
  readonly dead: Uint8Array;
  readonly webs: Webs;
  /** Registers that hold a spilled value for one node. */
  readonly shortLived: ReadonlySet<number>;
}

/** Finds what is live and what is dead, and joins registers to webs. */
export function analyse(code: Code, shortLived: ReadonlySet<number>): Analysis {
  const operands = operandsOf(code.nodes);
  const { ranges, dead } = liveness(code, operands);
  const webs = new Webs(ranges);
  coalesce(webs, code, dead, shortLived);
  return { code, operands, dead, webs, shortLived };
}

/** Puts source and destination of moves, and accumulators, into one web, those in the innermost loops first. */
function coalesce(
  webs: Webs,
  { nodes, depths }: Code,
  dead: Uint8Array,
  shortLived: ReadonlySet<number>,
): void {
  const pairs: { depth: number; a: number; b: number }[] = [];
  nodes.forEach((node, n) => {
    if (dead[n]) return;
    if (node.o === 'imove' || node.o === 'vmove')
      pairs.push({ depth: depths[n], a: keyOf(node.dst), b: keyOf(node.a) });
    else if (node.o === 'vfma' || node.o === 'vfmaload' || node.o === 'vdot2' || node.o === 'vdot4')
      pairs.push({ depth: depths[n], a: keyOf(node.dst), b: keyOf(node.c) });
  });
  pairs.sort((x, y) => y.depth - x.depth);
  for (const { a, b } of pairs) if (!shortLived.has(a) && !shortLived.has(b)) webs.join(a, b);
}
