/**
 * Products that take an operand out of words or pairs as they read it, that are computed together, or that hand their
 * sums to what follows: all agree with the interpreter to the bit, inside views and over their edges.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Device } from '../../src/accelerators/device.ts';
import { interpreterFactory } from '../../src/accelerators/interpreter.ts';
import { openDevice } from '../../src/accelerators/registry.ts';
import { runKernel } from '../../src/accelerators/run-kernel.ts';
import { matmul } from '../../src/kernels/matmul.ts';
import type { ValueArray } from '../../src/numerics/arrays.ts';
import type { KernelBuilder } from '../../src/tile/builder.ts';
import { buildKernel } from '../../src/tile/builder.ts';
import type { Kernel } from '../../src/tile/ir.ts';
import type { Tile } from '../../src/tile/tile.ts';
import { runnable } from '../cpu/loop-runner.ts';
import { normals } from '../kernels/buffers.ts';

const words = (seed: number, count: number) =>
  Int32Array.from({ length: count }, (_, i) => Math.imul(i + seed, 0x9e3779b1));
const floats = (seed: number, count: number) => Float32Array.from(normals(seed, count));
const bytesOf = ({ buffer }: ValueArray) => [...new Uint8Array(buffer)];

type Product = (builder: KernelBuilder, a: Tile, b: Tile, again: Tile) => Tile;

/**
 * The transpose of c[m, n], so that it is not stored as it comes, of views a i32 [m, k] and b i32 [k, n], whose blocks
 * begin at `from` and reach over the edge if it is not 0. A product gets b in two loads.
 */
function quads(
  m: number,
  n: number,
  k: number,
  from: number,
  product: Product,
): { kernel: Kernel; inputs: ValueArray[] } {
  const kernel = buildKernel(`quads_${m}x${n}x${k}_${from}`, (builder) => {
    const a = builder.input('a', 'i32', [m, k]);
    const b = builder.input('b', 'i32', [k, n]);
    const c = builder.output('c', 'i32', [n, m]);
    builder.grid(1);
    const load = () => builder.load(b, [from, 0], [k, n]);
    const left = builder.load(a, [0, from], [m, k]);
    builder.store(c, [0, 0], product(builder, left, load(), load()).transpose());
  });
  return { kernel, inputs: [words(3, m * k), words(5, k * n)] };
}

const SIZES = [
  [1, 32, 8],
  [3, 40, 6],
  [19, 32, 16],
  [37, 48, 12],
] as const;

/** Products of bytes: the same on every accelerator. */
const INTEGER: { readonly [name: string]: Product } = {
  'nibbles of words': (k, a, b) => k.dot(a, b.cast('u32').and(0x0f0f0f0f)),
  'shifted nibbles, with signs moved': (k, a, b) => k.dot(a, b.xor(-1).cast('u32').shr(4).and(0x0f0f0f0f)),
  'words that something else reads too': (k, a, b) =>
    k.dot(a, b.cast('u32').and(0x7f7f7f7f)).add(b.minimum(0).maximum(1)),
  'two halves of the same words': (k, a, b) => {
    const word = b.cast('u32');
    return k.dot(a, word.shr(4).and(0x0f0f0f0f), k.dot(a, word.and(0x0f0f0f0f)));
  },
  'a view and a computed operand, one after the other': (k, a, b, again) =>
    k
      .dot(a, again.mul(3).sub(1).cast('u32'), k.dot(a, b.cast('u32')))
      .mul(5)
      .add(1),
  'a computed operand and a view': (k, a, b, again) =>
    k
      .dot(a, again.cast('u32'), k.dot(a, b.mul(3).sub(1).cast('u32')))
      .mul(5)
      .add(1),
  'nibbles on the left': (k, a, b) => k.dot(a.and(0x0f0f0f0f), b.cast('u32')),
  'nibbles held the other way': (k, a, b) =>
    k
      .dot(b, b.cast('u32').and(0x0f0f0f0f), null, { transB: true })
      .sum(0)
      .sum()
      .add(k.dot(a, b.cast('u32'))),
  'sums that rows and columns change': (k, a, b) => {
    const shape = [a.shape[0], b.shape[1]];
    const [row, column] = [a.sum().broadcast(shape), b.maximum(0).broadcast(shape)];
    return k.dot(a, b.cast('u32')).sub(row).mul(7).max(column);
  },
};

