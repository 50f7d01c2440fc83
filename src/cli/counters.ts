/** `tandem bench --counters`: what a step takes of an accelerator, counted from its programs; nothing is run. */
import pc from 'picocolors';
import { openDevice } from '../accelerators/registry.ts';
import type { CountedStep } from '../bench/counters.ts';
import { countSteps } from '../bench/counters.ts';

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'];

/** '1.43 GB' */
export function bytesText(bytes: number): string {
  const power = bytes < 1000 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log10(bytes) / 3));
  return `${Number((bytes / 1000 ** power).toPrecision(3))} ${UNITS[power]}`;
}

const WIDTHS = [8, 12, 10, 6, 10, 9, 10, 10, 10, 7, 12];
const line = (cells: readonly string[]) =>
  cells
    .map((cell, column) => (column < 4 ? cell.padEnd(WIDTHS[column]) : cell.padStart(WIDTHS[column])))
    .join(' ')
    .trimEnd();

export const counterHeader = line([
  'a step',
  'model',
  'shape',
  'type',
  'launches',
  'a layer',
  'barriers',
  'read',
  'written',
  'runs',
  'read back',
]);

export function counterRow({ step, model, shape, dtype, counters, launchesPerLayer }: CountedStep): string {
  const { launches, barriers, bytesRead, bytesWritten, runs, hostReads, hostBytes } = counters;
  const rounded = (x: number) => `${Number(x.toPrecision(3))}`;
  return line([
    step,
    model,
    shape,
    dtype,
    rounded(launches),
    rounded(launchesPerLayer),
    rounded(barriers),
    bytesText(bytesRead),
    bytesText(bytesWritten),
    rounded(runs),
    `${rounded(hostReads)}x ${bytesText(hostReads === 0 ? 0 : hostBytes / hostReads)}`,
  ]);
}

const EXPLANATION = `launches   kernels of a step, each beginning when the one before it is complete; on a GPU: dispatches
a layer    of these, in each transformer layer
barriers   inside kernels, where the threads of one program wait for each other; loops counted once
read, written   between memory and processor, each byte of a launch once; of a cache all of its room
runs       lists of launches handed over; between the launches of a list the host takes no part
read back  reads by the host: the sampled tokens, or what the metrics need`;

/** `device` is the name of an available accelerator. */
export async function printCounters(device: string, json: boolean): Promise<void> {
  await using opened = await openDevice(device);
  const steps = await countSteps(opened);
  if (json) {
    console.log(
      JSON.stringify(
        steps.map((counted) => ({ device, ...counted })),
        null,
        2,
      ),
    );
    return;
  }
  console.log(`${device}: ${opened.info.description}. Counted from the programs; nothing is run\n`);
  console.log(pc.dim(counterHeader));
  for (const counted of steps) console.log(counterRow(counted));
  console.log(`\n${pc.dim(EXPLANATION)}`);
}
