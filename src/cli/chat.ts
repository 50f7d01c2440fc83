/** `tandem chat`: talk to a model; its thinking is shown dimmed as it comes. */
import { createInterface } from 'node:readline/promises';
import type { Command } from 'commander';
import pc from 'picocolors';
import { readModel } from '../checkpoint/model.ts';
import { END_THINK, THINK } from '../checkpoint/tokenizer.ts';
import type { LanguageModel } from '../inference/language-model.ts';
import { openModel } from '../inference/open.ts';
import { UsageError } from './errors.ts';
import { addFlags, checkOptions, givenOptions } from './flags.ts';
import { samplingOptions, settingsOf } from './generate.ts';
import { serveModel } from './web.ts';

export function addChat(program: Command): void {
  const command = program
    .command('chat')
    .description('Talk to a model: type a problem, see it think and answer')
    .argument('<model>', "a model's folder with a tokenizer")
    .addHelpText(
      'after',
      `
Type a problem in the words of the task the model was trained on; an empty line or Ctrl-D ends.

Examples:
  $ tandem chat runs/chain
  $ tandem chat runs/chain --temperature 0.7 --seed 3
  $ tandem chat runs/chain --web
  $ tandem chat runs/chain < problems.txt             answer each line of a file`,
    );
  command
    .option('--web', 'open the model in a web browser instead: it runs there, on WebGPU or WebAssembly')
    .option('--port <number>', 'port of the web page; 0: any free one', '8080');
  addFlags(command, samplingOptions);
  command.action(
    async (folder: string, parsed: Record<string, unknown> & { web?: boolean; port: string }) => {
      if (parsed.web) return web(folder, parsed.port);
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
    },
  );
}

async function web(folder: string, portText: string): Promise<void> {
  const port = Number(portText);
  if (!Number.isInteger(port) || port < 0 || port > 65535)
    throw new UsageError(`--port needs a number up to 65535, not '${portText}'`);
  await readModel(folder);
  const { server, url } = await serveModel(folder, port);
  console.log(`${folder} is at ${url}  (Ctrl-C ends)`);
  await new Promise<void>((resolve) => process.once('SIGINT', resolve).once('SIGTERM', resolve));
  server.closeAllConnections();
  server.close();
}

async function answer(
  model: LanguageModel,
  prompt: string,
  options: ReturnType<typeof samplingOptions.parse>,
): Promise<void> {
  const { tokenizer } = model;
  let thinking = false;
  const generation = await model.generate(model.encode(prompt), {
    ...settingsOf(options),
    onToken(token) {
      const text = tokenizer!.decode([token], { skipSpecial: true });
      if (text === THINK) thinking = true;
      if (text !== '') process.stdout.write(`${thinking ? pc.dim(text) : text} `);
      if (text === END_THINK) thinking = false;
    },
  });
  process.stdout.write(generation.finishReason === 'length' ? pc.dim('… (cut off at --max-tokens)\n') : '\n');
}
