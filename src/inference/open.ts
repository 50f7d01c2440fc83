/** Opens a model's folder on an accelerator. Needs Node; in a browser, construct `LanguageModel` from bytes. */
import { join } from 'node:path';
import { z } from 'zod';
import { AUTO, openDevice } from '../accelerators/registry.ts';
import { exists, readJsonFile } from '../checkpoint/files.ts';
import { loadTokenizer } from '../checkpoint/tokenizer-files.ts';
import { LanguageModel } from './language-model.ts';
import type { LoadingWeights } from './load.ts';
import { beginLoading } from './load.ts';
import type { HeldType } from './weights.ts';

export interface OpenOptions {
  /** Name of an accelerator; the best of the machine when left out. */
  readonly device?: string;
  readonly threads?: number;
  readonly dtype?: HeldType;
  /**
   * Called while the weights are being read, for what does without them: encoding a prompt, `prepare`. The model may
   * not generate or score until it is open. A failure is `openModel`'s.
   */
  readonly meanwhile?: (model: LanguageModel) => Promise<void>;
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
  let loading: LoadingWeights;
  try {
    loading = await beginLoading(folder, device, dtype);
  } catch (error) {
    await device.close();
    throw error;
  }
  const { config, weights, done } = loading;
  const model = new LanguageModel({ device, config, weights, tokenizer, example, dtype, ownsDevice: true });
  // Both, also where one fails: neither may still be at work when the memory is freed.
  const results = await Promise.allSettled([done, (async () => options.meanwhile?.(model))()]);
  for (const result of results) {
    if (result.status === 'fulfilled') continue;
    await model.close();
    throw result.reason;
  }
  return model;
}
