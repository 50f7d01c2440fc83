/** Threads, barriers, failures and the end of the process. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { after, test } from 'node:test';
import { promisify } from 'node:util';
import type { Instr } from '../../src/accelerators/loops/ir.ts';
import { type CompiledKernel, compileKernel } from '../../src/accelerators/wasm/program.ts';
import { WasmRuntime } from '../../src/accelerators/wasm/runtime.ts';
import { availableThreads } from '../../src/accelerators/wasm/threads.ts';
import { i, loopFunction } from './harness.ts';

const PROGRAMS = 37;

/**
 * to[p] = from[p - 1] + from[p + 1] (around the corner): wrong as soon as one thread runs ahead of another.
 */
function neighbours(): CompiledKernel {
  const element = (base: number, index: number) => ({
    base: i(base),
    index: i(index),
    scale: 4 as const,
    displacement: 0,
  });
  const wrapped = (register: number, add: number): Instr[] => [
    { o: 'ibin', fn: 'add', dst: i(register), a: i(4), b: add },
    { o: 'ibin', fn: 'rem', dst: i(register), a: i(register), b: PROGRAMS },
  ];
  return compileKernel(
    loopFunction(
      [
        { o: 'viewBase', dst: i(0), index: 0 },
        { o: 'viewBase', dst: i(1), index: 1 },
        { o: 'parameter', dst: i(2), which: 'from' },
        { o: 'parameter', dst: i(3), which: 'to' },
        {
          o: 'for',
          index: i(4),
          lo: i(2),
          hi: i(3),
          step: 1,
          body: [
            ...wrapped(5, PROGRAMS - 1),
            ...wrapped(6, 1),
            { o: 'iload', dst: i(7), type: 'i32', from: element(0, 5) },
            { o: 'iload', dst: i(8), type: 'i32', from: element(0, 6) },
            { o: 'ibin', fn: 'add', dst: i(7), a: i(7), b: i(8) },
            { o: 'istore', src: i(7), type: 'i32', to: element(1, 4) },
          ],
        },
      ],
      { name: 'neighbours', views: 2, programs: PROGRAMS },
    ),
    false,
  );
}

/** Stores `value` at view 0, after running through `wait` steps. */
function storing(name: string, value: number, wait = 0): CompiledKernel {
  return compileKernel(
    loopFunction(
      [
        { o: 'viewBase', dst: i(0), index: 0 },
        { o: 'iconst', dst: i(2), value },
        {
          o: 'for',
          index: i(1),
          lo: 0,
          hi: wait,
          step: 1,
          body: [{ o: 'istore', src: i(1), type: 'i32', to: { base: i(0), displacement: 0 } }],
        },
        { o: 'istore', src: i(2), type: 'i32', to: { base: i(0), displacement: 0 } },
      ],
      { name, views: 1 },
    ),
    false,
  );
}

const configurations = [
  { threads: 1, shared: false },
  { threads: 1 },
  { threads: 2, spins: 0 },
  { threads: 2, spins: 20000 },
  { threads: 4, spins: 0 },
  { threads: 4, spins: 100 },
] as const;

/** Opened once for all tests: threads take a while to start. */
const opened = new Map<object, WasmRuntime>();
after(() => Promise.all([...opened.values()].map((runtime) => runtime.close())));

async function runtimeOf(options: {
  threads: number;
  shared?: boolean;
  spins?: number;
}): Promise<WasmRuntime> {
  const runtime = opened.get(options) ?? (await WasmRuntime.open({ shared: true, spins: 1000, ...options }));
  opened.set(options, runtime);
  return runtime;
}

async function forEachRuntime(use: (runtime: WasmRuntime, options: object) => Promise<void>): Promise<void> {
  for (const options of configurations) await use(await runtimeOf(options), options);
}

test('thousands of dependent launches', async () => {
  await forEachRuntime(async (runtime, options) => {
    const [a, b] = [runtime.allocate(4 * PROGRAMS), runtime.allocate(4 * PROGRAMS)];
    const start = Int32Array.from({ length: PROGRAMS }, (_, p) => p * p);
    runtime.write(a, new Uint8Array(start.buffer));
    const kernel = neighbours();
    const pair = [
      { kernel, arguments: [a, b] },
      { kernel, arguments: [b, a] },
    ];
    const program = await runtime.load(Array.from({ length: 100 }, () => pair).flat());
    await program.run(9);
    await program.run(1);
    const expected = start;
    for (let step = 0; step < 10 * 200; step++) {
      const before = expected.slice();
      for (let p = 0; p < PROGRAMS; p++) {
        expected[p] = before[(p + PROGRAMS - 1) % PROGRAMS]! + before[(p + 1) % PROGRAMS]!;
      }
    }
    const found = new Int32Array((await runtime.read(a, 4 * PROGRAMS)).buffer);
    assert.deepEqual(found, expected, JSON.stringify(options));
    program.dispose();
  });
});

