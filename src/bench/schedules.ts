/** The user's table of measured blocks, as `tandem tune` changes it. */
import type { Measured, ScheduleTable } from '../accelerators/cpu/schedules.ts';
import { blocksText, readUserTable, tableVersion } from '../accelerators/cpu/schedules.ts';
import { writeFileAtomic } from '../checkpoint/files.ts';
import type { Tuned } from './tune.ts';

/** Entries of what tuning improved: where it did not, what is in use without them stays. */
export const improvements = (tuned: readonly Tuned[]): Measured =>
  Object.fromEntries(
    tuned
      .filter(({ before, after }) => blocksText(before) !== blocksText(after))
      .map(({ name, after }) => [name, blocksText(after)]),
  );

/**
 * Puts what was tuned into the table at `path`, for the machine that `key` names; what else a table of this version
 * holds stays. Throws where the file cannot be written, and then leaves it as it was.
 */
export async function saveTuned(path: string, key: string, tuned: readonly Tuned[]): Promise<void> {
  const user = readUserTable(path);
  const processors = user.state === 'current' ? user.table.processors : {};
  const names = new Set(tuned.map(({ name }) => name));
  const kept = Object.entries(processors[key] ?? {}).filter(([name]) => !names.has(name));
  const table: ScheduleTable = {
    version: tableVersion(),
    processors: { ...processors, [key]: { ...Object.fromEntries(kept), ...improvements(tuned) } },
  };
  try {
    await writeFileAtomic(path, `${JSON.stringify(table, null, 2)}\n`);
  } catch (error) {
    throw new Error(
      `what was measured cannot be written to ${path}: ${(error as Error).message}; TANDEM_SCHEDULES names another file`,
      { cause: error },
    );
  }
}
