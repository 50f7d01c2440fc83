/**
 * Register allocation: linear scan over live ranges with holes, after coalescing of moves (Poletto and Sarkar, "Linear
 * scan register allocation", TOPLAS 1999; holes as in Traub, Holloway and Smith, "Quality and speed in linear-scan
 * register allocation", PLDI 1998). What finds no register is spilled: every use gets a short-lived register that is
 * loaded just before, and the scan is repeated, until all fits. No register is reserved for that.
 */

import type { Reg } from '../loops/ir.ts';
import { intersect, liveness, merge, type Ranges } from './codegen-liveness.ts';
import {
  type Code,
  eachDef,
  eachUse,
  isVectorKey,
  keyOf,
  mapRegisters,
  type Node,
  type NodeOf,
  type Operands,
  operandsOf,
} from './codegen-nodes.ts';

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

interface Interval {
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

const maxRounds = 40;
const depthWeight = (depth: number): number => 10 ** Math.min(depth, 6);
/** A constant is made anew rather than stored and loaded. */
const rematerialised = 0.3;

type Constant = NodeOf<'vconst' | 'iconst' | 'viota'>;
const isConstant = (node: Node): node is Constant =>
  node.o === 'vconst' || node.o === 'iconst' || node.o === 'viota';

/** Gives every register of the code a machine register. The code changes where something must be spilled. */
export function allocate(input: Code, target: Target): Allocation {
  let code = input;
  const shortLived = new Set<number>();
  const slots = { general: 0, vector: 0 };
  for (let round = 0; round < maxRounds; round++) {
    const attempt = new Attempt(code, target, shortLived);
    if (attempt.run()) {
      return {
        code,
        registers: attempt.registers,
        temporaries: attempt.temporaries,
        dead: attempt.dead,
        slots,
        spillWeight: code.nodes.reduce(
          (sum, { o }, n) => sum + (o === 'spill' || o === 'reload' ? depthWeight(code.depths[n]) : 0),
          0,
        ),
      };
    }
    code = attempt.rewrite(slots);
  }
  throw new Error(`register allocation: no end after ${maxRounds} rounds of spilling`);
}

/** One scan over one version of the code. */
class Attempt {
  readonly registers: Int8Array;
  readonly temporaries: (Temporaries | undefined)[];
  readonly dead: Uint8Array;
  readonly #code: Code;
  readonly #operands: Operands;
  readonly #target: Target;
  readonly #shortLived: Set<number>;
  readonly #parents: Int32Array;
  readonly #ranges: Ranges[];
  /** Slots in which a general register is overwritten. */
  readonly #clobbered: Ranges[] = Array.from({ length: 16 }, () => []);
  readonly #spilled = new Set<number>();
  /** The only definition of a web, where it is a constant. */
  readonly #constants = new Map<number, Constant>();

