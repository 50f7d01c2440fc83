// `npm run bench`: sets up a fresh clone, then measures (`tandem bench`) with the arguments given.
import { runCommand } from './run-command.mjs';

runCommand(['bench', ...process.argv.slice(2)]);
