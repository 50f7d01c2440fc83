/** Every command of `tandem`, with its options and help. */
import { Command } from 'commander';
import { tandemVersion } from '../version.ts';

/** What adds each command to a program, in the order of the help. */
const COMMANDS: { readonly [name: string]: () => Promise<(program: Command) => void> } = {
  start: async () => (await import('./train.ts')).addStart,
  train: async () => (await import('./train.ts')).addTrain,
  generate: async () => (await import('./generate.ts')).addGenerate,
  chat: async () => (await import('./chat.ts')).addChat,
  score: async () => (await import('./score.ts')).addScore,
  devices: async () => (await import('./devices.ts')).addDevices,
  tune: async () => (await import('./tune.ts')).addTune,
  bench: async () => (await import('./bench.ts')).addBench,
};

/**
 * The program; with the command that `argv` asks for alone where its first word is one, since loading the modules of
 * all the others takes longer than starting Node. Wrong usage throws: commander's `CommanderError` after its message
 * was printed, or a `UsageError`.
 */
export async function createProgram(argv: readonly string[] = []): Promise<Command> {
  const program = new Command('tandem')
    .description(
      'Train reasoning language models on one accelerator, run them on another, and prove that both run the same model.',
    )
    .version(tandemVersion())
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
  const names = argv.length > 0 && Object.hasOwn(COMMANDS, argv[0]) ? [argv[0]] : Object.keys(COMMANDS);
  for (const name of names) (await COMMANDS[name]())(program);
  return program;
}
