import { openDevice } from '../../src/accelerators/registry.ts';
import { programSuite } from './suite.ts';

/** Other devices are added as they come. */
for (const name of ['interpreter']) programSuite(name, () => openDevice(name));
