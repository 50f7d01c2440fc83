/** A run's folder belongs to one process at a time: two that wrote to it would mix their metrics and states. Needs Node. */
import { createHash } from 'node:crypto';
import { mkdir, readdir, realpath, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { CheckpointError } from '../checkpoint/error.ts';
import { TEMPORARY_FILE } from '../checkpoint/files.ts';

/** Folders that this process has claimed; it may open a run again. */
const claimed = new Set<string>();

/**
 * Makes the folder if needed and claims it until the process ends, however that happens: what holds the claim is a
 * socket's name, which the system gives up then (on Linux and Windows; elsewhere nothing is claimed). What a killed
 * process left half-written is removed.
 * @throws CheckpointError where another process of this machine has it, or it cannot be made
 */
export async function claimFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true });
  } catch (error) {
    throw new CheckpointError(`${path}: the folder cannot be made: ${(error as Error).message}`, {
      cause: error,
    });
  }
  const place = await realpath(path);
  if (claimed.has(place)) return;
  const name = socketName(createHash('sha256').update(place).digest('hex').slice(0, 32));
  if (name !== null && !(await listens(name)))
    throw new CheckpointError(
      `${path}: another process is training in this folder; wait for its end, or choose another --name`,
    );
  claimed.add(place);
  for (const file of await readdir(place))
    if (TEMPORARY_FILE.test(file)) await rm(join(place, file), { force: true });
}

function socketName(hash: string): string | null {
  if (process.platform === 'linux') return `\0tandem-run-${hash}`;
  return process.platform === 'win32' ? `\\\\.\\pipe\\tandem-run-${hash}` : null;
}

/** Takes a name; false where another process has it. */
function listens(name: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    // The claim must not keep a process alive that has nothing else to do.
    server.unref();
    server.once('error', (error: NodeJS.ErrnoException) =>
      error.code === 'EADDRINUSE' ? resolve(false) : reject(error),
    );
    server.listen(name, () => resolve(true));
  });
}
