/** Settings that users give by environment variables and options of `openDevice`. */

/** A setting that cannot be: said, and never a reason to take another accelerator. */
export class SettingError extends RangeError {
  override name = 'SettingError';
}

export const maximumThreads = 1024;

/** Throws SettingError where a device cannot have so many threads. `from` is what asked for them. */
export function checkThreads(value: number, from: string): number {
  if (!Number.isInteger(value) || value < 1 || value > maximumThreads)
    throw new SettingError(`${from} is ${value}: it must be a whole number from 1 to ${maximumThreads}`);
  return value;
}

/** The environment's TANDEM_THREADS; undefined where it is not set. Throws SettingError where it is no number of threads. */
export function threadsSetting(): number | undefined {
  const written = process.env.TANDEM_THREADS;
  if (written === undefined || written === '') return undefined;
  if (!/^\d+$/u.test(written))
    throw new SettingError(
      `TANDEM_THREADS is '${written}': it must be a whole number from 1 to ${maximumThreads}`,
    );
  return checkThreads(Number(written), 'TANDEM_THREADS');
}
