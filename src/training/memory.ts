/** What a run takes of memory: planned before it is used, and at its peak. Needs Node. */
import { readFileSync } from 'node:fs';
import type { Device } from '../accelerators/device.ts';
import type { RunEvent } from './events.ts';

/** Most bytes of resident memory that this process ever had. */
export function peakResident(): number {
  // Linux's resource usage begins with what the parent had when it forked; the status does not.
  const status = process.platform === 'linux' ? readFileSync('/proc/self/status', 'utf8') : '';
  const kibibytes = /^VmHWM:\s+(\d+) kB/mu.exec(status)?.[1] ?? process.resourceUsage().maxRSS;
  return 1024 * Number(kibibytes);
}

/** Another announcement only where the plan has grown by this factor: a program is compiled for each length of batches. */
const GROWN = 1.1;

export class MemoryWatch {
  readonly #device: Device;
  readonly #emit: (event: RunEvent) => void;
  readonly #before = process.memoryUsage.rss();
  #planned = 0;
  #told = 0;

  /** To be made before there is anything of the model on `device`. */
  constructor(device: Device, emit: (event: RunEvent) => void) {
    this.#device = device;
    this.#emit = emit;
  }

  /** After a program was compiled, that is allocated but never run: its block takes no memory yet. */
  compiled(): void {
    this.#planned = Math.max(this.#planned, this.#device.allocatedBytes);
    if (this.#planned < GROWN * this.#told) return;
    this.#told = this.#planned;
    this.#emit(this.#event());
  }

  finished(): void {
    this.#emit({ ...this.#event(), peak: peakResident() });
  }

  #event(): Extract<RunEvent, { type: 'memory' }> {
    return {
      type: 'memory',
      device: this.#device.info.name,
      planned: this.#planned,
      before: this.#before,
    };
  }
}

/** An accelerator's 'out of memory' with what a user can do about it in training; any other error as it is. */
export function adviseOnMemory(error: unknown, gradientCheckpointing: boolean): unknown {
  if (!(error instanceof RangeError && /^out of (WebAssembly )?memory/u.test(error.message))) return error;
  const checkpoints = gradientCheckpointing
    ? ''
    : ', recompute activations (--gradient-checkpointing: about half the memory, the same bits)';
  return new RangeError(
    `${error.message}. To train in less: smaller micro-batches (--per-device-train-batch-size, or for reinforcement ` +
      `more --gradient-accumulation-steps)${checkpoints}, shorter completions, or --dtype bf16`,
    { cause: error },
  );
}
