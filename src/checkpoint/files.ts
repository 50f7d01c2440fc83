/** Checkpoints in files. The only part of this room, with `tokenizer-files.ts`, that needs Node. */
import { randomBytes } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { z } from 'zod';
import { CheckpointError } from './error.ts';
import { duplicateKey, quoted } from './json.ts';
import type { SafetensorsHeader, StoredTensor, TensorInfo } from './safetensors.ts';
import { headerLength, parseHeader, serializeHeader } from './safetensors.ts';

/** Tensors of one or several files, read one at a time. Close it, or declare it with `await using`. */
export interface CheckpointReader extends AsyncDisposable {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: Readonly<Record<string, string>>;
  /** @throws CheckpointError where there is no such tensor, or its file was cut off since it was opened */
  read(name: string): Promise<StoredTensor>;
  /**
   * Fills `target`, which may be memory that other threads see, with the tensor's bytes from `begin` on.
   * @throws CheckpointError as `read`; RangeError where the tensor has no so many bytes
   */
  readInto(name: string, begin: number, target: Uint8Array): Promise<void>;
  /** The file a tensor is in, and where in it its first byte is. @throws CheckpointError where there is no such tensor */
  locate(name: string): { readonly path: string; readonly position: number };
  close(): Promise<void>;
}

/** Opens a safetensors file and checks its header; tensors are read from disk only when asked for. */
export async function openSafetensors(path: string): Promise<CheckpointReader> {
  const file = await openForReading(path);
  let header: SafetensorsHeader;
  try {
    const { size } = await file.stat();
    const prefix = await readAt(file, 0, Math.min(8, size));
    header = parseHeader(await readAt(file, 0, 8 + headerLength(prefix, size)), size);
  } catch (error) {
    await file.close();
    throw naming(path, error);
  }
  const close = () => file.close();
  const find = (name: string): TensorInfo => {
    const info = header.tensors.get(name);
    if (info === undefined) throw new CheckpointError(`${path}: has no tensor ${quoted(name)}`);
    return info;
  };
  const readInto = async (name: string, from: number, target: Uint8Array): Promise<void> => {
    const { begin, end } = find(name);
    if (!Number.isSafeInteger(from) || from < 0 || begin + from + target.length > end)
      throw new RangeError(
        `tensor ${quoted(name)} has ${end - begin} bytes, not ${target.length} from ${from} on`,
      );
    try {
      await fill(file, header.dataOffset + begin + from, target);
    } catch (error) {
      throw naming(`${path}: tensor ${quoted(name)}`, error);
    }
  };
  return {
    tensors: header.tensors,
    metadata: header.metadata,
    async read(name) {
      const { dtype, shape, begin, end } = find(name);
      const data = new Uint8Array(end - begin);
      await readInto(name, 0, data);
      return { name, dtype, shape, data };
    },
    readInto,
    locate: (name) => ({ path, position: header.dataOffset + find(name).begin }),
    close,
    [Symbol.asyncDispose]: close,
  };
}

const indexSchema = z.object({
  metadata: z.record(z.string(), z.unknown()).optional(),
  weight_map: z.record(z.string(), z.string()),
});

/**
 * Opens the weights of a model's folder: `model.safetensors`, or the shards that
 * `model.safetensors.index.json` lists. Tensors in a shard that the index does not assign to it are ignored.
 */
export async function openCheckpoint(folder: string): Promise<CheckpointReader> {
  const single = join(folder, 'model.safetensors');
  if (await exists(single)) return openSafetensors(single);
  const indexPath = join(folder, 'model.safetensors.index.json');
  if (!(await exists(indexPath))) {
    throw new CheckpointError(
      `${folder}: holds neither model.safetensors nor model.safetensors.index.json; is it a model's folder?`,
    );
  }
  return openShards(folder, indexPath);
}

