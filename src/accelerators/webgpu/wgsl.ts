/** WGSL text of thread programs. Every buffer is an array of u32: views of several types may lie in one. */
import type { DType } from '../../numerics/dtype.ts';
import { DTYPES } from '../../numerics/dtype.ts';
import { withCallees } from '../threads/functions.ts';
import type { Expr, OpFn, Scalar, Stmt, ThreadArray, ThreadFunction, ThreadProgram } from '../threads/ir.ts';

/** Binding 0: where views begin. Then the buffers, then scratch memory. */
export const FIRST_BUFFER = 1;
/** Workgroups along one dimension that every device accepts. */
const MOST_GROUPS = 65535;
/** Workgroups that run at once where each needs scratch memory. */
const GROUPS_WITH_SCRATCH = 64;

export interface Shader {
  readonly name: string;
  readonly text: string;
  /** Workgroups to dispatch. */
  readonly groups: readonly [number, number, number];
  /** By buffer: how its binding is declared. */
  readonly access: readonly ('read-only-storage' | 'storage')[];
  readonly scratchBytes: number;
  readonly barriers: number;
}

const INFIX: { readonly [F in OpFn]?: string } = {
  add: '+',
  sub: '-',
  mul: '*',
  div: '/',
  rem: '%',
  and: '&',
  or: '|',
  xor: '^',
  shl: '<<',
  shr: '>>',
  lt: '<',
  le: '<=',
  gt: '>',
  ge: '>=',
  eq: '==',
  ne: '!=',
};

const bitsOfFloat = (value: number) => new Uint32Array(Float32Array.of(value).buffer)[0];

function constantText(type: Scalar, value: number): string {
  if (type === 'bool') return value === 0 ? 'false' : 'true';
  if (type === 'u32') return `${value >>> 0}u`;
  // The literal -2147483648i is the negation of one that is out of range.
  if (type === 'i32')
    return value === -(2 ** 31) ? 'i32(-2147483647 - 1)' : value < 0 ? `(${value}i)` : `${value}i`;
  const isNormal = Number.isFinite(value) && (Math.abs(value) >= 2 ** -126 || Object.is(value, 0));
  // What a constant expression may not yield comes out of a function.
  if (!isNormal) return `float_of(${bitsOfFloat(value)}u)`;
  return value < 0 ? `(${value}f)` : `${value}f`;
}

interface Names {
  /** Buffer of each view. */
  readonly buffer: readonly number[];
  readonly dtypes: readonly DType[];
}

class Printer {
  readonly #names: Names;
  #lines: string[] = [];
  #indent = '  ';

  constructor(names: Names) {
    this.#names = names;
  }

  block(statements: readonly Stmt[]): string[] {
    this.#lines = [];
    for (const statement of statements) this.#statement(statement);
    return this.#lines;
  }

  expr(x: Expr): string {
    switch (x.e) {
      case 'constant':
        return constantText(x.type, x.value);
      case 'variable':
        return `v${x.id}`;
      case 'thread':
        return 'tid';
      case 'program':
        return `program${x.axis}`;
      case 'call':
        return `${x.name}(${x.args.map((arg) => this.expr(arg)).join(', ')})`;
      case 'op':
        return this.#op(x);
      case 'read':
        return this.#read(x.array, this.expr(x.index));
      case 'load':
        return this.#load(x.view, this.expr(x.address));
    }
  }

