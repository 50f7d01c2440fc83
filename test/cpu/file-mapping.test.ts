import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { openDevice } from '../../src/accelerators/registry.ts';
import { buildKernel, ceilDiv } from '../../src/tile/builder.ts';

const usable = process.platform === 'linux' && process.arch === 'x64';
const COUNT = 40_000;

const copy = buildKernel('copy', (k) => {
  const x = k.input('x', 'f32', [COUNT]);
  const y = k.output('y', 'f32', [COUNT]);
  k.grid(ceilDiv(COUNT, 256));
  const at = [k.programId().mul(256)];
  k.store(y, at, k.load(x, at, [256]));
});

describe('files as device memory', { skip: usable ? false : 'not Linux on x86-64' }, () => {
  let folder: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'tandem-map-'));
  });
  after(() => rmSync(folder, { recursive: true }));

  const values = Float32Array.from({ length: COUNT }, (_, i) => i + 0.5);
  /** The numbers from byte `at` of a file on. */
  function written(name: string, at = 0): string {
    const bytes = new Uint8Array(at + values.byteLength);
    bytes.set(new Uint8Array(values.buffer), at);
    const path = join(folder, name);
    writeFileSync(path, bytes);
    return path;
  }
  const floats = (bytes: Uint8Array<ArrayBuffer>) => new Float32Array(bytes.buffer);

  test('kernels read them, at any offset, and cannot write them', async () => {
    await using device = await openDevice('cpu');
    const file = device.mapFile!(written('whole', 10));
    const target = device.allocate(values.byteLength);
    const executable = await device.compile([
      {
        kernel: copy,
        bindings: [
          { buffer: file, byteOffset: 10 },
          { buffer: target, byteOffset: 0 },
        ],
      },
    ]);
    await executable.run();
    assert.deepEqual(floats(await device.read(target)), values);
    assert.equal(file.damaged, false);
    assert.throws(() => device.write(file, new Uint8Array(4)), /read-only/u);
    await assert.rejects(
      device.compile([
        {
          kernel: copy,
          bindings: [
            { buffer: target, byteOffset: 0 },
            { buffer: file, byteOffset: 0 },
          ],
        },
      ]),
      /kernel 'copy', view 'y': the kernel writes it, and the bound buffer is read-only/u,
    );
    executable.dispose();
    device.free(file);
    device.free(target);
    assert.equal(device.allocatedBytes, 0);
  });

  test('what was cut off reads as zeros and is noted, for that file alone', async () => {
    await using device = await openDevice('cpu');
    const path = written('cut');
    const [cut, whole] = [device.mapFile!(path), device.mapFile!(written('whole'))];
    const targets = [0, 1].map(() => device.allocate(values.byteLength));
    truncateSync(path, 50_000);
    const executable = await device.compile(
      [cut, whole].map((buffer, i) => ({
        kernel: copy,
        bindings: [
          { buffer, byteOffset: 0 },
          { buffer: targets[i], byteOffset: 0 },
        ],
      })),
    );
    await executable.run();
    const expected = values.map((value, i) => (i < 12_500 ? value : 0));
    assert.deepEqual(floats(await device.read(targets[0])), expected);
    assert.deepEqual(floats(await device.read(targets[1])), values);
    assert.deepEqual([cut.damaged, whole.damaged], [true, false]);
  });

  test('a last page that lost a part of its bytes is noted', async () => {
    await using device = await openDevice('cpu');
    const path = written('page');
    const file = device.mapFile!(path);
    truncateSync(path, values.byteLength - 4);
    assert.equal(file.damaged, true);
  });

  test('a file that is not there is named', async () => {
    await using device = await openDevice('cpu');
    assert.throws(() => device.mapFile!(join(folder, 'none')), /none/u);
    assert.equal(device.allocatedBytes, 0);
  });

  test('other bus errors end the process as before', () => {
    const registry = new URL('../../src/accelerators/registry.ts', import.meta.url).href;
    const run = (freed: boolean) =>
      spawnSync(process.execPath, [
        '--import',
        'tsx',
        '--input-type=module',
        '--eval',
        `const { openDevice } = await import(${JSON.stringify(registry)});
         const device = await openDevice('cpu');
         const file = device.mapFile(${JSON.stringify(written('other'))});
         if (${freed}) device.free(file);
         process.kill(process.pid, 'SIGBUS');
         setTimeout(() => {}, 5000);`,
      ]).signal;
    assert.deepEqual([run(false), run(true)], ['SIGBUS', 'SIGBUS']);
  });
});
