// A Vulkan device for tests on machines without a GPU: SwiftShader, which Chromium brings along.
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

const CHROMIUM_FOLDERS = ['/usr/lib/chromium', '/usr/lib/chromium-browser', '/opt/google/chrome'];
const DRIVER_FOLDERS = [
  '/usr/share/vulkan/icd.d',
  '/usr/local/share/vulkan/icd.d',
  '/etc/vulkan/icd.d',
  '/run/opengl-driver/share/vulkan/icd.d',
];
const LOADER = 'libvulkan.so.1';
const DRIVER = 'vk_swiftshader_icd.json';

const hasDriver = () =>
  process.env.VK_ICD_FILENAMES !== undefined ||
  process.env.VK_DRIVER_FILES !== undefined ||
  DRIVER_FOLDERS.some((folder) => existsSync(folder) && readdirSync(folder).length > 0);

/**
 * What a process needs in its environment to find SwiftShader, and a line that says so. Null where it is not needed,
 * because the machine has a driver of its own or is no Linux, or where there is none.
 */
export function softwareGpu() {
  if (process.platform !== 'linux' || hasDriver()) return null;
  const folder = CHROMIUM_FOLDERS.find((path) =>
    [LOADER, DRIVER].every((file) => existsSync(join(path, file))),
  );
  if (folder === undefined) return null;
  const libraries = [process.env.LD_LIBRARY_PATH, folder].filter((path) => path).join(':');
  return {
    line: `WebGPU: no graphics driver here; this uses SwiftShader, the software device in ${folder}.`,
    environment: { LD_LIBRARY_PATH: libraries, VK_ICD_FILENAMES: join(folder, DRIVER) },
  };
}
