/** Tabs of tests: the code that runs in a browser tab, and raw connections, over real WebSockets. */
import { once } from 'node:events';
import { WebSocket } from 'ws';
import type { Device } from '../../src/accelerators/device.ts';
import type { RunMessage, TabMessage } from '../../src/fleet/protocol.ts';
import { SOCKET_PATH, SUBPROTOCOL } from '../../src/fleet/protocol.ts';
import { TabClient } from '../../src/fleet/tab-client.ts';

export const socketOf = (link: string) => new URL(SOCKET_PATH, link.replace('http', 'ws'));
export const tokenOf = (link: string) => new URL(link).hash.slice(1);

/** As a page of the link's server connects, unless told otherwise. */
export function connect(
  link: string,
  protocols: readonly string[] = [SUBPROTOCOL, tokenOf(link)],
  origin: string | undefined = new URL(link).origin,
): WebSocket {
  return new WebSocket(socketOf(link), [...protocols], { origin });
}

/** Status and text of the answer to a connection that must be refused. */
export async function refusalOf(socket: WebSocket): Promise<{ status: number; reason: string }> {
  socket.on('open', () => socket.emit('error', new Error('the connection was accepted')));
  const [, response] = await once(socket, 'unexpected-response');
  let reason = '';
  for await (const chunk of response) reason += chunk;
  return { status: response.statusCode, reason };
}

export interface Closed {
  readonly code: number;
  readonly reason: string;
}

export async function closed(socket: WebSocket): Promise<Closed> {
  const [code, reason] = await once(socket, 'close', { signal: AbortSignal.timeout(10_000) });
  return { code, reason: String(reason) };
}

export interface TestTab {
  readonly socket: WebSocket;
  /** Jobs that it was given. */
  readonly jobs: number[];
  close(): Promise<void>;
}

/** A tab that works on `device`. `meddle` may change a message before it is sent, or keep it back with null. */
export async function openTab(
  link: string,
  device: Device,
  meddle: (message: TabMessage, socket: WebSocket) => TabMessage | null | Promise<TabMessage | null> = (
    message,
  ) => message,
): Promise<TestTab> {
  const socket = connect(link);
  await once(socket, 'open');
  const jobs: number[] = [];
  const client = new TabClient(device, (message) => {
    void (async () => {
      const changed = await meddle(message, socket);
      if (changed !== null && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(changed));
    })();
  });
  socket.on('message', (data: Buffer, binary) => {
    if (!binary) {
      const message = JSON.parse(String(data)) as RunMessage;
      if (message.type === 'work') jobs.push(message.job);
    }
    client.receive(binary ? new Uint8Array(data).buffer : String(data));
  });
  return {
    socket,
    jobs,
    async close() {
      socket.close();
      await client.dispose();
    },
  };
}

/** Joins and takes weights without a model, as a hostile tab could, and calls `onWork` for what it is given. */
export async function openImpostor(
  link: string,
  onWork: (work: Extract<RunMessage, { type: 'work' }>, socket: WebSocket) => void,
  checksumOf: (file: Buffer) => string,
): Promise<WebSocket> {
  const socket = connect(link);
  await once(socket, 'open');
  let announced: Extract<RunMessage, { type: 'weights' }>;
  const parts: Buffer[] = [];
  socket.on('message', (data: Buffer, binary) => {
    if (binary) {
      parts.push(data);
      const file = Buffer.concat(parts);
      if (file.length < announced.bytes) return;
      parts.length = 0;
      socket.send(JSON.stringify({ type: 'loaded', version: announced.version, checksum: checksumOf(file) }));
      return;
    }
    const message = JSON.parse(String(data)) as RunMessage;
    if (message.type === 'weights') announced = message;
    else if (message.type === 'work') onWork(message, socket);
  });
  socket.send(
    JSON.stringify({ type: 'join', protocol: 1, accelerator: 'wasm', description: 'none of its own' }),
  );
  return socket;
}
