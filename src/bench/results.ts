/** What is kept of a measurement: the rows, and the machine they hold for. */
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus, loadavg, platform, release, totalmem } from 'node:os';
import { join } from 'node:path';
import type { MachineLimits } from '../accelerators/cpu/limits.ts';
import type { DeviceInfo } from '../accelerators/device.ts';
import type { Row } from './item.ts';

export interface Results {
  /** When the measurement ended. */
  readonly date: Date;
  readonly device: DeviceInfo;
  readonly limits: MachineLimits | null;
  /** Versions of the peers, by name. */
  readonly peers: Readonly<Record<string, string>>;
  /** Load of the machine before the measurement, a minute's average. */
  readonly load: number;
  readonly rows: readonly Row[];
}

/** Processes that ran or waited in the last minute: what else the machine was doing. */
export const currentLoad = (): number => loadavg()[0];

/** Writes `<date>.json` into `folder`, which is made where it is missing, and returns the file's path. */
export async function saveResults(folder: string, results: Results): Promise<string> {
  const { date, device, limits, peers, load, rows } = results;
  const processors = cpus();
  const machine = {
    processor: processors[0]?.model.trim() ?? 'unknown',
    processors: processors.length,
    memory: totalmem(),
    system: `${platform()} ${release()}`,
    node: process.version,
    load,
    device,
  };
  await mkdir(folder, { recursive: true });
  // Colons are not allowed in file names everywhere.
  const stamp = date
    .toISOString()
    .replace(/\.\d+Z$/u, 'Z')
    .replaceAll(':', '-');
  const path = join(folder, `${stamp}.json`);
  const text = JSON.stringify({ date: date.toISOString(), machine, limits, peers, rows }, null, 2);
  // A file of the same second would be another measurement's: fail rather than replace it.
  await writeFile(path, `${text}\n`, { flag: 'wx' });
  return path;
}
