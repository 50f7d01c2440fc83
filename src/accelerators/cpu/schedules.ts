/**
 * The processor as the choice of blocks sees it, and tables of blocks that were measured: the user's, which `tandem tune`
 * writes, and the one that comes with Tandem. Where neither knows a product, a model of the caches chooses.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Machine, MatmulBlocks, Product, Schedule } from '../../kernels/schedule.ts';
import { productName } from '../../kernels/schedule.ts';
import { tandemVersion } from '../../version.ts';
import type { LoopTarget } from '../loops/ir.ts';
import { dataCache, type Processor } from './cpuid.ts';
import { cacheFolder } from './host.ts';
import { SHIPPED } from './schedules-shipped.ts';

/** Raised whenever code for products changes so that other blocks may be the fastest. Tables of other versions count no more. */
export const SCHEDULES_VERSION = 3;

/** Blocks by `productName`, as 'rows x columns x depth': '128x256x512'. */
export type Measured = Readonly<Record<string, string>>;

export interface ScheduleTable {
  /** Of Tandem and of schedules: see `tableVersion`. */
  readonly version: string;
  /** By `processorKey`. */
  readonly processors: Readonly<Record<string, Measured>>;
}

/** What a table must have been made by to count here. */
export const tableVersion = (): string => `${tandemVersion()}-${SCHEDULES_VERSION}`;

/** Where the user's table is: TANDEM_SCHEDULES, else `tandem/schedules.json` in the user's cache. */
export const tablePath = (): string => process.env.TANDEM_SCHEDULES ?? join(cacheFolder(), 'schedules.json');

/** Of every processor that has AVX2, where the processor does not tell (some virtual machines hide it). */
const LEAST = { l1: 32 * 1024, l2: 256 * 1024, l3: 2 * 1024 * 1024 };

/** Bytes of the caches that a thread can count on: what threads share is divided, but for the third, which all read. */
function cachesOf(processor: Processor, threads: number): Machine['caches'] {
  const share = (level: number, least: number) => {
    const cache = dataCache(processor, level);
    return cache === undefined ? least : Math.floor(cache.byteLength / Math.min(cache.sharing, threads));
  };
  const l2 = share(2, LEAST.l2);
  return { l1: share(1, LEAST.l1), l2, l3: dataCache(processor, 3)?.byteLength ?? Math.max(l2, LEAST.l3) };
}

export function machineOf(processor: Processor, target: LoopTarget, threads: number): Machine {
  const { lanes, dotTile, wideTile, bf16Pairs, matrixRegisters, cacheWays } = target;
  return {
    caches: cachesOf(processor, threads),
    cacheWays,
    lanes,
    tile: dotTile,
    wideTile,
    bf16Pairs,
    matrixRegisters,
  };
}

/**
 * What decides about the speed of a product: 'AuthenticAMD 25/17 avx512+bf16 32K 1024K 32768K 2 threads'. Steppings of
 * a model differ in neither caches nor units.
 */
export function processorKey(
  { vendor, family, model }: Processor,
  machine: Machine,
  threads: number,
): string {
  const { caches, lanes, bf16Pairs, matrixRegisters } = machine;
  const sizes = [caches.l1, caches.l2, caches.l3].map((bytes) => `${Math.round(bytes / 1024)}K`);
  const isa = `${lanes === 16 ? 'avx512' : 'avx2'}${bf16Pairs ? '+bf16' : ''}${matrixRegisters ? '+amx' : ''}`;
  return `${vendor || 'x86-64'} ${family}/${model} ${isa} ${sizes.join(' ')} ${threads} thread${threads === 1 ? '' : 's'}`;
}

/** '128x256x512' */
export const blocksText = ({ m, n, k }: MatmulBlocks) => `${m}x${n}x${k}`;

