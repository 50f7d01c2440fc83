/** The GPU of the browser, or Dawn's in Node, and what of it Tandem uses. */

// The values of GPUBufferUsage, GPUShaderStage and GPUMapMode, which in Node are no globals.
export const USAGE = {
  mapRead: 1,
  copySource: 4,
  copyTarget: 8,
  uniform: 64,
  storage: 128,
  queryResolve: 512,
} as const;
export const COMPUTE_STAGE = 4;
export const MAP_READ = 1;

let known: Promise<GPU> | null = null;

/** Throws an Error that says what is missing. */
export function findGpu(): Promise<GPU> {
  known ??= locate();
  return known;
}

async function locate(): Promise<GPU> {
  const gpu = (globalThis.navigator as Navigator | undefined)?.gpu;
  if (gpu !== undefined) return gpu;
  if (typeof process === 'undefined') throw new Error('this browser has no WebGPU');
  const { createGpu } = await import('./node.ts');
  return createGpu();
}

/** Throws an Error where there is none. */
export async function findAdapter(): Promise<GPUAdapter> {
  const adapter = await (await findGpu()).requestAdapter({ powerPreference: 'high-performance' });
  if (adapter === null) throw new Error('no graphics processor with a WebGPU driver was found');
  return adapter;
}

/** For people: 'NVIDIA H100, hopper'. */
export function describeAdapter({ info }: GPUAdapter): string {
  const { vendor, architecture, device, description, isFallbackAdapter } = info;
  const names = [description || device || vendor, architecture].filter((name) => name !== '');
  return `WebGPU on ${names.join(', ') || 'an unnamed device'}${isFallbackAdapter ? ' (software)' : ''}`;
}

/** All of the adapter's room: the limits that every device has are small. */
export function wantedLimits({ limits }: GPUAdapter): Record<string, number> {
  return Object.fromEntries(
    (
      [
        'maxBufferSize',
        'maxStorageBufferBindingSize',
        'maxStorageBuffersPerShaderStage',
        'maxComputeWorkgroupStorageSize',
        'maxComputeInvocationsPerWorkgroup',
        'maxComputeWorkgroupSizeX',
      ] as const
    ).map((name) => [name, limits[name]]),
  );
}
