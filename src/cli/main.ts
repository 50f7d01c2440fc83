#!/usr/bin/env node
/** The `tandem` command. Exit codes: 0 success, 1 failure, 2 wrong usage. */
import './engine.ts';
import { CommanderError } from 'commander';
import { EXIT, UsageError } from './errors.ts';
import { normaliseFlags } from './flags.ts';
import { createProgram } from './program.ts';

// Whoever read the output has what they wanted: `tandem … | head`.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(EXIT.success);
  console.error(`tandem: what was printed could not be written: ${error.message}`);
  process.exit(EXIT.failure);
});

// With nothing left to wait for, Node ends without a word, although the command has not.
const abandoned = () => {
  console.error(
    'tandem: what was waited for can never come: a promise, perhaps of a task’s reward(), was left open',
  );
  process.exit(EXIT.failure);
};
process.once('beforeExit', abandoned);

try {
  const argv = normaliseFlags(process.argv.slice(2));
  await (await createProgram(argv)).parseAsync(argv, { from: 'user' });
} catch (error) {
  process.exitCode = report(error);
}
process.off('beforeExit', abandoned);

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
