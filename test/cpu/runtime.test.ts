import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { after, describe, test } from 'node:test';
import { formatBytes } from '../../src/accelerators/bytes.ts';
import { cpuQuota } from '../../src/accelerators/control-groups.ts';
import { processor } from '../../src/accelerators/cpu/cpuid.ts';
import { DeviceHeap } from '../../src/accelerators/cpu/heap.ts';
import { availableMemory, processorThreads, usableThreads } from '../../src/accelerators/cpu/host.ts';
import { openLimitMeter } from '../../src/accelerators/cpu/limits.ts';
import { CodeBlock, Mapping } from '../../src/accelerators/cpu/memory.ts';
import { loadNative } from '../../src/accelerators/cpu/native.ts';
import { LaunchList, type NativeLaunch, ThreadPool } from '../../src/accelerators/cpu/threads.ts';
import type { Device } from '../../src/accelerators/device.ts';
import { increment, rendezvous, reportScratch, sumAndAdd } from './machine-kernels.ts';

const usable = process.platform === 'linux' && process.arch === 'x64';

describe('cpu runtime', { skip: usable ? false : 'not Linux on x86-64' }, async () => {
  const native = await loadNative();
  const cells = 16;
  const scratchBytes = 5000;
  const code = new CodeBlock(native, [
    increment,
    sumAndAdd(cells),
    reportScratch(3, scratchBytes),
    rendezvous(3),
  ]);
  const [incrementEntry, sumEntry, scratchEntry, rendezvousEntry] = code.addresses;
  after(() => code.free());

  /** Runs `body` with a pool and some memory of 64-bit cells, and frees both. */
  async function withPool(
    threads: number,
    cellCount: number,
    body: (pool: ThreadPool, memory: Mapping, values: BigUint64Array) => Promise<void>,
  ): Promise<void> {
    const pool = new ThreadPool(native, threads);
    const memory = new Mapping(native, 8 * cellCount);
    try {
      await body(pool, memory, new BigUint64Array(memory.view().buffer, 0, cellCount));
    } finally {
      pool.close();
      memory.free();
    }
  }

  async function walk(
    pool: ThreadPool,
    launches: readonly NativeLaunch[],
    repeat = 1,
    chunk?: number,
  ): Promise<void> {
    const list = new LaunchList(native, launches, pool.threads, chunk);
    try {
      await pool.walk(list, repeat);
    } finally {
      list.free();
    }
  }

  test('mappings are zero-filled, aligned and writable; large ones are aligned to huge pages', () => {
    for (const [byteLength, alignment] of [
      [1, 4096],
      [2 * 2 ** 20, 2 ** 21],
      [5 * 2 ** 20, 2 ** 21],
    ] as const) {
      const mapping = new Mapping(native, byteLength);
      const bytes = new Uint8Array(mapping.view().buffer);
      assert.equal(mapping.address % BigInt(alignment), 0n);
      assert.ok(bytes.every((byte) => byte === 0));
      bytes.fill(255);
      mapping.free();
      assert.throws(() => mapping.free(), /freed twice/);
    }
    assert.throws(
      () => new Mapping(native, 2 ** 50),
      /cannot map 1125899906842624 bytes of memory: .*errno 12/,
    );
  });

  test('the heap counts, and refuses what would crash later', () => {
    const device = {} as Device;
    const heap = new DeviceHeap(native, device);
    const [small, large] = [heap.allocate(100), heap.allocate(3 * 2 ** 20)];
    assert.equal(heap.allocatedBytes, 100 + 3 * 2 ** 20);
    assert.equal(heap.address(small, 64, 36, 'test') & 63n, 0n);
    assert.throws(
      () => heap.address(small, 64, 37, 'test it'),
      /cannot test it: 37 bytes at offset 64 are not within its 100/,
    );
    const unpin = heap.pin(new Set([small]));
    assert.throws(() => heap.free(small), /a run is using it/);
    unpin();
    heap.free(small);
    assert.throws(() => heap.free(small), /already freed/);
    assert.throws(() => heap.address(small, 0, 1, 'test it'), /cannot test it: it is already freed/);
    assert.throws(() => heap.pin(new Set([large, small])), /already freed/);
    assert.throws(() => new DeviceHeap(native, {} as Device).free(large), /not allocated by this device/);
    heap.freeAll();
    assert.equal(heap.allocatedBytes, 0);
    for (const size of [-1, 1.5, Number.NaN]) assert.throws(() => heap.allocate(size), /whole number/);
  });

  test('the heap promises no more memory than there is', () => {
    const heap = new DeviceHeap(native, {} as Device);
    assert.throws(
      () => heap.allocate(2 ** 45),
      /out of memory on the cpu device: 32\.0 TiB were asked for and .* are available/,
    );
    const share = Math.floor(0.6 * availableMemory());
    const first = heap.allocate(share);
    assert.throws(() => heap.allocate(share), /out of memory/);
    heap.free(first);
    heap.free(heap.allocate(share));
    // Many at once, for which available memory is not looked up each time.
    const small = Math.floor(0.05 * availableMemory());
    assert.throws(() => {
      for (let i = 0; i < 22; i++) heap.allocate(small);
    }, /out of memory/);
    assert.ok(heap.allocatedBytes >= 15 * small, 'refused too early');
    heap.freeAll();
  });

  test('code is executable and not writable', () => {
    const line = readFileSync('/proc/self/maps', 'utf8')
      .split('\n')
      .find((text) => text.startsWith(`${code.addresses[0].toString(16)}-`));
    assert.match(line ?? '', / r-xp /);
  });

  test('the processor is what the system says it is', () => {
    const flags = new Set(/^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1].split(' '));
    const names = {
      avx2: 'avx2',
      fma: 'fma',
      f16c: 'f16c',
      bmi: 'bmi2',
      lzcnt: 'abm',
      popcnt: 'popcnt',
      avx512f: 'avx512f',
      avx512dq: 'avx512dq',
      avx512bw: 'avx512bw',
      avx512vl: 'avx512vl',
      avx512vnni: 'avx512_vnni',
      avx512bf16: 'avx512_bf16',
    } as const;
    const { brand, features, caches } = processor(native);
    for (const [feature, flag] of Object.entries(names)) {
      assert.equal(features.has(feature as keyof typeof names), flags.has(flag), feature);
    }
    // Linux may refuse the tiles.
    if (features.has('amx')) assert.ok(flags.has('amx_tile'));
    assert.ok(readFileSync('/proc/cpuinfo', 'utf8').includes(brand));
    assert.ok(
      caches.some(({ level, kind, byteLength }) => level === 1 && kind === 'data' && byteLength >= 16384),
    );
  });

  test('threads are counted and requests validated', () => {
    const before = process.env.TANDEM_THREADS;
    try {
      delete process.env.TANDEM_THREADS;
      assert.equal(usableThreads(native), processorThreads(native));
      assert.ok(processorThreads(native) >= 1);
      assert.equal(usableThreads(native, 3), 3);
      process.env.TANDEM_THREADS = '5';
      assert.equal(usableThreads(native), 5);
      assert.equal(usableThreads(native, 3), 3);
      for (const bad of ['0', '-1', '1.5', 'many', '100000']) {
        process.env.TANDEM_THREADS = bad;
        assert.throws(() => usableThreads(native), /TANDEM_THREADS is .*: it must be a whole number from 1/);
      }
      assert.throws(() => usableThreads(native, 0), /threads is 0/);
    } finally {
      if (before === undefined) delete process.env.TANDEM_THREADS;
      else process.env.TANDEM_THREADS = before;
    }
  });

  test('sizes are given in readable units', () => {
    assert.equal(formatBytes(17), '17 bytes');
    assert.equal(formatBytes(3 * 2 ** 30), '3.0 GiB');
    assert.ok(availableMemory() > 2 ** 20);
  });

  test('limits of control groups count, of both versions and of the groups around', () => {
    const reader = (files: Record<string, string>) => (path: string) => files[path] ?? null;
    const two = reader({
      '/proc/self/cgroup': '0::/a/b\n',
      '/proc/meminfo': 'MemTotal: 99 kB\nMemAvailable:       1000 kB\n',
      '/sys/fs/cgroup/a/b/cpu.max': 'max 100000\n',
      '/sys/fs/cgroup/a/cpu.max': '250000 100000\n',
      '/sys/fs/cgroup/a/b/memory.max': 'max\n',
      '/sys/fs/cgroup/a/memory.max': '500000\n',
      '/sys/fs/cgroup/a/memory.current': '300000\n',
      '/sys/fs/cgroup/a/memory.stat': 'anon 200000\ninactive_file 1000\n',
    });
    assert.equal(cpuQuota(two), 2.5);
    assert.equal(availableMemory(two), 201_000);
    const one = reader({
      '/proc/self/cgroup': '5:memory:/m\n4:cpuset:/\n3:cpu,cpuacct:/c\n0::/\n',
      '/proc/meminfo': 'MemAvailable: 100 kB\n',
      '/sys/fs/cgroup/cpu/c/cpu.cfs_quota_us': '150000\n',
      '/sys/fs/cgroup/cpu/c/cpu.cfs_period_us': '50000\n',
      '/sys/fs/cgroup/cpu/cpu.cfs_quota_us': '-1\n',
      '/sys/fs/cgroup/memory/m/memory.limit_in_bytes': '9223372036854771712\n',
    });
    assert.equal(cpuQuota(one), 3);
    assert.equal(availableMemory(one), 102_400);
    assert.equal(cpuQuota(reader({})), Infinity);
  });

  test('a quota of less than two processors leaves one thread, no quota one a processor', () => {
    const quota = (max: string) => (path: string) =>
      ({ '/proc/self/cgroup': '0::/\n', '/sys/fs/cgroup/cpu.max': max })[path] ?? null;
    const all = processorThreads(native, quota('max 100000\n'));
    assert.ok(all >= 1);
    assert.equal(processorThreads(native, quota('190000 100000\n')), 1);
    assert.equal(processorThreads(native, quota('50000 100000\n')), 1);
    assert.equal(processorThreads(native, quota('100000000 100000\n')), all);
  });

  for (const threads of [1, 2, 8]) {
    test(`${threads} threads: each program of each launch and repeat is executed once`, async () => {
      const sizes = [1, 2, 3, 7, 64, 1000, 4097];
      await withPool(threads, 5000, async (pool, memory, values) => {
        const launches = sizes.map((programs) => ({
          entry: incrementEntry,
          arguments: [memory.address],
          programs,
        }));
        await walk(pool, launches, 50);
        for (const chunk of [1, 10, 4096, 5000]) await walk(pool, launches, 1, chunk);
        const wanted = values.map((_, id) => BigInt(54 * sizes.filter((size) => id < size).length));
        assert.deepEqual(values, wanted);
      });
    });

    test(`${threads} threads: a launch sees all that the one before wrote`, async () => {
      await withPool(threads, 2 * cells, async (pool, memory, values) => {
        const [a, b] = [memory.address, memory.address + BigInt(8 * cells)];
        const launches = Array.from({ length: 1000 }, (_, i) => ({
          entry: sumEntry,
          arguments: i % 2 === 0 ? [a, b] : [b, a],
          // Now and then only one program, as between the parallel launches of a model: it writes one cell.
          programs: i % 10 < 8 ? cells : 1,
        }));
        const [ping, pong] = [new BigUint64Array(cells), new BigUint64Array(cells)];
        const repeat = 4;
        for (let i = 0; i < repeat * launches.length; i++) {
          const [from, to] = i % 2 === 0 ? [ping, pong] : [pong, ping];
          const sum = from.reduce((total, value) => total + value, 0n);
          const { programs } = launches[i % launches.length];
          for (let id = 0; id < programs; id++) to[id] = sum + BigInt(id);
        }
        await walk(pool, launches, repeat, 1);
        assert.deepEqual(values, new BigUint64Array([...ping, ...pong]));
      });
    });
  }

  test('threads that sleep are woken', async () => {
    await withPool(3, 100, async (pool, memory, values) => {
      const launch = { entry: incrementEntry, arguments: [memory.address], programs: 100 };
      for (let i = 1; i <= 20; i++) {
        await new Promise((resolve) => setTimeout(resolve, 2));
        await walk(pool, [launch, launch], 1, 1);
        assert.ok(values.every((value) => value === BigInt(2 * i)));
      }
    });
  });

  test('all threads take part, also after they slept', async () => {
    await withPool(3, 4, async (pool, memory, values) => {
      const launch = {
        entry: rendezvousEntry,
        arguments: [memory.address, memory.address + 8n],
        programs: 3,
      };
      for (let i = 0; i < 5; i++) {
        values.fill(0n);
        await walk(pool, [launch], 1, 1);
        assert.deepEqual([...values], [3n, 1n, 1n, 1n]);
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    });
  });

  test('short lists run in the call itself, and the event loop still gets its turns', async () => {
    await withPool(2, 1, async (pool, memory, values) => {
      const launch = { entry: incrementEntry, arguments: [memory.address], programs: 1 };
      const list = new LaunchList(native, [launch], 2);
      let turns = 0;
      let runs = 0;
      const timer = setInterval(() => turns++, 1);
      for (let atOnce = 0; atOnce <= 100 || turns < 20; runs++) {
        const before = values[0];
        const run = pool.walk(list, 1);
        if (values[0] === before + 1n) atOnce++;
        await run;
        assert.equal(values[0], before + 1n);
        // A run counts for a microsecond at least, and patience ends after 1000 of them: with room for a late timer.
        assert.ok(runs < 10_000 * (turns + 1), `${runs} runs, ${atOnce} in the call itself, ${turns} turns`);
      }
      clearInterval(timer);
      list.free();
    });
  });

  test('each thread has scratch memory of its own, and it grows', async () => {
    await withPool(3, 4, async (pool, memory, values) => {
      for (const byteLength of [64, scratchBytes, 100]) pool.reserveScratch(byteLength);
      const pointers = [memory.address, memory.address + 8n];
      await walk(pool, [{ entry: scratchEntry, arguments: pointers, programs: 3 }], 1, 1);
      const places = [...values].slice(1).sort((a, b) => Number(a - b));
      assert.ok(places.every((place) => place % 64n === 0n && place !== 0n));
      for (let i = 1; i < places.length; i++) assert.ok(places[i] - places[i - 1] >= scratchBytes);
    });
  });

  test('pools come and go without leaving threads or memory behind', async () => {
    // Large, though hardly touched, so that what is left behind stands out from the JavaScript heap.
    const large = 2 ** 24;
    const once = () =>
      withPool(4, large / 8, async (pool, memory) => {
        pool.reserveScratch(large);
        await walk(pool, [{ entry: incrementEntry, arguments: [memory.address], programs: 64 }], 3, 1);
      });
    const status = (name: string) =>
      Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);
    const codeBlocks = () =>
      readFileSync('/proc/self/maps', 'utf8').match(/ r-xp 00000000 00:00 0 *$/gm)?.length;
    // The C library keeps some stacks of ended threads for new ones: let it fill that store first.
    for (let i = 0; i < 5; i++) await once();
    const before = { threads: status('Threads'), code: codeBlocks(), kib: status('VmSize') };
    const times = 40;
    for (let i = 0; i < times; i++) await once();
    assert.equal(status('Threads'), before.threads);
    assert.equal(codeBlocks(), before.code);
    const grown = (status('VmSize') - before.kib) * 1024;
    assert.ok(grown < (times * large) / 2, `${formatBytes(grown)} more address space`);
  });

  test('several pools work at the same time', async () => {
    const work = () =>
      withPool(2, 500, async (pool, memory, values) => {
        const launch = { entry: incrementEntry, arguments: [memory.address], programs: 500 };
        await walk(pool, [launch, launch, launch], 2000, 25);
        assert.ok(values.every((value) => value === 6000n));
      });
    await Promise.all([work(), work(), work()]);
  });

  test('the limits of the machine are measured', async () => {
    using meter = await openLimitMeter(2);
    const { threads, fma, dots, read, copy } = await meter.measure();
    assert.equal(threads, 2);
    const rates = [read, copy, ...Object.values(fma), ...Object.values(dots)];
    const { features } = processor(native);
    assert.deepEqual(
      [dots.bf16 !== undefined, dots.int8 !== undefined],
      [features.has('avx512bf16'), features.has('avx512vnni')],
    );
    // How fast a machine is depends on what else it does; that something was measured does not.
    for (const { one, all } of rates)
      assert.ok(one > 0 && all > 0 && Number.isFinite(one) && Number.isFinite(all));
  });

  describe('a process ends while the threads are at work', () => {
    const source = (then: string) => `
      const [{ loadNative }, { CodeBlock, Mapping }, { LaunchList, ThreadPool }, { increment }] = await Promise.all(
        ['src/accelerators/cpu/native.ts', 'src/accelerators/cpu/memory.ts', 'src/accelerators/cpu/threads.ts',
         'test/cpu/machine-kernels.ts'].map((path) => import('${new URL('../../', import.meta.url)}' + path)));
      const native = await loadNative();
      const memory = new Mapping(native, 8000);
      const code = new CodeBlock(native, [increment]);
      const pools = [new ThreadPool(native, 3), new ThreadPool(native, 2)];
      const work = () => {
        for (const pool of pools) {
          const launch = { entry: code.addresses[0], arguments: [memory.address], programs: 1000 };
          pool.walk(new LaunchList(native, [launch, launch], 3), 2 ** 31)
            .catch((error) => console.error(error.message));
        }
        setTimeout(() => console.log('working'), 50);
      };
      ${then}`;

    /** How the process ends; `signal` is sent once it works. Fails when it takes longer than 15 s. */
    async function ending(then: string, signal?: NodeJS.Signals) {
      const child = spawn(
        process.execPath,
        ['--import', 'tsx', '--input-type=module', '--eval', source(then)],
        { stdio: ['ignore', 'pipe', 'pipe'] },
      );
      let errors = '';
      child.stderr.on('data', (data) => (errors += data));
      const patience = setTimeout(() => {
        errors += 'TOO SLOW';
        child.kill('SIGKILL');
      }, 15_000);
      child.stdout.once('data', () => signal && child.kill(signal));
      const [status, by] = await new Promise<[number | null, string | null]>((resolve) =>
        child.on('close', (code, name) => resolve([code, name])),
      );
      clearTimeout(patience);
      return { status, signal: by, errors };
    }

    test('process.exit', async () => {
      const { status, errors } = await ending('work(); setTimeout(() => process.exit(7), 100);');
      assert.deepEqual([status, errors], [7, '']);
    });

    test('an interrupt', async () => {
      assert.equal((await ending('work();', 'SIGINT')).signal, 'SIGINT');
    });

    test('an interrupt with a handler', async () => {
      const { status } = await ending("work(); process.on('SIGINT', () => process.exit(9));", 'SIGINT');
      assert.equal(status, 9);
    });

    test('an uncaught error', async () => {
      const { status, errors } = await ending("work(); setTimeout(() => { throw new Error('oops'); }, 100);");
      assert.equal(status, 1);
      assert.match(errors, /Error: oops/);
    });

    test('idle threads do not keep it alive', async () => {
      assert.deepEqual(await ending(''), { status: 0, signal: null, errors: '' });
    });
  });
});
