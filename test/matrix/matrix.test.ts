/** The committed matrix names the cases and accelerators that exist; the modes tell right from wrong. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { deviceNames } from '../../src/accelerators/registry.ts';
import type { Cell } from './matrix.ts';
import { MODES, matrixDocument, ROWS, runMatrix, VERDICTS } from './matrix.ts';

/** The cells of each table of a document, without its line of dashes. */
const tablesOf = (text: string) =>
  text
    .split(/\n\n+/u)
    .filter((block) => block.startsWith('|'))
    .map((block) =>
      block
        .trim()
        .split('\n')
        .filter((_, index) => index !== 1)
        .map((line) =>
          line
            .slice(2, -2)
            .split(/ \| /u)
            .map((cell) => cell.trim().replaceAll('\\|', '|')),
        ),
    );

const WORDS = VERDICTS.join('|');
const PATTERNS = {
  kernels: new RegExp(`^(?:${WORDS})(?:, [\\d.e+]+ µs)?$`, 'u'),
  primitives: new RegExp(`^(?:${WORDS}); (?:no gradient|gradient (?:${WORDS}))$`, 'u'),
};

test('docs/accelerators.md has every case and every accelerator, and no other (else: npm run matrix)', async () => {
  const path = fileURLToPath(new URL('../../docs/accelerators.md', import.meta.url));
  const [summary, ...tables] = tablesOf(await readFile(path, 'utf8'));
  assert.deepEqual(summary[0].slice(1), MODES);
  assert.deepEqual(
    summary.slice(1).map(([name]) => name),
    deviceNames.map((name) => `\`${name}\``),
  );
  for (const [index, table] of (['kernels', 'primitives'] as const).entries()) {
    const [head, ...rows] = tables[index];
    assert.deepEqual(head.slice(1), deviceNames);
    const names = ROWS.filter((row) => row.table === table).map(({ name }) => name);
    assert.equal(new Set(names).size, names.length, 'every case has a name of its own');
    assert.deepEqual(
      rows.map(([name]) => name),
      names,
    );
    for (const [name, ...cells] of rows)
      for (const cell of cells) assert.match(cell, PATTERNS[table], `${name}: ${cell}`);
  }
});

describe('the modes', () => {
  test('run on the interpreter', async () => {
    const cells = await runMatrix({ devices: ['interpreter'], word: 'rope' });
    assert.deepEqual(new Set(cells.map(({ mode }) => mode)), new Set(MODES));
    for (const { name, mode, verdict, detail, microseconds } of cells) {
      assert.equal(verdict, 'passes', `${name}, ${mode}: ${detail}`);
      assert.equal(microseconds !== null && microseconds > 0, mode === 'PERF');
    }
  });

  test('words for what does not pass, and why', () => {
    const cell = (device: Cell['device'], verdict: Cell['verdict'], detail: string): Cell => ({
      mode: 'TEST',
      table: 'kernels',
      name: ROWS[0].name,
      device,
      verdict,
      detail,
      microseconds: null,
    });
    const text = matrixDocument(
      [
        cell('cpu', 'fails', 'off by 1'),
        cell('wasm', 'not supported', 'it lacks scan'),
        cell('webgpu', 'not tested here', 'no driver'),
      ],
      [],
    );
    const [summary, kernels] = tablesOf(text);
    assert.deepEqual(kernels[1].slice(0, 4), [ROWS[0].name, 'fails', 'not supported', 'not tested here']);
    assert.equal(summary[2][1], 'not supported 1');
    assert.match(text, /on cpu, TEST: fails: off by 1/u);
    assert.match(text, /on wasm, TEST: not supported: it lacks scan/u);
    assert.doesNotMatch(text, /no driver/u);
  });
});
