/** One table of cases on every accelerator, in four modes; its result is `docs/accelerators.md`. */
import { performance } from 'node:perf_hooks';
import type { Device } from '../../src/accelerators/device.ts';
import type { DeviceName } from '../../src/accelerators/registry.ts';
import { deviceNames, listDevices, openDevice } from '../../src/accelerators/registry.ts';
import { buffersOf } from '../kernels/buffers.ts';
import { CASES as KERNELS } from '../kernels/cases.ts';
import { check, runnerOf } from '../kernels/suite.ts';
import { CASES as PROGRAMS } from '../tensor/cases.ts';
import { checkGradient, checkValues } from '../tensor/suite.ts';

/**
 * TEST: results against a reference. GRAD: gradients against differences. SUPPORT: whether it compiles, without running.
 * PERF: time of a launch.
 */
export const MODES = ['TEST', 'GRAD', 'SUPPORT', 'PERF'] as const;
export type Mode = (typeof MODES)[number];

/** The words of the matrix. A case that fails says why in `detail`. */
export const VERDICTS = ['passes', 'fails', 'not supported', 'not tested here'] as const;
export type Verdict = (typeof VERDICTS)[number];

export interface Cell {
  readonly mode: Mode;
  readonly table: 'kernels' | 'primitives';
  readonly name: string;
  readonly device: DeviceName;
  readonly verdict: Verdict;
  /** Why it fails, is not supported or not tested. */
  readonly detail: string;
  /** PERF: microseconds a launch. */
  readonly microseconds: number | null;
}

type Judged = Pick<Cell, 'verdict' | 'detail' | 'microseconds'>;
const judged = (verdict: Verdict, detail = '', microseconds: number | null = null): Judged => ({
  verdict,
  detail,
  microseconds,
});

/** One row of the matrix: what can be done with it on a device, by mode. */
interface Row {
  readonly table: Cell['table'];
  readonly name: string;
  readonly modes: { readonly [M in Mode]?: (device: Device) => Promise<Judged> };
}

const passing = async (work: Promise<void>): Promise<Judged> => {
  await work;
  return judged('passes');
};

function kernelRow(one: (typeof KERNELS)[number]): Row {
  const supported = (work: (device: Device) => Promise<Judged>) => async (device: Device) => {
    const reason = device.unsupported(one.kernel);
    return reason === null ? work(device) : judged('not supported', reason);
  };
  return {
    table: 'kernels',
    name: one.name,
    modes: {
      TEST: supported((device) => passing(check(runnerOf(device), one))),
      SUPPORT: supported(async () => judged('passes')),
      PERF: supported(async (device) => judged('passes', '', await microsecondsOf(device, one))),
    },
  };
}

/** A graph has no kernels before it is compiled: what is not supported, `compile` refuses. */
const REFUSED = /cannot be compiled for/u;

function programRow(one: (typeof PROGRAMS)[number]): Row {
  const run = (what: typeof checkValues) => async (device: Device) => {
    try {
      return await passing(what(device, one));
    } catch (error) {
      const { message } = error as Error;
      if (REFUSED.test(message)) return judged('not supported', message);
      throw error;
    }
  };
  const gradient = one.gradient === false ? {} : { GRAD: run(checkGradient) };
  return { table: 'primitives', name: one.name, modes: { TEST: run(checkValues), ...gradient } };
}

export const ROWS: readonly Row[] = [...KERNELS.map(kernelRow), ...PROGRAMS.map(programRow)];

const REPEAT = 5;
/** The fastest of a few runs: what a busy machine disturbs least. */
async function microsecondsOf(device: Device, { kernel, inputs }: (typeof KERNELS)[number]): Promise<number> {
  const buffers = buffersOf(kernel, inputs).map((data) => {
    const buffer = device.allocate(data.byteLength);
    device.write(buffer, data);
    return buffer;
  });
  const executable = await device.compile([
    { kernel, bindings: buffers.map((buffer) => ({ buffer, byteOffset: 0 })) },
  ]);
  try {
    await executable.run();
    let best = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 3; i++) {
      const began = performance.now();
      await executable.run(REPEAT);
      best = Math.min(best, (1000 * (performance.now() - began)) / REPEAT);
    }
    return best;
  } finally {
    executable.dispose();
    for (const buffer of buffers) device.free(buffer);
  }
}

export interface Selection {
  readonly modes?: readonly Mode[];
  readonly devices?: readonly string[];
  /** Only cases whose name contains it. */
  readonly word?: string;
}

