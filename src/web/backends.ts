/** Which accelerators this browser has, which of them to begin with, and why. */
import type { DeviceProbe } from '../accelerators/device.ts';
import { listDevices } from '../accelerators/registry.ts';

/** Those that a page offers, the better first. */
const OFFERED = ['webgpu', 'wasm'] as const;
type BackendName = (typeof OFFERED)[number];
const TITLES: { readonly [N in BackendName]: string } = { webgpu: 'WebGPU', wasm: 'WebAssembly' };

export interface Backends {
  readonly probes: readonly DeviceProbe[];
  /** What to begin with. */
  readonly first: string;
}

/** `wanted` goes before what the page would choose. Throws where the browser has none that can be used. */
export async function findBackends(wanted: string | null): Promise<Backends> {
  const probes = await listDevices(OFFERED);
  if (wanted !== null && !probes.some(({ name }) => name === wanted))
    throw new Error(`there is no accelerator '${wanted}' here: use ${OFFERED.join(' or ')}`);
  const first = wanted ?? probes.find(({ available }) => available)?.name;
  if (first === undefined)
    throw new Error(
      `this browser can run no model: ${probes.map((probe) => `${title(probe.name)}: ${absence(probe)}`).join('; ')}`,
    );
  return { probes, first };
}

export function title(name: string): string {
  return TITLES[name as BackendName] ?? name;
}

/** Why an accelerator is not there, in words for those who could do something about it. */
function absence({ name, reason }: DeviceProbe): string {
  return name === 'webgpu' && !globalThis.isSecureContext
    ? 'browsers have WebGPU only on pages that come over https or from this machine'
    : reason;
}

/** Why memory cannot be shared between threads. */
function lonely(): string {
  return globalThis.isSecureContext
    ? 'the server does not isolate the page (the headers COOP and COEP)'
    : 'the page came neither over https nor from this machine';
}

/** What is in use and why: one or two sentences. `failure`: why the better one was given up. */
export function explain({ probes }: Backends, name: string, failure: string | null = null): string {
  const { info } = probes.find((probe) => probe.name === name)!;
  const threads = info !== undefined && info.threads > 1 ? `, ${info.threads} threads` : '';
  const alone = name === 'wasm' && !globalThis.crossOriginIsolated ? `; one thread, because ${lonely()}` : '';
  const sentences = [`${info?.description ?? title(name)}${threads}${alone}.`];
  if (failure !== null) sentences.push(`WebGPU failed: ${failure}.`);
  else if (name === 'wasm') {
    const gpu = probes.find((probe) => probe.name === 'webgpu')!;
    sentences.push(gpu.available ? 'WebGPU is there too: choose it above.' : `Not WebGPU: ${absence(gpu)}.`);
  }
  return sentences.join(' ');
}

/** Fills a select with what there is; what is absent is listed and cannot be chosen. */
export function offer(select: HTMLSelectElement, { probes, first }: Backends): void {
  for (const { name, available } of probes) {
    const option = new Option(available ? title(name) : `${title(name)} (not here)`, name);
    option.disabled = !available;
    select.add(option);
  }
  select.value = first;
}
