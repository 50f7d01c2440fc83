/** The layering of the rooms in src/: a room imports from rooms above it only, and the upper ones run in a browser. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

/** From the top down; the first is a file of its own, which any room may read. */
const ROOMS = [
  'version.ts',
  'numerics',
  'tile',
  'kernels',
  'accelerators',
  'tensor',
  'models',
  'checkpoint',
  'inference',
  'fleet',
  'training',
  'web',
  'bench',
  'cli',
];
/** The rooms that run in a browser. */
const BROWSER = [...ROOMS.slice(0, ROOMS.indexOf('fleet') + 1), 'web'];
/** Files of those rooms that need Node, and say so. */
const NODE_FILES = [
  /^accelerators\/cpu\//u,
  /^accelerators\/webgpu\/node\.ts$/u,
  /^checkpoint\/(files|model|tokenizer-files)\.ts$/u,
  /^fleet\/(page-files|tab-server)\.ts$/u,
  /^inference\/(load|open)\.ts$/u,
  /^version\.ts$/u,
];
/** They load what needs Node only where it is asked for, or only in Node. */
const LOADERS = ['accelerators/registry.ts', 'accelerators/webgpu/gpu.ts'];
/** Packages that run in a browser too. */
const BROWSER_PACKAGES = ['zod', '@huggingface/tokenizers'];
/** The package as a whole, which a user's task file imports, is loaded with that file. */
const WHOLE = { from: 'training/tasks/load.ts', to: 'index.ts' };

interface Import {
  /** Path below src. */
  readonly from: string;
  /** Path below src, or a package or a module of Node. */
  readonly to: string;
  /** Gone when compiled. */
  readonly typeOnly: boolean;
  /** Loaded only where it is needed. */
  readonly dynamic: boolean;
}

function resolve(from: string, to: string): string {
  return to.startsWith('.') ? new URL(to, `file:///${from}`).pathname.slice(1) : to;
}

/** Every import of a file: `import … from`, `export … from`, bare imports, `import()`, and types of `import('…')`. */
function importsOf(from: string, source: string): Import[] {
  // Comments could quote an import. Only whole lines of them: '//' also occurs in strings.
  const code = source.replace(/^\s*(?:\/\/.*|\/\*[\s\S]*?\*\/)$/gmu, '');
  const found: Import[] = [];
  for (const [, clause = '', to] of code.matchAll(
    /^(?:import|export)\s+((?:type\s+)?(?:[\w*\s,]|\{[^}]*\})*?\s*from\s*)?'([^']+)'/gmu,
  )) {
    const names =
      /\{([^}]*)\}/u
        .exec(clause)?.[1]
        .split(',')
        .map((name) => name.trim()) ?? [];
    const typeOnly =
      /^type\s/u.test(clause) ||
      (/^\{/u.test(clause) && names.every((name) => name === '' || name.startsWith('type ')));
    found.push({ from, to: resolve(from, to), typeOnly, dynamic: false });
  }
  for (const [, type, to] of code.matchAll(/(typeof\s+)?\bimport\(\s*'([^']+)'\s*\)/gu))
    found.push({ from, to: resolve(from, to), typeOnly: type !== undefined, dynamic: true });
  return found;
}

const roomOf = (path: string) => path.split('/')[0];
const isOurs = (path: string) => path.endsWith('.ts') && !path.startsWith('node:');
const needsNode = (path: string) => NODE_FILES.some((pattern) => pattern.test(path));

/** What is wrong with the direction of an import; null where nothing is. */
function layering({ from, to }: Import): string | null {
  if (!isOurs(to) || from === 'index.ts' || (from === WHOLE.from && to === WHOLE.to)) return null;
  const [here, there] = [ROOMS.indexOf(roomOf(from)), ROOMS.indexOf(roomOf(to))];
  if (here === -1) return `${from} is in no known room`;
  if (there === -1) return `${from} imports ${to}, which is in no known room`;
  return there > here ? `${from} imports ${to}: ${ROOMS[there]} comes after ${ROOMS[here]}` : null;
}

/** Why a file that runs in a browser cannot have an import; null where it can. */
function browser({ from, to, typeOnly, dynamic }: Import): string | null {
  if (!BROWSER.includes(roomOf(from)) || needsNode(from) || typeOnly) return null;
  if (!isOurs(to)) {
    return BROWSER_PACKAGES.includes(to) ? null : `${from} runs in a browser, but imports ${to}`;
  }
  const allowed = !needsNode(to) || (dynamic && LOADERS.includes(from));
  return allowed ? null : `${from} runs in a browser, but imports ${to}, which needs Node`;
}

