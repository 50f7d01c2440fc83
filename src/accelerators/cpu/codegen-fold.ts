/** Improvements of the code before registers are allocated: fewer instructions, and constants out of loops. */

import type { Address, Reg, VecReg } from '../loops/ir.ts';
import type { Isa } from './codegen-emitter.ts';
import {
  type Code,
  eachDef,
  eachUse,
  keyOf,
  mapRegisters,
  type Node,
  type NodeOf,
  type VecCompare,
} from './codegen-nodes.ts';
import { memoryForm } from './codegen-vector.ts';

/** How far apart two nodes that become one may be: the operands of the first stay live until the second. */
const reach = 8;

const compares: { readonly [F in VecCompare]: true } = {
  flt: true,
  fle: true,
  feq: true,
  fne: true,
  ilt: true,
  ile: true,
  ieq: true,
  ult: true,
  ule: true,
};
const isCompare = (fn: string): fn is VecCompare => fn in compares;

/** How often each register is read, and written, by key. */
function counts({ nodes, nextId }: Code): { reads: Int32Array; writes: Int32Array } {
  const reads = new Int32Array(2 * nextId);
  const writes = new Int32Array(2 * nextId);
  for (const node of nodes) {
    eachUse(node, (register) => reads[keyOf(register)]++);
    eachDef(node, (register) => writes[keyOf(register)]++);
  }
  return { reads, writes };
}

const isBoundary = ({ o }: Node): boolean =>
  o === 'loopBegin' || o === 'loopEnd' || o === 'ifBegin' || o === 'ifElse' || o === 'ifEnd';
const writers: ReadonlySet<Node['o']> = new Set([
  'vstore',
  'vstorepart',
  'vstorefirst',
  'istore',
  'vtranspose',
  'mstore',
] satisfies Node['o'][]);
const writesMemory = ({ o }: Node): boolean => writers.has(o);

/**
 * The position of the node that reads what node n writes, if it can take over n's work: it is near, on the same
 * straight stretch, and nothing that n reads is written in between.
 */
function reader(nodes: readonly Node[], n: number, throughStores: boolean): number {
  const [result] = keysOf(nodes[n], eachDef);
  const sources = keysOf(nodes[n], eachUse);
  for (let m = n + 1; m < nodes.length && m <= n + reach; m++) {
    const node = nodes[m];
    if (isBoundary(node)) return -1;
    if (keysOf(node, eachUse).includes(result)) return m;
    if (!throughStores && writesMemory(node)) return -1;
    if (keysOf(node, eachDef).some((key) => sources.includes(key))) return -1;
  }
  return -1;
}

function keysOf(node: Node, each: typeof eachUse): number[] {
  const keys: number[] = [];
  each(node, (register) => keys.push(keyOf(register)));
  return keys;
}

/** Replaces pairs of nodes n < m by one at m. */
function combine(
  code: Code,
  applies: (node: Node) => boolean,
  throughStores: boolean,
  join: (first: Node, second: Node) => Node | undefined,
): void {
  const { nodes, depths } = code;
  const { reads, writes } = counts(code);
  const gone = new Set<number>();
  for (let n = 0; n < nodes.length; n++) {
    if (!applies(nodes[n])) continue;
    const [result] = keysOf(nodes[n], eachDef);
    if (reads[result] !== 1 || writes[result] !== 1) continue;
    const m = reader(nodes, n, throughStores);
    const joined = m >= 0 ? join(nodes[n], nodes[m]) : undefined;
    if (!joined) continue;
    nodes[m] = joined;
    gone.add(n);
  }
  if (gone.size === 0) return;
  let kept = 0;
  for (let n = 0; n < nodes.length; n++) {
    if (gone.has(n)) continue;
    nodes[kept] = nodes[n];
    depths[kept++] = depths[n];
  }
  nodes.length = kept;
  depths.length = kept;
}

/** AVX-512: a comparison whose only reader is a selection by it needs no vector of all-ones lanes. */
export function fuseCompares(code: Code): void {
  combine(
    code,
    (node) => node.o === 'vbin' && isCompare(node.fn),
    true,
    (first, second) => {
      const { fn, a: x, b: y, dst } = first as NodeOf<'vbin'>;
      if (second.o !== 'vselect' || !isCompare(fn) || keyOf(second.mask) !== keyOf(dst)) return undefined;
      return { o: 'vcmpselect', fn, dst: second.dst, x, y, a: second.a, b: second.b };
    },
  );
}

