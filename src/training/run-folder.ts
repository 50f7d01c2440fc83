/**
 * The folder of a run. `state.safetensors` is the whole state of the run in one file that is replaced atomically,
 * so that a process killed at any moment leaves either the former or the next state; `metrics.jsonl` is cut back to
 * the state when a run is resumed. Needs Node.
 */
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { CheckpointError } from '../checkpoint/error.ts';
import { exists, openSafetensors, writeFileAtomic, writeSafetensors } from '../checkpoint/files.ts';
import { fromFloat32, toFloat32 } from '../checkpoint/safetensors.ts';
import { claimFolder } from './run-claim.ts';

const STATE = 'state.safetensors';
const METRICS = 'metrics.jsonl';
/** Key of the progress in the state file's metadata. */
const PROGRESS = 'tandem_progress';

const savedSchema = z.object({ lines: z.number().int().nonnegative(), progress: z.unknown() });

export interface SavedState {
  /** What the run itself needs to continue: JSON. */
  readonly progress: unknown;
  /** Weights and optimizer moments by name; all f32. */
  readonly tensors: ReadonlyMap<string, { readonly shape: readonly number[]; readonly values: Float32Array }>;
}

export class RunFolder {
  readonly path: string;
  #lines = 0;

  constructor(path: string) {
    this.path = path;
  }

  /** Whether there is a run here that got as far as its first saved state: one that can be resumed or is complete. */
  static holdsRun(path: string): Promise<boolean> {
    return exists(join(path, STATE));
  }

  /** Creates the folder; refuses one that holds a run already, so that nothing is overwritten. */
  static async create(path: string): Promise<RunFolder> {
    if (await RunFolder.holdsRun(path)) {
      throw new CheckpointError(
        `${path} already holds a run: continue it with 'tandem train --resume ${path}', or choose another --name`,
      );
    }
    await claimFolder(path);
    const folder = new RunFolder(path);
    await writeFileAtomic(join(path, METRICS), '');
    return folder;
  }

  /** Opens a run to continue it: returns its last state and cuts the metrics back to it. */
  static async resume(path: string): Promise<{ folder: RunFolder; state: SavedState }> {
    if (!(await exists(join(path, STATE)))) {
      throw new CheckpointError(
        `${path}: has no ${STATE}; it holds no run that was interrupted after its first checkpoint`,
      );
    }
    await claimFolder(path);
    const folder = new RunFolder(path);
    const { lines, ...state } = await folder.#read();
    const kept = (await readMetricsFile(path)).split('\n').slice(0, -1).slice(0, lines);
    if (kept.length < lines) {
      throw new CheckpointError(
        `${join(path, METRICS)}: has ${kept.length} lines, but the state was saved after ${lines}; the file was changed`,
      );
    }
    await writeFileAtomic(join(path, METRICS), kept.map((line) => `${line}\n`).join(''));
    folder.#lines = lines;
    return { folder, state };
  }

  async #read(): Promise<SavedState & { lines: number }> {
    const path = join(this.path, STATE);
    await using file = await openSafetensors(path);
    let saved: { lines: number; progress: unknown };
    try {
      saved = savedSchema.parse(JSON.parse(file.metadata[PROGRESS] ?? ''));
    } catch {
      throw new CheckpointError(`${path}: is not the state of a run (its metadata has no ${PROGRESS})`);
    }
    const tensors = new Map<string, { shape: readonly number[]; values: Float32Array }>();
    for (const [name, { shape }] of file.tensors)
      tensors.set(name, { shape, values: toFloat32(await file.read(name)) });
    return { lines: saved.lines, progress: saved.progress, tensors };
  }

  /** Adds one line to metrics.jsonl. */
  async appendMetrics(record: object): Promise<void> {
    const file = await open(join(this.path, METRICS), 'a');
    try {
      await file.write(`${JSON.stringify(record)}\n`);
    } finally {
      await file.close();
    }
    this.#lines++;
  }

  /** Every line of metrics.jsonl so far. */
  async readMetrics(): Promise<unknown[]> {
    const text = await readMetricsFile(this.path);
    return text
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as unknown);
  }

  /** Replaces the state. The metrics are on disk before the state that counts them. */
  async save({ progress, tensors }: SavedState): Promise<void> {
    const metrics = await open(join(this.path, METRICS), 'r+');
    try {
      await metrics.sync();
    } finally {
      await metrics.close();
    }
    const stored = [...tensors].map(([name, { shape, values }]) => fromFloat32(name, shape, values));
    await writeSafetensors(join(this.path, STATE), stored, {
      [PROGRESS]: JSON.stringify({ lines: this.#lines, progress }),
    });
  }

  async write(name: string, content: string): Promise<void> {
    await writeFileAtomic(join(this.path, name), content);
  }
}

async function readMetricsFile(path: string): Promise<string> {
  const file = join(path, METRICS);
  if (await exists(file)) return readFile(file, 'utf8');
  throw new CheckpointError(`${file}: there is no such file, and without it the run cannot be continued`);
}
