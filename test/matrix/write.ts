/** `npm run matrix`: writes docs/accelerators.md; with arguments, runs a part of it and prints that. */
import { writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { listDevices } from '../../src/accelerators/registry.ts';
import type { Mode } from './matrix.ts';
import { MODES, matrixDocument, runMatrix } from './matrix.ts';

const { values, positionals } = parseArgs({
  options: { mode: { type: 'string' }, device: { type: 'string' } },
  allowPositionals: true,
});
const { mode, device } = values;
if (mode !== undefined && !MODES.includes(mode as Mode)) {
  console.error(`there is no mode '${mode}': use ${MODES.join(', ')}`);
  process.exit(2);
}
const isPart = mode !== undefined || device !== undefined || positionals.length > 0;
const cells = await runMatrix({
  modes: mode === undefined ? MODES : [mode as Mode],
  devices: device === undefined ? undefined : [device],
  word: positionals.join(' '),
});
if (isPart) {
  for (const { mode, table, name, device, verdict, detail, microseconds } of cells) {
    const time = microseconds === null ? '' : ` ${microseconds.toPrecision(3)} µs`;
    console.log(
      `${mode.padEnd(8)}${device.padEnd(12)} ${table}: ${name}: ${verdict}${time} ${detail}`.trimEnd(),
    );
  }
} else {
  const about = [
    ...(await listDevices()).map(({ name, available, reason, info }) =>
      available
        ? `\`${name}\`: ${info?.description}${info?.features.length ? ` (${info.features.join(' ')})` : ''}`
        : `\`${name}\`: not here: ${reason}`,
    ),
    `All on ${cpus()[0]?.model.trim() ?? 'an unknown processor'}, ${cpus().length} processors.`,
  ];
  const path = fileURLToPath(new URL('../../docs/accelerators.md', import.meta.url));
  await writeFile(path, matrixDocument(cells, about));
  console.log(`${cells.length} results in docs/accelerators.md`);
}
if (cells.some(({ verdict }) => verdict === 'fails')) process.exitCode = 1;
