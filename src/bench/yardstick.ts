/**
 * What the machine could do, measured again around every item: on a machine that is shared, a minute later it may be more
 * or less.
 */
import type { LimitMeter, MachineLimits, Rate } from '../accelerators/cpu/limits.ts';
import { openLimitMeter } from '../accelerators/cpu/limits.ts';
import { listDevices } from '../accelerators/registry.ts';
import type { WasmLimits } from '../accelerators/wasm/limits.ts';
import { measureWasmLimits } from '../accelerators/wasm/limits.ts';
import type { Limits } from './item.ts';

export class Yardstick implements Disposable {
  readonly #meter: LimitMeter | null;
  readonly #wasm: boolean;
  #best: Limits = { machine: null, wasm: null };

  private constructor(meter: LimitMeter | null, wasm: boolean) {
    this.#meter = meter;
    this.#wasm = wasm;
  }

  /** `devices`: what will be measured. Says why where the machine's instructions are unknown to us. */
  static async open(
    devices: readonly string[],
    threads: number | undefined,
    say: (line: string) => void,
  ): Promise<Yardstick> {
    // The machine's limits are measured with machine code of the `cpu` accelerator.
    const cpu = (await listDevices()).find(({ name }) => name === 'cpu');
    if (!cpu?.available)
      say(`No limits: the cpu accelerator, whose code measures them, is not available: ${cpu?.reason}`);
    const meter = cpu?.available ? await openLimitMeter(threads) : null;
    return new Yardstick(meter, devices.includes('wasm'));
  }

  /** The most that was measured so far, of each. */
  get best(): Limits {
    return this.#best;
  }

  /** What can be had now: of the machine, and of WebAssembly for items on it. */
  async measure(device: string): Promise<Limits> {
    const now: Limits = {
      machine: (await this.#meter?.measure()) ?? null,
      wasm: this.#wasm && device === 'wasm' ? await measureWasmLimits() : null,
    };
    this.#best = largerLimits(this.#best, now);
    return now;
  }

  [Symbol.dispose](): void {
    this.#meter?.[Symbol.dispose]();
  }
}

const largerRate = (a: Rate, b: Rate): Rate => ({
  one: Math.max(a.one, b.one),
  all: Math.max(a.all, b.all),
});

/** Of two measurements of one machine, what it can do at least. */
export function largerLimits(a: Limits, b: Limits): Limits {
  const each = <K extends string>(x: { readonly [k in K]?: Rate }, y: { readonly [k in K]?: Rate }) =>
    Object.fromEntries(
      Object.entries<Rate | undefined>(x).flatMap(([name, rate]) => {
        const other = y[name as K];
        return rate === undefined ? [] : [[name, other === undefined ? rate : largerRate(rate, other)]];
      }),
    ) as { [k in K]?: Rate };
  const machine = (x: MachineLimits, y: MachineLimits): MachineLimits => ({
    threads: x.threads,
    fma: each(x.fma, y.fma),
    dots: each(x.dots, y.dots),
    tiles: each(x.tiles, y.tiles),
    read: largerRate(x.read, y.read),
    copy: largerRate(x.copy, y.copy),
  });
  const wasm = (x: WasmLimits, y: WasmLimits): WasmLimits => ({ ...x, ...largerRate(x, y) });
  const both = <T>(x: T | null, y: T | null, join: (x: T, y: T) => T): T | null =>
    x === null || y === null ? (x ?? y) : join(x, y);
  return { machine: both(a.machine, b.machine, machine), wasm: both(a.wasm, b.wasm, wasm) };
}
