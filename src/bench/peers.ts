/** Other programs that do the same work, measured on the same machine right after Tandem. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import type { PeerItem } from './item.ts';

export interface Peer {
  readonly name: string;
  readonly version: string;
  /** The peer's figures in the unit of Tandem's, in the order of the items; null where it does not know the kind. */
  measure(items: readonly PeerItem[], threads: number): Promise<(number | null)[]>;
}

/** Same place from the sources and from what is built. */
const folder = fileURLToPath(new URL('../../bench/peers/', import.meta.url));
const PYTHON_VARIABLE = 'TANDEM_PEERS_PYTHON';

/** Runs Python and returns what it prints. Throws with its last words where it fails. */
function runPython(python: string, args: readonly string[], input: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(python, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    const output: Buffer[] = [];
    const complaints: Buffer[] = [];
    child.stdout.on('data', (data: Buffer) => output.push(data));
    child.stderr.on('data', (data: Buffer) => complaints.push(data));
    child.on('error', (error) => reject(new Error(`cannot run ${python}: ${error.message}`)));
    // A program that ends early closes its input; its exit code and message say why.
    child.stdin.on('error', () => {});
    child.on('close', (code, signal) => {
      if (code === 0) return resolve(Buffer.concat(output).toString());
      const last = Buffer.concat(complaints).toString().trim().split('\n').at(-1);
      reject(new Error(`${python} ended with ${code ?? signal}: ${last}`));
    });
    child.stdin.end(input);
  });
}

/**
 * PyTorch of the Python that the environment variable TANDEM_PEERS_PYTHON names, or of the one that
 * `bench/peers/install.sh` makes; null where there is neither. Throws where there is one that has no PyTorch.
 */
export async function findPyTorch(): Promise<Peer | null> {
  const named = process.env[PYTHON_VARIABLE];
  const python = named ?? `${folder}.venv/bin/python`;
  const script = `${folder}torch_bench.py`;
  if (named === undefined && !existsSync(python)) return null;
  if (!existsSync(script))
    throw new Error(`${script} is missing: comparisons need a clone of the repository`);
  const version = (await runPython(python, [script, '--version'], '')).trim();
  return {
    name: 'pytorch',
    version,
    async measure(items, threads) {
      const input = JSON.stringify(items.map((item) => ({ ...item, threads })));
      const values = z
        .array(z.number().positive().nullable())
        .length(items.length)
        .safeParse(JSON.parse(await runPython(python, [script], input)));
      if (!values.success) throw new Error(`${script} printed something else than ${items.length} figures`);
      return values.data;
    },
  };
}
