/** The suite on every device that is available here. */
import { describe, it } from 'node:test';
import { listDevices, openDevice } from '../../src/accelerators/registry.ts';
import { programSuite } from './suite.ts';

for (const { name, available, reason } of await listDevices()) {
  if (available) programSuite(name, () => openDevice(name));
  else describe(`programs on ${name}`, () => void it('is available', { skip: reason }));
}
