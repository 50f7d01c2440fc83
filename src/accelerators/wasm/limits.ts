/** What 128-bit multiply-adds this WebAssembly engine can do at most: the yardstick of the benchmarks on wasm. */
import type { Instr, IntReg, LoopFunction, VecReg } from '../loops/ir.ts';
import { hasBasics, hasFusedMultiplyAdd } from './features.ts';
import { compileKernel } from './program.ts';
import { WasmRuntime } from './runtime.ts';
import { availableThreads, canShareMemory } from './threads.ts';

export interface WasmLimits {
  readonly threads: number;
  /** Which instructions were measured: one that rounds once, where the engine has it, else a pair. */
  readonly instructions: 'f32x4.relaxed_madd' | 'f32x4.mul, f32x4.add';
  /** Floating-point operations a second, two a multiply-add and lane. */
  readonly one: number;
  readonly all: number;
}

const MEASURE_MS = 150;
/** With two constants and a product on its way they fill the registers, and hide the latency of both instructions. */
const CHAINS = 12;
const ROUNDS = 1 << 16;
const LANES = 4;
const PROGRAMS_A_THREAD = 8;

const i = (id: number): IntReg => ({ id, class: 'i' });
const v = (id: number): VecReg => ({ id, class: 'v' });
const bits = (value: number): number => new Int32Array(Float32Array.of(value).buffer)[0];

/** chain = chain · 0.999 + 0.001, independently in each chain; every step needs both instructions. */
function multiplyAdds(programs: number): LoopFunction {
  const [scratch, from, to, program, round] = [0, 1, 2, 3, 4].map(i);
  const chains = Array.from({ length: CHAINS }, (_, n) => v(5 + n));
  const [factor, term] = [v(5 + CHAINS), v(6 + CHAINS)];
  const body: readonly Instr[] = [
    { o: 'parameter', dst: scratch, which: 'scratch' },
    { o: 'parameter', dst: from, which: 'from' },
    { o: 'parameter', dst: to, which: 'to' },
    { o: 'vconst', dst: factor, bits: bits(0.999) },
    { o: 'vconst', dst: term, bits: bits(0.001) },
    ...chains.map((dst, n): Instr => ({ o: 'vconst', dst, bits: bits(n) })),
    {
      o: 'for',
      index: program,
      lo: from,
      hi: to,
      step: 1,
      body: [
        {
          o: 'for',
          index: round,
          lo: 0,
          hi: ROUNDS,
          step: 1,
          body: chains.map((dst): Instr => ({ o: 'vfma', dst, a: dst, b: factor, c: term })),
        },
      ],
    },
    // What nobody could see need not be computed.
    ...chains.map(
      (src, n): Instr => ({ o: 'vstore', src, type: 'f32', to: { base: scratch, displacement: 16 * n } }),
    ),
  ];
  return { name: 'multiply-adds', views: 0, lanes: LANES, scratchBytes: 16 * CHAINS, programs, body };
}

async function measure(threads: number, shared: boolean, fma: boolean): Promise<number> {
  const programs = PROGRAMS_A_THREAD * threads;
  const runtime = await WasmRuntime.open({ threads, shared, spins: 0 });
  try {
    const program = await runtime.load([
      { kernel: compileKernel(multiplyAdds(programs), fma), arguments: [] },
    ]);
    let best = Number.POSITIVE_INFINITY;
    // The engine's better compiler takes over while it runs.
    for (const end = performance.now() + 2 * MEASURE_MS; performance.now() < end; ) {
      const start = performance.now();
      await program.run(1);
      best = Math.min(best, performance.now() - start);
    }
    return (2 * LANES * CHAINS * ROUNDS * programs * 1000) / best;
  } finally {
    await runtime.close();
  }
}

/** Measures for half a second, with as many threads as the device would use. Null where wasm is not available. */
export async function measureWasmLimits(): Promise<WasmLimits | null> {
  if (!hasBasics(false)) return null;
  const fma = hasFusedMultiplyAdd();
  const shared = canShareMemory() && hasBasics(true);
  const threads = shared ? availableThreads() : 1;
  return {
    threads,
    instructions: fma ? 'f32x4.relaxed_madd' : 'f32x4.mul, f32x4.add',
    one: await measure(1, shared, fma),
    all: await measure(threads, shared, fma),
  };
}
