/** The static web server of `tandem chat --web`: the built page, and the files of one model. */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import type { Server, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Files of a model that the page asks for; nothing else in the folder is served. */
const MODEL_FILES: ReadonlySet<string> = new Set([
  'config.json',
  'model.safetensors',
  'tokenizer.json',
  'tokenizer_config.json',
  'task.json',
  'parity.json',
]);

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

function fileOf(path: string, model: string): string | null {
  if (path === '/') return join(pageFolder, 'index.html');
  const name = path.slice(1);
  if (name.startsWith('model/')) return MODEL_FILES.has(name.slice(6)) ? join(model, name.slice(6)) : null;
  return PAGE_FILE.test(name) ? join(pageFolder, name) : null;
}

async function respond(path: string, model: string, response: ServerResponse): Promise<void> {
  const file = fileOf(path, model);
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

/** Serves the page for the model in `folder` on this machine alone; port 0 takes a free one. */
export async function serveModel(folder: string, port: number): Promise<{ server: Server; url: string }> {
  if ((await stat(join(pageFolder, 'index.html')).catch(() => null)) === null) {
    throw new Error('the page has not been built: run npm run build');
  }
  const server = createServer((request, response) => {
    const path = new URL(request.url ?? '/', 'http://localhost').pathname;
    respond(path, folder, response).catch(() => response.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/` };
}
