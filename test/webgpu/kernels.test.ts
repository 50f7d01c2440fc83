/** Every kernel of the table, on WebGPU. */
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { WebGpuDevice, webgpuFactory } from '../../src/accelerators/webgpu/device.ts';
import { runnerOf, suite } from '../kernels/suite.ts';

const { available, reason } = await webgpuFactory.probe();

describe('kernels on WebGPU', async () => {
  if (!available) {
    test('kernels on WebGPU', { skip: reason }, () => {});
    return;
  }
  const device = await WebGpuDevice.open();
  after(async () => {
    const leaked = device.allocatedBytes;
    await device.close();
    assert.equal(leaked, 0, 'bytes that were not freed');
  });
  suite(runnerOf(device));
});
