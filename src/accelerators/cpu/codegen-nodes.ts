/** The loop IR as a flat list of nodes with markers for loops and branches: what is allocated, folded and emitted. */

import type {
  Address,
  Instr,
  IntOperand,
  IntReg,
  LoopFunction,
  Reg,
  VecBinary,
  VecReg,
} from '../loops/ir.ts';

/** Comparisons of two vectors, which give all-ones or all-zeros lanes. */
export type VecCompare = Extract<
  VecBinary,
  'flt' | 'fle' | 'feq' | 'fne' | 'ilt' | 'ile' | 'ieq' | 'ult' | 'ule'
>;

export type Comparison = Extract<Instr, { o: 'if' }>['cmp'];

export type Node =
  | Exclude<Instr, { o: 'for' | 'if' | 'parameter' | 'viewBase' }>
  /** The function's beginning: defines its four parameters. */
  | {
      readonly o: 'entry';
      readonly views: IntReg;
      readonly scratch: IntReg;
      readonly from: IntReg;
      readonly to: IntReg;
    }
  /** dst = the pointer number `index` behind `views`. */
  | { readonly o: 'pointer'; readonly dst: IntReg; readonly views: IntReg; readonly index: number }
  /** Skips the loop where index >= hi, unless it is `certain` that the loop runs at least once. */
  | { readonly o: 'loopBegin'; readonly index: IntReg; readonly hi: IntOperand; readonly certain: boolean }
  /** Back to the loop's beginning while index < hi; the step was added before. */
  | { readonly o: 'loopEnd'; readonly index: IntReg; readonly hi: IntOperand }
  | { readonly o: 'ifBegin'; readonly a: IntReg; readonly cmp: Comparison; readonly b: IntOperand }
  /** `empty`: there is nothing between this and the end. */
  | { readonly o: 'ifElse'; readonly empty: boolean }
  | { readonly o: 'ifEnd' }
  /** A spilled register's value from and to its place in the stack frame. */
  | { readonly o: 'reload'; readonly dst: Reg; readonly slot: number }
  | { readonly o: 'spill'; readonly src: Reg; readonly slot: number }
  /** dst = x fn y ? a : b */
  | {
      readonly o: 'vcmpselect';
      readonly fn: VecCompare;
      readonly dst: VecReg;
      readonly x: VecReg;
      readonly y: VecReg;
      readonly a: VecReg;
      readonly b: VecReg;
    }
  /** dst = a fn memory; `repeated`: one element broadcast to all lanes. */
  | {
      readonly o: 'vbinload';
      readonly fn: VecBinary;
      readonly dst: VecReg;
      readonly a: VecReg;
      readonly from: Address;
      readonly repeated: boolean;
    }
  /** dst = a * memory + c */
  | {
      readonly o: 'vfmaload';
      readonly dst: VecReg;
      readonly a: VecReg;
      readonly c: VecReg;
      readonly from: Address;
      readonly repeated: boolean;
    };

export type NodeOf<O extends Node['o']> = Extract<Node, { readonly o: O }>;

/** Which fields of a node name registers: read (registers, operands, addresses) and written. */
interface RegisterFields {
  readonly uses: readonly string[];
  readonly defs: readonly string[];
  /** Has no effect but on its destination: may be dropped where that is not read. */
  readonly pure: boolean;
}

const pure = (...uses: string[]): RegisterFields => ({ uses, defs: ['dst'], pure: true });
const effect = (...uses: string[]): RegisterFields => ({ uses, defs: [], pure: false });

export const registerFields: { readonly [O in Node['o']]: RegisterFields } = {
  entry: { uses: [], defs: ['views', 'scratch', 'from', 'to'], pure: false },
  pointer: pure('views'),
  loopBegin: effect('index', 'hi'),
  loopEnd: effect('index', 'hi'),
  ifBegin: effect('a', 'b'),
  ifElse: effect(),
  ifEnd: effect(),
  reload: pure(),
  spill: effect('src'),
  iconst: pure(),
  imove: pure('a'),
  ibin: pure('a', 'b'),
  iselect: pure('c', 'a', 'b'),
  iwrap: pure('a'),
  iload: pure('from'),
  istore: effect('src', 'to'),
  vconst: pure(),
  vmove: pure('a'),
  vsplat: pure('a'),
  vfirst: pure('a'),
  viota: pure(),
  vload: pure('from'),
  vloadpart: pure('from', 'count'),
  vbroadcast: pure('from'),
  vstore: effect('src', 'to'),
  vstorepart: effect('src', 'to', 'count'),
  vstorefirst: effect('src', 'to'),
  vbin: pure('a', 'b'),
  vshift: pure('a'),
  vun: pure('a'),
  vfma: pure('a', 'b', 'c'),
  vdot2: pure('a', 'b', 'c'),
  vdot4: pure('a', 'b', 'c'),
  vscale: pure('a', 'n'),
  vselect: pure('mask', 'a', 'b'),
  vhorizontal: pure('a'),
  vtranspose: effect('from', 'to'),
  prefetch: effect('from'),
  mshape: effect(),
  mzero: effect(),
  mload: effect('from', 'stride'),
  mstore: effect('to', 'stride'),
  mdot: effect(),
  vcmpselect: pure('x', 'y', 'a', 'b'),
  vbinload: pure('a', 'from'),
  vfmaload: pure('a', 'c', 'from'),
};

