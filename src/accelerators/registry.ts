/** All accelerators, by name. A new one is one more line of the table. */
import type { Device, DeviceFactory, DeviceProbe } from './device.ts';
import { SettingError } from './settings.ts';

// Loaded on demand: a browser has no use for, and no way to load, those that need Node.
const factories = {
  cpu: async () => (await import('./cpu/device.ts')).cpuFactory,
  wasm: async () => (await import('./wasm/device.ts')).wasmFactory,
  webgpu: async () => (await import('./webgpu/device.ts')).webgpuFactory,
  interpreter: async () => (await import('./interpreter.ts')).interpreterFactory,
} as const satisfies { readonly [name: string]: () => Promise<DeviceFactory> };

export type DeviceName = keyof typeof factories;
/** In order of preference. */
export const deviceNames = Object.keys(factories) as DeviceName[];

const isDeviceName = (name: string): name is DeviceName => Object.hasOwn(factories, name);

/** @param strict throws a SettingError, which is otherwise the reason of absence */
async function probe(name: DeviceName, strict = false): Promise<DeviceProbe> {
  try {
    return await (await factories[name]()).probe();
  } catch (error) {
    if (error instanceof SettingError && strict) throw error;
    if (error instanceof SettingError) return { name, available: false, reason: error.message };
    const reason = `it cannot be loaded here: ${error instanceof Error ? error.message : error}`;
    return { name, available: false, reason };
  }
}

/** What each accelerator is and whether it is available here. Opens none. */
export function listDevices(names: readonly DeviceName[] = deviceNames): Promise<DeviceProbe[]> {
  return Promise.all(names.map((name) => probe(name)));
}

/** Stands for the best accelerator of the machine. */
export const AUTO = 'auto';

/**
 * The accelerator that a name stands for here. Throws when there is none of that name, with the names that exist, or
 * when it is not available here, with the reason and what is; SettingError where an environment variable is wrong.
 */
export async function resolveDevice(name: string): Promise<DeviceName> {
  if (name === AUTO) {
    // One after the other: those after the first that is available need not even be loaded.
    for (const candidate of deviceNames) if ((await probe(candidate, true)).available) return candidate;
    // The interpreter is always there.
    return 'interpreter';
  }
  if (!isDeviceName(name)) {
    throw new Error(`there is no device '${name}': use ${AUTO} or one of ${deviceNames.join(', ')}`);
  }
  const found = await probe(name);
  if (!found.available) {
    const others = (await listDevices()).filter((device) => device.available).map((device) => device.name);
    throw new Error(
      `the device '${name}' is not available: ${found.reason}. Available: ${others.join(', ')}`,
    );
  }
  return name;
}

/** Opens an accelerator by name, or `auto`. Throws what `resolveDevice` throws. */
export async function openDevice(
  name: string,
  options?: Parameters<DeviceFactory['open']>[0],
): Promise<Device> {
  return (await factories[await resolveDevice(name)]()).open(options);
}

/** The first available accelerator other than `name` that a person would choose, or `name` itself where there is none. */
export async function anotherDevice(name: string): Promise<string> {
  const others = (await listDevices()).filter((device) => device.available && device.name !== name);
  return others.find((device) => device.name !== 'interpreter')?.name ?? name;
}
