/** The Chromium of this machine for tests: without WebGPU, and with it on a software device. */
import { existsSync } from 'node:fs';
import type { Browser } from 'playwright-core';
import { chromium } from 'playwright-core';

const candidates = [
  process.env.CHROMIUM_PATH,
  '/usr/bin/chromium',
  '/usr/bin/google-chrome',
  '/usr/bin/chromium-browser',
];
const executablePath = candidates.find((path) => path !== undefined && existsSync(path));
const built = existsSync(new URL('../../dist/web/page.js', import.meta.url));

export const skipWithoutBrowser =
  executablePath === undefined
    ? 'no Chromium here (CHROMIUM_PATH)'
    : built
      ? false
      : 'the page is not built (npm run build)';

const QUIET = [
  '--no-sandbox',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** A browser in which `navigator.gpu` finds no adapter. */
export function launch(): Promise<Browser> {
  return chromium.launch({ executablePath, args: [...QUIET, '--disable-gpu'] });
}

// Without the last one SwiftShader takes many times as long to compile kernels, as in Node.
const SOFTWARE_GPU = [
  '--enable-unsafe-webgpu',
  '--use-webgpu-adapter=swiftshader',
  '--enable-dawn-features=disable_workgroup_init',
];
export const NO_GPU = `this Chromium offers no WebGPU with ${SOFTWARE_GPU.join(' ')}`;

/** A browser whose WebGPU is SwiftShader; null where this Chromium does not do that. */
export async function launchWithGpu(): Promise<Browser | null> {
  const browser = await chromium.launch({ executablePath, args: [...QUIET, ...SOFTWARE_GPU] });
  const page = await browser.newPage();
  // Of the browser's own pages this one has a secure context, which WebGPU needs.
  await page.goto('chrome://version');
  const found = await page.evaluate(async () => (await navigator.gpu?.requestAdapter()) != null);
  await page.close();
  if (found) return browser;
  await browser.close();
  return null;
}