  #op({ fn, type, args }: Expr & { e: 'op' }): string {
    const [a, b, c] = args.map((arg) => this.expr(arg));
    if (fn === 'xor' && type === 'bool') return `(${a} != ${b})`;
    if (INFIX[fn] !== undefined) return `(${a} ${INFIX[fn]} ${b})`;
    switch (fn) {
      case 'neg':
        return `(-${a})`;
      case 'not':
        return type === 'bool' ? `(!${a})` : `(~${a})`;
      case 'convert':
        return `${type}(${a})`;
      case 'bits':
        return type === args[0].type ? a : `bitcast<${type}>(${a})`;
      case 'select':
        return `select(${c}, ${b}, ${a})`;
      default:
        return `${fn}(${[a, b, c].slice(0, args.length).join(', ')})`;
    }
  }

  #place({ space, id, offset }: ThreadArray, index: string): string {
    if (space === 'private') return `own${id}[${index}]`;
    const at = offset === 0 ? `u32(${index})` : `u32(${index}) + ${offset}u`;
    return space === 'shared' ? `shared_words[${at}]` : `scratch_words[scratch_base + ${at}]`;
  }
  #read(array: ThreadArray, index: string): string {
    const word = this.#place(array, index);
    if (array.space === 'private' || array.type === 'u32') return word;
    return array.type === 'bool' ? `(${word} != 0u)` : `bitcast<${array.type}>(${word})`;
  }

  #load(view: number, address: string): string {
    const dtype = this.#names.dtypes[view];
    const at = `load${DTYPES[dtype].bits}_${this.#names.buffer[view]}(base${view} + u32(${address}))`;
    switch (dtype) {
      case 'u32':
        return at;
      case 'f32':
      case 'i32':
        return `bitcast<${dtype}>(${at})`;
      case 'bool':
        return `(${at} != 0u)`;
      case 'i8':
        return `(bitcast<i32>(${at} << 24u) >> 24u)`;
      default:
        return `from_${dtype}_bits(${at})`;
    }
  }
  #store(view: number, address: string, value: Expr): string {
    const dtype = this.#names.dtypes[view];
    const text = this.expr(value);
    const bits =
      dtype === 'bf16' || dtype === 'f16'
        ? `${dtype}_bits(${text})`
        : value.type === 'u32'
          ? text
          : value.type === 'bool'
            ? `u32(${text})`
            : `bitcast<u32>(${text})`;
    return `store${DTYPES[dtype].bits}_${this.#names.buffer[view]}(base${view} + u32(${address}), ${bits});`;
  }

  #line(text: string): void {
    this.#lines.push(this.#indent + text);
  }
  #inner(statements: readonly Stmt[]): void {
    const outer = this.#indent;
    this.#indent += '  ';
    for (const statement of statements) this.#statement(statement);
    this.#indent = outer;
    this.#line('}');
  }

  #statement(s: Stmt): void {
    switch (s.s) {
      case 'let':
        this.#line(`let v${s.id} = ${this.expr(s.value)};`);
        return;
      case 'declare':
        this.#line(`var v${s.id} = ${this.expr(s.value)};`);
        return;
      case 'assign':
        this.#line(`v${s.id} = ${this.expr(s.value)};`);
        return;
      case 'write': {
        const { array } = s;
        const place = this.#place(array, this.expr(s.index));
        const value = this.expr(s.value);
        const isPlain = array.space === 'private' || array.type === 'u32';
        const word = array.type === 'bool' ? `u32(${value})` : `bitcast<u32>(${value})`;
        this.#line(`${place} = ${isPlain ? value : word};`);
        return;
      }
      case 'store':
        this.#line(this.#store(s.view, this.expr(s.address), s.value));
        return;
      case 'atomicAdd': {
        const add = `add_${this.#names.dtypes[s.view]}_${this.#names.buffer[s.view]}`;
        this.#line(`${add}(base${s.view} + u32(${this.expr(s.address)}), ${this.expr(s.value)});`);
        return;
      }
      case 'if':
        this.#line(`if (${this.expr(s.condition)}) {`);
        this.#inner(s.then);
        return;
      case 'for': {
        const name = `v${s.id}`;
        const hi = this.expr(s.hi);
        this.#line(`for (var ${name} = ${this.expr(s.lo)}; ${name} < ${hi}; ${name} += ${s.step}i) {`);
        this.#inner(s.body);
        return;
      }
      case 'barrier':
        this.#line('workgroupBarrier();');
        if (s.memory) this.#line('storageBarrier();');
        return;
      case 'uniform':
        this.#line(`if (tid == 0i) { agreed = ${this.expr(s.value)}; }`);
        this.#line(`let v${s.id} = workgroupUniformLoad(&agreed);`);
        return;
      case 'return':
        this.#line(`return ${this.expr(s.value)};`);
        return;
    }
  }
}

