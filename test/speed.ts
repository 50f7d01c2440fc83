/** How much of a test a device is fast enough for. */
import type { DeviceProbe } from '../src/accelerators/device.ts';

/** The interpreter, and graphics made of software, which compiles slowly: tests take smaller sizes and fewer variants. */
export const isSlow = ({ name, info }: DeviceProbe): boolean =>
  name === 'interpreter' || (info?.description.includes('(software)') ?? false);
