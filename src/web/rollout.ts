/** The page of a run's link: this tab joins as a rollout worker, and shows what it does. */
import type { Device } from '../accelerators/device.ts';
import { openDevice } from '../accelerators/registry.ts';
import type { Comeback } from '../fleet/protocol.ts';
import { CLOSE, PROOF_HEADER, SOCKET_PATH, SUBPROTOCOL } from '../fleet/protocol.ts';
import type { TabStatus } from '../fleet/tab-client.ts';
import { TabClient } from '../fleet/tab-client.ts';
import type { Backends } from './backends.ts';
import { explain, findBackends, offer } from './backends.ts';

function element<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}
const view = {
  title: element('title'),
  device: element<HTMLSelectElement>('device'),
  why: element('why'),
  doing: element('doing'),
  weights: element('weights'),
  sampled: element('sampled'),
  error: element('error'),
};

/** What a test or a curious person can read: the state of the page as data. */
interface PageState {
  device: string | null;
  status: TabStatus | null;
  error: string | null;
}
const state: PageState = { device: null, status: null, error: null };
(globalThis as { tandem?: PageState }).tandem = state;

const DOING: { readonly [D in TabStatus['doing']]: string } = {
  joining: 'joining …',
  waiting: 'waiting for work',
  loading: 'taking weights',
  sampling: 'sampling',
  ended: 'done: the run has ended',
  failed: 'stopped',
};
/** Between two attempts to reach a run that does not answer, and how many there are. */
const RETRY_MS = 2000;
const ATTEMPTS = 30;
/** After those, where the run has said how to come back: it may be resumed tomorrow. */
const PATIENT_RETRY_MS = 5000;

const kilobytes = (bytes: number) =>
  `${(bytes / 1000).toLocaleString('en', { maximumFractionDigits: 0 })} kB`;

function show(status: TabStatus): void {
  state.status = status;
  view.title.textContent = status.run === '' ? 'Rollouts' : `Rollouts for ${status.run}`;
  view.doing.textContent = DOING[status.doing];
  if (status.version >= 0) {
    const { full, delta } = status.bytes;
    view.weights.textContent = `version ${status.version} from ${status.learner}; ${kilobytes(full)} whole, ${kilobytes(delta)} as differences`;
  }
  if (status.completions > 0) {
    const speed = Math.round(status.tokens / status.seconds);
    view.sampled.textContent = `${status.completions} completions, ${status.tokens} tokens, ${speed} tokens/s`;
  }
}

function fail(error: unknown): void {
  state.error = error instanceof Error ? error.message : String(error);
  view.doing.textContent = DOING.failed;
  view.error.textContent = state.error;
  view.error.hidden = false;
}

/** What lets this tab in: the token that did so before, else its ticket. Throws where the run refuses it, with what it says. */
async function admission(token: string, comeback: Comeback | null): Promise<string> {
  const response = await fetch(SOCKET_PATH, { headers: { authorization: `Bearer ${token}` } });
  if (response.ok) return token;
  if (comeback !== null && response.headers.get(PROOF_HEADER) === comeback.proof) return comeback.ticket;
  throw new Error(await response.text());
}

interface Ended {
  readonly close: CloseEvent;
  readonly comeback: Comeback | null;
}

/** Works until the connection ends, which `left` does too; resolves with how it ended. */
function work(device: Device, token: string, left: AbortSignal): Promise<Ended> {
  const url = new URL(SOCKET_PATH, location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  const socket = new WebSocket(url, [SUBPROTOCOL, token]);
  socket.binaryType = 'arraybuffer';
  left.addEventListener('abort', () => socket.close(CLOSE.done));
  return new Promise((resolve) => {
    let client: TabClient | null = null;
    socket.onopen = () => {
      client = new TabClient(
        device,
        (message) => {
          // What is finished after the connection ended is of no use to anybody.
          if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
        },
        show,
      );
    };
    socket.onmessage = ({ data }: MessageEvent<string | ArrayBuffer>) => client?.receive(data);
    socket.onclose = (close) => {
      const gone = client?.dispose() ?? Promise.resolve();
      void gone.then(() => resolve({ close, comeback: client?.comeback ?? null }));
    };
  });
}

/** Joins with an accelerator, again where the connection breaks, until the run ends, refuses, or `left`. */
async function join(name: string, left: AbortSignal): Promise<void> {
  const device = await openDevice(name);
  state.device = name;
  try {
    for (let attempt = 0; !left.aborted; attempt++) {
      try {
        known.token = await admission(known.token, known.comeback);
      } catch (error) {
        // A run that has ended does not answer at all.
        if (!(error instanceof TypeError)) throw error;
        const patient = known.comeback !== null;
        if (attempt >= ATTEMPTS && !patient)
          throw new Error('the run does not answer any more; it may have ended');
        view.doing.textContent = patient
          ? 'the run does not answer; this tab joins again when it is resumed'
          : 'the run does not answer; trying again …';
        const pause = attempt < ATTEMPTS ? RETRY_MS : PATIENT_RETRY_MS;
        await new Promise((resolve) => setTimeout(resolve, pause));
        continue;
      }
      attempt = 0;
      const { close, comeback } = await work(device, known.token, left);
      const { code, reason } = close;
      known.comeback = comeback ?? known.comeback;
      if (state.status?.doing === 'ended') return;
      if (state.status?.doing === 'failed') throw new Error(state.status.reason);
      if (code === CLOSE.refused || code === CLOSE.failed) throw new Error(reason);
    }
  } finally {
    await device.close();
  }
}

/** What the run knows this tab by. */
const known: { token: string; comeback: Comeback | null } = { token: '', comeback: null };

async function main(): Promise<void> {
  known.token = location.hash.slice(1);
  if (known.token === '') throw new Error('the link is not complete: its token, after the #, is missing');
  const wanted = new URLSearchParams(location.search).get('device');
  const backends = await findBackends(wanted);
  offer(view.device, backends);
  let leaving = new AbortController();
  let present: Promise<void> = Promise.resolve();
  const use = (name: string, failure?: string): Promise<void> => {
    leaving.abort();
    leaving = new AbortController();
    const { signal } = leaving;
    view.device.value = name;
    view.why.textContent = explain(backends, name, failure);
    view.error.hidden = true;
    state.error = state.status = null;
    present = present.catch(() => {}).then(() => join(name, signal));
    return present;
  };
  view.device.addEventListener('change', () => void use(view.device.value).catch(fail));
  await begin(backends, wanted !== null, use);
}

/** What the person did not choose may be given up for what works everywhere. */
async function begin(
  { first }: Backends,
  chosen: boolean,
  use: (name: string, failure?: string) => Promise<void>,
): Promise<void> {
  try {
    await use(first);
  } catch (error) {
    if (chosen || first === 'wasm') throw error;
    await use('wasm', (error as Error).message);
  }
}

main().catch(fail);
