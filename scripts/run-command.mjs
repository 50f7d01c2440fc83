// Sets up a fresh clone, then runs a `tandem` command as its users do.
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { build, checkNode, install, root } from './setup.mjs';

/** Ends with the command's exit code. */
export function runCommand(args) {
  checkNode();
  install();
  build();
  const child = spawn(process.execPath, [join(root, 'dist', 'cli', 'main.js'), ...args], {
    stdio: 'inherit',
  });
  // The terminal sends Ctrl-C to both; the child decides when it is done saving.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  child.on('exit', (code, signal) => process.exit(code ?? (signal === 'SIGINT' ? 130 : 1)));
}
