// `npm test [-- --long] [-- FILTER…]`: sets up a fresh clone and runs the tests. Files named *.long.test.ts take
// minutes and run only with --long; a filter keeps the files whose path contains it. Where there is no graphics driver,
// tests of WebGPU run on a software device, if the machine has one.
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { build, checkNode, install, root } from './setup.mjs';
import { softwareGpu } from './software-gpu.mjs';

checkNode();
install();
build();
const args = process.argv.slice(2);
const long = args.includes('--long');
const filters = args.filter((arg) => !arg.startsWith('--'));
const files = readdirSync(join(root, 'test'), { recursive: true })
  .map((file) => relative(root, join(root, 'test', String(file))))
  .filter((file) => file.endsWith('.test.ts') && (long || !file.endsWith('.long.test.ts')))
  .filter((file) => filters.length === 0 || filters.some((filter) => file.includes(filter)))
  .sort();
if (files.length === 0) {
  console.error(`no test file matches ${filters.join(' ')}`);
  process.exit(1);
}
const gpu = softwareGpu();
if (gpu !== null) console.log(gpu.line);
const child = spawn(process.execPath, ['--import', 'tsx', '--test', '--test-concurrency=2', ...files], {
  cwd: root,
  env: { ...process.env, ...gpu?.environment },
  stdio: 'inherit',
});
child.on('exit', (code, signal) => process.exit(code ?? (signal ? 1 : 0)));
