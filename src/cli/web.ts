/** The static web server of `tandem chat --web`: the built page, and the files of one model. */
import type { Server } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { checkPage, listen, pageFile, requestPath, sendFile } from '../fleet/page-files.ts';

/** Files of a model that the page asks for; nothing else in the folder is served. */
const MODEL_FILES: ReadonlySet<string> = new Set([
  'config.json',
  'model.safetensors',
  'tokenizer.json',
  'tokenizer_config.json',
  'task.json',
  'parity.json',
]);

function fileOf(path: string, model: string): string | null {
  if (!path.startsWith('/model/')) return pageFile(path);
  const name = path.slice('/model/'.length);
  return MODEL_FILES.has(name) ? join(model, name) : null;
}

/** Serves the page for the model in `folder` on this machine alone; port 0 takes a free one. */
export async function serveModel(folder: string, port: number): Promise<{ server: Server; url: string }> {
  await checkPage();
  const server = createServer((request, response) => {
    sendFile(fileOf(requestPath(request), folder), response).catch(() => response.destroy());
  });
  await listen(server, '127.0.0.1', port);
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/` };
}
