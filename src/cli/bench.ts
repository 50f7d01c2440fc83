/** `tandem bench`: how fast Tandem is here, next to what the machine could do and to other programs. */
import { writeFile } from 'node:fs/promises';
import type { Command } from 'commander';
import pc from 'picocolors';
import type { MachineLimits, NarrowType, Rate } from '../accelerators/cpu/limits.ts';
import { openDevice, resolveDevice } from '../accelerators/registry.ts';
import type { Item, Limits, Row } from '../bench/item.ts';
import type { BenchmarkName } from '../bench/items.ts';
import { benchmarkItems, benchmarkNames, isBenchmarkName } from '../bench/items.ts';
import { comparison, figure } from '../bench/markdown.ts';
import type { Peer, PeerName } from '../bench/peers.ts';
import { findPeer, peerNames } from '../bench/peers.ts';
import { traceFile } from '../bench/profile.ts';
import { currentLoad, saveResults, thisMachine } from '../bench/results.ts';
import { measureItem } from '../bench/run.ts';
import { Yardstick } from '../bench/yardstick.ts';
import { printCounters } from './counters.ts';
import { UsageError } from './errors.ts';
import { percent } from './text.ts';
import { traceLines } from './trace.ts';

const RESULTS = 'bench/results';
const PAGE = 'docs/benchmarks.md';
/** Processes beside this one from which on figures say more about them than about Tandem. */
const BUSY = 0.5;

/** Throws UsageError that lists the benchmarks where a name is none. */
export function checkNames(names: readonly string[]): BenchmarkName[] {
  return names.map((name) => {
    if (!isBenchmarkName(name))
      throw new UsageError(`there is no benchmark '${name}': use ${benchmarkNames.join(', ')}`);
    return name;
  });
}

const COLUMNS = { name: 11, shape: 30, type: 5, device: 7, value: 10, unit: 9, limit: 10, share: 8 };

const tableLine = (cells: { readonly [C in keyof typeof COLUMNS]: string }) =>
  [
    cells.name.padEnd(COLUMNS.name),
    cells.shape.padEnd(COLUMNS.shape),
    cells.type.padEnd(COLUMNS.type),
    cells.device.padEnd(COLUMNS.device),
    cells.value.padStart(COLUMNS.value),
    cells.unit.padEnd(COLUMNS.unit),
    cells.limit.padStart(COLUMNS.limit),
    cells.share.padStart(COLUMNS.share),
  ].join(' ');

const ratioWidth = (peer: string) => `vs ${peer}`.length + 2;

export function tableHeader(peers: readonly string[]): string {
  const ratios = peers.map((peer) => `vs ${peer}`.padStart(ratioWidth(peer)));
  const cells = { name: '', shape: '', type: 'type', device: 'on', unit: '', share: '' };
  return [tableLine({ ...cells, value: 'achieved', limit: 'limit' }), ...ratios].join('').trimEnd();
}

/** A row for people; a dash where there is no limit, or the peer does not do the same work. */
export function tableRow(
  { name, shape, dtype, device, value, unit, limit, fraction, peers }: Row,
  columns: readonly string[],
): string {
  const line = tableLine({
    name,
    shape,
    type: dtype,
    device,
    value: figure(value),
    unit,
    limit: limit === null ? '-' : figure(limit),
    share: fraction === null ? '-' : percent(fraction),
  });
  const ratios = columns.map((peer) => comparison(peers[peer]).padStart(ratioWidth(peer)));
  return [line, ...ratios].join('');
}

const limitLine = (what: string, { one, all }: Rate, unit: string, threads: number) =>
  `${what.padEnd(34)} ${figure(one / 1e9).padStart(6)} ${unit} with 1 thread, ${figure(all / 1e9)} with ${threads}`;

export function limitLines({ machine, wasm }: Limits): string[] {
  return [...(machine === null ? [] : machineLines(machine)), ...(wasm === null ? [] : wasmLine(wasm))];
}

