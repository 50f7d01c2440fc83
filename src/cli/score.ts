/** `tandem score`: log-probabilities of given tokens. */
import type { Command } from 'commander';
import { Option } from 'commander';
import { openModel } from '../inference/open.ts';
import type { HeldType } from '../inference/weights.ts';
import { HELD_TYPES } from '../inference/weights.ts';
import { UsageError } from './errors.ts';

/** '1, 2,3' to [1, 2, 3]; throws UsageError naming what is no token id. */
export function parseTokens(text: string): number[] {
  return text.split(',').map((part) => {
    const token = Number(part);
    if (part.trim() === '' || !Number.isInteger(token) || token < 0) {
      throw new UsageError(`--tokens needs token ids separated by commas, and '${part.trim()}' is none`);
    }
    return token;
  });
}

export function addScore(program: Command): void {
  program
    .command('score')
    .description('Print the log-probability of each token given those before it (the first has none)')
    .argument('<model>', "a model's folder: config.json and model.safetensors (no tokenizer is needed)")
    .requiredOption('--tokens <ids>', 'token ids, separated by commas')
    .option('--device <name>', 'accelerator; auto: the best of this machine', 'auto')
    .addOption(
      new Option('--dtype <type>', 'what weights are held in').choices([...HELD_TYPES]).default('f32'),
    )
    .option('--json', 'print {"logprobs": [null, …]}')
    .addHelpText('after', '\nExample:\n  $ tandem score runs/chain --tokens 1,8,14,20 --json')
    .action(
      async (
        folder: string,
        options: { tokens: string; device: string; dtype: HeldType; json?: boolean },
      ) => {
        const tokens = parseTokens(options.tokens);
        await using model = await openModel(folder, { device: options.device, dtype: options.dtype });
        const logprobs = await model.score(tokens);
        if (options.json) console.log(JSON.stringify({ logprobs }));
        else for (const [i, logprob] of logprobs.entries()) console.log(`${tokens[i]}\t${logprob ?? '-'}`);
      },
    );
}
