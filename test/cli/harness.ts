/** Runs the command as a user does, from the sources. */
import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const main = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));
const loader = import.meta.resolve('tsx');

export interface Outcome {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly out: string;
  readonly err: string;
}

export interface RunOptions {
  readonly cwd?: string;
  readonly input?: string;
  /** Added to this process's. */
  readonly env?: Readonly<Record<string, string>>;
  /** A file that standard output goes to instead. */
  readonly stdout?: string;
  /** Called with everything printed so far; may kill the process. */
  readonly onOutput?: (out: string, kill: (signal: NodeJS.Signals) => void) => void;
}

export function tandem(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const file = options.stdout === undefined ? undefined : openSync(options.stdout, 'w');
    const child = spawn(process.execPath, ['--import', loader, main, ...args], {
      cwd: options.cwd,
      env: { ...process.env, NO_COLOR: '1', ...options.env },
      stdio: ['pipe', file ?? 'pipe', 'pipe'],
    });
    let out = '';
    let err = '';
    if (file !== undefined) closeSync(file);
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      out += text;
      options.onOutput?.(out, (signal) => child.kill(signal));
    });
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      err += text;
    });
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, out, err }));
    child.stdin!.end(options.input ?? '');
  });
}
