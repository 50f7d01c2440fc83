#!/usr/bin/env node
/** The `tandem` command. Exit codes: 0 success, 1 failure, 2 wrong usage. */
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { addBench } from './bench.ts';
import { addChat } from './chat.ts';
import { addDevices } from './devices.ts';
import { EXIT, UsageError } from './errors.ts';
import { normaliseFlags } from './flags.ts';
import { addGenerate } from './generate.ts';
import { addScore } from './score.ts';
import { addStart, addTrain } from './train.ts';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

const program = new Command('tandem')
  .description(
    'Train reasoning language models on one accelerator, run them on another, and prove that both run the same model.',
  )
  .version(version)
  .enablePositionalOptions()
  .exitOverride()
  .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /u, 'tandem: ')) })
  .addHelpText(
    'after',
    `
Examples:
  $ tandem start                                    train a small reasoner from nothing, in minutes
  $ tandem chat runs/chain                          talk to it
  $ tandem train grpo --task ./my-task.ts           reinforce with a reward of your own
  $ tandem score runs/chain --tokens 1,8,14 --json  log-probabilities of tokens
  $ tandem devices                                  what this machine offers`,
  );
for (const add of [addStart, addTrain, addGenerate, addChat, addScore, addDevices, addBench]) add(program);
// Subcommands inherit these only at creation; commands made by `command()` copy them, groups added later too.

try {
  await program.parseAsync(normaliseFlags(process.argv.slice(2)), { from: 'user' });
} catch (error) {
  process.exitCode = report(error);
}

/** Prints one line for an error that a person can act on; a stack only for what should not happen. */
function report(error: unknown): number {
  if (error instanceof CommanderError) {
    // Commander has printed its message; help and version are not errors.
    return error.exitCode === 0 ? EXIT.success : EXIT.usage;
  }
  if (error instanceof UsageError) {
    console.error(`tandem: ${error.message}`);
    return EXIT.usage;
  }
  const unexpected =
    error instanceof TypeError || error instanceof ReferenceError || !(error instanceof Error);
  console.error(unexpected ? error : `tandem: ${(error as Error).message}`);
  return EXIT.failure;
}
