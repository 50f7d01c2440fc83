/** `tandem chat`: talk to a model; its thinking is shown dimmed as it comes. */
import { createInterface } from 'node:readline/promises';
import type { Command } from 'commander';
import pc from 'picocolors';
import { END_THINK, THINK } from '../checkpoint/tokenizer.ts';
import type { LanguageModel } from '../inference/language-model.ts';
import { openModel } from '../inference/open.ts';
import { addFlags, checkOptions, givenOptions } from './flags.ts';
import { samplingOptions } from './generate.ts';

export function addChat(program: Command): void {
  const command = program
    .command('chat')
    .description('Talk to a model: type a problem, see it think and answer')
    .argument('<model>', "a model's folder with a tokenizer")
    .addHelpText(
      'after',
      '\nType a problem in the words of the task the model was trained on; an empty line or Ctrl-D ends.',
    );
  addFlags(command, samplingOptions);
  command.action(async (folder: string, parsed: Record<string, unknown>) => {
    const options = checkOptions(samplingOptions, givenOptions(samplingOptions, parsed));
    await using model = await openModel(folder, { device: options.device, dtype: options.dtype });
    if (model.tokenizer === null)
      throw new Error(
        `${folder} has no tokenizer.json, so it can only continue token ids (tandem generate --tokens)`,
      );
    const terminal = process.stdin.isTTY === true;
    const lines = createInterface({
      input: process.stdin,
      output: terminal ? process.stdout : undefined,
      prompt: pc.bold('you> '),
    });
    if (terminal) {
      const example = model.example ? `, for example: ${model.example}` : '';
      console.log(
        pc.dim(`${folder} on ${model.device.info.name}. Type a problem${example}. An empty line ends.`),
      );
      lines.prompt();
    }
    for await (const line of lines) {
      if (line.trim() === '') break;
      try {
        await answer(model, line.trim(), options);
      } catch (error) {
        // A word outside the vocabulary should not end the conversation.
        console.error(pc.red((error as Error).message));
        if (!terminal) process.exitCode = 1;
      }
      if (terminal) lines.prompt();
    }
    lines.close();
  });
}

async function answer(
  model: LanguageModel,
  prompt: string,
  options: ReturnType<typeof samplingOptions.parse>,
): Promise<void> {
  const { tokenizer } = model;
  let thinking = false;
  const generation = await model.generate(model.encode(prompt), {
    maxTokens: options.max_tokens,
    temperature: options.temperature,
    topP: options.top_p,
    topK: options.top_k,
    seed: options.seed,
    onToken(token) {
      const text = tokenizer!.decode([token], { skipSpecial: true });
      if (text === THINK) thinking = true;
      if (text !== '') process.stdout.write(`${thinking ? pc.dim(text) : text} `);
      if (text === END_THINK) thinking = false;
    },
  });
  process.stdout.write(generation.finishReason === 'length' ? pc.dim('… (cut off at --max-tokens)\n') : '\n');
}
