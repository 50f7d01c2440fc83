/** What this machine can do at most, measured with code written for nothing else: the yardstick of the benchmarks. */
import { Assembler } from './assembler.ts';
import type { Isa } from './codegen-emitter.ts';
import { configuration } from './codegen-matrix.ts';
import { type CpuFeature, processor } from './cpuid.ts';
import { usableThreads } from './host.ts';
import { CodeBlock, Mapping } from './memory.ts';
import { loadNative, type Native } from './native.ts';
import { type Memory, mem } from './operands.ts';
import { r8q, r9, rax, rcx, rdi, rdx, tmm, ymm, zmm } from './registers.ts';
import { LaunchList, ThreadPool } from './threads.ts';

/** A rate by number of threads. */
export interface Rate {
  readonly one: number;
  readonly all: number;
}

export interface MachineLimits {
  readonly threads: number;
  /** Floating-point operations a second of f32 fused multiply-adds (two each), by instruction set; absent where there is none. */
  readonly fma: { readonly [I in Isa]?: Rate };
  /** The same of instructions that add several products at once: pairs of bf16 (vdpbf16ps), quads of bytes (vpdpbusd). */
  readonly dots: { readonly [T in NarrowType]?: Rate };
  /** The same of instructions that multiply tiles of them (AMX). */
  readonly tiles: { readonly [T in NarrowType]?: Rate };
  /** Bytes read a second, from memory beyond the caches. */
  readonly read: Rate;
  /** Bytes read plus bytes written a second of a copy with ordinary stores. */
  readonly copy: Rate;
}

export type NarrowType = 'bf16' | 'int8';

/** How long one figure is measured; the best pass counts, as others on the machine can only slow it down. */
const measureMilliseconds = 60;

const fmaAccumulators = 12;
const fmaRounds = 4096;
const blockBytes = 256 * 1024;

/** The instructions that are measured, at one vector length; registers by number. */
interface VectorSet {
  readonly feature: CpuFeature;
  readonly bytes: number;
  multiplyAdd(a: Assembler, sum: number, factor: number): void;
  load(a: Assembler, target: number, from: Memory): void;
  store(a: Assembler, to: Memory, source: number): void;
}
const vectorSets: { readonly [I in Isa]: VectorSet } = {
  avx512: {
    feature: 'avx512f',
    bytes: 64,
    multiplyAdd: (a, sum, factor) => a.emit('vfmadd231ps', zmm(sum), zmm(factor), zmm(factor)),
    load: (a, target, from) => a.emit('vmovups', zmm(target), from),
    store: (a, to, source) => a.emit('vmovups', to, zmm(source)),
  },
  avx2: {
    feature: 'fma',
    bytes: 32,
    multiplyAdd: (a, sum, factor) => a.emit('vfmadd231ps', ymm(sum), ymm(factor), ymm(factor)),
    load: (a, target, from) => a.emit('vmovups', ymm(target), from),
    store: (a, to, source) => a.emit('vmovups', to, ymm(source)),
  },
};

interface NarrowDot {
  readonly feature: CpuFeature;
  readonly mnemonic: 'vdpbf16ps' | 'vpdpbusd';
  /** Products that are added to each 32-bit lane. */
  readonly products: number;
}
const narrowDots: { readonly [T in NarrowType]: NarrowDot } = {
  bf16: { feature: 'avx512bf16', mnemonic: 'vdpbf16ps', products: 2 },
  int8: { feature: 'avx512vnni', mnemonic: 'vpdpbusd', products: 4 },
};

/** Products of tiles, and the numbers along k that each adds up. */
const tileDots: {
  readonly [T in NarrowType]: { readonly mnemonic: 'tdpbf16ps' | 'tdpbsud'; depth: number };
} = {
  bf16: { mnemonic: 'tdpbf16ps', depth: 32 },
  int8: { mnemonic: 'tdpbsud', depth: 64 },
};
const tileRows = 16;
/** Sums of two tiles of a times two of b. */
const tileProducts = [0, 1, 2, 3].map((sum) => [sum, 4 + (sum >> 1), 6 + (sum & 1)] as const);

