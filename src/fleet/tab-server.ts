/**
 * Lets browser tabs join a pool: serves the page, and takes WebSockets that bring the token and come from that page.
 * Needs Node.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage, Server } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import type { Duplex } from 'node:stream';
import type { WebSocket } from 'ws';
import { WebSocketServer } from 'ws';
import { checkPage, listen, pageFile, requestPath, sendFile } from './page-files.ts';
import type { Comeback } from './protocol.ts';
import { CLOSE, MAX_MESSAGE_BYTES, PROOF_HEADER, partsOf, SOCKET_PATH, SUBPROTOCOL } from './protocol.ts';
import type { TabLink, TabPool } from './tab-pool.ts';

export interface TabServerOptions {
  /** Address to listen at: 127.0.0.1 for this machine alone, 0.0.0.0 for every network it is in. */
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  /** Of the link; a random one when left out. */
  readonly token?: string;
  /** What tabs of before the run was interrupted were given: they need no new link. */
  readonly comeback?: Comeback;
  /** Milliseconds between two pings, 10,000 when left out; a tab that leaves one unanswered is cut off. */
  readonly ping?: number;
}

export interface TabServer {
  /** What a person opens: the page, with the token in the part of the address that is never sent. */
  readonly link: string;
  readonly port: number;
  close(): Promise<void>;
}

const TABS = 64;
/** A tab that has not joined by then is sent away. */
const JOIN_MS = 15_000;
const PING_MS = 10_000;
/** The most that fits into a close frame beside the code, in bytes (RFC 6455, section 5.5). */
const REASON_BYTES = 123;

const digest = (text: string) => createHash('sha256').update(text).digest();

/** Listens and prints nothing: `link` is for the caller to show. Throws where the port is taken or the page is not built. */
export async function openTabServer(pool: TabPool, options: TabServerOptions): Promise<TabServer> {
  await checkPage();
  const token = options.token ?? randomBytes(24).toString('base64url');
  const { comeback } = options;
  const accepted = [token, ...(comeback === undefined ? [] : [comeback.ticket])].map(digest);
  const isToken = (given: string) => accepted.some((known) => timingSafeEqual(digest(given), known));
  const server = createServer((request, response) => {
    const path = requestPath(request);
    if (path === `/${SOCKET_PATH}`) {
      // Why a WebSocket was refused is not told to a page, so that it asks here.
      const problem = refusal(request, request.headers.authorization?.replace(/^Bearer /u, ''), isToken);
      if (problem === null) response.writeHead(204).end();
      else {
        const proof = comeback && { [PROOF_HEADER]: comeback.proof };
        response.writeHead(problem.status, { 'content-type': 'text/plain', ...proof }).end(problem.reason);
      }
      return;
    }
    sendFile(pageFile(path), response).catch(() => response.destroy());
  });
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: MAX_MESSAGE_BYTES,
    perMessageDeflate: false,
    handleProtocols: () => SUBPROTOCOL,
  });
  server.on('upgrade', (request, socket, head) => {
    const [protocol, given] = (request.headers['sec-websocket-protocol'] ?? '').split(/\s*,\s*/u);
    const problem =
      requestPath(request) !== `/${SOCKET_PATH}` || protocol !== SUBPROTOCOL
        ? { status: 404, reason: `nothing is here but ${SUBPROTOCOL} at /${SOCKET_PATH}` }
        : (refusal(request, given, isToken, true) ??
          (sockets.clients.size >= TABS ? { status: 503, reason: `${TABS} tabs are the most` } : null));
    if (problem !== null) return refuse(socket, problem);
    sockets.handleUpgrade(request, socket, head, (opened) => serve(pool, opened));
  });
  await listen(server, options.host, options.port);
  // A tab whose machine fell asleep or lost its network never closes its connection.
  const pings = setInterval(() => {
    for (const socket of sockets.clients) ping(socket);
  }, options.ping ?? PING_MS);
  return {
    link: `http://${shownHost(server)}/rollout.html#${token}`,
    port: (server.address() as AddressInfo).port,
    async close() {
      clearInterval(pings);
      // Time for the last words; then whoever has not gone is cut off.
      const deadline = performance.now() + 1000;
      while (sockets.clients.size > 0 && performance.now() < deadline)
        await new Promise((resolve) => setTimeout(resolve, 20));
      for (const socket of sockets.clients) socket.terminate();
      sockets.close();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

interface Refusal {
  readonly status: number;
  readonly reason: string;
}

/** Why a request may not go on; null where it may. A browser says with every WebSocket which page it is from. */
function refusal(
  request: IncomingMessage,
  given: string | undefined,
  isToken: (given: string) => boolean,
  needsOrigin = false,
): Refusal | null {
  const { origin, host } = request.headers;
  if (origin === undefined ? needsOrigin : !sameHost(origin, host))
    return { status: 403, reason: `a page of ${origin ?? 'no origin'} may not join this run` };
  if (given === undefined || given === '')
    return { status: 401, reason: 'the link is not complete: its token is missing' };
  return isToken(given)
    ? null
    : { status: 401, reason: 'the token is wrong: open the link that the run shows now' };
}

function sameHost(origin: string, host: string | undefined): boolean {
  return URL.canParse(origin) && new URL(origin).host === host;
}

function refuse(socket: Duplex, { status, reason }: Refusal): void {
  socket.on('error', () => {});
  socket.end(
    `HTTP/1.1 ${status} Refused\r\nContent-Type: text/plain\r\nContent-Length: ${Buffer.byteLength(reason)}\r\nConnection: close\r\n\r\n${reason}`,
  );
}

const unanswered = new WeakSet<WebSocket>();

function ping(socket: WebSocket): void {
  if (unanswered.has(socket)) socket.terminate();
  else {
    unanswered.add(socket);
    socket.ping();
  }
}

function serve(pool: TabPool, socket: WebSocket): void {
  const link: TabLink = {
    send(message, file) {
      socket.send(JSON.stringify(message));
      for (const part of file === undefined ? [] : partsOf(file)) socket.send(part);
    },
    close: (code, reason) => {
      socket.close(code, clip(reason));
      // Whoever was sent away is not waited for.
      if (code !== CLOSE.done) setTimeout(() => socket.terminate(), 1000).unref();
    },
  };
  const events = pool.attach(link);
  let joined = false;
  const late = setTimeout(() => {
    if (!joined) link.close(CLOSE.refused, 'nobody joined over this connection');
  }, JOIN_MS);
  socket.on('message', (data, binary) => {
    joined = true;
    if (binary) events.message('');
    else events.message(String(data));
  });
  socket.on('pong', () => unanswered.delete(socket));
  let problem: string | undefined;
  // 'close' follows.
  socket.on('error', ({ message }) => {
    problem = message;
  });
  socket.on('close', () => {
    clearTimeout(late);
    events.closed(problem);
  });
}

function clip(reason: string): string {
  const bytes = Buffer.from(reason);
  if (bytes.length <= REASON_BYTES) return reason;
  // A character that is cut in two becomes U+FFFD, of three bytes.
  return bytes
    .subarray(0, REASON_BYTES - 3)
    .toString('utf8')
    .replace(/\uFFFD+$/u, '');
}

/** The address as others reach it: where the server listens on every network, that of the first one. */
function shownHost(server: Server): string {
  const { address, port } = server.address() as AddressInfo;
  const everywhere = address === '0.0.0.0' || address === '::';
  const outside = Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .find(({ internal, family }) => !internal && family === 'IPv4')?.address;
  const host = everywhere ? (outside ?? '127.0.0.1') : address;
  return `${isIP(host) === 6 ? `[${host}]` : host}:${port}`;
}
