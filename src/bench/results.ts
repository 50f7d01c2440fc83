/** What is kept of a measurement: the rows, and the machine they hold for. */
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { cpus, loadavg, platform, release, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import type { DeviceInfo } from '../accelerators/device.ts';
import type { Limits, Row } from './item.ts';
import { markdownReport } from './markdown.ts';

export interface Machine {
  readonly processor: string;
  readonly processors: number;
  /** Bytes. */
  readonly memory: number;
  readonly system: string;
  readonly node: string;
  /** Processes that ran or waited before the measurement, a minute's average. */
  readonly load: number;
  readonly device: DeviceInfo;
}

/** Of a peer: what exactly was measured, with its version, or null where it was not installed. */
export type PeerVersions = Readonly<Record<string, string | null>>;

export interface Results {
  /** When the measurement ended, in ISO 8601. */
  readonly date: string;
  readonly machine: Machine;
  readonly limits: Limits;
  readonly peers: PeerVersions;
  readonly rows: readonly Row[];
}

/** Processes that ran or waited in the last minute: what else the machine was doing. */
export const currentLoad = (): number => loadavg()[0];

export function thisMachine(device: DeviceInfo, load: number): Machine {
  const processors = cpus();
  return {
    processor: processors[0]?.model.trim() ?? 'unknown',
    processors: processors.length,
    memory: totalmem(),
    system: `${platform()} ${release()}`,
    node: process.version,
    load,
    device,
  };
}

/** The name of a machine's file: its processor, how many threads, and on which accelerator. */
export function machineName({ processor, device }: Machine): string {
  const words = `${processor} ${device.name} ${device.threads} threads`;
  return words
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/gu, '-')
    .replaceAll(/^-|-$/gu, '');
}

/**
 * Writes `<machine>.json` into `folder`, in place of what was measured there before, and the tables of all machines in
 * the folder into the Markdown file `page`. Returns the path of the first.
 */
export async function saveResults(folder: string, page: string, results: Results): Promise<string> {
  await mkdir(folder, { recursive: true });
  const path = join(folder, `${machineName(results.machine)}.json`);
  await writeFile(path, `${JSON.stringify(results, null, 2)}\n`);
  const names = (await readdir(folder)).filter((name) => name.endsWith('.json')).sort();
  const all: Results[] = [];
  for (const name of names) all.push(JSON.parse(await readFile(join(folder, name), 'utf8')));
  await mkdir(dirname(page), { recursive: true });
  await writeFile(page, markdownReport(all));
  return path;
}