const contains = (statements: readonly Stmt[], test: (s: Stmt) => boolean): boolean =>
  statements.some(
    (s) => test(s) || (s.s === 'if' && contains(s.then, test)) || (s.s === 'for' && contains(s.body, test)),
  );

function functionText({ name, parameters, result, body }: ThreadFunction): string {
  const list = parameters.map(({ id, type }) => `v${id}: ${type}`).join(', ');
  const lines = new Printer({ buffer: [], dtypes: [] }).block(body);
  return `fn ${name}(${list}) -> ${result} {\n${lines.join('\n')}\n}`;
}

/** How elements of `bits` bits are loaded from and stored to a buffer of words. */
function accessors(buffer: number, bits: number, isAtomic: boolean, isWritten: boolean): string[] {
  const name = `buffer${buffer}`;
  const word = (at: string) => (isAtomic ? `atomicLoad(&${name}[${at}])` : `${name}[${at}]`);
  if (bits === 32) {
    const put = isAtomic ? `atomicStore(&${name}[i], x);` : `${name}[i] = x;`;
    return [
      `fn load32_${buffer}(i: u32) -> u32 { return ${word('i')}; }`,
      ...(isWritten ? [`fn store32_${buffer}(i: u32, x: u32) { ${put} }`] : []),
    ];
  }
  const shift = Math.log2(32 / bits);
  const mask = `${2 ** bits - 1}u`;
  const lines = [
    `fn load${bits}_${buffer}(i: u32) -> u32 { return (${word(`i >> ${shift}u`)} >> ((i & ${32 / bits - 1}u) * ${bits}u)) & ${mask}; }`,
  ];
  if (isWritten)
    // Neighbours in the word belong to other threads: only the bits that change are changed.
    lines.push(
      `fn store${bits}_${buffer}(i: u32, x: u32) {`,
      `  let w = i >> ${shift}u;`,
      `  let s = (i & ${32 / bits - 1}u) * ${bits}u;`,
      `  let change = ((atomicLoad(&${name}[w]) >> s) ^ x) & ${mask};`,
      `  if (change != 0u) { atomicXor(&${name}[w], change << s); }`,
      '}',
    );
  return lines;
}

function adders(buffer: number): string[] {
  const name = `buffer${buffer}`;
  return [
    `fn add_u32_${buffer}(i: u32, x: u32) { atomicAdd(&${name}[i], x); }`,
    `fn add_i32_${buffer}(i: u32, x: i32) { atomicAdd(&${name}[i], bitcast<u32>(x)); }`,
    `fn add_f32_${buffer}(i: u32, x: f32) {`,
    `  var old = atomicLoad(&${name}[i]);`,
    '  loop {',
    `    let tried = atomicCompareExchangeWeak(&${name}[i], old, bitcast<u32>(bitcast<f32>(old) + x));`,
    '    if (tried.exchanged) { break; }',
    '    old = tried.old_value;',
    '  }',
    '}',
  ];
}

