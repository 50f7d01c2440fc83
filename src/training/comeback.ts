/**
 * What a run keeps so that open browser tabs find it again after it was interrupted: the port, and what it gave them to
 * know each other by (`fleet/protocol.ts`). Only the user may read the file. Needs Node.
 */
import { randomBytes } from 'node:crypto';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { Comeback } from '../fleet/protocol.ts';
import { comeback } from '../fleet/protocol.ts';

const FILE = 'tabs.json';

const kept = z.strictObject({ port: z.number().int().min(1).max(65535), ...comeback.shape });

export const newComeback = (): Comeback => ({
  proof: randomBytes(24).toString('base64url'),
  ticket: randomBytes(24).toString('base64url'),
});

/** What was kept last in a run's folder; null where nothing was. Throws where the file is not one of this kind. */
export async function readComeback(folder: string): Promise<{ port: number; comeback: Comeback } | null> {
  const path = join(folder, FILE);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
  try {
    const { port, ...comeback } = kept.parse(JSON.parse(text));
    return { port, comeback };
  } catch (cause) {
    throw new Error(`${path} was changed: delete it, and tabs that are open have to open the new link`, {
      cause,
    });
  }
}

export async function keepComeback(folder: string, port: number, comeback: Comeback): Promise<void> {
  await forgetComeback(folder);
  // A file that is there already would keep its mode.
  await writeFile(join(folder, FILE), JSON.stringify({ port, ...comeback }), { mode: 0o600, flag: 'wx' });
}

export const forgetComeback = (folder: string): Promise<void> => rm(join(folder, FILE), { force: true });