test('runs and reads are in order, whoever waits for them', async () => {
  await forEachRuntime(async (runtime) => {
    const cell = runtime.allocate(4);
    const programs = await Promise.all(
      [1, 2, 3].map((value) => runtime.load([{ kernel: storing('s', value, 1000), arguments: [cell] }])),
    );
    const value = async () => new Int32Array((await runtime.read(cell, 4)).buffer)[0];
    const runs = [programs[0]!.run(1), programs[1]!.run(5), programs[1]!.run(1)];
    assert.equal(await value(), 2);
    await Promise.all(runs);
    const last = programs[2]!.run(1);
    programs[2]!.dispose();
    assert.equal(await value(), 3);
    await last;
    await assert.rejects(programs[2]!.run(1), /disposed of/);
    for (const repeat of [0, -1, 1.5, 2 ** 32])
      await assert.rejects(programs[0]!.run(repeat), /repeat must be/);
    await (await runtime.load([])).run(3);
  });
});

test('a failing kernel is named, and the device goes on', async () => {
  await forEachRuntime(async (runtime) => {
    const cell = runtime.allocate(4);
    const good = { kernel: storing('good', 5), arguments: [cell] };
    const bad = { kernel: storing('wild', 6), arguments: [0xfffffff0] };
    const program = await runtime.load([good, good, bad, good]);
    await assert.rejects(program.run(2), /kernel wild \(launch 2 of 4\) failed: .*out of bounds/);
    await assert.rejects(program.run(1), /kernel wild/);
    const fine = await runtime.load([good]);
    await fine.run(1);
    assert.equal((await runtime.read(cell, 4))[0], 5);
  });
});

test('every thread has scratch memory of its own, as large as the largest kernel asks for', async () => {
  // Program p fills its scratch with p, wastes time, and writes the sum of what it finds.
  const words = 256;
  const at = (base: number) => ({ base: i(base), index: i(5), scale: 4 as const, displacement: 0 });
  const kernel = compileKernel(
    loopFunction(
      [
        { o: 'viewBase', dst: i(0), index: 0 },
        { o: 'parameter', dst: i(1), which: 'scratch' },
        { o: 'parameter', dst: i(2), which: 'from' },
        { o: 'parameter', dst: i(3), which: 'to' },
        {
          o: 'for',
          index: i(4),
          lo: i(2),
          hi: i(3),
          step: 1,
          body: [
            {
              o: 'for',
              index: i(5),
              lo: 0,
              hi: words,
              step: 1,
              body: [{ o: 'istore', src: i(4), type: 'i32', to: at(1) }],
            },
            { o: 'iconst', dst: i(6), value: 0 },
            {
              o: 'for',
              index: i(5),
              lo: 0,
              hi: words,
              step: 1,
              body: [
                { o: 'iload', dst: i(7), type: 'i32', from: at(1) },
                { o: 'ibin', fn: 'add', dst: i(6), a: i(6), b: i(7) },
              ],
            },
            {
              o: 'istore',
              src: i(6),
              type: 'i32',
              to: { base: i(0), index: i(4), scale: 4, displacement: 0 },
            },
          ],
        },
      ],
      { name: 'scratch', views: 1, programs: 5000, scratchBytes: 4 * words },
    ),
    false,
  );
  await forEachRuntime(async (runtime) => {
    const result = runtime.allocate(4 * 5000);
    await (await runtime.load([{ kernel: storing('small', 0), arguments: [result] }])).run(1);
    await (await runtime.load([{ kernel, arguments: [result] }])).run(1);
    const found = new Int32Array((await runtime.read(result, 4 * 5000)).buffer);
    assert.deepEqual(
      found,
      Int32Array.from({ length: 5000 }, (_, p) => p * words),
    );
  });
});

