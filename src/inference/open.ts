/** Opens a model's folder on an accelerator. Needs Node; in a browser, construct `LanguageModel` from bytes. */
import { join } from 'node:path';
import { z } from 'zod';
import { AUTO, openDevice } from '../accelerators/registry.ts';
import { exists, readJsonFile } from '../checkpoint/files.ts';
import { loadTokenizer } from '../checkpoint/tokenizer-files.ts';
import { LanguageModel } from './language-model.ts';
import { loadWeights } from './load.ts';
import type { HeldType } from './weights.ts';

export interface OpenOptions {
  /** Name of an accelerator; the best of the machine when left out. */
  readonly device?: string;
  readonly threads?: number;
  readonly dtype?: HeldType;
}

/** What a training run leaves for those who use its model. */
const aboutSchema = z.looseObject({ example: z.string().optional() });

/**
 * Loads a Qwen3 model. Its tokenizer is loaded where the folder has one.
 * @throws where the folder is no such model, or the accelerator is not available; the message says which and why
 */
export async function openModel(folder: string, options: OpenOptions = {}): Promise<LanguageModel> {
  const tokenizer = (await exists(join(folder, 'tokenizer.json'))) ? await loadTokenizer(folder) : null;
  const about = join(folder, 'task.json');
  const example = (await exists(about)) ? ((await readJsonFile(about, aboutSchema)).example ?? null) : null;
  const dtype = options.dtype ?? 'f32';
  const device = await openDevice(options.device ?? AUTO, { threads: options.threads });
  try {
    const { config, weights } = await loadWeights(folder, device, dtype);
    return new LanguageModel({ device, config, weights, tokenizer, example, dtype, ownsDevice: true });
  } catch (error) {
    await device.close();
    throw error;
  }
}
