/** `tandem bench`: how fast Tandem is here, next to what the machine could do and to other programs. */
import type { Command } from 'commander';
import pc from 'picocolors';
import type { MachineLimits, Rate } from '../accelerators/cpu/limits.ts';
import { measureLimits } from '../accelerators/cpu/limits.ts';
import { listDevices, openDevice, resolveDevice } from '../accelerators/registry.ts';
import type { Row } from '../bench/item.ts';
import type { BenchmarkName } from '../bench/items.ts';
import { benchmarkItems, benchmarkNames, isBenchmarkName } from '../bench/items.ts';
import type { Peer } from '../bench/peers.ts';
import { findPyTorch } from '../bench/peers.ts';
import { currentLoad, saveResults } from '../bench/results.ts';
import { measureItem } from '../bench/run.ts';
import { UsageError } from './errors.ts';
import { percent } from './text.ts';

const RESULTS = 'bench/results';
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

/** Three digits, without exponents: figures of a table are compared at a glance. */
const figure = (value: number) =>
  Math.abs(value) >= 100 ? Math.round(value).toLocaleString('en-US') : String(Number(value.toPrecision(3)));

const COLUMNS = { name: 11, shape: 24, value: 10, unit: 9, limit: 10, share: 8 };

const tableLine = (name: string, shape: string, value: string, unit: string, limit: string, share: string) =>
  [
    name.padEnd(COLUMNS.name),
    shape.padEnd(COLUMNS.shape),
    value.padStart(COLUMNS.value),
    unit.padEnd(COLUMNS.unit),
    limit.padStart(COLUMNS.limit),
    share.padStart(COLUMNS.share),
  ].join(' ');

const ratioWidth = (peer: string) => `vs ${peer}`.length + 2;

export function tableHeader(peers: readonly string[]): string {
  const ratios = peers.map((peer) => `vs ${peer}`.padStart(ratioWidth(peer)));
  return [tableLine('', '', 'achieved', '', 'limit', ''), ...ratios].join('').trimEnd();
}

/** A row for people; a dash where there is no limit, or the peer does not do the same work. */
export function tableRow(
  { name, shape, value, unit, limit, fraction, peers }: Row,
  columns: readonly string[],
): string {
  const line = tableLine(
    name,
    shape,
    figure(value),
    unit,
    limit === null ? '-' : figure(limit),
    fraction === null ? '-' : percent(fraction),
  );
  const ratios = columns.map((peer) =>
    (Object.hasOwn(peers, peer) ? `${peers[peer].toFixed(2)}x` : '-').padStart(ratioWidth(peer)),
  );
  return [line, ...ratios].join('');
}

export function limitLines({ threads, fma, read, copy }: MachineLimits): string[] {
  const line = (what: string, { one, all }: Rate, unit: string) =>
    `${what.padEnd(28)} ${figure(one / 1e9).padStart(6)} ${unit} with 1 thread, ${figure(all / 1e9)} with ${threads}`;
  return [
    ...Object.entries(fma).map(([isa, rate]) => line(`multiply-add f32, ${isa}`, rate, 'GFLOP/s')),
    line('memory, read', read, 'GB/s'),
    line('memory, copy (read + write)', copy, 'GB/s'),
  ];
}

/** The machine's limits; null, with a line that says why, where its instructions are unknown to us. */
async function limitsHere(threads: number, say: (line: string) => void): Promise<MachineLimits | null> {
  // Limits are measured with machine code of the `cpu` accelerator.
  const cpu = (await listDevices()).find(({ name }) => name === 'cpu');
  if (cpu?.available) return measureLimits(threads);
  say(`No limits: the cpu accelerator, whose code measures them, is not available: ${cpu?.reason}`);
  return null;
}

interface Options {
  readonly device: string;
  readonly json?: boolean;
  readonly save?: boolean;
}

async function bench(names: readonly string[], { device, json, save }: Options): Promise<void> {
  const items = benchmarkItems(checkNames(names));
  const say = json ? () => {} : (line: string) => console.log(line);
  // What makes figures incomplete or doubtful is said in either form, beside the JSON rather than in it.
  const warn = json ? (line: string) => console.error(line) : say;
  const load = currentLoad();
  const chosen = await resolveDevice(device);
  if (chosen === 'interpreter')
    throw new UsageError(
      'the interpreter defines results and is not made to be fast: choose another --device',
    );
  const open = () => openDevice(chosen);
  const opened = await open();
  const { info } = opened;
  await opened.close();
  say(`${chosen}: ${info.description}, ${info.threads} thread${info.threads === 1 ? '' : 's'}`);
  if (load > BUSY)
    warn(
      pc.yellow(
        `The machine is busy (load ${load.toFixed(2)}): limits, figures and ratios may be far off on both sides`,
      ),
    );
  const pytorch = await findPyTorch();
  const limits = await limitsHere(info.threads, warn);
  for (const line of limits === null ? [] : limitLines(limits)) say(line);

  const peers: readonly Peer[] = pytorch === null ? [] : [pytorch];
  if (pytorch === null)
    warn('pytorch: not installed (bench/peers/install.sh installs it for the comparison)');
  else say(`pytorch: ${pytorch.version}, eager, ${info.threads} threads; above 1x Tandem is faster`);
  const columns = peers.map(({ name }) => name);
  say('');
  say(pc.dim(tableHeader(columns)));
  const rows: Row[] = [];
  for (const item of items) {
    const row = await measureItem(item, { open, threads: info.threads, limits, peers });
    rows.push(row);
    say(tableRow(row, columns));
  }
  if (json) console.log(JSON.stringify(rows, null, 2));
  if (save) {
    const versions = Object.fromEntries(peers.map(({ name, version }) => [name, version]));
    const path = await saveResults(RESULTS, {
      date: new Date(),
      device: info,
      limits,
      peers: versions,
      load,
      rows,
    });
    say(`\nSaved as ${path}`);
  }
}

export function addBench(program: Command): void {
  program
    .command('bench')
    .description(
      'Measure kernels, training steps and decoding against the limits of this machine and PyTorch',
    )
    .argument('[name...]', `what to measure: ${benchmarkNames.join(', ')}; default: all`)
    .option('--device <name>', 'accelerator; auto: the best of this machine', 'auto')
    .option(
      '--json',
      'print JSON: an array of { name, shape, dtype, threads, value, unit, limit, fraction, peers }',
    )
    .option('--save', `also write the results, with a description of the machine, to ${RESULTS}/<date>.json`)
    .addHelpText(
      'after',
      '\nExamples:\n  $ tandem bench\n  $ tandem bench matmul decode --device wasm --json',
    )
    .action(bench);
}
