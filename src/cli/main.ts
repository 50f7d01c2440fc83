#!/usr/bin/env node
/** The `tandem` command. Exit codes: 0 success, 1 failure, 2 wrong usage. */
import './engine.ts';
import { CommanderError } from 'commander';
import { EXIT, UsageError } from './errors.ts';
import { normaliseFlags } from './flags.ts';
import { createProgram } from './program.ts';

// Whoever read the output has what they wanted: `tandem … | head`.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit(EXIT.success);
});

try {
  const argv = normaliseFlags(process.argv.slice(2));
  await (await createProgram(argv)).parseAsync(argv, { from: 'user' });
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
