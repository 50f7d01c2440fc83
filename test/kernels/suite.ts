/** Runs the table of kernels on a device, or on the interpreter. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Device } from '../../src/accelerators/device.ts';
import { isFloat } from '../../src/numerics/dtype.ts';
import { compare } from '../../src/numerics/error.ts';
import type { Kernel } from '../../src/tile/ir.ts';
import type { Case } from './buffers.ts';
import { buffersOf, decode } from './buffers.ts';
import { CASES } from './cases.ts';

/** Executes a kernel on host buffers in place. */
export type Runner = (kernel: Kernel, buffers: readonly ArrayBufferView[]) => Promise<void>;

/** Copies the buffers to a device, runs there, and copies back. */
export function runnerOf(device: Device): Runner {
  return async (kernel, buffers) => {
    const reason = device.unsupported(kernel);
    assert.equal(reason, null, `kernel '${kernel.name}' is not supported: ${reason}`);
    const memory = buffers.map((data) => {
      const buffer = device.allocate(data.byteLength);
      device.write(buffer, data);
      return buffer;
    });
    try {
      const program = await device.compile([
        { kernel, bindings: memory.map((buffer) => ({ buffer, byteOffset: 0 })) },
      ]);
      await program.run();
      program.dispose();
      for (const [index, data] of buffers.entries()) {
        new Uint8Array(data.buffer, data.byteOffset, data.byteLength).set(
          await device.read(memory[index], 0, data.byteLength),
        );
      }
    } finally {
      for (const buffer of memory) device.free(buffer);
    }
  };
}

export async function check(run: Runner, { kernel, inputs, expected, tolerance }: Case): Promise<void> {
  const buffers = buffersOf(kernel, inputs);
  await run(kernel, buffers);
  for (const [name, wanted] of Object.entries(expected)) {
    const index = kernel.views.findIndex((view) => view.name === name);
    const { dtype } = kernel.views[index];
    const found = decode(dtype, buffers[index]);
    if (isFloat(dtype)) {
      const result = compare(found, wanted, tolerance);
      assert.ok(result.ok, `view '${name}': ${result.report}`);
    } else {
      assert.equal(found.length, wanted.length, `view '${name}'`);
      // `compare` takes numbers as float32, in which integers above 2^24 can look alike.
      const at = found.findIndex((value, i) => value !== wanted[i]);
      assert.equal(at, -1, `view '${name}': element ${at} is ${found[at]}, not ${wanted[at]}`);
    }
  }
}

/** One test a case. */
export function suite(run: Runner): void {
  for (const one of CASES) test(one.name, () => check(run, one));
}
