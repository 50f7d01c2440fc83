/** Results as a page of Markdown tables. */
import type { Rate } from '../accelerators/cpu/limits.ts';
import type { Comparison, Limits, Row } from './item.ts';
import type { PeerName } from './peers.ts';
import { peerNames } from './peers.ts';
import type { Results } from './results.ts';

/** Three digits, without exponents: figures of a table are compared at a glance. */
export const figure = (value: number): string =>
  Math.abs(value) >= 100 ? Math.round(value).toLocaleString('en-US') : String(Number(value.toPrecision(3)));

/** '1.25x', or why there is no ratio. */
export const comparison = (ratio: Comparison | undefined): string =>
  ratio === undefined ? '-' : typeof ratio === 'number' ? `${ratio.toFixed(2)}x` : ratio;

const TITLES: Readonly<Record<string, string>> = {
  compile: 'Compiling a whole training step',
  matmul: 'Matrix products',
  'train-step': 'Training steps (forward, backward, AdamW)',
  memory: 'Peak memory of training',
  decode: 'Generation',
  prefill: 'Reading a prompt',
  start: 'Start of `tandem generate` to its first token, the whole process',
};

function table(header: readonly string[], right: readonly boolean[], rows: readonly (readonly string[])[]) {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(header), line(right.map((is) => (is ? '--:' : ':--'))), ...rows.map(line)];
}

/** One table a benchmark, with the peers that have something to say about it. */
function workTables(rows: readonly Row[]): string[] {
  return [...new Set(rows.map(({ name }) => name))].flatMap((name) => {
    const own = rows.filter((row) => row.name === name);
    const peers = peerNames.filter((peer) => own.some((row) => row.peers[peer] !== undefined));
    const header = ['work', 'type', 'on', 'achieved', 'limit', 'share', ...peers.map((peer) => `vs ${peer}`)];
    const cells = own.map((row) => [
      row.shape,
      row.dtype,
      row.device,
      `${figure(row.value)} ${row.unit}`,
      row.limit === null ? '-' : `${figure(row.limit)} ${row.unit}`,
      row.fraction === null ? '-' : `${Math.round(100 * row.fraction)}%`,
      ...peers.map((peer) => comparison(row.peers[peer])),
    ]);
    const right = header.map((_, i) => i > 2);
    return [`### ${TITLES[name] ?? name}`, '', ...table(header, right, cells), ''];
  });
}

function limitRows({ machine, wasm }: Limits): string[][] {
  const rate = (what: string, { one, all }: Rate, unit: string) => [
    what,
    `${figure(one / 1e9)} ${unit}`,
    `${figure(all / 1e9)} ${unit}`,
  ];
  return [
    ...Object.entries(machine?.fma ?? {}).map(([isa, limit]) =>
      rate(`multiply-add f32, ${isa}`, limit, 'GFLOP/s'),
    ),
    ...Object.entries(machine?.dots ?? {}).map(([type, limit]) =>
      rate(`multiply-add ${type}, avx512`, limit, type === 'int8' ? 'GOP/s' : 'GFLOP/s'),
    ),
    ...Object.entries(machine?.tiles ?? {}).map(([type, limit]) =>
      rate(`multiply-add ${type}, amx`, limit, type === 'int8' ? 'GOP/s' : 'GFLOP/s'),
    ),
    ...(machine === null
      ? []
      : [
          rate('memory, read', machine.read, 'GB/s'),
          rate('memory, copy (read + write)', machine.copy, 'GB/s'),
        ]),
    ...(wasm === null ? [] : [rate(`WebAssembly, ${wasm.instructions}`, wasm, 'GFLOP/s')]),
  ];
}

function machineSection({ date, machine, limits, peers, rows }: Results): string[] {
  const threads = machine.device.threads;
  const found = (name: PeerName) => (peers[name] === null ? `${name}: not installed` : peers[name]);
  const asked = peerNames.filter((name) => peers[name] !== undefined);
  return [
    `## ${machine.processor}, ${threads} thread${threads === 1 ? '' : 's'}`,
    '',
    `${machine.device.description}; ${(machine.memory / 2 ** 30).toFixed(0)} GiB; ${machine.system}; ` +
      `Node ${machine.node}; load before the measurement ${machine.load.toFixed(2)}; ${date.slice(0, 10)}.`,
    '',
    ...(asked.length === 0 ? [] : [`Peers: ${asked.map(found).join('; ')}.`, '']),
    '### What this machine can do',
    '',
    ...table(['limit', '1 thread', `${threads} threads`], [false, true, true], limitRows(limits)),
    '',
    ...workTables(rows),
  ];
}

export function markdownReport(results: readonly Results[]): string {
  return [
    '# Benchmarks',
    '',
    'Written by `npm run bench -- --save`; `bench/peers/README.md` says what is compared with what, and how. *Limit* is',
    'what the machine, measured right before and after, could do at most, and *share* how much of it was reached. *vs* says how many',
    'times as fast as the peer Tandem is (of memory: how many times as little it takes), on as many threads, in the same',
    'session. Tandem adds every sum in one fixed order throughout, whatever the batch and the number of threads.',
    '',
    ...results.flatMap(machineSection),
  ].join('\n');
}
