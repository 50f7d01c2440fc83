/** What this process may use of the machine: processors and memory, within affinity and control groups. */
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { ReadText } from '../control-groups.ts';
import { controlGroups, threadsWithin } from '../control-groups.ts';
import { checkThreads, maximumThreads, threadsSetting } from '../settings.ts';
import { pageBytes } from './memory.ts';
import type { Native } from './native.ts';

/** Tandem's folder in the user's cache. */
export const cacheFolder = (): string =>
  join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'tandem');

const readText: ReadText = (path) => {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error) return null;
    throw error;
  }
};

/** Processors that the scheduler may run this process on. */
function affinity(native: Native): number {
  // One bit a processor; the kernel refuses a mask shorter than its own, so be generous.
  const mask = new Uint8Array(8192);
  if (native.sched_getaffinity(0, mask.length, mask) !== 0) {
    throw new Error(`sched_getaffinity failed: ${native.lastError()}`);
  }
  let count = 0;
  for (const bits of mask) for (let rest = bits; rest !== 0; rest &= rest - 1) count++;
  return count;
}

/** Threads that can run at once: one a processor that the affinity mask and the control group's quota allow. */
export function processorThreads(native: Native, read: ReadText = readText): number {
  return threadsWithin(affinity(native), read);
}

/**
 * How many threads to run: what was asked for, else the environment's TANDEM_THREADS, else as many as can run at
 * once. Throws SettingError on a bad request.
 */
export function usableThreads(native: Native, asked?: number): number {
  if (asked !== undefined) return checkThreads(asked, 'threads');
  return threadsSetting() ?? Math.min(maximumThreads, processorThreads(native));
}

/** Bytes of this process in memory that are its own, so without pages of files that others share. */
export function residentMemory(): number {
  const [, resident, shared] = readFileSync('/proc/self/statm', 'utf8').split(' ').map(Number);
  return (resident - shared) * pageBytes;
}

/** Bytes that can be allocated before the machine swaps or the control group's limit ends this process. */
export function availableMemory(read: ReadText = readText): number {
  const free = /^MemAvailable:\s+(\d+) kB/m.exec(read('/proc/meminfo') ?? '');
  let available = free ? Number(free[1]) * 1024 : Infinity;
  const { folders, version } = controlGroups('memory', read);
  const [limitName, usageName] =
    version === 2 ? ['memory.max', 'memory.current'] : ['memory.limit_in_bytes', 'memory.usage_in_bytes'];
  for (const folder of folders) {
    const limit = Number(read(`${folder}/${limitName}`) ?? 'max');
    const usage = Number(read(`${folder}/${usageName}`) ?? '0');
    // Pages of files that were read count as used, and are given up when something else needs them.
    const statistics = read(`${folder}/memory.stat`) ?? '';
    const reclaimable = Number(/^inactive_file (\d+)/m.exec(statistics)?.[1] ?? 0);
    if (limit >= 0) available = Math.min(available, Math.max(0, limit - usage + reclaimable));
  }
  return available;
}
