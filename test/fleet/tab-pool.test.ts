/** Rollouts by tabs that come, go, dawdle and lie: what is sampled is the same, and the run goes on. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { createConnection } from 'node:net';
import { networkInterfaces } from 'node:os';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { WebSocket } from 'ws';
import { WebSocket as Raw } from 'ws';
import type { Device } from '../../src/accelerators/device.ts';
import { openDevice } from '../../src/accelerators/registry.ts';
import { parseSafetensors } from '../../src/checkpoint/safetensors.ts';
import { compareLogProbabilities } from '../../src/fleet/parity.ts';
import type { RunMessage, TabMessage } from '../../src/fleet/protocol.ts';
import { MAX_MESSAGE_BYTES, SUBPROTOCOL } from '../../src/fleet/protocol.ts';
import type { Rollout } from '../../src/fleet/rollout.ts';
import { RolloutWorker, weightsChecksum } from '../../src/fleet/rollout.ts';
import { TabPool } from '../../src/fleet/tab-pool.ts';
import type { TabServer } from '../../src/fleet/tab-server.ts';
import { openTabServer } from '../../src/fleet/tab-server.ts';
import { initialWeights } from '../../src/training/new-model.ts';
import { closed, connect, openImpostor, openTab, refusalOf, socketOf, tokenOf } from './tabs.ts';
import { config, settings } from './tiny.ts';

/** Three jobs at least: the smallest has 8. */
const requests = Array.from({ length: 20 }, (_, id) => ({ tokens: [1, 3 + (id % 5), 4], id }));
const first = initialWeights(config, 0);
const second = initialWeights(config, 1);

const skip = existsSync(new URL('../../dist/web/index.html', import.meta.url))
  ? false
  : 'the page is not built (npm run build)';