  constructor(code: Code, target: Target, shortLived: Set<number>) {
    this.#code = code;
    this.#target = target;
    this.#shortLived = shortLived;
    this.#operands = operandsOf(code.nodes);
    const { ranges, dead } = liveness(code, this.#operands);
    this.#ranges = ranges.slice();
    this.dead = dead;
    this.#parents = Int32Array.from(ranges.keys());
    this.registers = new Int8Array(ranges.length).fill(-1);
    this.temporaries = new Array(code.nodes.length);
  }

  /** Whether everything found a register. */
  run(): boolean {
    this.#coalesce();
    const intervals = this.#intervals();
    this.#scan(
      intervals.filter((interval) => !interval.vector),
      this.#target.general,
      this.#clobbered,
    );
    const vectors = Array.from({ length: this.#target.vectors }, (_, register) => register);
    this.#scan(
      intervals.filter((interval) => interval.vector),
      vectors,
      vectors.map(() => []),
    );
    if (this.#spilled.size > 0) return false;
    for (let key = 0; key < this.registers.length; key++) {
      this.registers[key] = this.registers[this.#find(key)];
    }
    return true;
  }

  #find(key: number): number {
    const parents = this.#parents;
    while (parents[key] !== key) key = parents[key] = parents[parents[key]];
    return key;
  }

  /** Puts source and destination of moves, and accumulators, into one web where they are never live at once. */
  #coalesce(): void {
    const { nodes, depths } = this.#code;
    const pairs: { depth: number; a: number; b: number }[] = [];
    nodes.forEach((node, n) => {
      if (this.dead[n]) return;
      if (node.o === 'imove' || node.o === 'vmove')
        pairs.push({ depth: depths[n], a: keyOf(node.dst), b: keyOf(node.a) });
      else if (node.o === 'vfma' || node.o === 'vfmaload' || node.o === 'vdot2' || node.o === 'vdot4')
        pairs.push({ depth: depths[n], a: keyOf(node.dst), b: keyOf(node.c) });
    });
    pairs.sort((x, y) => y.depth - x.depth);
    for (const pair of pairs) {
      if (this.#shortLived.has(pair.a) || this.#shortLived.has(pair.b)) continue;
      const a = this.#find(pair.a);
      const b = this.#find(pair.b);
      if (a === b || intersect(this.#ranges[a], this.#ranges[b])) continue;
      this.#ranges[a] = merge(this.#ranges[a], this.#ranges[b]);
      this.#ranges[b] = [];
      this.#parents[b] = a;
    }
  }

  #intervals(): Interval[] {
    const { nodes, depths } = this.#code;
    const count = this.#ranges.length;
    const weights = new Float64Array(count);
    const unspillable = new Uint8Array(count);
    const definitions = new Int32Array(count);
    const preferred = new Int8Array(count).fill(-1);
    const friends = new Map<number, number[]>();
    const befriend = (x: Reg, y: Reg): void => {
      const a = this.#find(keyOf(x));
      const b = this.#find(keyOf(y));
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
    for (const key of this.#shortLived) unspillable[this.#find(key)] = 1;
    const intervals: Interval[] = [];
    nodes.forEach((node, n) => {
      if (this.dead[n]) return;
      const weight = depthWeight(depths[n]);
      for (const key of this.#operands.uses[n]) weights[this.#find(key)] += weight;
      for (const key of this.#operands.defs[n]) {
        const root = this.#find(key);
        weights[root] += weight;
        if (++definitions[root] === 1 && isConstant(node)) this.#constants.set(root, node);
        else this.#constants.delete(root);
      }
      befriendOperands(node, befriend);
      if (node.o === 'entry') {
        for (const name of ['views', 'scratch', 'from', 'to'] as const) {
          preferred[this.#find(keyOf(node[name]))] = this.#target.parameters[name];
        }
      }
      const { general, vector, clobbers } = this.#target.needs(node);
      for (const register of clobbers) this.#clobbered[register].push(2 * n, 2 * n + 1);
      if (general + vector > 0) {
        this.temporaries[n] = { general: [], vector: [] };
        for (let i = 0; i < general + vector; i++) intervals.push(temporary(n, i >= general));
      }
    });
    this.#ranges.forEach((ranges, root) => {
      if (ranges.length === 0) return;
      let size = 0;
      for (let i = 0; i < ranges.length; i += 2) size += ranges[i + 1] - ranges[i] + 1;
      const cost = weights[root] * (this.#constants.has(root) ? rematerialised : 1);
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
    return intervals.sort((a, b) => a.start - b.start);
  }

  #scan(intervals: readonly Interval[], order: readonly number[], blocked: readonly Ranges[]): void {
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
        this.#spilled.add(interval.root);
        continue;
      }
      holders[register].push(interval);
      if (interval.root >= 0) this.registers[interval.root] = register;
      else {
        const { general, vector } = this.temporaries[interval.start >> 1]!;
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
      this.#spilled.add(holder.root);
      this.registers[holder.root] = -1;
      return false;
    });
    return best;
  }

  /** The code with the spilled webs in memory, or, where they are constants, made anew at every use. */
  rewrite(slots: { general: number; vector: number }): Code {
    const { nodes, depths, nextId } = this.#code;
    const code: Code = { nodes: [], depths: [], nextId };
    const places = new Map<number, number>();
    for (const root of this.#spilled) {
      if (!this.#constants.has(root)) places.set(root, isVectorKey(root) ? slots.vector++ : slots.general++);
    }
    const isSpilled = (key: number): boolean => this.#spilled.has(this.#find(key));
    nodes.forEach((node, n) => {
      if (this.dead[n] || this.#vanishes(node)) return;
      if (!this.#operands.uses[n].some(isSpilled) && !this.#operands.defs[n].some(isSpilled)) {
        code.nodes.push(node);
        code.depths.push(depths[n]);
        return;
      }
      const replacements = new Map<number, Reg>();
      const replacement = <R extends Reg>(register: R): R => {
        const key = keyOf(register);
        if (!this.#spilled.has(this.#find(key))) return register;
        let fresh = replacements.get(key);
        if (!fresh) {
          fresh = { id: code.nextId++, class: register.class };
          replacements.set(key, fresh);
          this.#shortLived.add(keyOf(fresh));
        }
        return fresh as R;
      };
      const push = (added: Node): void => {
        code.nodes.push(added);
        code.depths.push(depths[n]);
      };
      const changed = mapRegisters(node, replacement);
      const loaded = new Set<number>();
      eachUse(node, (register) => {
        const root = this.#find(keyOf(register));
        const dst = replacements.get(keyOf(register));
        if (!dst || loaded.has(keyOf(register))) return;
        loaded.add(keyOf(register));
        const constant = this.#constants.get(root);
        push(constant ? ({ ...constant, dst } as Constant) : { o: 'reload', dst, slot: places.get(root)! });
      });
      push(changed);
      eachDef(node, (register) => {
        const src = replacements.get(keyOf(register));
        if (src) push({ o: 'spill', src, slot: places.get(this.#find(keyOf(register)))! });
      });
    });
    return code;
  }

  /** The only definition of a spilled constant, and moves within a spilled web, have nothing left to do. */
  #vanishes(node: Node): boolean {
    if (node.o === 'imove' || node.o === 'vmove') {
      const root = this.#find(keyOf(node.dst));
      return this.#spilled.has(root) && root === this.#find(keyOf(node.a));
    }
    if (!isConstant(node)) return false;
    const root = this.#find(keyOf(node.dst));
    return this.#spilled.has(root) && this.#constants.has(root);
  }
}

/** Registers that would save an instruction if they were the same machine register. */
function befriendOperands(node: Node, befriend: (x: Reg, y: Reg) => void): void {
  switch (node.o) {
    case 'imove':
    case 'vmove':
      befriend(node.dst, node.a);
      break;
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