/** for (rdx = from; rdx < rcx = to; rdx++) body; r8 and r9 are pointers 0 and 1, rax is the body's. */
function overPrograms(pointers: number, body: (a: Assembler) => void): Uint8Array {
  const a = new Assembler();
  const end = a.label('end');
  [r8q, r9].slice(0, pointers).forEach((register, i) => {
    a.emit('mov', register, mem(rdi, 8 * i));
  });
  const top = a.here('program');
  a.emit('cmp', rdx, rcx).emit('jge', end);
  body(a);
  a.emit('inc', rdx).emit('jmp', top);
  a.bind(end).emit('vzeroupper').emit('ret');
  return a.finish().bytes;
}

/** Independent multiply-adds of zeros: as many chains as hide the latency of any processor so far. */
function assembleSums(add: VectorSet['multiplyAdd']): Uint8Array {
  return overPrograms(0, (a) => {
    for (let i = 0; i <= fmaAccumulators; i++) a.emit('vxorps', ymm(i), ymm(i), ymm(i));
    a.emit('mov', rax, fmaRounds);
    a.align(32);
    const loop = a.here('round');
    for (let i = 0; i < fmaAccumulators; i++) add(a, i, fmaAccumulators);
    a.emit('dec', rax).emit('jne', loop);
  });
}

/** Products of tiles that hold zeros. */
function assembleTiles(mnemonic: 'tdpbf16ps' | 'tdpbsud'): Uint8Array {
  const whole = { rows: tileRows, bytes: 4 * tileRows };
  return overPrograms(0, (a) => {
    a.emit('ldtilecfg', a.constant(configuration(Array.from({ length: 8 }, () => whole))));
    a.emit('mov', rax, fmaRounds);
    a.align(32);
    const loop = a.here('round');
    for (const [sum, left, right] of tileProducts) a.emit(mnemonic, tmm(sum), tmm(left), tmm(right));
    a.emit('dec', rax).emit('jne', loop).emit('tilerelease');
  });
}

/** Program i reads block i behind pointer 0, and writes it behind pointer 1 when `copies`. */
function assembleStream(vectors: VectorSet, copies: boolean): Uint8Array {
  const unroll = 8;
  return overPrograms(copies ? 2 : 1, (a) => {
    a.emit('mov', rax, rdx).emit('imul', rax, rax, blockBytes);
    a.emit('lea', rdi, mem(rax, blockBytes));
    a.align(32);
    const loop = a.here('block');
    for (let i = 0; i < unroll; i++) {
      vectors.load(a, i, mem(r8q, rax, 1, i * vectors.bytes));
      if (copies) vectors.store(a, mem(r9, rax, 1, i * vectors.bytes), i);
    }
    a.emit('add', rax, unroll * vectors.bytes)
      .emit('cmp', rax, rdi)
      .emit('jl', loop);
  });
}

/** Seconds that the fastest pass of the launch takes. */
async function fastest(pool: ThreadPool, list: LaunchList): Promise<number> {
  await pool.walk(list, 1);
  let best = list.microseconds;
  const end = performance.now() + measureMilliseconds;
  while (performance.now() < end) {
    await pool.walk(list, 1);
    best = Math.min(best, list.microseconds);
  }
  return best / 1e6;
}

/** Work of `programs` programs at `entry`, each of `amount`, a second: with one thread and with all. */
async function rate(
  native: Native,
  pools: { readonly one: ThreadPool; readonly all: ThreadPool },
  launch: { readonly entry: bigint; readonly arguments: readonly bigint[]; readonly programs: number },
  amount: number,
): Promise<Rate> {
  const measure = async (pool: ThreadPool) => {
    const list = new LaunchList(native, [launch], pool.threads, 1);
    try {
      return (amount * launch.programs) / (await fastest(pool, list));
    } finally {
      list.free();
    }
  };
  return { one: await measure(pools.one), all: await measure(pools.all) };
}

