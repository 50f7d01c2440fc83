/** Every command of `tandem`, with its options and help. */
import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { addBench } from './bench.ts';
import { addChat } from './chat.ts';
import { addDevices } from './devices.ts';
import { addGenerate } from './generate.ts';
import { addScore } from './score.ts';
import { addStart, addTrain } from './train.ts';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

/** Wrong usage throws: commander's `CommanderError` after its message was printed, or a `UsageError`. */
export function createProgram(): Command {
  const program = new Command('tandem')
    .description(
      'Train reasoning language models on one accelerator, run them on another, and prove that both run the same model.',
    )
    .version(version)
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      // Commander puts what it suggests on a line of its own; an error is one line.
      outputError: (text, write) =>
        write(
          text
            .replace(/^error: /u, 'tandem: ')
            .replace(/\n\(Did you mean (.*)\?\)\n$/su, '; did you mean $1?\n'),
        ),
    })
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
  // Commands take over how errors are printed when they are added, so this comes last.
  for (const add of [addStart, addTrain, addGenerate, addChat, addScore, addDevices, addBench]) add(program);
  return program;
}