/** The shader of a program whose view i lies in the buffer `buffers[i]`, counted from 0. */
export function shaderOf(program: ThreadProgram, buffers: readonly number[]): Shader {
  const { views, grid, threads, scratchWords, sharedWords } = program;
  const count = Math.max(0, ...buffers.map((buffer) => buffer + 1));
  const of = (buffer: number) =>
    views.map((view, id) => ({ ...view, id })).filter(({ id }) => buffers[id] === buffer);
  const adds = (view: number) => contains(program.body, (s) => s.s === 'atomicAdd' && s.view === view);
  const access: Shader['access'][number][] = [];
  const memory: string[] = [];
  for (let buffer = 0; buffer < count; buffer++) {
    const inside = of(buffer);
    const isWritten = inside.some(({ written }) => written);
    const hasAdds = inside.some(({ id }) => adds(id));
    const isAtomic = hasAdds || inside.some(({ written, dtype }) => written && DTYPES[dtype].bits < 32);
    access.push(isWritten ? 'storage' : 'read-only-storage');
    const mode = isWritten ? 'read_write' : 'read';
    const element = isAtomic ? 'atomic<u32>' : 'u32';
    memory.push(
      `@group(0) @binding(${FIRST_BUFFER + buffer}) var<storage, ${mode}> buffer${buffer}: array<${element}>;`,
    );
    for (const bits of new Set(inside.map(({ dtype }) => DTYPES[dtype].bits)))
      memory.push(
        ...accessors(
          buffer,
          bits,
          isAtomic,
          inside.some(({ written, dtype }) => written && DTYPES[dtype].bits === bits),
        ),
      );
    if (hasAdds) memory.push(...adders(buffer));
  }

  const total = grid.reduce((product, size) => product * size, 1);
  const counted = scratchWords > 0 || grid.some((size) => size > MOST_GROUPS);
  const groups = Math.min(total, scratchWords > 0 ? GROUPS_WITH_SCRATCH : MOST_GROUPS);
  const [x, y = 1, z = 1] = grid;
  const printer = new Printer({ buffer: buffers, dtypes: views.map(({ dtype }) => dtype) });
  const conversions = views.flatMap(({ dtype }) =>
    dtype === 'bf16' || dtype === 'f16' ? [`from_${dtype}_bits`, `${dtype}_bits`] : [],
  );
  const functions = withCallees([...program.functions.map(({ name }) => name), ...conversions]);
  const body = printer.block(program.body);
  const usesBarriers = contains(program.body, (s) => s.s === 'barrier' || s.s === 'uniform');
  const text = [
    `// ${program.name}`,
    `@group(0) @binding(0) var<uniform> bases: array<vec4<u32>, ${Math.max(1, Math.ceil(views.length / 4))}>;`,
    ...memory,
    ...(scratchWords > 0
      ? [`@group(0) @binding(${FIRST_BUFFER + count}) var<storage, read_write> scratch_words: array<u32>;`]
      : []),
    ...(sharedWords > 0 ? [`var<workgroup> shared_words: array<u32, ${sharedWords}>;`] : []),
    ...(contains(program.body, (s) => s.s === 'uniform') ? ['var<workgroup> agreed: i32;'] : []),
    'fn float_of(bits: u32) -> f32 { return bitcast<f32>(bits); }',
    ...functions.map(functionText),
    `@compute @workgroup_size(${threads})`,
    'fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {',
    '  let tid = i32(local);',
    ...views.map((_, view) => `  let base${view} = bases[${view >> 2}][${view & 3}];`),
    ...program.privates.map(({ id, type, size }) => `  var own${id}: array<${type}, ${size}>;`),
    ...(scratchWords > 0 ? [`  let scratch_base = group.x * ${scratchWords}u;`] : []),
    ...(counted
      ? [
          `  for (var number = group.x; number < ${total}u; number += ${groups}u) {`,
          `  let program0 = i32(number % ${x}u);`,
          `  let program1 = i32((number / ${x}u) % ${y}u);`,
          `  let program2 = i32(number / ${x * y}u);`,
        ]
      : ['xyz'].flatMap((axes) => [...axes].map((axis, i) => `  let program${i} = i32(group.${axis});`))),
    ...(scratchWords > 0
      ? body.map((line) => line.replace('workgroupBarrier();', 'workgroupBarrier(); storageBarrier();'))
      : body),
    ...(counted ? [...(usesBarriers ? ['  workgroupBarrier(); storageBarrier();'] : []), '  }'] : []),
    '}',
    '',
  ].join('\n');
  return {
    name: program.name,
    text,
    groups: counted ? [groups, 1, 1] : [x, y, z],
    access,
    scratchBytes: 4 * scratchWords * groups,
    barriers: program.barriers,
  };
}
