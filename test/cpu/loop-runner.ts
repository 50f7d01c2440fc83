/** Runs generated functions in this process, and the same functions in the interpreter, on equal memory. */

import { Assembler } from '../../src/accelerators/cpu/assembler.ts';
import { generate, type Isa } from '../../src/accelerators/cpu/codegen.ts';
import type { Extensions } from '../../src/accelerators/cpu/codegen-vector.ts';
import { type CpuFeature, processor } from '../../src/accelerators/cpu/cpuid.ts';
import { CodeBlock, Mapping } from '../../src/accelerators/cpu/memory.ts';
import { loadNative, type Native } from '../../src/accelerators/cpu/native.ts';
import { mem } from '../../src/accelerators/cpu/operands.ts';
import * as x86 from '../../src/accelerators/cpu/registers.ts';
import type { Instr, IntReg, LoopFunction, VecReg } from '../../src/accelerators/loops/ir.ts';
import { interpret } from '../accelerators/loop-interpreter.ts';

const available = process.platform === 'linux' && process.arch === 'x64' ? await loadNative() : undefined;
const native = available as Native;

export const lanesOf: { readonly [I in Isa]: number } = { avx512: 16, avx2: 8 };
const required: { readonly [I in Isa]: readonly CpuFeature[] } = {
  avx512: ['avx512f', 'avx512bw', 'avx512dq', 'avx512vl'],
  avx2: ['avx2', 'fma', 'f16c'],
};
export const isas: readonly Isa[] = ['avx512', 'avx2'];
/** The vector extensions that this machine has. */
export const runnable = isas.filter(
  (isa) => available && required[isa].every((feature) => processor(available).features.has(feature)),
);

const preserved = [x86.rbx, x86.rbp, x86.r12, x86.r13, x86.r14, x86.r15];
/** The extensions that AVX-512 code may use on this machine. */
const has = (feature: CpuFeature) => available !== undefined && processor(available).features.has(feature);
export const extensions: Extensions = { vnni: has('avx512vnni'), bf16: has('avx512bf16') };

export const hasMatrixRegisters = has('amx');

const sentinel = 0x1234567;

/**
 * int call(block): calls block[0](block[1], …, block[4]) and returns how many of the registers that a function must
 * preserve came back changed.
 */
function trampoline(): Uint8Array {
  const asm = new Assembler();
  for (const register of preserved) asm.emit('push', register);
  asm.emit('sub', x86.rsp, 8);
  asm.emit('mov', x86.rax, mem(x86.rdi, 0));
  asm.emit('mov', x86.rsi, mem(x86.rdi, 16));
  asm.emit('mov', x86.rdx, mem(x86.rdi, 24));
  asm.emit('mov', x86.rcx, mem(x86.rdi, 32));
  asm.emit('mov', x86.rdi, mem(x86.rdi, 8));
  preserved.forEach((register, i) => {
    asm.emit('mov', register, sentinel + i);
  });
  asm.emit('call', x86.rax);
  asm.emit('xor', x86.eax, x86.eax);
  preserved.forEach((register, i) => {
    const same = asm.label();
    asm.emit('cmp', register, sentinel + i);
    asm.emit('je', same);
    asm.emit('add', x86.eax, 1);
    asm.bind(same);
  });
  asm.emit('add', x86.rsp, 8);
  for (const register of preserved.toReversed()) asm.emit('pop', register);
  asm.emit('ret');
  return asm.finish().bytes;
}

/** A function in executable memory. */
export class Loaded {
  readonly #block: CodeBlock;

  constructor(code: Uint8Array) {
    this.#block = new CodeBlock(native, [trampoline(), code]);
  }

  /** Calls it. `views` and `scratch` are addresses. Throws when it does not restore the registers of its caller. */
  call(views: readonly bigint[], scratch: bigint, from: number, to: number): void {
    const [call, entry] = this.#block.addresses;
    const table = new Mapping(native, 8 * (views.length + 5));
    const words = new BigInt64Array(table.view().buffer);
    words.set([entry, table.address + 40n, scratch, BigInt(from), BigInt(to), ...views]);
    const changed = native.routine(call)(table.address);
    table.free();
    if (changed !== 0) throw new Error(`${changed} registers of the caller were not restored`);
  }

  free(): void {
    this.#block.free();
  }
}

/** Bytes of memory that each view and the scratch memory get; views follow each other, each before a page of none. */
export const viewBytes = 4096;

/** Memory in which the last byte of each view is the last before a page that may not be touched. */
export class GuardedViews {
  readonly mapping: Mapping;
  readonly addresses: readonly bigint[];
  readonly views: readonly DataView[];

  constructor(count: number, bytes = viewBytes) {
    this.mapping = new Mapping(native, count * (bytes + 4096));
    const start = (index: number): number => index * (bytes + 4096);
    const all = this.mapping.view().buffer;
    this.views = Array.from({ length: count }, (_, i) => new DataView(all, start(i), bytes));
    this.addresses = Array.from({ length: count }, (_, i) => this.mapping.address + BigInt(start(i)));
    for (const address of this.addresses) {
      if (native.mprotect(address + BigInt(bytes), 4096, 0) !== 0) throw new Error(native.lastError());
    }
  }

  free(): void {
    this.mapping.free();
  }
}

/** Names registers as they come. */
export class Names {
  #next = 0;
  i(): IntReg {
    return { id: this.#next++, class: 'i' };
  }
  v(): VecReg {
    return { id: this.#next++, class: 'v' };
  }
}

export function loopFunction(isa: Isa, views: number, body: readonly Instr[]): LoopFunction {
  return { name: 'test', views, lanes: lanesOf[isa], scratchBytes: viewBytes, programs: 1, body };
}

export interface Outcome {
  /** What each view held afterwards. */
  readonly machine: readonly DataView<ArrayBuffer>[];
  readonly interpreter: readonly DataView<ArrayBuffer>[];
  readonly spillWeight: number;
}

/**
 * Executes a function as machine code and in the interpreter on views with the same contents. The last view but
 * those given is scratch memory. `used`: what AVX-512 code may use.
 */
export function runBoth(
  isa: Isa,
  fn: LoopFunction,
  contents: readonly Uint8Array[],
  [from, to]: readonly [number, number] = [0, 1],
  used: Partial<Extensions> = extensions,
): Outcome {
  const { code, spillWeight } = generate(fn, isa, used);
  const count = fn.views + 1;
  const guarded = new GuardedViews(count);
  contents.forEach((bytes, i) => {
    new Uint8Array(guarded.views[i].buffer, guarded.views[i].byteOffset, viewBytes).set(bytes);
  });
  const memory = new DataView(new ArrayBuffer(count * viewBytes));
  contents.forEach((bytes, i) => {
    new Uint8Array(memory.buffer).set(bytes, i * viewBytes);
  });
  const loaded = new Loaded(code);
  loaded.call(guarded.addresses.slice(0, fn.views), guarded.addresses[fn.views], from, to);
  loaded.free();
  interpret(fn, {
    memory,
    views: Array.from({ length: fn.views }, (_, i) => i * viewBytes),
    scratch: fn.views * viewBytes,
    from,
    to,
    fma: true,
    integerBits: 64,
  });
  const machine = guarded.views.map(
    (view) => new DataView(view.buffer.slice(view.byteOffset, view.byteOffset + viewBytes) as ArrayBuffer),
  );
  guarded.free();
  const interpreter = guarded.views.map(
    (_, i) => new DataView(memory.buffer.slice(i * viewBytes, (i + 1) * viewBytes)),
  );
  return { machine, interpreter, spillWeight };
}
