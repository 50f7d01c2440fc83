/** `tandem generate`: continue a prompt. */
import type { Command } from 'commander';
import { z } from 'zod';
import { GENERATE_DEFAULTS } from '../inference/language-model.ts';
import { openModel } from '../inference/open.ts';
import { HELD_TYPES } from '../inference/weights.ts';
import { UsageError } from './errors.ts';
import { addFlags, checkOptions, givenOptions } from './flags.ts';
import { parseTokens } from './score.ts';

/** How text is sampled; shared with `tandem chat`. */
export const samplingOptions = z.strictObject({
  max_tokens: z
    .number()
    .int()
    .positive()
    .default(GENERATE_DEFAULTS.maxTokens)
    .describe('Tokens to generate at most'),
  temperature: z
    .number()
    .min(0)
    .default(GENERATE_DEFAULTS.temperature)
    .describe('0: always the likeliest token'),
  top_p: z
    .number()
    .gt(0)
    .max(1)
    .default(GENERATE_DEFAULTS.topP)
    .describe('Sample from the likeliest tokens with this total probability'),
  top_k: z
    .number()
    .int()
    .nonnegative()
    .default(GENERATE_DEFAULTS.topK)
    .describe('Sample from the k likeliest tokens; 0: all'),
  seed: z
    .number()
    .int()
    .min(0)
    .max(0xffffffff)
    .default(GENERATE_DEFAULTS.seed)
    .describe('The same seed gives the same text'),
  device: z.string().default('auto').describe('Accelerator; auto: the best of this machine'),
  dtype: z
    .enum(HELD_TYPES)
    .default('f32')
    .describe('What weights are held in; int8 and int4 (with scales) are smaller, faster, and less exact'),
});

export const settingsOf = ({
  max_tokens,
  temperature,
  top_p,
  top_k,
  seed,
}: z.output<typeof samplingOptions>) => ({
  maxTokens: max_tokens,
  temperature,
  topP: top_p,
  topK: top_k,
  seed,
});

export function addGenerate(program: Command): void {
  const command = program
    .command('generate')
    .description('Continue a prompt')
    .argument('<model>', "a model's folder")
    .option('--prompt <text>', 'text to continue (needs a tokenizer in the folder)')
    .option('--tokens <ids>', 'token ids to continue, separated by commas')
    .option('--json', 'print {"tokens", "logprobs", "text", "finish_reason"}')
    .addHelpText(
      'after',
      '\nExamples:\n  $ tandem generate runs/chain --prompt "3 +4 *2 +1 *5 +6 *3 +2 +2 *4 +1 =" --max-tokens 20\n  $ tandem generate runs/chain --tokens 1,8,14 --max-tokens 5 --temperature 0.7 --seed 3 --json',
    );
  addFlags(command, samplingOptions);
  command.action(
    async (
      folder: string,
      parsed: Record<string, unknown> & { prompt?: string; tokens?: string; json?: boolean },
    ) => {
      const options = checkOptions(samplingOptions, givenOptions(samplingOptions, parsed));
      if ((parsed.prompt === undefined) === (parsed.tokens === undefined))
        throw new UsageError('give either --prompt or --tokens');
      const given = parsed.tokens === undefined ? null : parseTokens(parsed.tokens);
      let tokens: readonly number[] = [];
      await using model = await openModel(folder, {
        device: options.device,
        dtype: options.dtype,
        async meanwhile(loading) {
          tokens = given ?? loading.encode(parsed.prompt!);
          await loading.prepare(tokens, options.max_tokens);
        },
      });
      const generation = await model.generate(tokens, settingsOf(options));
      const text = model.tokenizer?.decode(generation.tokens) ?? null;
      if (parsed.json) {
        console.log(
          JSON.stringify({
            tokens: generation.tokens,
            logprobs: generation.logprobs,
            text,
            finish_reason: generation.finishReason,
          }),
        );
      } else console.log(text ?? generation.tokens.join(','));
    },
  );
}