const folder = fileURLToPath(new URL('../src/', import.meta.url));
const files = readdirSync(folder, { recursive: true })
  .map((path) => String(path).replaceAll('\\', '/'))
  .filter((path) => path.endsWith('.ts'));
const imports = files.flatMap((path) => importsOf(path, readFileSync(folder + path, 'utf8')));
const complaints = (judge: (edge: Import) => string | null, edges: readonly Import[]) =>
  edges.map(judge).filter((complaint) => complaint !== null);

describe('rooms', () => {
  test('every room and every exception exists, and every import of a file leads to a file', () => {
    for (const room of ROOMS)
      assert.ok(
        files.some((path) => roomOf(path) === room),
        `no room ${room}`,
      );
    for (const pattern of NODE_FILES)
      assert.ok(
        files.some((path) => pattern.test(path)),
        `no ${pattern}`,
      );
    assert.ok(imports.some(({ from, to }) => from === WHOLE.from && to === WHOLE.to));
    const known = new Set(files);
    assert.deepEqual(
      imports.filter(({ to }) => isOurs(to) && !known.has(to)),
      [],
    );
    // A file without any import is rare: most would mean that imports are not found.
    const importing = new Set(imports.map(({ from }) => from));
    assert.ok(
      importing.size > 0.85 * files.length,
      `${importing.size} of ${files.length} files import anything`,
    );
  });

  test('a room imports only from rooms above it', () => {
    assert.deepEqual(complaints(layering, imports), []);
  });

  test('numerics to inference import nothing of Node, apart from the files that are known to need it', () => {
    assert.deepEqual(complaints(browser, imports), []);
  });

  const faults: [judge: typeof layering, file: string, source: string][] = [
    [layering, 'tile/x.ts', "import { gradients } from '../tensor/gradients.ts';"],
    [layering, 'fleet/x.ts', "import type {\n  Batch,\n  Learner,\n} from '../training/learner.ts';"],
    [layering, 'models/x.ts', "export * from '../inference/open.ts';"],
    [layering, 'kernels/x.ts', "import '../accelerators/device.ts';"],
    [layering, 'numerics/x.ts', "const later = await import('../tile/ir.ts');"],
    [layering, 'training/x.ts', "import { defineTask } from '../index.ts';"],
    [layering, 'attic/x.ts', "import type { DType } from '../numerics/dtype.ts';"],
    [browser, 'numerics/x.ts', "import { readFile } from 'node:fs/promises';"],
    [browser, 'tensor/x.ts', "import fs, { type Stats } from 'fs';"],
    [browser, 'inference/x.ts', "import {\n  type Json,\n  readJsonFile,\n} from '../checkpoint/files.ts';"],
    [browser, 'inference/x.ts', "const { readModel } = await import('../checkpoint/model.ts');"],
    [browser, 'accelerators/x.ts', "import koffi from 'koffi';"],
    [browser, 'accelerators/device.ts', "export { cpuFactory } from './cpu/device.ts';"],
    [browser, 'accelerators/registry.ts', "import { tandemVersion } from '../version.ts';"],
    [layering, 'version.ts', "import { kernelContent } from './accelerators/content.ts';"],
  ];
  for (const [judge, file, source] of faults) {
    test(`finds the fault in ${file}: ${source.replaceAll(/\s+/gu, ' ')}`, () => {
      assert.equal(complaints(judge, importsOf(file, source)).length, 1);
    });
  }

  test('finds no fault in what is allowed', () => {
    const allowed: [file: string, source: string][] = [
      ['inference/x.ts', "import type { Stats } from 'node:fs';"],
      ['inference/x.ts', "import { type Stats } from 'node:fs';"],
      ['accelerators/wasm/x.ts', "let m: typeof import('node:os') | undefined;"],
      ['accelerators/registry.ts', "const later = import('./cpu/device.ts');"],
      ['checkpoint/files.ts', "import { open } from 'node:fs/promises';"],
      [
        'training/x.ts',
        "import { join } from 'node:path';\nimport { Engine } from '../inference/engine.ts';",
      ],
      [
        'tile/x.ts',
        "// import { Graph } from '../tensor/graph.ts';\n/**\n * import { open } from 'node:fs';\n */",
      ],
    ];
    for (const [file, source] of allowed) {
      const edges = importsOf(file, source);
      assert.deepEqual([...complaints(layering, edges), ...complaints(browser, edges)], [], source);
    }
  });
});
