/** Traces: every launch is there, once, in time; and tracing changes no result. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import type { Device, TracedLaunch } from '../src/accelerators/device.ts';
import { listDevices, openDevice } from '../src/accelerators/registry.ts';
import type { Limits } from '../src/bench/item.ts';
import type { TraceEvent } from '../src/bench/profile.ts';
import { hotspots, traceFile } from '../src/bench/profile.ts';
import { Graph } from '../src/tensor/graph.ts';
import type { Program } from '../src/tensor/program.ts';
import { compile } from '../src/tensor/program.ts';
import { ParameterStore } from '../src/tensor/store.ts';
import { elementCount } from '../src/tile/ir.ts';
import { newRun } from '../src/training/open-run.ts';
import { tandem } from './cli/harness.ts';

const limits: Limits = {
  machine: {
    threads: 2,
    fma: { avx2: { one: 50e9, all: 100e9 } },
    dots: {},
    tiles: {},
    read: { one: 10e9, all: 20e9 },
    copy: { one: 8e9, all: 16e9 },
  },
  wasm: null,
};

const SIZE = 96;

/** y = exp(x · w) · w + x, of launches with one program and with many. */
async function program(device: Device, store: ParameterStore): Promise<Program> {
  const g = new Graph();
  const x = g.input('x', 'f32', [4 * SIZE, SIZE]);
  const w = g.input('w', 'f32', [SIZE, SIZE]);
  const y = g.add(g.matmul(g.exp(g.matmul(x, w)), w), x);
  const made = await compile(g, device, store, { outputs: { y, total: g.sum(y) } });
  const values = (count: number) => Float32Array.from({ length: count }, (_, i) => Math.sin(i));
  made.write('x', values(4 * SIZE * SIZE));
  made.write('w', values(SIZE * SIZE));
  return made;
}

const cpu = (await listDevices()).find(({ name }) => name === 'cpu')!;

describe('tracing on cpu', { skip: !cpu.available && cpu.reason }, () => {
  for (const threads of [1, 2, 3]) {
    test(`${threads} threads: every launch of every run, and all of its programs`, async () => {
      await using device = await openDevice('cpu', { threads });
      using store = new ParameterStore(device);
      using made = await program(device, store);
      await made.run();
      const expected = await made.read('y');
      const { value, launches } = await device.trace!(async () => {
        await made.run(2);
        return made.read('y');
      });
      assert.deepEqual(value, expected);
      assert.ok(made.launches.length >= 3, `${made.launches.length}`);
      assert.deepEqual(
        launches.map(({ launch }) => launch.kernel.name),
        [...made.launches, ...made.launches].map(({ name }) => name),
      );
      for (const { launch, parts } of launches) {
        const programs = parts.reduce((sum, part) => sum + part.programs, 0);
        assert.equal(programs, elementCount(launch.kernel.grid), launch.kernel.name);
        assert.ok(parts.length >= 1 && parts.length <= threads);
        for (const { began, ended, busy } of parts) {
          assert.ok(began >= 0 && ended >= began && busy > 0 && busy <= ended - began + 1e-6);
        }
      }
      checkFile(device, launches);
      // Afterwards the device works as before, and another trace is possible.
      await made.run();
      assert.deepEqual(await made.read('y'), expected);
      assert.equal((await device.trace!(() => made.run())).launches.length, made.launches.length);
    });
  }

  test('a second trace at the same time is refused; one that fails ends', async () => {
    await using device = await openDevice('cpu', { threads: 1 });
    await device.trace!(async () => {
      await assert.rejects(
        device.trace!(async () => {}),
        /traces already/u,
      );
    });
    await assert.rejects(
      device.trace!(async () => {
        throw new Error('the work failed');
      }),
      /the work failed/u,
    );
    assert.deepEqual((await device.trace!(async () => 7)).value, 7);
  });
});

