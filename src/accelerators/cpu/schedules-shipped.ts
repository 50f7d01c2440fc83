/** Blocks that were measured before Tandem was published, so that nobody waits for it: see `schedules.ts`. */
import type { Measured } from './schedules.ts';

/** By `processorKey`. */
export const SHIPPED: Readonly<Record<string, Measured>> = {};
