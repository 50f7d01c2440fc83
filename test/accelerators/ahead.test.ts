/** Which kernels ask for memory before they read it: those that wait for it, where the processor can be told. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Instr } from '../../src/accelerators/loops/ir.ts';
import { lower } from '../../src/accelerators/loops/lower.ts';
import { attention } from '../../src/kernels/attention.ts';
import { matmul } from '../../src/kernels/matmul.ts';
import { quantizedMatmul, quantizedTypes } from '../../src/kernels/quantized.ts';
import type { Kernel } from '../../src/tile/ir.ts';
import { viewExtent } from '../../src/tile/ir.ts';
import { interpret } from './loop-interpreter.ts';
import { TARGETS } from './lowered.ts';

/** How many bytes beyond each pointer are asked for, in all of a kernel's code. */
function asked(body: readonly Instr[]): number[] {
  return body.flatMap((instr) => {
    if (instr.o === 'prefetch') return [instr.from.displacement];
    if (instr.o === 'for') return asked(instr.body);
    return instr.o === 'if' ? [...asked(instr.then), ...asked(instr.else)] : [];
  });
}

const panels = { k: 256, n: 128, panel: 32, bType: 'bf16' } as const;
const decode = { queryLength: 1, heads: 4, kvHeads: 2, headDim: 64, slots: 2, maxLength: 128 };

const KERNELS: readonly { readonly name: string; readonly kernel: Kernel; readonly waits: boolean }[] = [
  { name: 'bf16, one row', kernel: matmul({ m: 1, aType: 'bf16', ...panels }), waits: true },
  { name: 'bf16 and f32, one row', kernel: matmul({ m: 1, ...panels }), waits: true },
  { name: 'int8, one row', kernel: quantizedMatmul({ type: 'int8', m: 1, k: 256, n: 128 }), waits: true },
  { name: 'int4, one row', kernel: quantizedMatmul({ type: 'int4', m: 1, k: 256, n: 128 }), waits: true },
  { name: 'decode', kernel: attention({ sequences: 2, ...decode, layout: 'cache' }), waits: true },
  { name: 'f32, many rows and few columns', kernel: matmul({ m: 256, k: 256, n: 128 }), waits: true },
  {
    name: 'f32, many rows of a transpose',
    kernel: matmul({ m: 256, k: 256, n: 1024, transA: true, blocks: { m: 128, n: 512 } }),
    waits: true,
  },
  {
    name: 'f32, many rows and columns',
    kernel: matmul({ m: 256, k: 256, n: 1024, blocks: { m: 128, n: 512 } }),
    waits: false,
  },
  { name: 'bf16, many rows', kernel: matmul({ m: 256, aType: 'bf16', ...panels }), waits: false },
  {
    name: 'training',
    kernel: attention({ sequences: 2, ...decode, queryLength: 128, layout: 'tokens', training: true }),
    waits: false,
  },
];

for (const { name, kernel, waits } of KERNELS)
  test(`${name}: ${waits ? 'asks ahead' : 'asks for nothing'}`, () => {
    for (const target of TARGETS) {
      const found = asked(lower(kernel, target).body);
      assert.equal(found.length > 0, waits && target.streamPage > 0, `${target.name}: ${found.length}`);
    }
  });

test('of many rows, those of the next register tile are asked for', () => {
  const [k, n] = [48, 64];
  for (const transA of [false, true])
    for (const target of TARGETS.filter(({ streamPage }) => streamPage > 0)) {
      const found = asked(lower(matmul({ m: 240, k, n, transA, blocks: { m: 240 } }), target).body);
      const { rows } = target.dotTile;
      const next = transA ? 4 * rows : 4 * k * rows;
      const row = 4 * (transA ? 240 : k);
      for (const bytes of found) {
        const beyond = (bytes - next) % row;
        assert.ok(bytes > next && beyond === (transA ? 0 : 64 % row), `${target.name}: ${bytes}`);
      }
      assert.ok(found.length > 0);
    }
});

test('weights are asked for a page ahead', () => {
  const kernel = quantizedMatmul({ type: 'int4', m: 1, k: 256, n: 128 });
  for (const target of TARGETS.filter(({ streamPage }) => streamPage > 0))
    for (const bytes of asked(lower(kernel, target).body))
      assert.ok(bytes >= target.streamPage && bytes < 2 * target.streamPage, `${target.name}: ${bytes}`);
});

for (const type of quantizedTypes)
  test(`${type}: while many rows are multiplied, each line of the weights is asked for, a page ahead`, () => {
    const kernel = quantizedMatmul({ type, m: 64, k: 512, n: 128, blockRows: 64 });
    const words = kernel.views.findIndex(({ name }) => name === 'words');
    for (const target of TARGETS.filter(({ matrixRegisters }) => matrixRegisters)) {
      const fn = lower(kernel, target);
      const views: number[] = [];
      let end = 0;
      for (const view of kernel.views) {
        views.push(end);
        end += Math.ceil((4 * viewExtent(view)) / 64) * 64;
      }
      const asked: number[] = [];
      interpret(fn, {
        memory: new DataView(new ArrayBuffer(end + fn.scratchBytes)),
        views,
        scratch: end,
        from: 0,
        to: fn.programs,
        fma: target.fma,
        integerBits: 64,
        asked: (address) => asked.push(Math.floor((address - views[words]) / 64)),
      });
      const last = (4 * viewExtent(kernel.views[words])) / 64;
      const lines = new Set(asked);
      for (let line = target.streamPage / 64; line < last; line++) assert.ok(lines.has(line), `line ${line}`);
      assert.ok(asked.length < 1.5 * last, `${asked.length} times for ${last} lines`);
    }
  });
