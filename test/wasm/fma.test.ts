/** Relaxed SIMD. Engines that have it behind a flag are asked with the flag, in a process of their own. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { FUSED, hasFusedMultiplyAdd } from '../../src/accelerators/wasm/features.ts';
import { bitsToF32 } from '../../src/numerics/float.ts';
import { fmaf } from '../../src/numerics/fma.ts';
import { interestingWords, mapVectors, v } from './harness.ts';

const FLAG = '--experimental-wasm-relaxed-simd';

test('multiply-add rounds once where the engine says so', { skip: !hasFusedMultiplyAdd() }, () => {
  const some = interestingWords(30);
  const rows = some.flatMap((a) => some.flatMap((b) => [0x3f800000, 0xbf801000, b].map((c) => [a, b, c])));
  rows.push([0x3f800800, 0x3f800800, 0xbf801000]);
  const found = mapVectors([{ o: 'vfma', dst: v(3), a: v(0), b: v(1), c: v(2) }], rows, true);
  rows.forEach(([a, b, c], index) => {
    const expected = fmaf(bitsToF32(a!), bitsToF32(b!), bitsToF32(c!));
    assert.ok(Object.is(bitsToF32(found[index]!), expected), `row ${index}: ${rows[index]}`);
  });
});

test('and behind a flag', { skip: hasFusedMultiplyAdd() || process.execArgv.includes(FLAG) }, async (t) => {
  const features = new URL('../../src/accelerators/wasm/features.ts', import.meta.url).href;
  const ask = `console.log((await import(${JSON.stringify(features)})).probeMultiplyAdd())`;
  const run = (...more: string[]) =>
    promisify(execFile)(process.execPath, [FLAG, '--import', 'tsx', ...more], {
      timeout: 60_000,
      env: { ...process.env, NODE_TEST_CONTEXT: undefined },
    });
  let answer: string;
  try {
    answer = (await run('--input-type=module', '--eval', ask)).stdout.trim();
  } catch (error) {
    t.skip(`this engine does not know the flag: ${error}`);
    return;
  }
  assert.ok(['null', '0', String(FUSED)].includes(answer), `the probe gives ${answer}`);
  if (answer !== String(FUSED)) {
    t.skip('this engine or processor does not fuse');
    return;
  }
  const { stdout } = await run('--test-reporter=tap', fileURLToPath(import.meta.url));
  assert.match(stdout, /^ok 1 - multiply-add rounds once where the engine says so$/m);
});