/** Operations on integers are not floating-point ones. */
const OPERATIONS: { readonly [T in NarrowType]: string } = { bf16: 'GFLOP/s', int8: 'GOP/s' };

function machineLines({ threads, fma, dots, tiles, read, copy }: MachineLimits): string[] {
  return [
    ...Object.entries(fma).map(([isa, rate]) =>
      limitLine(`multiply-add f32, ${isa}`, rate, 'GFLOP/s', threads),
    ),
    ...Object.entries(dots).map(([type, rate]) =>
      limitLine(`multiply-add ${type}, avx512`, rate, OPERATIONS[type as NarrowType], threads),
    ),
    ...Object.entries(tiles).map(([type, rate]) =>
      limitLine(`multiply-add ${type}, amx`, rate, OPERATIONS[type as NarrowType], threads),
    ),
    limitLine('memory, read', read, 'GB/s', threads),
    limitLine('memory, copy (read + write)', copy, 'GB/s', threads),
  ];
}

const wasmLine = (wasm: NonNullable<Limits['wasm']>) => [
  limitLine(`wasm, ${wasm.instructions}`, wasm, 'GFLOP/s', wasm.threads),
];

/** Measures the limits that items on these accelerators need, once. */
export async function limitsHere(
  devices: readonly string[],
  threads: number | undefined,
  say: (line: string) => void,
): Promise<Limits> {
  using yardstick = await Yardstick.open(devices, threads, say);
  for (const device of devices) await yardstick.measure(device);
  return yardstick.best;
}

/** Compiling takes PyTorch minutes. */
const PATIENT: readonly PeerName[] = ['torch.compile'];

/** The peers that items are compared with, in the order of the table; one that is not installed is said. */
async function peersFor(
  items: readonly Item[],
  large: boolean,
  { say, warn }: { readonly say: (line: string) => void; readonly warn: (line: string) => void },
): Promise<ReadonlyMap<PeerName, Peer | null>> {
  const found = new Map<PeerName, Peer | null>();
  for (const name of peerNames) {
    if (!items.some(({ peers }) => peers[name] !== undefined)) continue;
    if (PATIENT.includes(name) && !large) continue;
    const peer = await findPeer(name);
    found.set(name, peer);
    if (peer === null) warn(`${name}: not installed (bench/peers/install.sh installs it for the comparison)`);
    else say(`${name}: ${peer.about}`);
  }
  return found;
}

interface Options {
  readonly device: string;
  readonly large?: boolean;
  readonly json?: boolean;
  readonly save?: boolean;
  readonly profile?: string;
  readonly counters?: boolean;
}

/** Of what a profile is made where no benchmark is named. */
const PROFILED: readonly BenchmarkName[] = ['train-step'];

/** Traces one program of the first benchmark that has one, in place of measuring. */
async function profile(path: string, names: readonly BenchmarkName[], chosen: string): Promise<void> {
  const items = benchmarkItems(names.length === 0 ? PROFILED : names, chosen, false);
  const item = items.find((candidate) => candidate.profile !== undefined && candidate.device === chosen);
  if (item?.profile === undefined)
    throw new UsageError(
      `there is nothing to profile in ${names.join(', ')}: name ${benchmarkNames.join(', ')}`,
    );
  await using device = await openDevice(chosen);
  if (device.trace === undefined)
    throw new UsageError(`--profile needs an accelerator that can trace: cpu, not ${chosen}`);
  const limits = await limitsHere([item.device], device.info.threads, (line) => console.log(line));
  const about = `${item.name} ${item.shape}, ${item.dtype}`;
  await item.profile(device, async (work) => {
    const { launches } = await device.trace!(work);
    await writeFile(path, JSON.stringify(traceFile(launches, device.info, limits, about)));
    for (const line of traceLines(launches, path)) console.log(line);
  });
}

