/** Every kernel of the table, on WebAssembly. */
import assert from 'node:assert/strict';
import { after, describe } from 'node:test';
import { WasmDevice } from '../../src/accelerators/wasm/device.ts';
import { runnerOf, suite } from '../kernels/suite.ts';

const device = await WasmDevice.open({ threads: 2 });

after(async () => {
  const leaked = device.allocatedBytes;
  await device.close();
  assert.equal(leaked, 0, 'bytes that were not freed');
});

describe('kernels on WebAssembly', () => suite(runnerOf(device)));
