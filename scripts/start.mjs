// `npm start`: sets up a fresh clone, then runs the whole recipe (`tandem start`) with the arguments given.
import { runCommand } from './run-command.mjs';

runCommand(['start', ...process.argv.slice(2)]);
