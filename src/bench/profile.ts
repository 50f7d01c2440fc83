/**
 * Traces of launches in the trace event format, which Perfetto (ui.perfetto.dev) and chrome://tracing show:
 * https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
 */
import { viewBytes } from '../accelerators/bindings.ts';
import type { DeviceInfo, Launch, TracedLaunch } from '../accelerators/device.ts';
import type { Limits } from './item.ts';
import { arithmeticPeak, readBandwidth } from './item.ts';

/** Times in microseconds. 'X': a span; 'M': says what a process or thread is called. */
export interface TraceEvent {
  readonly name: string;
  readonly ph: 'X' | 'M';
  readonly pid: number;
  readonly tid: number;
  readonly ts?: number;
  readonly dur?: number;
  readonly args: Readonly<Record<string, string | number>>;
}

export interface TraceFile {
  readonly traceEvents: readonly TraceEvent[];
  readonly displayTimeUnit: 'ms';
  readonly otherData: Readonly<Record<string, string>>;
}

const PROCESS = 1;
/** Launches one after the other, whichever threads worked on them; thread i is track i + 1. */
const LAUNCHES = 0;

/** Bytes of all views, each once. */
const bytesOf = ({ kernel }: Launch): number =>
  kernel.views.reduce((total, _, view) => total + viewBytes(kernel, view), 0);

/** The part of a time that the work takes at least; null where the limits or the work are unknown. */
function share(
  { flops, bytes }: { readonly flops: number; readonly bytes: number },
  microseconds: number,
  limits: Limits,
  device: string,
): { readonly percent: number; readonly bound: 'arithmetic' | 'memory' } | null {
  const peak = arithmeticPeak(limits, device);
  const bandwidth = readBandwidth(limits, device);
  if (peak === null || bandwidth === null || microseconds === 0) return null;
  const [computing, reading] = [flops / peak, bytes / bandwidth];
  return {
    percent: (100 * Math.max(computing, reading) * 1e6) / microseconds,
    bound: computing >= reading ? 'arithmetic' : 'memory',
  };
}

const rounded = (value: number) => Math.round(value * 1000) / 1000;

/**
 * One span a launch on the first track, and below one for each thread that took part. `percent of limit`: the time that
 * the launch's arithmetic at the measured peak takes, or all its views at the bandwidth of memory, whichever is longer,
 * over its own. Above 100 what it reads came from the caches.
 */
export function traceFile(
  launches: readonly TracedLaunch[],
  info: DeviceInfo,
  limits: Limits,
  about: string,
): TraceFile {
  const title = (name: 'process_name' | 'thread_name', tid: number, text: string): TraceEvent => ({
    name,
    ph: 'M',
    pid: PROCESS,
    tid,
    args: { name: text },
  });
  const events: TraceEvent[] = [
    title('process_name', LAUNCHES, `${about} on ${info.name}: ${info.description}`),
    title('thread_name', LAUNCHES, 'launches'),
    ...Array.from({ length: info.threads }, (_, i) => title('thread_name', i + 1, `thread ${i}`)),
  ];
  for (const [index, { launch, parts }] of launches.entries()) {
    const { name, grid } = launch.kernel;
    const began = Math.min(...parts.map((part) => part.began));
    const duration = Math.max(...parts.map((part) => part.ended)) - began;
    const work = { flops: launch.flops ?? 0, bytes: bytesOf(launch) };
    const reached = share(work, duration, limits, info.name);
    const span = { name, ph: 'X', pid: PROCESS } as const;
    events.push({
      ...span,
      tid: LAUNCHES,
      ts: rounded(began),
      dur: rounded(duration),
      args: {
        launch: index,
        grid: grid.join('x'),
        threads: parts.length,
        ...work,
        'GFLOP/s': rounded(work.flops / duration / 1e3),
        'GB/s': rounded(work.bytes / duration / 1e3),
        ...(reached && { 'percent of limit': Math.round(reached.percent), bound: reached.bound }),
      },
    });
    for (const part of parts)
      events.push({
        ...span,
        tid: part.thread + 1,
        ts: rounded(part.began),
        dur: rounded(part.ended - part.began),
        args: { launch: index, programs: part.programs, 'busy us': rounded(part.busy) },
      });
  }
  return { traceEvents: events, displayTimeUnit: 'ms', otherData: { about, device: info.description } };
}

export interface Hotspot {
  readonly name: string;
  readonly launches: number;
  readonly microseconds: number;
  /** Of the time in launches. */
  readonly share: number;
}

/** The kernels by the time they take together, longest first. */
export function hotspots(launches: readonly TracedLaunch[]): Hotspot[] {
  const byName = new Map<string, { launches: number; microseconds: number }>();
  let total = 0;
  for (const { launch, parts } of launches) {
    const began = Math.min(...parts.map((part) => part.began));
    const microseconds = Math.max(...parts.map((part) => part.ended)) - began;
    const sum = byName.get(launch.kernel.name) ?? { launches: 0, microseconds: 0 };
    byName.set(launch.kernel.name, {
      launches: sum.launches + 1,
      microseconds: sum.microseconds + microseconds,
    });
    total += microseconds;
  }
  return [...byName]
    .map(([name, sum]) => ({ name, ...sum, share: sum.microseconds / total }))
    .sort((a, b) => b.microseconds - a.microseconds);
}
