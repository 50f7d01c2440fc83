/** Loop IR into x86-64 machine code, for AVX2 with FMA or AVX-512, with the calling convention of System V. */

import type { LoopFunction } from '../loops/ir.ts';
import { Emitter, type Isa, type Rule, type Rules } from './codegen-emitter.ts';
import { foldMemory, fuseCompares, hoistConstants } from './codegen-fold.ts';
import { flowRules, integerRules } from './codegen-integer.ts';
import { configureOnce, matrixRules } from './codegen-matrix.ts';
import { memoryRules, unsupportedType } from './codegen-memory.ts';
import { type Code, flatten, isVectorKey, type Node, type NodeOf } from './codegen-nodes.ts';
import type { Extensions } from './codegen-vector.ts';
import { extensionRules, vectorRules } from './codegen-vector.ts';
import { mem } from './operands.ts';
import { type Allocation, allocate, type Needs } from './regalloc.ts';
import { rax, rbp, rbx, rcx, rdi, rdx, rsi, rsp } from './registers.ts';

export type { Isa } from './codegen-emitter.ts';

const calleeSaved: readonly number[] = [rbx.index, rbp.index, 12, 13, 14, 15];
/** All but rsp; those that need not be saved come first. */
const generalOrder: readonly number[] = [
  rax.index,
  rcx.index,
  rdx.index,
  rsi.index,
  rdi.index,
  8,
  9,
  10,
  11,
].concat(calleeSaved);
const parameters = { views: rdi.index, scratch: rsi.index, from: rdx.index, to: rcx.index };
const vectorRegisters: { readonly [I in Isa]: number } = { avx512: 32, avx2: 16 };
const lanesOf: { readonly [I in Isa]: number } = { avx512: 16, avx2: 8 };

/** Where spilled values and the caller's stack pointer lie, in bytes from rsp. */
interface Frame {
  readonly vectorBytes: number;
  readonly general: number;
  readonly stackPointer: number;
  /** 0: nothing is spilled, there is no frame. */
  readonly bytes: number;
}

function frameOf({ slots }: Allocation, lanes: number): Frame {
  const vectorBytes = 4 * lanes;
  const general = slots.vector * vectorBytes;
  const stackPointer = general + 8 * slots.general;
  return {
    vectorBytes,
    general,
    stackPointer,
    bytes: slots.vector + slots.general === 0 ? 0 : stackPointer + 8,
  };
}

/** A move to many places at once: no source is overwritten before it was read. Cycles are exchanged. */
function moveTogether(e: Emitter, moves: { from: number; to: number }[]): void {
  let pending = moves.filter(({ from, to }) => from !== to);
  while (pending.length > 0) {
    const next = pending.find(({ to }) => !pending.some(({ from }) => from === to)) ?? pending[0];
    const exchanged = pending.some(({ from }) => from === next.to);
    e.op(exchanged ? 'xchg' : 'mov', e.q(next.to), e.q(next.from));
    pending = pending
      .filter((move) => move !== next)
      .map((move) => (exchanged && move.from === next.to ? { ...move, from: next.from } : move))
      .filter(({ from, to }) => from !== to);
  }
}

/** The rules of the function's beginning and of spilled values. */
function frameRules(frame: Frame): Rules<'entry' | 'reload' | 'spill'> {
  const place = (e: Emitter, node: NodeOf<'spill' | 'reload'>) => {
    const register = node.o === 'spill' ? node.src : node.dst;
    const vector = register.class === 'v';
    return {
      memory: mem(rsp, vector ? node.slot * frame.vectorBytes : frame.general + node.slot * 8),
      operand: vector ? e.v(e.number(register)) : e.q(e.number(register)),
      mnemonic: vector ? ('vmovaps' as const) : ('mov' as const),
    };
  };
  return {
    entry: {
      emit(e, node) {
        const names = ['views', 'scratch', 'from', 'to'] as const;
        moveTogether(
          e,
          names.map((name) => ({ from: parameters[name], to: e.number(node[name]) })),
        );
      },
    },
    reload: {
      emit(e, node) {
        const { memory, operand, mnemonic } = place(e, node);
        e.op(mnemonic, operand, memory);
      },
    },
    spill: {
      emit(e, node) {
        const { memory, operand, mnemonic } = place(e, node);
        e.op(mnemonic, memory, operand);
      },
    },
  };
}