/** Runs what is selected; every case by default. */
export async function runMatrix({ modes = MODES, devices, word = '' }: Selection = {}): Promise<Cell[]> {
  const cells: Cell[] = [];
  for (const probe of await listDevices()) {
    const device = probe.name as DeviceName;
    if (devices !== undefined && !devices.includes(device)) continue;
    const opened = probe.available ? await openDevice(device) : null;
    try {
      for (const { table, name, modes: can } of ROWS) {
        for (const mode of modes) {
          const work = can[mode];
          if (work === undefined || !name.includes(word)) continue;
          const result =
            opened === null
              ? judged('not tested here', probe.reason)
              : await work(opened).catch((error) => judged('fails', (error as Error).message));
          cells.push({ mode, table, name, device, ...result });
        }
      }
    } finally {
      await opened?.close();
    }
  }
  return cells;
}

/** 'attention | bf16' would be two cells. */
const escaped = (text: string) => text.replaceAll('|', '\\|');
const tableOf = (rows: readonly (readonly string[])[]) => {
  const line = (cells: readonly string[]) => `| ${cells.map(escaped).join(' | ')} |`;
  return [line(rows[0]), line(rows[0].map(() => '---')), ...rows.slice(1).map(line)].join('\n');
};

/** The document, from the cells of every case in every mode. */
export function matrixDocument(cells: readonly Cell[], about: readonly string[]): string {
  const key = (table: string, name: string, device: string, mode: string) =>
    JSON.stringify([table, name, device, mode]);
  const known = new Map(cells.map((cell) => [key(cell.table, cell.name, cell.device, cell.mode), cell]));
  const find = (table: Cell['table'], name: string, device: string, mode: Mode) =>
    known.get(key(table, name, device, mode));
  const count = (device: string, mode: Mode) => {
    const own = cells.filter((cell) => cell.device === device && cell.mode === mode);
    return VERDICTS.map((verdict) => ({ verdict, n: own.filter((cell) => cell.verdict === verdict).length }))
      .filter(({ n }) => n > 0)
      .map(({ verdict, n }) => `${verdict} ${n}`)
      .join(', ');
  };
  const kernels = ROWS.filter(({ table }) => table === 'kernels');
  const programs = ROWS.filter(({ table }) => table === 'primitives');
  const perf = (name: string, device: string) => {
    const microseconds = find('kernels', name, device, 'PERF')?.microseconds ?? null;
    return microseconds === null ? '' : `, ${Number(microseconds.toPrecision(2))} µs`;
  };
  const faults = cells.filter(({ verdict }) => verdict === 'fails' || verdict === 'not supported');
  return [
    '# What runs on which accelerator',
    '',
    'Generated by `npm run matrix`; do not edit. Every kernel and every primitive of the test suite, on every accelerator',
    'in the registry:',
    '',
    '- **passes**: the results are within the stated tolerance of a float64 reference.',
    '- **fails**: they are not, or it ended with an error.',
    '- **not supported**: the accelerator says so when the kernel is compiled, and names what it lacks.',
    '- **not tested here**: the machine that wrote this page does not have the accelerator.',
    '',
    '`npm run matrix -- --mode PERF --device cpu matmul` prints a part of it instead (modes: TEST, GRAD, SUPPORT, PERF).',
    '',
    '## Accelerators',
    '',
    ...about.map((line) => `- ${line}`),
    '',
    tableOf([
      ['', ...MODES],
      ...deviceNames.map((device) => [`\`${device}\``, ...MODES.map((mode) => count(device, mode))]),
    ]),
    '',
    'TEST compares results with a reference, GRAD gradients with central differences; SUPPORT asks the accelerator without',
    'running anything; PERF measures a launch.',
    '',
    '## Kernels',
    '',
    'TEST, and the time of a launch (PERF). These are sizes for tests: the time is mostly that of launching.',
    '',
    tableOf([
      ['kernel', ...deviceNames],
      ...kernels.map(({ name }) => [
        name,
        ...deviceNames.map(
          (device) => `${find('kernels', name, device, 'TEST')?.verdict}${perf(name, device)}`,
        ),
      ]),
    ]),
    '',
    '## Primitives and their gradients',
    '',
    'Graphs of one primitive or a few, fused and not: TEST, and GRAD where there is a gradient.',
    '',
    tableOf([
      ['graph', ...deviceNames],
      ...programs.map(({ name, modes }) => [
        name,
        ...deviceNames.map((device) =>
          [
            find('primitives', name, device, 'TEST')?.verdict,
            modes.GRAD === undefined
              ? 'no gradient'
              : `gradient ${find('primitives', name, device, 'GRAD')?.verdict}`,
          ].join('; '),
        ),
      ]),
    ]),
    ...(faults.length === 0
      ? []
      : [
          '',
          '## Why',
          '',
          ...faults.map(
            ({ device, mode, name, verdict, detail }) =>
              `- ${name} on ${device}, ${mode}: ${verdict}: ${detail.split('\n')[0]}`,
          ),
        ]),
    '',
  ].join('\n');
}