function parseBlocks(text: string): MatmulBlocks | null {
  const found = /^([1-9]\d{0,5})x([1-9]\d{0,5})x([1-9]\d{0,5})$/u.exec(text);
  if (found === null) return null;
  const [m, n, k] = found.slice(1).map(Number);
  return { m, n, k };
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** A table from the text of its file. Throws an Error that says what is wrong in it. */
export function parseTable(text: string): ScheduleTable {
  // By hand, as a device is opened faster than a library of schemas is loaded.
  const value: unknown = JSON.parse(text);
  if (!isRecord(value) || typeof value.version !== 'string' || !isRecord(value.processors))
    throw new Error("it has no 'version' and 'processors'");
  for (const [key, products] of Object.entries(value.processors)) {
    if (!isRecord(products)) throw new Error(`'${key}' has no products`);
    for (const [product, blocks] of Object.entries(products))
      if (typeof blocks !== 'string' || parseBlocks(blocks) === null)
        throw new Error(`'${product}' has no blocks, as in '128x256x512'`);
  }
  return value as unknown as ScheduleTable;
}

/** The user's table as it is found. */
export type UserTable =
  | { readonly state: 'absent' }
  | { readonly state: 'broken'; readonly reason: string }
  /** Of another version: what was measured may not hold any more. */
  | { readonly state: 'outdated'; readonly version: string }
  | { readonly state: 'current'; readonly table: ScheduleTable };

export function readUserTable(path = tablePath()): UserTable {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return code === 'ENOENT' ? { state: 'absent' } : { state: 'broken', reason: message };
  }
  try {
    const table = parseTable(text);
    return table.version === tableVersion()
      ? { state: 'current', table }
      : { state: 'outdated', version: table.version };
  } catch (error) {
    return { state: 'broken', reason: (error as Error).message };
  }
}

/** Paths of tables that were complained about. */
const complained = new Set<string>();

function complain(path: string, reason: string): void {
  if (complained.has(path)) return;
  complained.add(path);
  console.error(
    `tandem: ${path} is not used, ${reason}: products run in blocks chosen without it; delete it, or run tandem tune`,
  );
}

/** Measured blocks of a processor, and where they are from. */
export interface KnownSchedules {
  /** In the user's table, and in the shipped one. */
  readonly own: Measured;
  readonly shipped: Measured;
}

/** What tables have for the processor that `processorKey` names; says so, once, where the user's cannot be read. */
export function knownSchedules(key: string): KnownSchedules {
  const path = tablePath();
  const user = readUserTable(path);
  if (user.state === 'broken') complain(path, user.reason);
  const own = user.state === 'current' ? (user.table.processors[key] ?? {}) : {};
  return { own, shipped: SHIPPED[key] ?? {} };
}

/** Blocks of a product in a table. */
export function measuredIn(table: Measured, product: Product): MatmulBlocks | undefined {
  const text = table[productName(product)];
  return text === undefined ? undefined : (parseBlocks(text) ?? undefined);
}

/** What a device says of how its products are cut. */
export function scheduleOf(processor: Processor, target: LoopTarget, threads: number): Schedule {
  const machine = machineOf(processor, target, threads);
  const machineKey = processorKey(processor, machine, threads);
  // Nobody who only opens a device waits for a file.
  let known: KnownSchedules | undefined;
  const measured = (product: Product): MatmulBlocks | undefined => {
    known ??= knownSchedules(machineKey);
    return measuredIn(known.own, product) ?? measuredIn(known.shipped, product);
  };
  return { parallel: threads, machine, machineKey, measured };
}

/** Where blocks come from on a processor, in a few words. */
export function describeSchedules(processor: Processor, target: LoopTarget, threads: number): string {
  const key = processorKey(processor, machineOf(processor, target, threads), threads);
  const user = readUserTable();
  const own = user.state === 'current' ? Object.keys(user.table.processors[key] ?? {}).length : 0;
  const shipped = Object.keys(SHIPPED[key] ?? {}).length;
  const parts = [
    ...(own > 0 ? [`${own} from a table of its own`] : []),
    ...(user.state === 'outdated' ? ['none from a table of another version (run tandem tune)'] : []),
    ...(user.state === 'broken' ? ['none from a table that cannot be read (run tandem tune)'] : []),
    ...(shipped > 0 ? [`${shipped} from the table that comes with Tandem`] : []),
  ];
  return [...parts, `${parts.length > 0 ? 'others' : 'all'} from the sizes of the caches`].join(', ');
}
