/** WebGPU in Node: Dawn, from the optional package `webgpu`. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';

const PACKAGE = 'webgpu';
const LOADER = 'libvulkan.so.1';
const LOADER_FOLDERS = [
  '/usr/lib',
  '/usr/lib64',
  '/usr/local/lib',
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib/aarch64-linux-gnu',
  '/run/opengl-driver/lib',
];

/**
 * Kernels write workgroup memory before they read it. Filling it with zeros first would take time in each workgroup, and
 * on a software device fifty times as much when a kernel is compiled.
 */
const OPTIONS = ['enable-dawn-features=disable_workgroup_init'];

interface Dawn {
  readonly create: (options: readonly string[]) => GPU;
}

/** Throws an Error that says what is missing. */
export async function createGpu(): Promise<GPU> {
  let dawn: Dawn;
  try {
    // Not a literal: the package need not be there for the type check or a bundle.
    dawn = (await import(PACKAGE)) as Dawn;
  } catch (error) {
    const { code, message } = error as Error & { code?: string };
    throw new Error(
      code === 'ERR_MODULE_NOT_FOUND'
        ? `the package '${PACKAGE}' is not installed: npm install ${PACKAGE}`
        : `the package '${PACKAGE}' cannot be loaded: ${message}`,
      { cause: error },
    );
  }
  // Dawn itself would write a warning to the terminal.
  if (process.platform === 'linux' && !hasVulkanLoader())
    throw new Error(`there is no Vulkan loader (${LOADER}): install the graphics driver, or libvulkan1`);
  return dawn.create(OPTIONS);
}

function hasVulkanLoader(): boolean {
  const named = (process.env.LD_LIBRARY_PATH ?? '').split(':').filter((folder) => folder !== '');
  return [...named, ...LOADER_FOLDERS].some((folder) => existsSync(join(folder, LOADER)));
}