/** A number that is unique over both classes of registers. */
export const keyOf = (register: Reg): number => 2 * register.id + (register.class === 'v' ? 1 : 0);
export const isVectorKey = (key: number): boolean => (key & 1) === 1;

type Field = Reg | Address | number;

function eachRegister(node: Node, names: readonly string[], visit: (register: Reg) => void): void {
  const fields = node as unknown as Readonly<Record<string, Field>>;
  for (const name of names) {
    const field = fields[name];
    if (typeof field === 'number') continue;
    if ('class' in field) visit(field);
    else {
      visit(field.base);
      if (field.index) visit(field.index);
    }
  }
}

export const eachUse = (node: Node, visit: (register: Reg) => void): void =>
  eachRegister(node, registerFields[node.o].uses, visit);
export const eachDef = (node: Node, visit: (register: Reg) => void): void =>
  eachRegister(node, registerFields[node.o].defs, visit);

/** The keys of what each node reads and writes. */
export interface Operands {
  readonly uses: readonly (readonly number[])[];
  readonly defs: readonly (readonly number[])[];
}

export function operandsOf(nodes: readonly Node[]): Operands {
  const keys = (each: typeof eachUse) => (node: Node) => {
    const list: number[] = [];
    each(node, (register) => list.push(keyOf(register)));
    return list;
  };
  return { uses: nodes.map(keys(eachUse)), defs: nodes.map(keys(eachDef)) };
}

/** The node with each register that it reads or writes replaced. */
export function mapRegisters<N extends Node>(node: N, replace: <R extends Reg>(register: R) => R): N {
  const { uses, defs } = registerFields[node.o];
  const fields = node as unknown as Readonly<Record<string, Field>>;
  const changed: Record<string, Field> = {};
  for (const name of [...uses, ...defs]) {
    const field = fields[name];
    if (typeof field === 'number') continue;
    if ('class' in field) changed[name] = replace(field);
    else {
      changed[name] = { ...field, base: replace(field.base), index: field.index && replace(field.index) };
    }
  }
  return { ...node, ...changed };
}

/** Nodes in the order of execution, each with the number of loops around it. */
export interface Code {
  readonly nodes: Node[];
  readonly depths: number[];
  /** Ids of registers from here on are free. */
  nextId: number;
}

const fits32 = (value: number): boolean => value >= -(2 ** 31) && value < 2 ** 31;

/** Flattens the structured body, and moves immediates that no instruction can hold into registers. */
export function flatten(fn: LoopFunction): Code {
  const code: Code = { nodes: [], depths: [], nextId: maxId(fn.body) + 1 };
  const fresh = (): IntReg => ({ id: code.nextId++, class: 'i' });
  const entry = { o: 'entry', views: fresh(), scratch: fresh(), from: fresh(), to: fresh() } as const;
  let depth = 0;
  const push = (node: Node): void => {
    code.nodes.push(node);
    code.depths.push(depth);
  };
  const operand = (value: IntOperand): IntOperand => {
    if (typeof value !== 'number' || fits32(value)) return value;
    const dst = fresh();
    push({ o: 'iconst', dst, value });
    return dst;
  };
  const walk = (body: readonly Instr[]): void => {
    for (const instr of body) {
      switch (instr.o) {
        case 'parameter':
          push({ o: 'imove', dst: instr.dst, a: entry[instr.which] });
          break;
        case 'viewBase':
          push({ o: 'pointer', dst: instr.dst, views: entry.views, index: instr.index });
          break;
        case 'for': {
          const { index, lo, step } = instr;
          const hi = operand(instr.hi);
          const certain = typeof lo === 'number' && typeof instr.hi === 'number' && lo < instr.hi;
          push(
            typeof lo === 'number'
              ? { o: 'iconst', dst: index, value: lo }
              : { o: 'imove', dst: index, a: lo },
          );
          push({ o: 'loopBegin', index, hi, certain });
          depth++;
          walk(instr.body);
          push({ o: 'ibin', fn: 'add', dst: index, a: index, b: operand(step) });
          push({ o: 'loopEnd', index, hi });
          depth--;
          break;
        }
        case 'if':
          push({ o: 'ifBegin', a: instr.a, cmp: instr.cmp, b: operand(instr.b) });
          walk(instr.then);
          push({ o: 'ifElse', empty: instr.else.length === 0 });
          walk(instr.else);
          push({ o: 'ifEnd' });
          break;
        case 'ibin':
          push({ ...instr, b: operand(instr.b) });
          break;
        default:
          push(instr);
      }
    }
  };
  push(entry);
  walk(fn.body);
  return code;
}

function maxId(body: readonly Instr[]): number {
  let largest = -1;
  const visit = (instr: Instr): void => {
    if ('dst' in instr) largest = Math.max(largest, instr.dst.id);
    if (instr.o === 'for') {
      largest = Math.max(largest, instr.index.id);
      instr.body.forEach(visit);
    } else if (instr.o === 'if') {
      instr.then.forEach(visit);
      instr.else.forEach(visit);
    }
  };
  body.forEach(visit);
  return largest;
}