async function openShards(folder: string, indexPath: string): Promise<CheckpointReader> {
  const { weight_map: shardOf } = await readJsonFile(indexPath, indexSchema);
  const shards = new Map<string, CheckpointReader>();
  const close = async () => {
    for (const shard of shards.values()) await shard.close();
  };
  const tensors = new Map<string, TensorInfo>();
  try {
    for (const [name, fileName] of Object.entries(shardOf)) {
      // An index must not reach files outside its folder.
      if (
        fileName !== basename(fileName) ||
        fileName.includes('\\') ||
        fileName === '..' ||
        fileName === '.'
      ) {
        throw new CheckpointError(
          `${indexPath}: tensor ${quoted(name)} is in ${quoted(fileName)}, which is not a plain file name`,
        );
      }
      let shard = shards.get(fileName);
      if (shard === undefined) {
        shard = await openSafetensors(join(folder, fileName));
        shards.set(fileName, shard);
      }
      const info = shard.tensors.get(name);
      if (info === undefined) {
        throw new CheckpointError(
          `${indexPath}: says that ${fileName} has a tensor ${quoted(name)}, but it has not`,
        );
      }
      tensors.set(name, info);
    }
  } catch (error) {
    await close();
    throw error;
  }
  const metadata = Object.assign({}, ...[...shards.values()].map((shard) => shard.metadata));
  const find = (name: string): CheckpointReader => {
    const shard = tensors.has(name) ? shards.get(shardOf[name]!) : undefined;
    if (shard === undefined) throw new CheckpointError(`${indexPath}: has no tensor ${quoted(name)}`);
    return shard;
  };
  return {
    tensors,
    metadata,
    read: async (name) => find(name).read(name),
    readInto: async (name, begin, target) => find(name).readInto(name, begin, target),
    locate: (name) => find(name).locate(name),
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** Writes a safetensors file atomically, tensor by tensor. */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<StoredTensor>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const { head, ordered } = serializeHeader(tensors, metadata);
  await writeFileAtomic(path, [head, ...ordered.map(({ data }) => data)]);
}

/** Names of the files that `writeFileAtomic` writes to; a process that is killed leaves them. */
export const TEMPORARY_FILE = /^\..+\.[0-9a-f]{12}\.tmp$/u;

/**
 * Replaces a file so that, whatever happens, there is the old content or the new and never a part of it: the
 * bytes go to a temporary file beside it, reach the disk, and then take its name. Makes the folder if needed.
 */
export async function writeFileAtomic(path: string, content: string | Iterable<Uint8Array>): Promise<void> {
  const folder = dirname(path);
  await mkdir(folder, { recursive: true });
  const temporary = join(folder, `.${basename(path)}.${randomBytes(6).toString('hex')}.tmp`);
  const parts = typeof content === 'string' ? [new TextEncoder().encode(content)] : content;
  try {
    const file = await open(temporary, 'wx');
    try {
      for (const part of parts) await writeAll(file, part);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw naming(path, error);
  }
  await syncFolder(folder);
}

/** Without this a crash may undo the renaming. */
async function syncFolder(folder: string): Promise<void> {
  // Windows cannot open a folder; there the renaming is durable by itself.
  if (process.platform === 'win32') return;
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Reads a JSON file and checks it.
 * @throws CheckpointError that names the file and what is wrong in it
 */
export async function readJsonFile<T>(path: string, schema: z.ZodType<T>): Promise<T> {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(await readFile(path));
  } catch (error) {
    throw naming(path, error);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new CheckpointError(`${path}: is not valid JSON: ${(error as Error).message}`);
  }
  const twice = duplicateKey(text);
  if (twice !== undefined)
    throw new CheckpointError(`${path}: has the key ${quoted(twice)} twice in one object`);
  const checked = schema.safeParse(value);
  if (checked.success) return checked.data;
  const issue = checked.error.issues[0]!;
  throw new CheckpointError(`${path}: at ${issue.path.join('.') || 'the top'}: ${issue.message}`);
}

export async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw naming(path, error);
  }
}

async function openForReading(path: string): Promise<FileHandle> {
  try {
    const file = await open(path, 'r');
    if ((await file.stat()).isFile()) return file;
    await file.close();
  } catch (error) {
    throw naming(path, error);
  }
  throw new CheckpointError(`${path}: is not a file`);
}

/** One system call moves at most 2^31 - 1 bytes; tensors may be larger. */
const MAX_TRANSFER_BYTES = 2 ** 30;

async function readAt(file: FileHandle, position: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  await fill(file, position, bytes);
  return bytes;
}

/** Reads as many bytes as `bytes` has, from `position` on. */
async function fill(file: FileHandle, position: number, bytes: Uint8Array): Promise<void> {
  const { length } = bytes;
  let done = 0;
  while (done < length) {
    const wanted = Math.min(length - done, MAX_TRANSFER_BYTES);
    const { bytesRead } = await file.read(bytes, done, wanted, position + done);
    if (bytesRead === 0) {
      throw new CheckpointError(
        `the file ends at byte ${position + done}, but byte ${position + length} is needed`,
      );
    }
    done += bytesRead;
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  let done = 0;
  while (done < bytes.length) {
    const { bytesWritten } = await file.write(bytes, done, Math.min(bytes.length - done, MAX_TRANSFER_BYTES));
    done += bytesWritten;
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file or folder',
  EACCES: 'permission denied',
  EISDIR: 'is a folder, not a file',
  ENOTDIR: 'a part of the path is not a folder',
  ENOSPC: 'the disk is full',
};

/** The same failure as a CheckpointError whose message begins with what it is about. */
function naming(subject: string, error: unknown): CheckpointError {
  const { code, message } = error as NodeJS.ErrnoException;
  return new CheckpointError(`${subject}: ${(code && REASONS[code]) ?? message}`, { cause: error });
}
