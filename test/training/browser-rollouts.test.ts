/** Tabs that are open find a resumed run again, and nobody else gets in by that. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import type { Comeback, RunMessage } from '../../src/fleet/protocol.ts';
import { CLOSE, PROOF_HEADER, SUBPROTOCOL } from '../../src/fleet/protocol.ts';
import type { BrowserRollouts } from '../../src/training/browser-rollouts.ts';
import { openBrowserRollouts } from '../../src/training/browser-rollouts.ts';
import type { RunEvent } from '../../src/training/events.ts';
import { runOptions } from '../../src/training/options.ts';
import { closed, connect, tokenOf } from '../fleet/tabs.ts';
import { config } from '../fleet/tiny.ts';

const skip = existsSync(new URL('../../dist/web/index.html', import.meta.url))
  ? false
  : 'the page is not built (npm run build)';

const JOIN = JSON.stringify({ type: 'join', protocol: 1, accelerator: 'wasm', description: '' });

describe('tabs of an interrupted run', { skip }, () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tandem-comeback-'));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  interface Opened extends BrowserRollouts {
    readonly link: string;
    readonly notices: readonly string[];
  }
  async function open(): Promise<Opened> {
    const events: RunEvent[] = [];
    const run = runOptions.parse({ name: 'x' });
    const rollouts = await openBrowserRollouts(folder, config, { run, dtype: 'f32' }, (event) =>
      events.push(event),
    );
    const [link] = events.flatMap((event) => (event.type === 'rollout_link' ? [event.link] : []));
    const notices = events.flatMap((event) => (event.type === 'notice' ? [event.message] : []));
    return { ...rollouts, link, notices };
  }

  /** Joins; resolves with the connection and what the tab was given to come back with. */
  async function welcomed(link: string, token = tokenOf(link)) {
    const socket = connect(link, [SUBPROTOCOL, token]);
    await once(socket, 'open');
    socket.send(JOIN);
    const [data] = await once(socket, 'message');
    const message = JSON.parse(String(data)) as Extract<RunMessage, { type: 'welcome' }>;
    return { socket, comeback: message.comeback as Comeback };
  }

  const knock = async (link: string, token: string) => {
    const { status, headers } = await fetch(new URL('rollout', link), {
      headers: { authorization: `Bearer ${token}` },
    });
    return { status, proof: headers.get(PROOF_HEADER) };
  };

  test('a ticket opens the next link at the same place, after the run has shown its proof, and only that one', async () => {
    const former = await open();
    const { socket, comeback } = await welcomed(former.link);
    assert.deepEqual(await knock(former.link, comeback.ticket), { status: 401, proof: null });
    const gone = closed(socket);
    await former.close('interrupted');
    assert.equal((await gone).code, CLOSE.interrupted);

    const next = await open();
    assert.equal(new URL(next.link).origin, new URL(former.link).origin);
    assert.notEqual(tokenOf(next.link), tokenOf(former.link));
    assert.deepEqual(await knock(next.link, tokenOf(former.link)), { status: 401, proof: comeback.proof });
    assert.deepEqual(await knock(next.link, comeback.ticket), { status: 204, proof: null });
    const back = await welcomed(next.link, comeback.ticket);
    assert.notDeepEqual(back.comeback, comeback);
    assert.equal(next.pool.size, 1);
    await next.close('interrupted');

    const third = await open();
    assert.equal((await knock(third.link, comeback.ticket)).status, 401);
    assert.equal((await knock(third.link, back.comeback.ticket)).status, 204);
    await third.close('ended');
  });

  test('only the user may read what is kept, and it goes with the end of the run', async () => {
    const path = join(folder, 'tabs.json');
    const before = await open();
    await before.close('interrupted');
    await chmod(path, 0o644);
    const rollouts = await open();
    const { mode } = await stat(path);
    if (process.platform !== 'win32') assert.equal(mode & 0o777, 0o600);
    assert.doesNotMatch(await readFile(path, 'utf8'), new RegExp(tokenOf(rollouts.link), 'u'));
    const { socket } = await welcomed(rollouts.link);
    const gone = closed(socket);
    await rollouts.close('ended');
    assert.equal((await gone).code, CLOSE.done);
    assert.deepEqual(await readdir(folder), []);
  });

  test('where something else listens in its place, a run shows no proof and takes no ticket', async () => {
    const former = await open();
    const { socket, comeback } = await welcomed(former.link);
    const gone = closed(socket);
    await former.close('interrupted');
    await gone;
    const other = createServer().listen(Number(new URL(former.link).port), '127.0.0.1');
    await once(other, 'listening');
    try {
      const next = await open();
      assert.notEqual(new URL(next.link).origin, new URL(former.link).origin);
      assert.match(next.notices.join('\n'), /is taken meanwhile/u);
      assert.deepEqual(await knock(next.link, comeback.ticket), { status: 401, proof: null });
      await next.close('ended');
    } finally {
      other.close();
    }
  });

  test('a file that was changed is named', async () => {
    await writeFile(join(folder, 'tabs.json'), '{"port": 0}');
    await assert.rejects(open(), /tabs\.json was changed: delete it/u);
  });
});
