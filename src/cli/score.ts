/** `tandem score`: log-probabilities of given tokens. */
import type { Command } from 'commander';
import { openModel } from '../inference/open.ts';
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
    .option('--dtype <type>', 'storage type of weights: f32 or bf16', 'f32')
    .option('--json', 'print {"logprobs": [null, …]}')
    .addHelpText('after', '\nExample:\n  $ tandem score runs/chain --tokens 1,8,14,20 --json')
    .action(
      async (folder: string, options: { tokens: string; device: string; dtype: string; json?: boolean }) => {
        const tokens = parseTokens(options.tokens);
        if (options.dtype !== 'f32' && options.dtype !== 'bf16')
          throw new UsageError(`--dtype is f32 or bf16, not '${options.dtype}'`);
        await using model = await openModel(folder, { device: options.device, dtype: options.dtype });
        const logprobs = await model.score(tokens);
        if (options.json) console.log(JSON.stringify({ logprobs }));
        else for (const [i, logprob] of logprobs.entries()) console.log(`${tokens[i]}\t${logprob ?? '-'}`);
      },
    );
}
