/**
 * A process that trains a few steps and prints what it took of memory, for `memory.ts`: the peak of a process can be
 * measured only once. Arguments: name of the accelerator, then model, shape of the batch and options of the learner as
 * JSON.
 */
import { openDevice } from '../accelerators/registry.ts';
import { keepHeapSmall } from '../training/heap.ts';
import { peakResident } from '../training/memory.ts';
import { withStep } from './training.ts';

const STEPS = 3;

keepHeapSmall();

const [name, ...values] = process.argv.slice(2);
const [config, shape, options] = values.map((value) => JSON.parse(value));
const device = await openDevice(name);
const before = process.memoryUsage.rss();
const planned = await withStep(device, config, shape, options, async (step) => {
  for (let i = 0; i < STEPS; i++) await step();
  // Everything is allocated by its plan, and nothing is given back before the end.
  return device.allocatedBytes;
});
const peak = peakResident();
await device.close();
console.log(JSON.stringify({ used: peak - before, planned }));