describe('profiles', { skip: !cpu.available && cpu.reason }, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tandem-profile-'));
  after(() => rm(folder, { recursive: true }));

  test('of a training run: its second step, which learns the same', async () => {
    const made = (name: string) =>
      newRun({
        phases: ['cold_start'],
        run: { name, device: 'cpu', parity_device: 'cpu', eval_problems: 2 },
        modelOptions: {
          hidden_size: 16,
          num_hidden_layers: 1,
          num_attention_heads: 1,
          num_key_value_heads: 1,
          intermediate_size: 16,
        },
        sft: { max_steps: 3, per_device_train_batch_size: 4, gradient_accumulation_steps: 1 },
        grpo: { max_completion_length: 8 },
        runs: folder,
      });
    const plain = await made('plain');
    await plain.run();
    const profiled = await made('profiled');
    const seen: TracedLaunch[][] = [];
    profiled.traceStep(async (launches, { name }) => {
      assert.equal(name, 'cpu');
      seen.push([...launches]);
    });
    await profiled.run();
    assert.equal(seen.length, 1);
    const names = seen[0].map(({ launch }) => launch.kernel.name);
    for (const part of ['matmul', 'attention', 'embedding'])
      assert.ok(
        names.some((name) => name.includes(part)),
        `${part}: ${names}`,
      );
    const weights = (run: typeof plain) => readFile(join(run.folder, 'model.safetensors'));
    assert.ok((await weights(plain)).equals(await weights(profiled)));
  });

  test('of a benchmark: bench --profile writes the file and says where the time goes', async () => {
    const path = join(folder, 'trace.json');
    const { code, out, err } = await tandem(['bench', 'matmul', '--device', 'cpu', '--profile', path]);
    assert.equal(code, 0, err);
    assert.match(out, /1 launches; .*\n.*ms +100\.0 % +1x +matmul_256x256x256/u);
    const { traceEvents } = JSON.parse(await readFile(path, 'utf8')) as { traceEvents: TraceEvent[] };
    const [span] = traceEvents.filter(({ ph, tid }) => ph === 'X' && tid === 0);
    assert.equal(span.args.flops, 2 * 256 ** 3);
    assert.ok(Number(span.args['percent of limit']) > 0);
  });

  test('an accelerator that cannot trace says so', async () => {
    const { code, err } = await tandem(['bench', 'matmul', '--device', 'wasm', '--profile', 'x.json']);
    assert.equal(code, 2);
    assert.equal(err, 'tandem: --profile needs an accelerator that can trace: cpu, not wasm\n');
    const nothing = await tandem(['bench', 'start', '--device', 'cpu', '--profile', 'x.json']);
    assert.match(nothing.err, /there is nothing to profile in start: name .*matmul/u);
  });
});

/** The file is what viewers take, tracks do not overlap, and durations add up to no more than the whole. */
function checkFile(device: Device, launches: readonly TracedLaunch[]): void {
  const text = JSON.stringify(traceFile(launches, device.info, limits, 'a test'));
  const { traceEvents } = JSON.parse(text) as { traceEvents: TraceEvent[] };
  const spans = traceEvents.filter(({ ph }) => ph === 'X');
  assert.ok(traceEvents.every(({ ph }) => ph === 'X' || ph === 'M'));
  assert.deepEqual(
    spans.filter(({ tid }) => tid === 0).map(({ args }) => args.launch),
    launches.map((_, index) => index),
  );
  const ends = spans.map(({ ts, dur }) => ts! + dur!);
  const total = Math.max(...ends) - Math.min(...spans.map(({ ts }) => ts!));
  const slack = 0.002 * spans.length;
  for (const tid of new Set(spans.map((span) => span.tid))) {
    const track = spans.filter((span) => span.tid === tid);
    for (const { name, ts, dur, pid } of track) {
      assert.ok(name !== '' && Number.isFinite(ts) && Number.isFinite(dur) && ts! >= 0 && dur! >= 0);
      assert.equal(pid, 1);
    }
    for (let i = 1; i < track.length; i++)
      assert.ok(track[i].ts! >= track[i - 1].ts! + track[i - 1].dur! - 0.002, `track ${tid}, span ${i}`);
    const sum = track.reduce((all, { dur }) => all + dur!, 0);
    assert.ok(sum <= total + slack, `${sum} of ${total}`);
  }
  assert.equal(
    traceEvents.filter(({ name }) => name === 'thread_name').length,
    1 + device.info.threads,
    'each track has a name',
  );
}

describe('the file', () => {
  const kernel = { name: 'k', grid: [4], views: [], body: [], types: [] } as unknown as Parameters<
    typeof traceFile
  >[0][number]['launch']['kernel'];
  const launch = (flops: number, began: number, ended: number): TracedLaunch => ({
    launch: { kernel, bindings: [], flops },
    parts: [{ thread: 0, began, ended, busy: ended - began, programs: 4 }],
  });
  const info = { name: 'cpu', description: 'x', features: [], threads: 1, memory: 1 };

  test('the share of the limit is the least time over the time it took', () => {
    // 1e6 operations at 100 GFLOP/s take 10 us.
    const { traceEvents } = traceFile([launch(1e6, 5, 25)], info, limits, 'x');
    const span = traceEvents.find(({ ph, tid }) => ph === 'X' && tid === 0)!;
    assert.deepEqual([span.ts, span.dur], [5, 20]);
    assert.equal(span.args['percent of limit'], 50);
    assert.equal(span.args.bound, 'arithmetic');
    assert.equal(span.args['GFLOP/s'], 50);
    const unknown = traceFile([launch(1e6, 5, 25)], info, { machine: null, wasm: null }, 'x');
    assert.ok(!('percent of limit' in unknown.traceEvents.at(-2)!.args));
  });

  test('kernels are summed up by name', () => {
    assert.deepEqual(hotspots([launch(1, 0, 10), launch(1, 10, 40)]), [
      { name: 'k', launches: 2, microseconds: 40, share: 1 },
    ]);
  });
});