/** Measures the machine as often as it is asked to. */
export interface LimitMeter extends Disposable {
  /** Takes about a second. Run it while nothing else goes on. */
  measure(): Promise<MachineLimits>;
}

/** For `threads` threads at most (as many as a device would use). Throws where the cpu device is not available. */
export async function openLimitMeter(threads?: number): Promise<LimitMeter> {
  const native = await loadNative();
  const { features, caches } = processor(native);
  const isas = (Object.keys(vectorSets) as Isa[]).filter((isa) => features.has(vectorSets[isa].feature));
  const narrow = (Object.keys(narrowDots) as NarrowType[]).filter((type) =>
    [vectorSets.avx512.feature, narrowDots[type].feature].every((feature) => features.has(feature)),
  );
  const tiles = (Object.keys(tileDots) as NarrowType[]).filter(() => features.has('amx'));
  if (isas.length === 0) throw new Error('this processor has no AVX2 and FMA, which the measurements need');
  const cacheBytes = Math.max(0, ...caches.map(({ byteLength }) => byteLength));
  const blocks = Math.ceil(Math.min(512 * 2 ** 20, Math.max(64 * 2 ** 20, 4 * cacheBytes)) / blockBytes);
  const count = usableThreads(native, threads);
  const widest = vectorSets[isas[0]];
  const release: (() => void)[] = [];
  const free = () => {
    for (const each of release.splice(0).reverse()) each();
  };
  const own = <T>(thing: T, end: (thing: T) => void): T => {
    release.push(() => end(thing));
    return thing;
  };
  try {
    const code = own(
      new CodeBlock(native, [
        assembleStream(widest, false),
        assembleStream(widest, true),
        ...isas.map((isa) => assembleSums(vectorSets[isa].multiplyAdd)),
        ...narrow.map((type) =>
          assembleSums((a, sum, factor) =>
            a.emit(narrowDots[type].mnemonic, zmm(sum), zmm(factor), zmm(factor)),
          ),
        ),
        ...tiles.map((type) => assembleTiles(tileDots[type].mnemonic)),
      ]),
      (block) => block.free(),
    );
    const [from, to] = [0, 1].map(
      () => own(new Mapping(native, blocks * blockBytes), (mapping) => mapping.free()).address,
    );
    const [one, all] = [1, count].map((size) => own(new ThreadPool(native, size), (pool) => pool.close()));
    const measure = (entry: bigint, pointers: readonly bigint[], programs: number, amount: number) =>
      rate(native, { one, all }, { entry, arguments: pointers, programs }, amount);
    const [readEntry, copyEntry, ...sumEntries] = code.addresses;
    // Pages that were never written are all the one page of zeros, which stays in the cache: write both first.
    await measure(copyEntry, [to, from], blocks, 1);
    return {
      async measure() {
        const read = await measure(readEntry, [from], blocks, blockBytes);
        const copy = await measure(copyEntry, [from, to], blocks, 2 * blockBytes);
        const fma: { [I in Isa]?: Rate } = {};
        for (const [i, isa] of isas.entries()) {
          const operations = 2 * (vectorSets[isa].bytes / 4) * fmaAccumulators * fmaRounds;
          fma[isa] = await measure(sumEntries[i], [], 64 * count, operations);
        }
        const dots: { [T in NarrowType]?: Rate } = {};
        for (const [i, type] of narrow.entries()) {
          const operations = 2 * 16 * narrowDots[type].products * fmaAccumulators * fmaRounds;
          dots[type] = await measure(sumEntries[isas.length + i], [], 64 * count, operations);
        }
        const ofTiles: { [T in NarrowType]?: Rate } = {};
        for (const [i, type] of tiles.entries()) {
          const entry = sumEntries[isas.length + narrow.length + i];
          const operations = 2 * tileRows ** 2 * tileDots[type].depth * tileProducts.length * fmaRounds;
          ofTiles[type] = await measure(entry, [], 4 * count, operations);
        }
        return { threads: count, fma, dots, tiles: ofTiles, read, copy };
      },
      [Symbol.dispose]: free,
    };
  } catch (error) {
    free();
    throw error;
  }
}