describe('a pool of tabs', { skip }, () => {
  let device: Device;
  let expected: { readonly first: Rollout[]; readonly second: Rollout[] };
  before(async () => {
    device = await openDevice('interpreter');
    await using worker = new RolloutWorker(device, config, 'f32');
    await worker.receive({ version: 3, weights: first });
    const sampled = await worker.sample(requests, settings);
    await worker.receive({ version: 4, weights: second });
    expected = { first: sampled, second: await worker.sample(requests, settings) };
    assert.notDeepEqual(expected.first, expected.second);
  });
  after(async () => {
    assert.equal(device.allocatedBytes, 0);
    await device.close();
  });

  interface Setting {
    readonly pool: TabPool;
    readonly server: TabServer;
    readonly notices: string[];
  }
  /** Runs `body` with a pool that tabs can join, and closes both. */
  async function withPool(body: (setting: Setting) => Promise<void>, wait = 20): Promise<void> {
    const notices: string[] = [];
    const pool = new TabPool({
      config,
      dtype: 'f32',
      run: 'test',
      learner: 'interpreter',
      wait,
      onNotice: (message) => notices.push(message),
    });
    const server = await openTabServer(pool, { host: '127.0.0.1', port: 0 });
    try {
      await body({ pool, server, notices });
    } finally {
      await pool.dispose();
      await server.close();
    }
  }
  const give = async (pool: TabPool) => {
    const checksum = await pool.receive({ version: 3, weights: first });
    assert.equal(checksum, weightsChecksum(config, first));
  };

  test('samples what a worker in the process samples, with one tab and with three', () =>
    withPool(async ({ pool, server, notices }) => {
      const given = give(pool);
      const tabs = [await openTab(server.link, device)];
      await given;
      assert.equal(pool.weightVersion, 3);
      assert.deepEqual(await pool.sample(requests, settings), expected.first);
      assert.equal(pool.name, 'browser (interpreter)');
      for (let i = 0; i < 2; i++) tabs.push(await openTab(server.link, device));
      await pool.receive({ version: 4, weights: second });
      assert.deepEqual(await pool.sample(requests, settings), expected.second);
      // A late tab needs a moment for its weights; then every one has a share.
      while (tabs.some(({ jobs }) => jobs.length === 0)) {
        assert.deepEqual(await pool.sample(requests, settings), expected.second);
        await sleep(20);
      }
      assert.deepEqual(await pool.sample([], settings), []);
      assert.match(notices.join('\n'), /Waiting for a browser tab.*\nBrowser tab 1 joined: .*\(1 tab\)/u);
      for (const tab of tabs) await tab.close();
    }));

  test('loses nothing when tabs close with work in hand, and waits for another', () =>
    withPool(async ({ pool, server, notices }) => {
      const closesInstead = (message: TabMessage, socket: WebSocket) => {
        if (message.type === 'result') socket.terminate();
        return message.type === 'result' ? null : message;
      };
      const tabs = [await openTab(server.link, device, closesInstead)];
      await give(pool);
      const sampled = pool.sample(requests, settings);
      await once(tabs[0].socket, 'close');
      tabs.push(await openTab(server.link, device, closesInstead));
      await once(tabs[1].socket, 'close');
      tabs.push(await openTab(server.link, device));
      assert.deepEqual(await sampled, expected.first);
      const told = notices.filter((notice) => notice.includes('8 completions will be sampled again'));
      assert.equal(told.length, 2, notices.join('\n'));
      assert.ok(notices.filter((notice) => notice.startsWith('Waiting for a browser tab')).length >= 2);
      for (const tab of tabs) await tab.close();
    }));

  test('gives the work of a tab that dawdles to another one, and takes no harm when it answers at last', () =>
    withPool(async ({ pool, server }) => {
      let release = () => {};
      const released = new Promise<void>((resolve) => {
        release = resolve;
      });
      const slow = await openTab(server.link, device, async (message) => {
        if (message.type === 'result') await released;
        return message;
      });
      await give(pool);
      const sampled = pool.sample(requests, settings);
      while (slow.jobs.length === 0) await sleep(5);
      const quick = await openTab(server.link, device);
      assert.deepEqual(await sampled, expected.first);
      assert.ok(quick.jobs.includes(slow.jobs[0]));
      release();
      await pool.receive({ version: 4, weights: second });
      while (slow.jobs.length < 2) assert.deepEqual(await pool.sample(requests, settings), expected.second);
      assert.equal(pool.size, 2);
      for (const tab of [slow, quick]) await tab.close();
    }));

  test('gives up in time when nobody joins, or nobody answers, and says so', () =>
    withPool(async ({ pool, server }) => {
      await assert.rejects(pool.receive({ version: 3, weights: first }), {
        name: 'NoRolloutsError',
        message: 'no browser tab joined for 1 seconds',
      });
      const mute = await openTab(server.link, device, (message) =>
        message.type === 'result' ? null : message,
      );
      // On a busy machine the tab may take longer than the pool waits to load what it is sent.
      for (let given = false; !given; )
        given = await give(pool).then(
          () => true,
          (error: Error) => {
            assert.equal(error.name, 'NoRolloutsError', error.message);
            return false;
          },
        );
      await assert.rejects(pool.sample(requests, settings), {
        name: 'NoRolloutsError',
        message: /^none of 1 browser tab answered for 1 seconds/u,
      });
      const waiting = pool.sample(requests, settings);
      pool.interrupt();
      await assert.rejects(waiting, { name: 'NoRolloutsError', message: /interrupted/u });
      await mute.close();
    }, 1));

  describe('sends away a tab that', () => {
    const result = (work: Extract<RunMessage, { type: 'work' }>, change: object = {}) => ({
      type: 'result',
      job: work.job,
      completions: work.requests.map(() => ({
        tokens: [3, 2],
        logprobs: [-1, -1],
        weightVersions: [3, 3],
        finishReason: 'stop',
        ...change,
      })),
    });
    type Work = Extract<RunMessage, { type: 'work' }>;
    const lies: [what: string, answer: (work: Work) => unknown, reason: RegExp][] = [
      ['is not talking JSON', () => '{', /not JSON/u],
      ['sends bytes', () => Buffer.from([1, 2]), /not JSON/u],
      ['invents a message', () => ({ type: 'weights' }), /type: Invalid/u],
      ['says too much', () => ({ type: 'loaded', version: 3, checksum: '0'.repeat(16), extra: 1 }), /extra/u],
      ['joins twice', () => ({ type: 'join', protocol: 1, accelerator: 'cpu', description: '' }), /twice/u],
      [
        'confirms what it was not sent',
        () => ({ type: 'loaded', version: 9, checksum: '0'.repeat(16) }),
        /version 9/u,
      ],
      ['answers for others', (work) => ({ ...result(work), job: work.job + 1 }), /which it was not given/u],
      ['answers too little', (work) => ({ ...result(work), completions: [] }), /0 completions, not 8/u],
      ['answers nothing', (work) => result(work, { tokens: [] }), /a completion of 0 tokens/u],
      [
        'answers too much',
        (work) => result(work, { tokens: [3, 3, 3, 3, 2] }),
        /5 tokens, where 1 to 4 were asked for/u,
      ],
      [
        'leaves out log-probabilities',
        (work) => result(work, { logprobs: [-1] }),
        /not one log-probability/u,
      ],
      ['makes up tokens', (work) => result(work, { tokens: [8, 2] }), /token 8, but the vocabulary has 8/u],
      ['counts below zero', (work) => result(work, { tokens: [-1, 2] }), /tokens\.0/u],
      ['has old weights', (work) => result(work, { weightVersions: [2, 3] }), /version 2, not 3/u],
      ['goes on after the end', (work) => result(work, { tokens: [2, 3] }), /does not end where it says/u],
      ['stops early', (work) => result(work, { tokens: [3, 3], finishReason: 'length' }), /does not end/u],
      ['has text for numbers', (work) => result(work, { logprobs: ['0', -1] }), /logprobs\.0/u],
      ['fails', () => ({ type: 'failed', reason: 'the GPU was lost' }), /^the GPU was lost$/u],
    ];
    for (const [what, answer, reason] of lies) {
      test(what, () =>
        withPool(async ({ pool, server, notices }) => {
          const liar = await openImpostor(
            server.link,
            (work, socket) => {
              const said = answer(work);
              socket.send(typeof said === 'string' || Buffer.isBuffer(said) ? said : JSON.stringify(said));
            },
            (file) => parseSafetensors(file).metadata.checksum,
          );
          await give(pool);
          const ended = closed(liar);
          const sampled = pool.sample(requests, settings);
          const verdict = await ended;
          assert.equal(verdict.code, what === 'fails' ? 1011 : 1008);
          assert.match(verdict.reason, reason);
          assert.ok(
            notices.some((notice) => notice.startsWith('Browser tab 1 was sent away: ')),
            notices.join('\n'),
          );
          const honest = await openTab(server.link, device);
          assert.deepEqual(await sampled, expected.first);
          await honest.close();
        }),
      );
    }

    test('fails, with a reason that would steer the terminal', () =>
      withPool(async ({ pool, server, notices }) => {
        const received = give(pool);
        const rude = await openTab(server.link, device, (message) =>
          message.type === 'loaded' ? { type: 'failed', reason: '\u001b[2Joh\r\nno' } : message,
        );
        await closed(rude.socket);
        assert.ok(notices.includes('Browser tab 1 was sent away:  [2Joh no (0 tabs)'), notices.join('\n'));
        await rude.close();
        const honest = await openTab(server.link, device);
        await received;
        await honest.close();
      }));

    test('has other weights in its memory than it was sent', () =>
      withPool(async ({ pool, server, notices }) => {
        const received = give(pool);
        const liar = await openImpostor(
          server.link,
          () => {},
          () => '0123456789abcdef',
        );
        const { code, reason } = await closed(liar);
        assert.deepEqual(
          [code, reason],
          [
            1008,
            `its accelerator holds weights with checksum 0123456789abcdef, not ${weightsChecksum(config, first)}`,
          ],
        );
        assert.match(notices.join('\n'), /was sent away: its accelerator holds weights/u);
        const honest = await openTab(server.link, device);
        await received;
        await honest.close();
      }));

    test('does not join first, speaks another protocol, or sends a message that is too long', () =>
      withPool(async ({ pool, server }) => {
        const says = async (text: string) => {
          const socket = connect(server.link);
          await once(socket, 'open');
          const ended = closed(socket);
          socket.send(text);
          return ended;
        };
        assert.match((await says('{"type":"result","job":0,"completions":[]}')).reason, /before 'join'/u);
        const join = { type: 'join', protocol: 2, accelerator: 'wasm', description: '' };
        assert.match((await says(JSON.stringify(join))).reason, /protocol/u);
        assert.equal((await says('x'.repeat(MAX_MESSAGE_BYTES + 1))).code, 1009);
        assert.equal(pool.size, 0);
      }));
  });

  test('a log-probability that is no number arrives as one that no gate lets pass', () =>
    withPool(async ({ pool, server }) => {
      const tab = await openTab(server.link, device, (message) =>
        message.type === 'result'
          ? {
              ...message,
              completions: message.completions.map((c) => ({ ...c, logprobs: c.logprobs.map(() => null) })),
            }
          : message,
      );
      await give(pool);
      const [{ logprobs }] = await pool.sample(requests, settings);
      assert.equal(compareLogProbabilities(logprobs, logprobs).maxAbs, Number.POSITIVE_INFINITY);
      await tab.close();
    }));

  test('listens where it is told to, and nowhere else', () =>
    withPool(async ({ pool, server: { link } }) => {
      const status = (url: string) =>
        fetch(url).then(
          (response) => response.body?.cancel().then(() => response.status),
          () => null,
        );
      const [outside] = Object.values(networkInterfaces())
        .flatMap((list) => list ?? [])
        .filter(({ internal, family }) => !internal && family === 'IPv4');
      const { port } = new URL(link);
      assert.equal(await status(link), 200);
      if (outside !== undefined)
        assert.equal(await status(`http://${outside.address}:${port}/rollout.html`), null);
      const everywhere = await openTabServer(pool, { host: '0.0.0.0', port: 0, token: 'given' });
      try {
        assert.equal(new URL(everywhere.link).hostname, outside?.address ?? '127.0.0.1');
        assert.equal(new URL(everywhere.link).hash, '#given');
        assert.equal(await status(everywhere.link), 200);
      } finally {
        await everywhere.close();
      }
      await assert.rejects(openTabServer(pool, { host: '127.0.0.1', port: Number(port) }), {
        message: /the port is in use/u,
      });
    }));

  test('a tab whose machine does not answer pings is cut off, another is not', (context) => {
    // Pings are the only intervals here: the test decides when it is time for them.
    context.mock.timers.enable({ apis: ['setInterval'] });
    return withPool(async ({ pool, notices }) => {
      const server = await openTabServer(pool, { host: '127.0.0.1', port: 0, ping: 300 });
      const { link } = server;
      const received = give(pool);
      const alive = await openTab(link, device);
      await received;
      const { origin } = new URL(link);
      const asleep = new Raw(socketOf(link), [SUBPROTOCOL, tokenOf(link)], { origin, autoPong: false });
      await once(asleep, 'open');
      asleep.send('{"type":"join","protocol":1,"accelerator":"wasm","description":""}');
      while (!notices.some((notice) => notice.startsWith('Browser tab 2 joined'))) await sleep(5);
      const cut = closed(asleep);
      for (const size of [2, 1, 1]) {
        context.mock.timers.tick(300);
        // What a tab samples comes after its answer to the ping.
        assert.deepEqual(await pool.sample(requests, settings), expected.first);
        if (size === 1) assert.equal((await cut).code, 1006);
        while (size === 1 && !notices.includes('Browser tab 2 left (1 tab)')) await sleep(5);
        assert.equal(pool.size, size);
      }
      await alive.close();
      await server.close();
    });
  });

  test('requests that make no sense harm nobody', () =>
    withPool(async ({ pool, server: { link } }) => {
      const { hostname, port } = new URL(link);
      const upgrade = 'Connection: Upgrade\r\nUpgrade: websocket\r\n';
      for (const [request, status] of [
        ['GET // HTTP/1.1\r\nHost: x\r\n\r\n', 404],
        [`GET // HTTP/1.1\r\nHost: x\r\n${upgrade}\r\n`, 404],
        ['GET /../package.json HTTP/1.1\r\nHost: x\r\n\r\n', 404],
        ['GET http:// HTTP/1.1\r\nHost: x\r\n\r\n', 404],
        ['nonsense\r\n\r\n', 400],
        [
          `GET /rollout HTTP/1.1\r\nHost: ${hostname}:${port}\r\nOrigin: http://${hostname}:${port}\r\n${upgrade}Sec-WebSocket-Protocol: ${SUBPROTOCOL}, ${tokenOf(link)}\r\n\r\n`,
          400,
        ],
      ] as const) {
        const socket = createConnection(Number(port), hostname);
        socket.end(request);
        let answer = '';
        for await (const bytes of socket) answer += bytes;
        assert.equal(Number(/^HTTP\/1\.1 (\d+)/u.exec(answer)?.[1]), status, request);
      }
      const received = give(pool);
      const tab = await openTab(link, device);
      await received;
      await tab.close();
    }));

  test('only who brings the token, from the page itself, is let in', () =>
    withPool(async ({ pool, server: { link } }) => {
      assert.match(link, /^http:\/\/127\.0\.0\.1:\d+\/rollout\.html#[\w-]{32}$/u);
      const wrong = await refusalOf(connect(link, [SUBPROTOCOL, 'x'.repeat(32)]));
      assert.deepEqual(
        [wrong.status, wrong.reason],
        [401, 'the token is wrong: open the link that the run shows now'],
      );
      assert.equal((await refusalOf(connect(link, [SUBPROTOCOL]))).status, 401);
      assert.equal((await refusalOf(connect(link, [tokenOf(link)]))).status, 404);
      const right = [SUBPROTOCOL, tokenOf(link)];
      const foreign = await refusalOf(connect(link, right, 'https://evil.example'));
      assert.deepEqual(
        [foreign.status, foreign.reason],
        [403, 'a page of https://evil.example may not join this run'],
      );
      assert.equal((await refusalOf(connect(link, right, 'null'))).status, 403);
      assert.equal((await refusalOf(new Raw(socketOf(link), right))).status, 403);
      assert.equal(pool.size, 0);

      const ask = (headers: Record<string, string>) =>
        fetch(new URL('rollout', link), { headers }).then(async (r) => [r.status, await r.text()]);
      assert.deepEqual(await ask({ authorization: `Bearer ${tokenOf(link)}` }), [204, '']);
      assert.equal((await ask({ authorization: 'Bearer no' }))[0], 401);
      assert.equal((await ask({}))[0], 401);
      for (const path of ['package.json', '../package.json', 'rollout.html/..%2fx', 'state.safetensors'])
        assert.equal((await fetch(new URL(path, link))).status, 404, path);
      const page = await fetch(new URL('rollout.html', link));
      assert.equal(page.status, 200);
      assert.doesNotMatch(await page.text(), new RegExp(tokenOf(link), 'u'));
    }));
});
