// `npm run matrix [-- [--mode TEST|GRAD|SUPPORT|PERF] [--device NAME] [WORD]]`: runs every case of the tests on every
// accelerator and writes docs/accelerators.md; with arguments it prints the chosen part instead.
import { spawn } from 'node:child_process';
import { checkNode, install, root } from './setup.mjs';
import { softwareGpu } from './software-gpu.mjs';

checkNode();
install();
const gpu = softwareGpu();
if (gpu !== null) console.log(gpu.line);
const child = spawn(process.execPath, ['--import', 'tsx', 'test/matrix/write.ts', ...process.argv.slice(2)], {
  cwd: root,
  env: { ...process.env, ...gpu?.environment },
  stdio: 'inherit',
});
child.on('exit', (code, signal) => process.exit(code ?? (signal ? 1 : 0)));
