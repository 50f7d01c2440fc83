/** Tandem's version. Needs Node. */
import { readFileSync } from 'node:fs';

/** As package.json says it: beside `src/`, and beside `dist/` in an installed package. */
export function tandemVersion(): string {
  const path = new URL('../package.json', import.meta.url);
  const { version } = JSON.parse(readFileSync(path, 'utf8')) as { version: string };
  return version;
}
