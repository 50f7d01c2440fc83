/** Matrix products: squares, and those of a feed-forward layer's forward and backward pass. */
import type { Device, Executable } from '../accelerators/device.ts';
import type { Storage } from '../kernels/common.ts';
import { matmul } from '../kernels/matmul.ts';
import { f32ToBf16 } from '../numerics/float.ts';
import { Random } from '../numerics/random.ts';
import { elementCount } from '../tile/ir.ts';
import type { Item } from './item.ts';
import { arithmeticPeak } from './item.ts';
import { secondsEach } from './timing.ts';

interface Product {
  readonly m: number;
  readonly k: number;
  readonly n: number;
  readonly transA?: boolean;
  /** Of both operands; f32 where left out. The result is f32. */
  readonly type?: Storage;
}

const square = (size: number): Product => ({ m: size, k: size, n: size });
const PRODUCTS: readonly Product[] = [
  square(256),
  square(512),
  square(1024),
  square(2048),
  { m: 4096, k: 128, n: 128 },
  { m: 4096, k: 256, n: 256 },
  { m: 4096, k: 256, n: 768 },
  { m: 4096, k: 768, n: 256 },
  { m: 256, k: 4096, n: 768, transA: true },
];
/** In bf16; sums are f32. */
const NARROW_PRODUCTS: readonly Product[] = [
  square(512),
  square(1024),
  { m: 4096, k: 256, n: 768 },
  { m: 256, k: 4096, n: 768, transA: true },
].map((product) => ({ ...product, type: 'bf16' }));
const WASM_PRODUCTS: readonly Product[] = [square(512), square(1024)];

const BYTES = 4;

/** c[m, n] = a[m, k] · b[k, n] with random values. `transA`: a is held as [k, m]. */
export function matmulItem(product: Product, device: string): Item {
  const { m, k, n, transA = false, type = 'f32' } = product;
  const peer = { kind: 'matmul', m, k, n, transA, dtype: type };
  return {
    name: 'matmul',
    shape: `${m}x${k}x${n}${transA ? ' transA' : ''}`,
    dtype: type,
    device,
    unit: 'GFLOP/s',
    limit: (limits) => {
      const peak = arithmeticPeak(limits, device, type);
      return peak === null ? null : peak / 1e9;
    },
    // WebAssembly is compared with WebAssembly.
    peers:
      device === 'wasm'
        ? { 'jax-js': peer }
        : { pytorch: peer, ...(type === 'f32' ? { onnxruntime: peer } : {}) },
    async measure(open) {
      const device = await open();
      try {
        return (2 * m * k * n) / (await secondsOf(device, product)) / 1e9;
      } finally {
        await device.close();
      }
    },
    profile: (opened, trace) =>
      withProduct(opened, product, async (executable) => {
        await executable.run();
        await trace(() => executable.run());
      }),
  };
}

const secondsOf = (device: Device, product: Product): Promise<number> =>
  withProduct(device, product, (executable) => secondsEach((repeat) => executable.run(repeat)));

async function withProduct<T>(
  device: Device,
  product: Product,
  use: (executable: Executable) => Promise<T>,
): Promise<T> {
  const { type = 'f32', ...sizes } = product;
  const kernel = matmul({ ...sizes, aType: type, bType: type, ...device.schedule });
  const buffers = kernel.views.map((view, i) => {
    const count = elementCount(view.shape);
    const buffer = device.allocate(count * BYTES);
    if (view.access === 'read') {
      const random = new Random(0, 'bench-matmul', i);
      const values = Float32Array.from({ length: count }, () => random.float() - 0.5);
      device.write(buffer, view.dtype === 'bf16' ? f32ToBf16(values) : values);
    }
    return buffer;
  });
  const executable = await device.compile([
    {
      kernel,
      bindings: buffers.map((buffer) => ({ buffer, byteOffset: 0 })),
      flops: 2 * product.m * product.k * product.n,
    },
  ]);
  try {
    return await use(executable);
  } finally {
    executable.dispose();
    for (const buffer of buffers) device.free(buffer);
  }
}

/** On the device, and on wasm beside the processor's own instructions. */
export const matmulItems = (device: string): Item[] => [
  ...[...PRODUCTS, ...NARROW_PRODUCTS].map((product) => matmulItem(product, device)),
  ...(device === 'cpu' ? WASM_PRODUCTS.map((product) => matmulItem(product, 'wasm')) : []),
];
