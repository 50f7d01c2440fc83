/** Serves the files of the built page (`web/`) over HTTP. Needs Node. */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const CONTENT_TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.json': 'application/json',
  '.map': 'application/json',
  '.safetensors': 'application/octet-stream',
};

/** Names of the page's own files, flat: no path can lead out of the folder. */
const PAGE_FILE = /^[A-Za-z0-9_.-]+\.(?:html|css|js|map)$/u;

/** Where the build puts the page. */
const pageFolder = fileURLToPath(new URL('../../dist/web/', import.meta.url));

/** The path that a request asks for, as it was sent: what is no path of ours need not be a valid one. */
export const requestPath = ({ url = '/' }: IncomingMessage): string => url.replace(/[?#].*$/su, '');

/** The file of the page that a path stands for; null where it stands for none. */
export function pageFile(path: string): string | null {
  if (path === '/') return join(pageFolder, 'index.html');
  const name = path.slice(1);
  return PAGE_FILE.test(name) ? join(pageFolder, name) : null;
}

/** Throws where the page has not been built. */
export async function checkPage(): Promise<void> {
  if ((await stat(join(pageFolder, 'index.html')).catch(() => null)) === null)
    throw new Error('the page has not been built: run npm run build');
}

/** Answers with a file, or with 404. */
export async function sendFile(file: string | null, response: ServerResponse): Promise<void> {
  const info = file === null ? null : await stat(file).catch(() => null);
  if (file === null || info === null || !info.isFile()) {
    response.writeHead(404, { 'content-type': 'text/plain' }).end('not found\n');
    return;
  }
  response.writeHead(200, {
    'content-type': CONTENT_TYPES[extname(file)] ?? 'application/octet-stream',
    'content-length': info.size,
    'cache-control': 'no-cache',
    // Cross-origin isolation: threads share memory only with it.
    'cross-origin-opener-policy': 'same-origin',
    'cross-origin-embedder-policy': 'require-corp',
  });
  createReadStream(file)
    .on('error', () => response.destroy())
    .pipe(response);
}

const LISTEN_REASONS: Readonly<Record<string, string>> = {
  EADDRINUSE: 'the port is in use; choose another one with --port (0: any free one)',
  EACCES: 'this port needs more rights; choose one from 1024 on with --port',
  EADDRNOTAVAIL: 'this machine has no such address (--host)',
  ENOTFOUND: 'there is no such address (--host)',
};

/** Waits until `server` listens at an address of this machine. Throws an Error that says why it cannot. */
export async function listen(server: Server, host: string, port: number): Promise<void> {
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, host, resolve);
    });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const reason = (code && LISTEN_REASONS[code]) ?? message;
    throw new Error(`cannot listen at ${host}, port ${port}: ${reason}`, { cause: error });
  }
}
