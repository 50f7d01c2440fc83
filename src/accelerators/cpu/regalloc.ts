/**
 * Register allocation: linear scan over live ranges with holes, after coalescing of moves (Poletto and Sarkar, "Linear
 * scan register allocation", TOPLAS 1999; holes as in Traub, Holloway and Smith, "Quality and speed in linear-scan
 * register allocation", PLDI 1998). What finds no register is spilled: every use gets a short-lived register that is
 * loaded just before, and the scan is repeated, until all fits. No register is reserved for that.
 */

import type { Code, Node } from './codegen-nodes.ts';
import { depthWeight, intervalsOf } from './regalloc-intervals.ts';
import { Scan } from './regalloc-scan.ts';
import { spill } from './regalloc-spill.ts';
import { analyse } from './regalloc-webs.ts';

/** What the instructions that a node becomes take besides its operands. */
export interface Needs {
  /** Temporaries, distinct from each other and from everything the node reads or writes. */
  readonly general: number;
  readonly vector: number;
  /** General registers that it overwrites; no operand is in one of them. */
  readonly clobbers: readonly number[];
}

export interface Target {
  /** General registers in order of preference. */
  readonly general: readonly number[];
  /** Number of vector registers. */
  readonly vectors: number;
  /** Where the entry's four values arrive. */
  readonly parameters: Readonly<Record<'views' | 'scratch' | 'from' | 'to', number>>;
  needs(node: Node): Needs;
}

export interface Temporaries {
  readonly general: number[];
  readonly vector: number[];
}

export interface Allocation {
  readonly code: Code;
  /** Machine register by key; -1 for those that do not occur. */
  readonly registers: Int8Array;
  /** By node; undefined where a node needs none. */
  readonly temporaries: readonly (Temporaries | undefined)[];
  /** Nodes that need not be emitted. */
  readonly dead: Uint8Array;
  readonly slots: { readonly general: number; readonly vector: number };
  /** Executions of reloads and spills, weighted by 10 to the depth of loops: 0 where all fits. */
  readonly spillWeight: number;
}

const maxRounds = 40;

/** Gives every register of the code a machine register. The code changes where something must be spilled. */
export function allocate(input: Code, target: Target): Allocation {
  let code = input;
  const shortLived = new Set<number>();
  const slots = { general: 0, vector: 0 };
  const vectors = Array.from({ length: target.vectors }, (_, register) => register);
  for (let round = 0; round < maxRounds; round++) {
    const analysis = analyse(code, shortLived);
    const { dead, webs } = analysis;
    const { intervals, clobbered, temporaries, constants } = intervalsOf(analysis, target);
    const scan = new Scan(webs.ranges.length, temporaries);
    scan.run(
      intervals.filter((interval) => !interval.vector),
      target.general,
      clobbered,
    );
    scan.run(
      intervals.filter((interval) => interval.vector),
      vectors,
      vectors.map(() => []),
    );
    if (scan.spilled.size === 0) {
      return {
        code,
        registers: scan.registers.map((_, key) => scan.registers[webs.find(key)]),
        temporaries,
        dead,
        slots,
        spillWeight: code.nodes.reduce(
          (sum, { o }, n) => sum + (o === 'spill' || o === 'reload' ? depthWeight(code.depths[n]) : 0),
          0,
        ),
      };
    }
    code = spill(analysis, { spilled: scan.spilled, constants, shortLived, slots });
  }
  throw new Error(`register allocation: no end after ${maxRounds} rounds of spilling`);
}