/** The positions of loops that have no loop in them, as pairs of beginning and end. */
function innermostLoops(nodes: readonly Node[]): [begin: number, end: number][] {
  const loops: [number, number][] = [];
  let begin = -1;
  nodes.forEach(({ o }, n) => {
    if (o === 'loopBegin') begin = n;
    else if (o === 'loopEnd') {
      if (begin >= 0) loops.push([begin, n]);
      begin = -1;
    }
  });
  return loops;
}

/**
 * Moves vector constants before the innermost loops that they are in, equal ones into one register. Where registers
 * are short, they are what is spilled first, which puts them back where they are used.
 */
export function hoistConstants({ nodes, depths, nextId }: Code): void {
  const { writes } = counts({ nodes, depths, nextId });
  const hoisted = new Map<number, Node[]>();
  const renamed = new Map<number, Reg>();
  const gone = new Set<number>();
  for (const [begin, end] of innermostLoops(nodes)) {
    const known = new Map<number | string, NodeOf<'vconst' | 'viota'>>();
    for (let n = begin + 1; n < end; n++) {
      const node = nodes[n];
      if ((node.o !== 'vconst' && node.o !== 'viota') || writes[keyOf(node.dst)] !== 1) continue;
      const value = node.o === 'vconst' ? node.bits | 0 : node.o;
      const equal = known.get(value);
      if (equal) renamed.set(keyOf(node.dst), equal.dst);
      else known.set(value, node);
      gone.add(n);
    }
    if (known.size > 0) hoisted.set(begin, [...known.values()]);
  }
  if (gone.size === 0) return;
  const rename = <R extends Reg>(register: R): R =>
    (renamed.get(keyOf(register)) as R | undefined) ?? register;
  const before = nodes.splice(0);
  const depthsBefore = depths.splice(0);
  before.forEach((node, n) => {
    for (const constant of hoisted.get(n) ?? []) {
      nodes.push(constant);
      depths.push(depthsBefore[n]);
    }
    if (gone.has(n)) return;
    nodes.push(renamed.size > 0 ? mapRegisters(node, rename) : node);
    depths.push(depthsBefore[n]);
  });
}

const commutative: ReadonlySet<string> = new Set([
  'fadd',
  'fmul',
  'iadd',
  'imul',
  'imin',
  'imax',
  'umin',
  'umax',
  'and',
  'or',
  'xor',
  'ieq',
]);

/** Loads of 32-bit lanes that one instruction reads become its memory operand; on AVX-512 broadcasts too. */
export function foldMemory(code: Code, isa: Isa): void {
  const isWord = (type: string): boolean => type === 'f32' || type === 'i32' || type === 'u32';
  combine(
    code,
    (node) =>
      (node.o === 'vload' && isWord(node.type)) ||
      (isa === 'avx512' && node.o === 'vbroadcast' && isWord(node.type)),
    false,
    (first, second) => {
      const { dst, from, o } = first as NodeOf<'vload' | 'vbroadcast'>;
      return takeMemory(isa, second, dst, from, o === 'vbroadcast');
    },
  );
}

function takeMemory(
  isa: Isa,
  node: Node,
  loaded: VecReg,
  from: Address,
  repeated: boolean,
): Node | undefined {
  const is = (register: VecReg): boolean => keyOf(register) === keyOf(loaded);
  if (node.o === 'vbin' && memoryForm(isa, node.fn)) {
    const { fn, dst, a, b } = node;
    if (is(b)) return { o: 'vbinload', fn, dst, a, from, repeated };
    if (is(a) && commutative.has(fn)) return { o: 'vbinload', fn, dst, a: b, from, repeated };
  }
  if (node.o === 'vfma') {
    const { dst, a, b, c } = node;
    if (is(c)) return undefined;
    if (is(b)) return { o: 'vfmaload', dst, a, c, from, repeated };
    if (is(a)) return { o: 'vfmaload', dst, a: b, c, from, repeated };
  }
  return undefined;
}