async function bench(names: readonly string[], options: Options): Promise<void> {
  const { device, large, json, save } = options;
  const chosenNames = checkNames(names);
  const say = json ? () => {} : (line: string) => console.log(line);
  // What makes figures incomplete or doubtful is said in either form, beside the JSON rather than in it.
  const warn = json ? (line: string) => console.error(line) : say;
  const load = currentLoad();
  const chosen = await resolveDevice(device);
  if (options.counters) return printCounters(chosen, json === true);
  if (chosen === 'interpreter')
    throw new UsageError(
      'the interpreter defines results and is not made to be fast: choose another --device',
    );
  if (options.profile !== undefined) return profile(options.profile, chosenNames, chosen);
  const items = benchmarkItems(chosenNames, chosen, large === true);
  const opened = await openDevice(chosen);
  const { info } = opened;
  await opened.close();
  say(`${chosen}: ${info.description}, ${info.threads} thread${info.threads === 1 ? '' : 's'}`);
  if (load > BUSY)
    warn(
      pc.yellow(
        `The machine is busy (load ${load.toFixed(2)}): limits, figures and ratios may be far off on both sides`,
      ),
    );
  const devices = [...new Set(items.map((item) => item.device))];
  using yardstick = await Yardstick.open(devices, info.threads, warn);
  for (const each of devices) await yardstick.measure(each);
  for (const line of limitLines(yardstick.best)) say(line);
  const peers = await peersFor(items, large === true, { say, warn });
  const columns = [...peers].filter(([, peer]) => peer !== null).map(([name]) => name);
  if (columns.length > 0) say('Peers run on as many threads; above 1x Tandem is faster, or takes less');
  say('');
  say(pc.dim(tableHeader(columns)));
  const rows: Row[] = [];
  for (const item of items) {
    const open = () => openDevice(item.device, { threads: info.threads });
    const limits = (where: string) => yardstick.measure(where);
    const row = await measureItem(item, { open, threads: info.threads, limits, peers, warn });
    rows.push(row);
    say(tableRow(row, columns));
  }
  if (json) console.log(JSON.stringify(rows, null, 2));
  if (save) {
    const path = await saveResults(RESULTS, PAGE, {
      date: new Date().toISOString(),
      machine: thisMachine(info, load),
      limits: yardstick.best,
      peers: Object.fromEntries([...peers].map(([name, peer]) => [name, peer?.about ?? null])),
      rows,
    });
    say(`\nSaved as ${path} and ${PAGE}`);
  }
}

export function addBench(program: Command): void {
  program
    .command('bench')
    .description(
      'Measure kernels, training steps and generation against the limits of this machine and other programs',
    )
    .argument(
      '[name...]',
      `what to measure: ${benchmarkNames.join(', ')}; default: all but what needs --large`,
    )
    .option('--device <name>', 'accelerator; auto: the best of this machine', 'auto')
    .option(
      '--large',
      "also what takes minutes: decode, prefill and start of a model of Qwen3-0.6B's shape, which is made once (1.2 GB), and torch.compile",
    )
    .option(
      '--json',
      'print JSON: an array of { name, shape, dtype, device, threads, value, unit, limit, fraction, peers }',
    )
    .option(
      '--counters',
      'instead of measuring, count what a decode step and a training step take: launches, barriers, bytes, and what the host reads',
    )
    .option('--save', `also write the results to ${RESULTS}/<machine>.json, and as tables to ${PAGE}`)
    .option(
      '--profile <file>',
      'instead of measuring, write a trace of one program of the first benchmark named (train-step): every launch, its threads, bytes, operations and share of the limit; for ui.perfetto.dev',
    )
    .addHelpText(
      'after',
      '\nExamples:\n  $ tandem bench\n  $ tandem bench matmul decode --device wasm --json\n  $ tandem bench --large --save\n  $ tandem bench train-step --profile trace.json',
    )
    .action(bench);
}
