/** What is said of a trace that was written. */
import type { TracedLaunch } from '../accelerators/device.ts';
import { figure } from '../bench/markdown.ts';
import { hotspots } from '../bench/profile.ts';
import { percent } from './text.ts';

const SHOWN = 12;

/** The kernels that took longest, and where the trace is. */
export function traceLines(launches: readonly TracedLaunch[], path: string): string[] {
  const line = (time: string, share: string, count: string, name: string) =>
    `${time.padStart(9)} ${share.padStart(7)} ${count.padStart(6)}  ${name}`;
  return [
    `${launches.length} launches; those that took longest:`,
    ...hotspots(launches)
      .slice(0, SHOWN)
      .map(({ name, launches: count, microseconds, share }) =>
        line(`${figure(microseconds / 1000)} ms`, percent(share), `${count}x`, name),
      ),
    `The trace is in ${path}: open it in ui.perfetto.dev or chrome://tracing`,
  ];
}