/** Products of floats whose sums something takes over. */
const FLOAT: { readonly [name: string]: Product } = {
  'an operand in the sum': (k, a, b) => k.dot(a.add(1), b).mul(0.5).add(a.add(1)),
  'the left operand ends in the sum': (k, a, b) => {
    const left = a.mul(2);
    return k.dot(left, b).sub(left).mul(3);
  },
  'the right operand ends in the sum': (k, a, b) => {
    const right = b.mul(2);
    return k.dot(a, right).sub(right).mul(3);
  },
  'what is carried': (k, a, b) => {
    const [sum] = k.loop({ hi: 3 }, [k.zeros(a.shape)] as const, (_, [before]) => {
      return [k.dot(a, b).mul(0.25).add(before)] as const;
    });
    return sum;
  },
  'a sum that is needed twice': (k, a, b) => {
    const product = k.dot(a, b);
    return product.mul(product).add(product.sum());
  },
  'one function': (k, a, b) => k.dot(a, b).neg(),
};

async function agrees(device: Device, kernel: Kernel, inputs: readonly ValueArray[], what: string) {
  await using interpreter = await interpreterFactory.open();
  const [found] = await runKernel(device, kernel, inputs);
  const [wanted] = await runKernel(interpreter, kernel, inputs);
  assert.deepEqual(bytesOf(found), bytesOf(wanted), what);
}

const open = [
  ...runnable.map((isa) => [isa, () => openDevice('cpu', { features: [isa] })] as const),
  ['wasm', () => openDevice('wasm', { threads: 1 })] as const,
];

for (const [name, device] of open)
  describe(`products on ${name}`, () => {
    for (const [what, product] of Object.entries(INTEGER))
      test(what, async () => {
        await using opened = await device();
        for (const [m, n, k] of SIZES)
          for (const from of [0, 1]) {
            const { kernel, inputs } = quads(m, n, k, from, product);
            await agrees(opened, kernel, inputs, `${m}x${n}x${k} from ${from}`);
          }
      });
    if (name === 'wasm') return;

    for (const [what, product] of Object.entries(FLOAT))
      test(what, async () => {
        await using opened = await device();
        for (const size of [5, 32, 40])
          for (const asItComes of [false, true]) {
            const kernel = buildKernel(`square_${size}_${asItComes}`, (k) => {
              const [a, b] = ['a', 'b'].map((view) => k.input(view, 'f32', [size, size]));
              const c = k.inout('c', 'f32', [size, size]);
              k.grid(1);
              const shape = [size, size];
              const load = () => k.load(b, [0, 0], shape);
              const result = product(k, k.load(a, [0, 0], shape), load(), load());
              k.store(c, [0, 0], asItComes ? result.add(k.load(c, [0, 0], shape)) : result.transpose());
            });
            const inputs = [1, 2, 3].map((seed) => floats(seed, size * size));
            await agrees(opened, kernel, inputs, `${size} ${asItComes}`);
          }
      });

    test('pairs of rows, whole and over edges, multiplied in bf16 and in f32', async () => {
      await using opened = await device();
      for (const aType of ['bf16', 'f32'] as const)
        for (const [m, blocks] of [
          [1, {}],
          [16, {}],
          [45, {}],
          [45, { m: 32, k: 22 }],
          [3, { k: 32 }],
        ] as const) {
          const [n, k] = [75, 70];
          const kernel = matmul({ m, n, k, panel: 32, aType, bType: 'bf16', blocks });
          const right = normals(2, 3 * k * 32, 'bf16');
          // What is read beyond a panel's last row would show.
          right.fill(Number.NaN, k * 32, (k + 1) * 32);
          const inputs = [Float32Array.from(normals(1, m * k, aType)), Float32Array.from(right)];
          await agrees(opened, kernel, inputs, `${aType} ${m} rows ${JSON.stringify(blocks)}`);
        }
    });
  });