test('memory grows under running programs, and beyond 2 GiB of addresses', async () => {
  for (const options of configurations.slice(0, 2)) {
    const runtime = await runtimeOf(options);
    const cell = runtime.allocate(4);
    const program = await runtime.load([{ kernel: storing('slow', 7, 3_000_000), arguments: [cell] }]);
    const run = program.run(1);
    const large = runtime.allocate(3 * 2 ** 30);
    const high = runtime.allocate(64);
    assert.ok(high > 3 * 2 ** 30);
    runtime.write(high, new Uint8Array([1, 2, 3]));
    await run;
    const there = await runtime.load([{ kernel: storing('high', 0x01020304), arguments: [high + 4] }]);
    await there.run(1);
    assert.deepEqual([...(await runtime.read(high, 8))], [1, 2, 3, 0, 4, 3, 2, 1]);
    assert.equal((await runtime.read(cell, 4))[0], 7);
    runtime.release(large);
    assert.throws(() => runtime.allocate(4 * 2 ** 30), /out of WebAssembly memory/);
  }
});

test('closing ends what runs and what waits', async () => {
  const runtime = await WasmRuntime.open({ threads: 2, shared: true, spins: 0 });
  const cell = runtime.allocate(4);
  // One thread runs for minutes, the other sleeps at the barrier.
  const program = await runtime.load([{ kernel: storing('endless', 1, 2 ** 31 - 2), arguments: [cell] }]);
  const running = assert.rejects(program.run(1000), /device was closed/);
  const queued = assert.rejects(program.run(1), /closed/);
  await new Promise((resolve) => setTimeout(resolve, 50));
  await runtime.close();
  await Promise.all([running, queued]);
  assert.throws(() => runtime.allocate(4), /closed/);
  await runtime.close();
});

test('an idle device does not keep the process alive, a running one does', async () => {
  const runtimePath = new URL('../../src/accelerators/wasm/runtime.ts', import.meta.url).href;
  const kernel = storing('slow', 9, 20_000_000);
  const script = `
    const { WasmRuntime } = await import(${JSON.stringify(runtimePath)});
    for (const shared of [true, false]) {
      const runtime = await WasmRuntime.open({ threads: shared ? 2 : 1, shared, spins: 0 });
      const cell = runtime.allocate(4);
      const kernel = ${JSON.stringify({ ...kernel, body: [...kernel.body] })};
      const program = await runtime.load([{ kernel, arguments: [cell] }]);
      await program.run(1);
      console.log((await runtime.read(cell, 4))[0]);
    }
  `;
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--import', 'tsx', '--input-type=module', '--eval', script],
    { timeout: 20_000 },
  );
  assert.equal(stdout, '9\n9\n');
});

test('TANDEM_THREADS sets the number of threads', () => {
  const before = process.env.TANDEM_THREADS;
  try {
    process.env.TANDEM_THREADS = '3';
    assert.equal(availableThreads(), 3);
    process.env.TANDEM_THREADS = 'many';
    assert.throws(() => availableThreads(), /TANDEM_THREADS is 'many'/);
    delete process.env.TANDEM_THREADS;
    assert.ok(availableThreads() >= 1);
  } finally {
    if (before === undefined) delete process.env.TANDEM_THREADS;
    else process.env.TANDEM_THREADS = before;
  }
});

test('the number of threads keeps to the quota of the control group', () => {
  const before = process.env.TANDEM_THREADS;
  delete process.env.TANDEM_THREADS;
  try {
    const files = (limits: Record<string, string>) => (path: string) => limits[path] ?? null;
    const two = (max: string) =>
      availableThreads(files({ '/proc/self/cgroup': '0::/a\n', '/sys/fs/cgroup/a/cpu.max': max }));
    assert.equal(two('150000 100000\n'), 1);
    assert.equal(two('max 100000\n'), availableParallelism());
    const one = (quota: string) =>
      availableThreads(
        files({
          '/proc/self/cgroup': '3:cpu,cpuacct:/c\n0::/\n',
          '/sys/fs/cgroup/cpu/c/cpu.cfs_quota_us': quota,
          '/sys/fs/cgroup/cpu/c/cpu.cfs_period_us': '100000\n',
        }),
      );
    assert.equal(one('100000\n'), 1);
    assert.equal(one('-1\n'), availableParallelism());
    process.env.TANDEM_THREADS = '7';
    assert.equal(two('100000 100000\n'), 7, 'what the user says counts');
  } finally {
    if (before === undefined) delete process.env.TANDEM_THREADS;
    else process.env.TANDEM_THREADS = before;
  }
});
