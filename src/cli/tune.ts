/** `tandem tune`: measures in which blocks the matrix products of models are fastest here, and keeps what it finds. */
import { join } from 'node:path';
import type { Command } from 'commander';
import { InvalidArgumentError, Option } from 'commander';
import { createLogUpdate } from 'log-update';
import pc from 'picocolors';
import { z } from 'zod';
import { blocksText, measuredIn, readUserTable, tablePath } from '../accelerators/cpu/schedules.ts';
import { SHIPPED } from '../accelerators/cpu/schedules-shipped.ts';
import type { Device } from '../accelerators/device.ts';
import { openDevice } from '../accelerators/registry.ts';
import { distinct, generationProducts, recipeProducts } from '../bench/products.ts';
import { saveTuned } from '../bench/schedules.ts';
import type { Tuned, TunedProduct } from '../bench/tune.ts';
import { tuneProduct } from '../bench/tune.ts';
import { openCheckpoint, readJsonFile } from '../checkpoint/files.ts';
import { heldType, storedWeights } from '../inference/load.ts';
import type { WeightType } from '../inference/weights.ts';
import { defaultBlocks, productName } from '../kernels/schedule.ts';
import { parseConfig } from '../models/config.ts';
import { UsageError } from './errors.ts';
import { clip, count, percent, progressBar } from './text.ts';

interface Options {
  readonly model: readonly string[];
  readonly recipe: boolean;
  readonly dtype: WeightType;
  readonly threads?: number;
  readonly json?: boolean;
  readonly dryRun?: boolean;
}

const BAR = 24;

/** The products of a model's folder as `tandem chat` would have them. Throws where it is no model. */
async function folderProducts(device: Device, folder: string, computed: WeightType): Promise<TunedProduct[]> {
  const config = parseConfig(
    await readJsonFile(join(folder, 'config.json'), z.unknown()),
    join(folder, 'config.json'),
  );
  await using checkpoint = await openCheckpoint(folder);
  const held = heldType(storedWeights(checkpoint, config, folder), computed);
  return generationProducts(device, config, { held, computed, layout: 'panels' });
}

/** Each product once, by name. */
async function gather(device: Device, { model, recipe, dtype }: Options): Promise<TunedProduct[]> {
  return distinct([
    recipe ? await recipeProducts(device) : [],
    ...(await Promise.all(model.map((folder) => folderProducts(device, folder, dtype)))),
  ]);
}

const improved = ({ before, after }: Tuned) => blocksText(before) !== blocksText(after);
const gain = ({ secondsBefore, secondsAfter }: Tuned) => secondsBefore / secondsAfter - 1;
const rate = (tuned: Tuned, seconds: number) => count(tuned.operations / seconds / 1e9);

/** What was found, for people: products that are faster now, and how many are not. */
export function tuneLines(tuned: readonly Tuned[]): string[] {
  const better = tuned.filter(improved);
  const width = Math.max(8, ...better.map(({ name }) => name.length)) + 2;
  const line = (cells: readonly string[]) =>
    `${cells[0].padEnd(width)}${cells[1].padEnd(14)}${cells[2].padEnd(14)}${cells[3].padStart(7)}${cells[4].padStart(7)} GFLOP/s${cells[5].padStart(9)}`;
  const head = line(['product', 'before', 'after', 'before', 'after', 'gain']).replace(
    ' GFLOP/s',
    '        ',
  );
  const rows = better.map((each) =>
    line([
      each.name,
      blocksText(each.before),
      blocksText(each.after),
      rate(each, each.secondsBefore),
      rate(each, each.secondsAfter),
      `+${percent(gain(each))}`,
    ]),
  );
  const rest = tuned.length - better.length;
  const stay = `${rest} of ${tuned.length} products stay as they are: nothing that was tried is clearly faster`;
  return [...(rows.length > 0 ? [pc.dim(head), ...rows] : []), ...(rest > 0 ? [stay] : [])];
}

async function tune(options: Options): Promise<void> {
  if (!options.recipe && options.model.length === 0)
    throw new UsageError('there is nothing to tune: give --model <folder>, or leave out --no-recipe');
  const say = options.json ? () => {} : (text: string) => console.log(text);
  const path = tablePath();
  const user = readUserTable(path);
  if (user.state === 'broken') console.error(`tandem: ${path} cannot be used, ${user.reason}`);
  if (user.state === 'outdated') say(`${path} is of another version (${user.version}) and starts anew`);
  await using device = await openDevice('cpu', { threads: options.threads });
  const { schedule = {}, info } = device;
  const key = schedule.machineKey as string;
  say(`cpu: ${info.description}, ${info.threads} thread${info.threads === 1 ? '' : 's'}`);
  const products = await gather(device, options);
  const shipped = SHIPPED[key] ?? {};
  const live = process.stderr.isTTY ? createLogUpdate(process.stderr) : null;
  const tuned: Tuned[] = [];
  try {
    for (const product of products) {
      const text = `${progressBar(tuned.length, products.length, BAR)} ${tuned.length}/${products.length} ${productName(product)}`;
      live?.(clip(text, process.stderr.columns ?? 80));
      // What is in use without a table of one's own: that a table may be taken away again.
      const before = measuredIn(shipped, product) ?? defaultBlocks(product, schedule);
      const result = await tuneProduct(device, product, before);
      tuned.push(result);
      // At once: what was found is kept when the rest is interrupted, and a full disk is noticed early.
      if (!options.dryRun) await saveTuned(path, key, [result]);
    }
  } finally {
    live?.clear();
  }
  if (options.json) {
    const rows = tuned.map((each) => ({
      product: each.name,
      before: blocksText(each.before),
      after: blocksText(each.after),
      seconds_before: each.secondsBefore,
      seconds_after: each.secondsAfter,
    }));
    console.log(
      JSON.stringify({ processor: key, written: options.dryRun ? null : path, products: rows }, null, 2),
    );
    return;
  }
  for (const line of tuneLines(tuned)) say(line);
  say(options.dryRun ? 'Nothing was written (--dry-run)' : `Written to ${path}`);
}

const collect = (folder: string, before: readonly string[]) => [...before, folder];

function threadsOption(text: string): number {
  const threads = Number(text);
  if (!Number.isInteger(threads) || threads < 1)
    throw new InvalidArgumentError('it must be a whole number from 1 on');
  return threads;
}

export function addTune(program: Command): void {
  program
    .command('tune')
    .description(
      'Measure in which blocks matrix products are fastest on this processor, and keep what is found',
    )
    .option(
      '--model <folder>',
      "also the products of this model's generation; may be given several times",
      collect,
      [],
    )
    .option('--no-recipe', 'not those of tandem start')
    .addOption(
      new Option('--dtype <type>', 'what models are multiplied in').choices(['f32', 'bf16']).default('f32'),
    )
    .option(
      '--threads <number>',
      'threads to tune for; default: as many as the accelerator uses',
      threadsOption,
    )
    .option('--dry-run', 'measure and print, but keep nothing')
    .option(
      '--json',
      'print JSON: { processor, written, products: [{ product, before, after, seconds_before, seconds_after }] }',
    )
    .addHelpText(
      'after',
      '\nResults never depend on blocks, only time does. Tandem brings blocks for some processors and works them out from\nthe sizes of the caches for others, so this is for who wants the last few percent.\n\nExamples:\n  $ tandem tune\n  $ tandem tune --no-recipe --model models/Qwen3-0.6B --dtype bf16',
    )
    .action(tune);
}
