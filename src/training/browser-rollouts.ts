/** Rollouts in browser tabs: the pool, and the server that lets tabs join it. Needs Node. */
import { TabPool } from '../fleet/tab-pool.ts';
import type { TabServer } from '../fleet/tab-server.ts';
import { openTabServer } from '../fleet/tab-server.ts';
import type { Qwen3Config } from '../models/config.ts';
import { forgetComeback, keepComeback, newComeback, readComeback } from './comeback.ts';
import type { RunEvent } from './events.ts';
import type { Progress } from './progress.ts';

/** As `rollout`: not an accelerator of this machine samples, but browser tabs. */
export const BROWSER = 'browser';

export interface BrowserRollouts {
  readonly pool: TabPool;
  /** Takes leave of the tabs, and stops listening. Tabs of an interrupted run come back when it is resumed. */
  close(how: 'ended' | 'interrupted'): Promise<void>;
}

/** Listens, and emits the link that tabs join by. `folder`: the run's. */
export async function openBrowserRollouts(
  folder: string,
  config: Qwen3Config,
  { run, dtype }: Pick<Progress, 'run' | 'dtype'>,
  onEvent: (event: RunEvent) => void,
): Promise<BrowserRollouts> {
  const notice = (message: string) => onEvent({ type: 'notice', message });
  const comeback = newComeback();
  const pool = new TabPool({
    config,
    dtype,
    run: run.name,
    learner: run.device,
    wait: run.rollout_wait,
    comeback,
    onNotice: notice,
  });
  const server = await listen(pool, folder, run, notice);
  await keepComeback(folder, server.port, comeback);
  onEvent({ type: 'rollout_link', link: server.link });
  return {
    pool,
    async close(how) {
      await pool.dispose(how);
      await server.close();
      if (how === 'ended') await forgetComeback(folder);
    },
  };
}

/** Where open tabs look for the run, if that is possible. */
async function listen(
  pool: TabPool,
  folder: string,
  { host, port }: Pick<Progress['run'], 'host' | 'port'>,
  notice: (message: string) => void,
): Promise<TabServer> {
  const former = await readComeback(folder);
  if (former === null || (port !== 0 && port !== former.port)) return openTabServer(pool, { host, port });
  try {
    return await openTabServer(pool, { host, port: former.port, comeback: former.comeback });
  } catch (error) {
    const { cause } = error as { cause?: NodeJS.ErrnoException };
    if (port !== 0 || cause?.code !== 'EADDRINUSE') throw error;
    notice(`Port ${former.port} is taken meanwhile: tabs that are open have to open the new link`);
    // Whoever listens there could show open tabs this run's proof, and would get their tickets: none counts.
    return openTabServer(pool, { host, port });
  }
}