type AllRules = Rules<Node['o']>;
const ruleOf = (rules: AllRules, node: Node): Rule<Node> => rules[node.o] as Rule<Node>;

const noNeeds: Needs = { general: 0, vector: 0, clobbers: [] };

/** What a generated function looks like, for tests and tuning. */
export interface Generated {
  /** Position-independent; the entry is at its beginning, which must be placed at an address that 64 divides. */
  readonly code: Uint8Array;
  /** Bytes of instructions, before the constants. */
  readonly codeBytes: number;
  /** Executed reloads and stores of spilled registers, each weighted by 10 to the depth of loops around it. */
  readonly spillWeight: number;
}

/** Why the function cannot be compiled here, or null. */
export function unsupported(fn: LoopFunction, isa: Isa): string | null {
  return refusal(fn, flatten(fn), isa);
}

function refusal(fn: LoopFunction, { nodes }: Code, isa: Isa): string | null {
  if (fn.lanes !== lanesOf[isa])
    return `${fn.name}: vectors of ${fn.lanes} lanes, but ${isa} has ${lanesOf[isa]}`;
  for (const node of nodes) {
    const type = unsupportedType(node);
    if (type) return `${fn.name}: ${node.o} of ${type} is not supported on x86-64`;
  }
  return null;
}

/**
 * Compiles a function to void f(void** views, void* scratch, int64 from, int64 to), System V calling convention.
 * `fn.lanes` must be 16 for avx512 and 8 for avx2. `extensions` are those of avx512 that may be used. Throws where
 * `unsupported` gives a reason.
 */
export function generate(fn: LoopFunction, isa: Isa, extensions: Partial<Extensions> = {}): Generated {
  const code: Code = flatten(fn);
  const problem = refusal(fn, code, isa);
  if (problem) throw new Error(problem);
  hoistConstants(code);
  if (isa === 'avx512') fuseCompares(code);
  foldMemory(code, isa);
  configureOnce(code);

  const flow = flowRules();
  const withoutFrame: AllRules = {
    ...integerRules,
    ...vectorRules,
    ...(isa === 'avx512' && extensions.vnni ? extensionRules.vnni : {}),
    ...(isa === 'avx512' && extensions.bf16 ? extensionRules.bf16 : {}),
    ...memoryRules,
    ...matrixRules,
    ...flow,
    ...frameRules({ vectorBytes: 0, general: 0, stackPointer: 0, bytes: 0 }),
  };
  const allocation = allocate(code, {
    general: generalOrder,
    vectors: vectorRegisters[isa],
    parameters,
    needs: (node) => {
      const needs = ruleOf(withoutFrame, node).needs?.(node, isa);
      return needs ? { ...noNeeds, ...needs } : noNeeds;
    },
  });
  const frame = frameOf(allocation, lanesOf[isa]);
  const rules: AllRules = { ...withoutFrame, ...frameRules(frame) };
  const e = new Emitter(isa, allocation.registers);
  const saved = calleeSaved.filter((register) => usesGeneral(allocation, register));

  for (const register of saved) e.op('push', e.q(register));
  if (frame.bytes > 0) {
    e.op('mov', rax, rsp);
    e.op('sub', rsp, frame.bytes);
    e.op('and', rsp, -64);
    e.op('mov', mem(rsp, frame.stackPointer), rax);
  }
  allocation.code.nodes.forEach((node, n) => {
    if (allocation.dead[n]) return;
    e.generalTemps = allocation.temporaries[n]?.general ?? [];
    e.vectorTemps = allocation.temporaries[n]?.vector ?? [];
    ruleOf(rules, node).emit(e, node);
    e.overwritten(node);
  });
  if (frame.bytes > 0) e.op('mov', rsp, mem(rsp, frame.stackPointer));
  for (const register of saved.toReversed()) e.op('pop', e.q(register));
  if (code.nodes.some(({ o }) => o === 'mshape')) e.op('tilerelease');
  e.op('vzeroupper');
  e.op('ret');
  const { bytes, codeBytes } = e.finish();
  return { code: bytes, codeBytes, spillWeight: allocation.spillWeight };
}

function usesGeneral({ registers, temporaries }: Allocation, register: number): boolean {
  for (let key = 0; key < registers.length; key++) {
    if (!isVectorKey(key) && registers[key] === register) return true;
  }
  return temporaries.some((temps) => temps?.general.includes(register));
}
