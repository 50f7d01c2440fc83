/** The table of kernels on the processor, once for each instruction set that it has. */
import { after, describe, test } from 'node:test';
import { cpuFactory } from '../../src/accelerators/cpu/device.ts';
import { runnerOf, suite } from '../kernels/suite.ts';

for (const isa of ['avx512', 'avx2']) {
  const probe = await cpuFactory.probe();
  const reason = !probe.available ? probe.reason : probe.info?.features.includes(isa) ? '' : `no ${isa} here`;
  describe(`kernels on ${isa}`, async () => {
    if (reason !== '') {
      test(`kernels on ${isa}`, { skip: reason }, () => {});
      return;
    }
    const device = await cpuFactory.open({ features: [isa], threads: 2 });
    after(() => device.close());
    suite(runnerOf(device));
  });
}
