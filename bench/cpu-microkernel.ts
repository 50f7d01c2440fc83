/**
 * What generated code reaches of a core's FMA peak: the register tile of a matrix product on packed panels in cache.
 * node --import tsx bench/cpu-microkernel.ts [avx512|avx2]
 */

import { generate, type Isa } from '../src/accelerators/cpu/codegen.ts';
import type { Instr, VecReg } from '../src/accelerators/loops/ir.ts';
import { GuardedViews, Loaded, loopFunction, Names } from '../test/cpu/loop-runner.ts';

const isa: Isa = process.argv[2] === 'avx2' ? 'avx2' : 'avx512';
const tile = isa === 'avx512' ? { rows: 14, vectors: 2 } : { rows: 6, vectors: 2 };
const lanes = isa === 'avx512' ? 16 : 8;
const depth = 128;
const unroll = 4;

/** C[rows][vectors] += A[depth][rows] * B[depth][vectors], `repeats` times. `fresh`: a new register for every sum. */
function microkernel(repeats: number, fresh: boolean) {
  const n = new Names();
  const [a, b, c, pa, pb] = [n.i(), n.i(), n.i(), n.i(), n.i()];
  const sums = Array.from({ length: tile.rows * tile.vectors }, () => n.v());
  const inner: Instr[] = [];
  let current: VecReg[] = sums;
  for (let u = 0; u < unroll; u++) {
    const panel = Array.from({ length: tile.vectors }, () => n.v());
    panel.forEach((dst, j) => {
      const displacement = 4 * lanes * (u * tile.vectors + j);
      inner.push({ o: 'vload', dst, type: 'f32', from: { base: pb, displacement } });
    });
    const next: VecReg[] = [];
    for (let row = 0; row < tile.rows; row++) {
      const x = n.v();
      const displacement = 4 * (u * tile.rows + row);
      inner.push({ o: 'vbroadcast', dst: x, type: 'f32', from: { base: pa, displacement } });
      panel.forEach((y, j) => {
        const sum = current[row * tile.vectors + j];
        const dst = fresh ? n.v() : sum;
        next.push(dst);
        inner.push({ o: 'vfma', dst, a: x, b: y, c: sum });
      });
    }
    current = next;
  }
  if (fresh) inner.push(...sums.map((dst, i): Instr => ({ o: 'vmove', dst, a: current[i] })));
  inner.push({ o: 'ibin', fn: 'add', dst: pa, a: pa, b: 4 * tile.rows * unroll });
  inner.push({ o: 'ibin', fn: 'add', dst: pb, a: pb, b: 4 * lanes * tile.vectors * unroll });
  return loopFunction(isa, 3, [
    { o: 'viewBase', dst: a, index: 0 },
    { o: 'viewBase', dst: b, index: 1 },
    { o: 'viewBase', dst: c, index: 2 },
    {
      o: 'for',
      index: n.i(),
      lo: 0,
      hi: repeats,
      step: 1,
      body: [
        { o: 'imove', dst: pa, a },
        { o: 'imove', dst: pb, a: b },
        ...sums.map((dst): Instr => ({ o: 'vconst', dst, bits: 0 })),
        { o: 'for', index: n.i(), lo: 0, hi: depth / unroll, step: 1, body: inner },
        ...sums.map(
          (src, i): Instr => ({
            o: 'vstore',
            src,
            type: 'f32',
            to: { base: c, displacement: 4 * lanes * i },
          }),
        ),
      ],
    },
  ]);
}

/** Nothing but FMAs on registers, enough of them to hide the latency. */
function peak(repeats: number) {
  const n = new Names();
  const [x, y] = [n.v(), n.v()];
  const c = n.i();
  const sums = Array.from({ length: 12 }, () => n.v());
  return loopFunction(isa, 3, [
    { o: 'viewBase', dst: c, index: 2 },
    ...[x, y, ...sums].map((dst): Instr => ({ o: 'vconst', dst, bits: 0 })),
    {
      o: 'for',
      index: n.i(),
      lo: 0,
      hi: repeats,
      step: 1,
      body: Array.from({ length: 8 }, () => sums).flatMap((all) =>
        all.map((dst): Instr => ({ o: 'vfma', dst, a: x, b: y, c: dst })),
      ),
    },
    ...sums.map((src): Instr => ({ o: 'vstore', src, type: 'f32', to: { base: c, displacement: 0 } })),
  ]);
}

const views = new GuardedViews(3, 65536);
function measure(name: string, fn: ReturnType<typeof peak>, flops: number): number {
  const { code, codeBytes, spillWeight } = generate(fn, isa);
  const loaded = new Loaded(code);
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 30; i++) {
    const start = performance.now();
    loaded.call(views.addresses, views.addresses[2], 0, 1);
    best = Math.min(best, performance.now() - start);
  }
  loaded.free();
  const rate = flops / best / 1e6;
  console.log(`${name}: ${rate.toFixed(1)} GFLOP/s, ${codeBytes} bytes, spill weight ${spillWeight}`);
  return rate;
}

const repeats = 2000;
const tileFlops = 2 * lanes * tile.rows * tile.vectors * depth * repeats;
const top = measure('peak', peak(25_000), 2 * lanes * 12 * 8 * 25_000);
for (const fresh of [false, true]) {
  const rate = measure(
    `${tile.rows} x ${tile.vectors}${fresh ? ', fresh registers' : ''}`,
    microkernel(repeats, fresh),
    tileFlops,
  );
  console.log(`  ${((100 * rate) / top).toFixed(1)} % of the peak`);
}
views.free();
if (process.env.DUMP) {
  const { writeFileSync } = await import('node:fs');
  writeFileSync(process.env.DUMP, generate(microkernel(repeats, true), isa).code);
}
