/**
 * What Linux's control groups grant this process, of both versions. Containers limit by them what the machine's own
 * counters still show. Imports nothing of Node: files are read by whoever asks.
 */

/** A file's text, or null where there is no such file or it may not be read. */
export type ReadText = (path: string) => string | null;

const root = '/sys/fs/cgroup';

export interface Groups {
  /** This process's group and the groups around it, innermost first. */
  readonly folders: readonly string[];
  readonly version: 1 | 2;
}

/** The control groups that limit this process, in the controller's own hierarchy (version 1) or the one of all. */
export function controlGroups(controller: string, read: ReadText): Groups {
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
export function cpuQuota(read: ReadText): number {
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

/** `processors`, or fewer where the quota is smaller; at least 1. */
export function threadsWithin(processors: number, read: ReadText): number {
  // A partial processor is rounded down: threads beyond the quota would be stopped while others wait for them.
  return Math.max(1, Math.min(processors, Math.floor(cpuQuota(read))));
}
