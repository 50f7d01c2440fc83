/** Other programs that do the same work, measured on the same machine right after Tandem. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import type { PeerItem } from './item.ts';

/** Same place from the sources and from what is built. */
const folder = fileURLToPath(new URL('../../bench/peers/', import.meta.url));
const PYTHON_VARIABLE = 'TANDEM_PEERS_PYTHON';

interface PeerRule {
  /** For people: what exactly is measured. */
  readonly about: string;
  readonly script: string;
  /** Program that runs the script; null where the peer is not installed. */
  readonly program: () => string | null;
}

/** The Python that the environment variable TANDEM_PEERS_PYTHON names, or the one that `bench/peers/install.sh` makes. */
function python(): string | null {
  const named = process.env[PYTHON_VARIABLE];
  if (named !== undefined && named !== '') return named;
  const own = `${folder}.venv/bin/python`;
  return existsSync(own) ? own : null;
}
const nodeWith = (name: string) => () =>
  existsSync(`${folder}node_modules/${name}/package.json`) ? process.execPath : null;

const PEERS = {
  pytorch: { about: 'PyTorch, eager', script: 'torch_bench.py', program: python },
  'torch.compile': { about: 'PyTorch, torch.compile', script: 'torch_bench.py', program: python },
  onnxruntime: {
    about: 'onnxruntime-node, the engine of transformers.js',
    script: 'onnxruntime_bench.mjs',
    program: nodeWith('onnxruntime-node'),
  },
  'llama.cpp': {
    about: 'llama.cpp by node-llama-cpp',
    script: 'llama_cpp_bench.mjs',
    program: nodeWith('node-llama-cpp'),
  },
  'jax-js': {
    about: 'jax-js, its wasm backend',
    script: 'jax_js_bench.mjs',
    program: nodeWith('@jax-js/jax'),
  },
} as const satisfies Readonly<Record<string, PeerRule>>;

export type PeerName = keyof typeof PEERS;
export const peerNames = Object.keys(PEERS) as PeerName[];

export interface Peer {
  readonly name: PeerName;
  /** What exactly is measured, with its version. */
  readonly about: string;
  readonly version: string;
  /** The peer's figures in the unit of Tandem's, in the order of the items; null where it does not know the kind. */
  measure(items: readonly PeerItem[], threads: number): Promise<(number | null)[]>;
}

/** Runs a program and returns what it prints. Throws with its last words where it fails. */
function output(program: string, args: readonly string[], input: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    const printed: Buffer[] = [];
    const complaints: Buffer[] = [];
    child.stdout.on('data', (data: Buffer) => printed.push(data));
    child.stderr.on('data', (data: Buffer) => complaints.push(data));
    child.on('error', (error) => reject(new Error(`cannot run ${program}: ${error.message}`)));
    // A program that ends early closes its input; its exit code and message say why.
    child.stdin.on('error', () => {});
    child.on('close', (code, signal) => {
      if (code === 0) return resolve(Buffer.concat(printed).toString());
      const last = Buffer.concat(complaints).toString().trim().split('\n').at(-1);
      reject(new Error(`${program} ${args[0]} ended with ${code ?? signal}: ${last}`));
    });
    child.stdin.end(input);
  });
}

/** Null where it is not installed. Throws where it is, and does not work. */
export async function findPeer(name: PeerName): Promise<Peer | null> {
  const { about, script: file, program: find } = PEERS[name];
  const program = find();
  if (program === null) return null;
  const script = `${folder}${file}`;
  if (!existsSync(script))
    throw new Error(`${script} is missing: comparisons need a clone of the repository`);
  const version = (await output(program, [script, '--version'], '')).trim();
  return {
    name,
    about: `${about} ${version}`,
    version,
    async measure(items, threads) {
      const input = JSON.stringify(items.map((item) => ({ ...item, threads })));
      const printed = await output(program, [script], input);
      // Libraries may print lines of their own before.
      const values = z
        .array(z.number().positive().nullable())
        .length(items.length)
        .safeParse(JSON.parse(printed.trim().split('\n').at(-1) ?? ''));
      if (!values.success) throw new Error(`${script} printed something else than ${items.length} figures`);
      return values.data;
    },
  };
}
