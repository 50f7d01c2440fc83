/** Spilling: every use of a spilled register gets a short-lived one that is loaded just before. */

import type { Reg } from '../loops/ir.ts';
import { type Code, eachDef, eachUse, isVectorKey, keyOf, mapRegisters, type Node } from './codegen-nodes.ts';
import { type Constant, isConstant } from './regalloc-intervals.ts';
import type { Analysis } from './regalloc-webs.ts';

export interface Spill {
  readonly spilled: ReadonlySet<number>;
  /** The only definition of a web, where it is a constant. */
  readonly constants: ReadonlyMap<number, Constant>;
  /** Gets the registers that hold a spilled value for one node. */
  readonly shortLived: Set<number>;
  /** How many places of the stack frame are taken; grows. */
  readonly slots: { general: number; vector: number };
}

/** The code with the spilled webs in memory, or, where they are constants, made anew at every use. */
export function spill(
  { code: { nodes, depths, nextId }, operands, dead, webs }: Analysis,
  { spilled, constants, shortLived, slots }: Spill,
): Code {
  const code: Code = { nodes: [], depths: [], nextId };
  const places = new Map<number, number>();
  for (const root of spilled) {
    if (!constants.has(root)) places.set(root, isVectorKey(root) ? slots.vector++ : slots.general++);
  }
  const isSpilled = (key: number): boolean => spilled.has(webs.find(key));
  /** The only definition of a spilled constant, and moves within a spilled web, have nothing left to do. */
  const vanishes = (node: Node): boolean => {
    if (node.o === 'imove' || node.o === 'vmove') {
      const root = webs.find(keyOf(node.dst));
      return spilled.has(root) && root === webs.find(keyOf(node.a));
    }
    if (!isConstant(node)) return false;
    const root = webs.find(keyOf(node.dst));
    return spilled.has(root) && constants.has(root);
  };
  nodes.forEach((node, n) => {
    if (dead[n] || vanishes(node)) return;
    if (!operands.uses[n].some(isSpilled) && !operands.defs[n].some(isSpilled)) {
      code.nodes.push(node);
      code.depths.push(depths[n]);
      return;
    }
    const replacements = new Map<number, Reg>();
    const replacement = <R extends Reg>(register: R): R => {
      const key = keyOf(register);
      if (!isSpilled(key)) return register;
      let fresh = replacements.get(key);
      if (!fresh) {
        fresh = { id: code.nextId++, class: register.class };
        replacements.set(key, fresh);
        shortLived.add(keyOf(fresh));
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
      const root = webs.find(keyOf(register));
      const dst = replacements.get(keyOf(register));
      if (!dst || loaded.has(keyOf(register))) return;
      loaded.add(keyOf(register));
      const constant = constants.get(root);
      push(constant ? ({ ...constant, dst } as Constant) : { o: 'reload', dst, slot: places.get(root)! });
    });
    push(changed);
    eachDef(node, (register) => {
      const src = replacements.get(keyOf(register));
      if (src) push({ o: 'spill', src, slot: places.get(webs.find(keyOf(register)))! });
    });
  });
  return code;
}
