// Bundles the pages of `tandem chat --web` and of tabs that sample for a run into dist/web. What only Node has stays
// outside: no page loads it.
import { cpSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));
const from = join(root, 'src', 'web');
const to = join(root, 'dist', 'web');
mkdirSync(to, { recursive: true });
await build({
  entryPoints: [join(from, 'page.ts'), join(from, 'rollout.ts')],
  outdir: to,
  bundle: true,
  splitting: true,
  format: 'esm',
  target: 'es2023',
  minify: true,
  sourcemap: true,
  external: ['node:*', 'koffi', 'webgpu'],
  logLevel: 'warning',
});
for (const file of ['index.html', 'rollout.html', 'page.css']) cpSync(join(from, file), join(to, file));
