/** A tokenizer in a model's folder. */
import { join } from 'node:path';
import { z } from 'zod';
import { CheckpointError } from './error.ts';
import { exists, readJsonFile, writeFileAtomic } from './files.ts';
import { Tokenizer } from './tokenizer.ts';

const anyObject = z.looseObject({});

/**
 * Loads `tokenizer.json` and, where it is there, `tokenizer_config.json`.
 * @throws CheckpointError that names the file and what is wrong in it
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const tokenizer = await readJsonFile(join(folder, 'tokenizer.json'), anyObject);
  const configPath = join(folder, 'tokenizer_config.json');
  const config = (await exists(configPath)) ? await readJsonFile(configPath, anyObject) : {};
  try {
    return new Tokenizer({ tokenizer, config });
  } catch (error) {
    throw new CheckpointError(`${folder}: ${(error as Error).message}`, { cause: error });
  }
}

/** Saves both files, each atomically. */
export async function saveTokenizer(folder: string, tokenizer: Tokenizer): Promise<void> {
  const json = (value: object) => JSON.stringify(value, undefined, 2) + '\n';
  await writeFileAtomic(join(folder, 'tokenizer.json'), json(tokenizer.files.tokenizer));
  await writeFileAtomic(join(folder, 'tokenizer_config.json'), json(tokenizer.files.config));
}
