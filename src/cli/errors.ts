/** How a command ends: 0 success, 1 failure, 2 wrong usage. */
export const EXIT = { success: 0, failure: 1, usage: 2 } as const;

/** The command was called wrongly: one clear line, exit code 2. */
export class UsageError extends Error {
  override name = 'UsageError';
}
