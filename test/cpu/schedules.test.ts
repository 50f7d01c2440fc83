/** Tables of measured blocks: which entry counts, and what becomes of a file that is none. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, beforeEach, describe, mock, test } from 'node:test';
import type { Processor } from '../../src/accelerators/cpu/cpuid.ts';
import type { ScheduleTable } from '../../src/accelerators/cpu/schedules.ts';
import {
  knownSchedules,
  machineOf,
  measuredIn,
  parseTable,
  processorKey,
  readUserTable,
  scheduleOf,
  tableVersion,
} from '../../src/accelerators/cpu/schedules.ts';
import { SHIPPED } from '../../src/accelerators/cpu/schedules-shipped.ts';
import type { LoopTarget } from '../../src/accelerators/loops/ir.ts';
import type { Product } from '../../src/kernels/schedule.ts';
import { chooseBlocks, defaultBlocks, productName } from '../../src/kernels/schedule.ts';

const folder = mkdtempSync(join(tmpdir(), 'tandem-schedules-'));
after(() => rmSync(folder, { recursive: true }));
let files = 0;

/** A new path each time, as each is complained about once. */
beforeEach(() => {
  process.env.TANDEM_SCHEDULES = join(folder, `${files++}.json`);
});
const write = (content: unknown) =>
  writeFileSync(
    process.env.TANDEM_SCHEDULES as string,
    typeof content === 'string' ? content : JSON.stringify(content),
  );

const cache = (level: number, byteLength: number, sharing: number) =>
  ({ level, kind: level === 1 ? 'data' : 'unified', byteLength, ways: 8, lineBytes: 64, sharing }) as const;
const processor: Processor = {
  brand: 'A processor',
  vendor: 'GenuineTest',
  family: 6,
  model: 85,
  features: new Set(),
  caches: [cache(1, 32768, 2), cache(2, 1048576, 2), cache(3, 8388608, 16)],
};
const target = {
  lanes: 16,
  bf16Pairs: true,
  matrixRegisters: false,
  cacheWays: 8,
  dotTile: { rows: 14, vectors: 2, round: 48 },
  wideTile: null,
} as unknown as LoopTarget;
const KEY = 'GenuineTest 6/85 avx512+bf16 16K 512K 8192K 2 threads';
const product = { m: 512, n: 512, k: 512 };
const table = (changes: Partial<ScheduleTable> = {}, key = KEY): ScheduleTable => ({
  version: tableVersion(),
  processors: { [key]: { [productName(product)]: '48x96x32' } },
  ...changes,
});
const chosen = (threads = 2) => chooseBlocks(product, scheduleOf(processor, target, threads));
const model = (threads = 2) =>
  defaultBlocks(product, { machine: machineOf(processor, target, threads), parallel: threads });
const BLOCKS = { m: 48, n: 96, k: 32 };

describe('schedules', () => {
  test('a machine is named by what decides about speed; threads that share a cache divide it', () => {
    const key = (threads: number, changed: Partial<Processor> = {}) => {
      const it = { ...processor, ...changed };
      return processorKey(it, machineOf(it, target, threads), threads);
    };
    assert.equal(key(2), KEY);
    assert.equal(key(1), 'GenuineTest 6/85 avx512+bf16 32K 1024K 8192K 1 thread');
    assert.match(key(2, { caches: [] }), / 32K 256K 2048K 2 threads$/u);
    assert.notEqual(key(2, { model: 86 }), KEY);
  });

  test('blocks of the user’s table are used', () => {
    write(table());
    assert.deepEqual(parseTable(JSON.stringify(table())), table());
    assert.notDeepEqual(model(), BLOCKS);
    assert.deepEqual(chosen(), BLOCKS);
  });

  test('the file is read when the first product asks, not when a device is opened', () => {
    const { measured } = scheduleOf(processor, target, 2);
    write(table());
    assert.deepEqual(measured?.(product), BLOCKS);
  });

  const ours = mock.method(console, 'error', () => {});

  for (const [what, content] of [
    ['another processor', table({}, KEY.replace('85', '86'))],
    ['another number of threads', table({}, KEY.replace('2 threads', '4 threads'))],
    ['another version', table({ version: `${tableVersion()}0` })],
    ['other products', table({ processors: { [KEY]: { '1x1x1 n·n f32·f32>f32': '1x1x1' } } })],
  ] as const)
    test(`a table for ${what} says nothing here`, () => {
      ours.mock.resetCalls();
      write(content);
      assert.deepEqual(chosen(), model());
      assert.equal(ours.mock.callCount(), 0);
    });

  for (const [what, content, reason] of [
    ['cut off', JSON.stringify(table()).slice(0, 60), /JSON/u],
    ['of something else', '{"name": "x"}', /no 'version' and 'processors'/u],
    ['with blocks that are none', table({ processors: { [KEY]: { x: '0x5x5' } } }), /'x' has no blocks/u],
    ['with a list for products', { ...table(), processors: { [KEY]: [] } }, /has no products/u],
  ] as const)
    test(`a file ${what} is ignored, with one line that says why`, () => {
      ours.mock.resetCalls();
      write(content);
      assert.equal(readUserTable().state, 'broken');
      assert.deepEqual(chosen(), model());
      assert.deepEqual(chosen(), model());
      assert.equal(ours.mock.callCount(), 1);
      const text = String(ours.mock.calls[0].arguments[0]);
      assert.ok(text.includes(process.env.TANDEM_SCHEDULES as string));
      assert.match(text, reason);
      assert.match(text, /run tandem tune/u);
    });

  test('what is shipped can be read, and names what it was measured on', () => {
    assert.deepEqual(knownSchedules('nothing of this name'), { own: {}, shipped: {} });
    assert.ok(Object.keys(SHIPPED).length > 0);
    for (const [key, measured] of Object.entries(SHIPPED)) {
      assert.match(key, /^\w+ \d+\/\d+ avx(?:2|512)(?:\+bf16)?(?:\+amx)? \d+K \d+K \d+K \d+ threads?$/u);
      const text = JSON.stringify({ version: '', processors: { [key]: measured } });
      assert.deepEqual(parseTable(text).processors[key], measured);
      assert.deepEqual(knownSchedules(key).shipped, measured);
    }
  });

  test('shipped blocks come before the model’s, and the user’s before those', () => {
    const zen4: Processor = {
      ...processor,
      vendor: 'AuthenticAMD',
      family: 25,
      model: 17,
      caches: [cache(1, 32768, 1), cache(2, 1048576, 1), cache(3, 33554432, 2)],
    };
    const key = processorKey(zen4, machineOf(zen4, target, 1), 1);
    const wide: Product = { m: 4096, n: 256, k: 512 };
    const shipped = measuredIn(SHIPPED[key], wide);
    assert.ok(shipped !== undefined, `the shipped table lacks ${productName(wide)}`);
    const choose = () => chooseBlocks(wide, scheduleOf(zen4, target, 1));
    assert.deepEqual(choose(), shipped);
    write(table({ processors: { [key]: { [productName(wide)]: '48x96x32' } } }));
    assert.deepEqual(choose(), BLOCKS);
    assert.equal(measuredIn({}, wide), undefined);
  });
});
