/** What this process may use of the machine: processors and memory, within affinity and control groups. */
import { readFileSync } from 'node:fs';
import type { Native } from './native.ts';

/** A file's text, or null where there is no such file or it may not be read. */
export type ReadText = (path: string) => string | null;

const readText: ReadText = (path) => {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error) return null;
    throw error;
  }
};

const root = '/sys/fs/cgroup';

interface Groups {
  /** This process's group and the groups around it, innermost first. */
  readonly folders: readonly string[];
  readonly version: 1 | 2;
}

/** The control groups that limit this process, in the controller's own hierarchy (version 1) or the one of all. */
function controlGroups(controller: string, read: ReadText): Groups {
  let path = '/';
  for (const line of (read('/proc/self/cgroup') ?? '').trim().split('\n')) {
    const [, controllers = '', where = '/'] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers.split(',').includes(controller)) {
      return { folders: upward(`${root}/${controller}`, where), version: 1 };
    }
    if (controllers === '') path = where;
  }
  return { folders: upward(root, path), version: 2 };
}

function upward(base: string, path: string): string[] {
  const parts = path.split('/').filter((part) => part !== '' && part !== '..');
  return Array.from({ length: parts.length + 1 }, (_, up) =>
    [base, ...parts.slice(0, parts.length - up)].join('/'),
  );
}

/** Processors of time that the control groups grant this process; Infinity where they set no limit. */
export function cpuQuota(read: ReadText = readText): number {
  const { folders, version } = controlGroups('cpu', read);
  const quotas = folders.map((folder) => {
    const [quota, period] =
      version === 2
        ? (read(`${folder}/cpu.max`) ?? 'max').trim().split(' ')
        : [read(`${folder}/cpu.cfs_quota_us`) ?? '-1', read(`${folder}/cpu.cfs_period_us`) ?? '1'];
    const limit = Number(quota) / Number(period);
    return limit > 0 ? limit : Infinity;
  });
  return Math.min(...quotas);
}

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
export function processorThreads(native: Native): number {
  // A partial processor is rounded down: threads beyond the quota would be stopped while others wait for them.
  return Math.max(1, Math.min(affinity(native), Math.floor(cpuQuota())));
}

export const maximumThreads = 1024;

function checkThreads(value: number, from: string): number {
  if (!Number.isInteger(value) || value < 1 || value > maximumThreads) {
    throw new RangeError(`${from} is ${value}: it must be a whole number from 1 to ${maximumThreads}`);
  }
  return value;
}

/**
 * How many threads to run: what was asked for, else the environment's TANDEM_THREADS, else as many as can run at
 * once. Throws RangeError on a bad request.
 */
export function usableThreads(native: Native, asked?: number): number {
  if (asked !== undefined) return checkThreads(asked, 'threads');
  const variable = process.env.TANDEM_THREADS;
  if (variable !== undefined && variable !== '') return checkThreads(Number(variable), 'TANDEM_THREADS');
  return Math.min(maximumThreads, processorThreads(native));
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
