/** Rollouts in browser tabs: the pool, and the server that lets tabs join it. Needs Node. */
import { TabPool } from '../fleet/tab-pool.ts';
import { openTabServer } from '../fleet/tab-server.ts';
import type { Qwen3Config } from '../models/config.ts';
import type { RunEvent } from './events.ts';
import type { Progress } from './progress.ts';

/** As `rollout`: not an accelerator of this machine samples, but browser tabs. */
export const BROWSER = 'browser';

export interface BrowserRollouts {
  readonly pool: TabPool;
  /** Takes leave of the tabs, and stops listening. */
  close(): Promise<void>;
}

/** Listens, and emits the link that tabs join by. */
export async function openBrowserRollouts(
  config: Qwen3Config,
  { run, dtype }: Pick<Progress, 'run' | 'dtype'>,
  onEvent: (event: RunEvent) => void,
): Promise<BrowserRollouts> {
  const pool = new TabPool({
    config,
    dtype,
    run: run.name,
    learner: run.device,
    wait: run.rollout_wait,
    onNotice: (message) => onEvent({ type: 'notice', message }),
  });
  const server = await openTabServer(pool, run);
  onEvent({ type: 'rollout_link', link: server.link });
  return {
    pool,
    async close() {
      await pool.dispose();
      await server.close();
    },
  };
}
