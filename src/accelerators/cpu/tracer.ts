/** Records what threads do, on threads of its own: those of the device know nothing of it. */
import type { Launch, TracedLaunch, TracedPart } from '../device.ts';
import type { Native } from './native.ts';
import type { ChunkEvent, LaunchList } from './threads.ts';
import { ThreadPool } from './threads.ts';

export class Tracer {
  readonly launches: TracedLaunch[] = [];
  readonly #pool: ThreadPool;
  #origin: number | null = null;

  /** Throws when the system refuses a thread. */
  constructor(native: Native, threads: number) {
    this.#pool = new ThreadPool(native, threads, true);
  }

  async walk(
    list: LaunchList,
    launches: readonly Launch[],
    repeat: number,
    scratchBytes: number,
  ): Promise<void> {
    this.#pool.reserveScratch(scratchBytes);
    for (let i = 0; i < repeat; i++) {
      const events = await this.#pool.trace(list);
      this.#origin ??= events.reduce((first, { began }) => Math.min(first, began), Number.POSITIVE_INFINITY);
      const byLaunch = launches.map((): ChunkEvent[] => []);
      for (const event of events) byLaunch[event.launch].push(event);
      for (const [index, chunks] of byLaunch.entries())
        this.launches.push({ launch: launches[index], parts: partsOf(chunks, this.#origin) });
    }
  }

  /** Ends its threads. Not during a walk. */
  close(): void {
    this.#pool.close();
  }
}

/** The chunks of one launch by thread. A thread's chunks are in the order of time. */
function partsOf(chunks: readonly ChunkEvent[], origin: number): TracedPart[] {
  const threads = [...new Set(chunks.map(({ thread }) => thread))];
  return threads.map((thread) => {
    const own = chunks.filter((chunk) => chunk.thread === thread);
    return {
      thread,
      began: own[0].began - origin,
      ended: own[own.length - 1].ended - origin,
      busy: own.reduce((sum, { began, ended }) => sum + ended - began, 0),
      programs: own.reduce((sum, { programs }) => sum + programs, 0),
    };
  });
}
