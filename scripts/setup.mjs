// Makes a fresh clone ready: installs the dependencies when they are missing or older than the lock file, and
// builds `dist` when a source is newer. Plain JavaScript, because nothing is installed yet when it runs.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..');

function fail(message) {
  console.error(message);
  process.exit(1);
}

function run(command, args, what) {
  const result = spawnSync(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] });
  if (result.error) fail(`${what} failed: ${result.error.message}`);
  if (result.status !== 0)
    fail(`${what} failed: '${command} ${args.join(' ')}' exited with ${result.status ?? result.signal}`);
}

const modified = (path) => (existsSync(path) ? statSync(path).mtimeMs : 0);

function newest(folder) {
  let latest = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    latest = Math.max(latest, entry.isDirectory() ? newest(path) : modified(path));
  }
  return latest;
}

export function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19))
    fail(`Tandem needs Node 20.19 or newer; this is ${process.version}.`);
}

export function install() {
  const stamp = join(root, 'node_modules', '.package-lock.json');
  if (modified(stamp) >= modified(join(root, 'package-lock.json'))) return;
  console.log('Installing dependencies …');
  run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], 'npm ci');
}

export function build() {
  const built = modified(join(root, 'dist', 'web', 'page.js'));
  if (built > 0 && built >= newest(join(root, 'src')) && built >= modified(join(root, 'tsconfig.build.json')))
    return;
  console.log('Building …');
  run(
    process.execPath,
    [join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', 'tsconfig.build.json'],
    'the build',
  );
  run(process.execPath, [join(root, 'scripts', 'build-web.mjs')], 'the build of the page');
}
