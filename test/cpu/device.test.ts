import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { describe, test } from 'node:test';
import type { Processor } from '../../src/accelerators/cpu/cpuid.ts';
import { cpuFactory } from '../../src/accelerators/cpu/device.ts';
import { targetOf } from '../../src/accelerators/cpu/targets.ts';
import { buildKernel } from '../../src/tile/builder.ts';

const probe = await cpuFactory.probe();

const count = 1000;
const addOne = () =>
  buildKernel('addOne', (k) => {
    const x = k.inout('x', 'f32', [count]);
    k.grid(Math.ceil(count / 64));
    const at = [k.programId().mul(64)];
    k.store(x, at, k.load(x, at, [64]).add(1));
  });

test('what is lowered for depends on the vendor and the first cache', () => {
  const processor = (vendor: string, ways?: number): Processor => ({
    brand: '',
    vendor,
    family: 6,
    model: 1,
    features: new Set(),
    caches: (['instruction', 'data'] as const).flatMap((kind) =>
      ways === undefined
        ? []
        : [
            {
              level: 1,
              kind,
              byteLength: 4096 * ways,
              ways: kind === 'data' ? ways : 4,
              lineBytes: 64,
              sharing: 1,
            },
          ],
    ),
  });
  const of = (vendor: string, ways?: number, isa: 'avx512' | 'avx2' = 'avx512') => {
    const { cacheWays, dotTile } = targetOf(processor(vendor, ways), isa);
    return { cacheWays, ...dotTile };
  };
  assert.deepEqual(of('AuthenticAMD', 8), { cacheWays: 8, rows: 14, vectors: 2, round: 48 });
  assert.deepEqual(of('GenuineIntel', 12), { cacheWays: 12, rows: 14, vectors: 2, round: 112 });
  assert.deepEqual(of('GenuineIntel'), { cacheWays: 8, rows: 14, vectors: 2, round: 112 });
  assert.deepEqual(of('GenuineIntel', 12, 'avx2'), { cacheWays: 12, rows: 6, vectors: 2, round: 24 });
});

describe('cpu device', { skip: probe.available ? false : probe.reason }, () => {
  test('the instruction set can be chosen, by option and by the environment', async () => {
    const before = process.env.TANDEM_CPU_ISA;
    try {
      delete process.env.TANDEM_CPU_ISA;
      const device = await cpuFactory.open({ features: ['avx2'], threads: 1 });
      assert.equal(device.info.features[0], 'avx2');
      assert.match(device.info.description, /AVX2$/);
      assert.equal(device.info.threads, 1);
      await device.close();
      process.env.TANDEM_CPU_ISA = 'avx2';
      const fromEnvironment = await cpuFactory.open({ threads: 1 });
      assert.equal(fromEnvironment.info.features[0], 'avx2');
      await fromEnvironment.close();
      process.env.TANDEM_CPU_ISA = 'sse';
      await assert.rejects(
        cpuFactory.open(),
        /TANDEM_CPU_ISA 'sse' is unknown .* use one of amx, avx512, avx2/,
      );
      // A wrong setting is not a machine without the accelerator.
      await assert.rejects(cpuFactory.probe(), /TANDEM_CPU_ISA 'sse'/);
      await assert.rejects(cpuFactory.open({ features: ['neon'] }), /feature 'neon' is unknown/);
      await assert.rejects(cpuFactory.open({ features: ['avx2'], threads: 0 }), /threads is 0/);
    } finally {
      if (before === undefined) delete process.env.TANDEM_CPU_ISA;
      else process.env.TANDEM_CPU_ISA = before;
    }
  });

  const instructionSets = ['amx', 'avx512', 'avx2'];
  for (const isa of instructionSets.slice(instructionSets.indexOf(probe.info?.features[0] as string))) {
    test(`${isa}: kernels run with any number of threads, from the same code when they are equal`, async () => {
      for (const threads of [1, 2, 5]) {
        const device = await cpuFactory.open({ features: [isa], threads });
        const buffer = device.allocate(4 * count);
        const binding = { buffer, byteOffset: 0 };
        const kernels = [addOne(), addOne(), addOne()];
        const launches = kernels.map((kernel) => ({ kernel, bindings: [binding] }));
        const first = await device.compile(launches);
        const second = await device.compile(launches);
        await first.run(100);
        await second.run();
        const values = new Float32Array((await device.read(buffer)).buffer);
        assert.ok(values.every((value) => value === 303));
        second.dispose();
        device.free(buffer);
        await assert.rejects(first.run(), /already freed/);
        await device.close();
        await assert.rejects(first.run(), /disposed, or its device is closed/);
        assert.throws(() => device.allocate(1), /closed/);
      }
    });
  }

  test('kernels that differ in an infinity only are different kernels', async () => {
    const sumWithFill = (fill: number) =>
      buildKernel('sumWithFill', (k) => {
        const x = k.input('x', 'f32', [3]);
        const y = k.output('y', 'f32', [1]);
        k.store(y, [0], k.load(x, [0], [16], { fill }).sum());
      });
    const device = await cpuFactory.open({ threads: 1 });
    const buffer = device.allocate(256);
    const fills = [Infinity, -Infinity, Number.NaN];
    const launches = fills.map((fill, i) => ({
      kernel: sumWithFill(fill),
      bindings: [
        { buffer, byteOffset: 0 },
        { buffer, byteOffset: 64 + 4 * i },
      ],
    }));
    await (await device.compile(launches)).run();
    assert.deepEqual([...new Float32Array((await device.read(buffer, 64, 12)).buffer)], fills);
    await device.close();
  });

  test('what a run needs is kept until it ends, and closing waits for it', async () => {
    const device = await cpuFactory.open({ threads: 2 });
    const buffer = device.allocate(4 * count);
    const executable = await device.compile([{ kernel: addOne(), bindings: [{ buffer, byteOffset: 0 }] }]);
    const run = executable.run(20_000);
    assert.throws(() => device.free(buffer), /a run is using it/);
    assert.throws(() => executable.dispose(), /is running/);
    const closed = device.close();
    await assert.rejects(executable.run(), /the cpu device is closed/);
    await run;
    await closed;
    await device.close();
  });

  test('the process exits during a run', async () => {
    const script = `
      const { cpuFactory } = await import('${new URL('../../src/accelerators/cpu/device.ts', import.meta.url)}');
      const { buildKernel } = await import('${new URL('../../src/tile/builder.ts', import.meta.url)}');
      const kernel = buildKernel('addOne', (k) => {
        const x = k.inout('x', 'f32', [8]);
        k.store(x, [0], k.load(x, [0], [8]).add(1));
      });
      const device = await cpuFactory.open({ threads: 3 });
      const executable = await device.compile([{ kernel, bindings: [{ buffer: device.allocate(32), byteOffset: 0 }] }]);
      executable.run(2 ** 31);
      setTimeout(() => process.exit(5), 100);`;
    const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', script], {
      stdio: ['ignore', 'inherit', 'inherit'],
    });
    const patience = setTimeout(() => child.kill('SIGKILL'), 15_000);
    const status = await new Promise((resolve) => child.on('close', resolve));
    clearTimeout(patience);
    assert.equal(status, 5);
  });
});
