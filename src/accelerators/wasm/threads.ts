/** Persistent worker threads, in Node (`worker_threads`) and in a browser (`Worker`). */
import type { ReadText } from '../control-groups.ts';
import { threadsWithin } from '../control-groups.ts';
import { threadsSetting } from '../settings.ts';
import { type Command, NODE_WORKER_SOURCE, type Report, WEB_WORKER_SOURCE } from './worker-source.ts';

export interface Thread {
  post(command: Command, transfer?: ArrayBuffer[]): void;
  /** While held, the thread keeps the process alive. */
  hold(held: boolean): void;
  terminate(): Promise<void>;
}

export interface ThreadEvents {
  report(report: Report): void;
  /** The thread is no more, and nobody terminated it. */
  died(reason: string): void;
}

/** Node's module of that name; undefined in a browser. Looked up, not imported: bundlers shall not see it. */
function nodeModule<Name extends 'node:fs' | 'node:os' | 'node:worker_threads'>(name: Name) {
  return typeof process === 'undefined' ? undefined : process.getBuiltinModule?.(name);
}

/** Reads a file in Node; null where there is no such file, or it may not be read. */
const readText: ReadText = (path) => {
  try {
    return nodeModule('node:fs')?.readFileSync(path, 'utf8') ?? null;
  } catch (error) {
    if (error instanceof Error && 'code' in error) return null;
    throw error;
  }
};

/**
 * Threads that can run at once: in Node one a processor that the affinity mask and the control group's quota allow,
 * unless the environment variable TANDEM_THREADS says otherwise. `read` is how the control group's files are read.
 */
export function availableThreads(read: ReadText = readText): number {
  const os = nodeModule('node:os');
  if (!os) return Math.max(1, navigator.hardwareConcurrency ?? 1);
  return threadsSetting() ?? threadsWithin(os.availableParallelism(), read);
}

/** Whether memory can be shared between threads: always in Node, on cross-origin isolated pages in a browser. */
export function canShareMemory(): boolean {
  if (typeof SharedArrayBuffer === 'undefined') return false;
  return nodeModule('node:worker_threads') !== undefined || globalThis.crossOriginIsolated === true;
}

export function startThread(name: string, events: ThreadEvents): Thread {
  const workers = nodeModule('node:worker_threads');
  return workers ? startNodeThread(workers, name, events) : startWebThread(name, events);
}

function startNodeThread(
  { Worker }: typeof import('node:worker_threads'),
  name: string,
  events: ThreadEvents,
): Thread {
  // Neither loaders nor preloaded modules of the parent are wanted there.
  const worker = new Worker(NODE_WORKER_SOURCE, { eval: true, execArgv: [], env: {}, name });
  let terminated = false;
  let reason = 'it exited';
  worker.on('message', (report: Report) => events.report(report));
  worker.on('error', (error) => {
    reason = error instanceof Error ? error.message : String(error);
  });
  worker.on('exit', () => {
    if (!terminated) events.died(reason);
  });
  return {
    post: (command, transfer = []) => worker.postMessage(command, transfer),
    hold: (held) => (held ? worker.ref() : worker.unref()),
    terminate: async () => {
      terminated = true;
      await worker.terminate();
    },
  };
}

function startWebThread(name: string, events: ThreadEvents): Thread {
  const url = URL.createObjectURL(new Blob([WEB_WORKER_SOURCE], { type: 'text/javascript' }));
  const worker = new globalThis.Worker(url, { name });
  worker.onmessage = (event: MessageEvent<Report>) => {
    // The text has been read by the time the worker answers.
    if (event.data.type === 'ready') URL.revokeObjectURL(url);
    events.report(event.data);
  };
  worker.onerror = (event) =>
    events.died(
      event.message ||
        "it could not be started; the page's Content-Security-Policy must allow worker-src blob: and " +
          "script-src 'wasm-unsafe-eval'",
    );
  return {
    post: (command, transfer = []) => worker.postMessage(command, transfer),
    hold: () => {},
    terminate: async () => worker.terminate(),
  };
}
