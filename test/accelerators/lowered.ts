/** Kernels lowered to loops and executed there, for several widths of vectors, compared with the interpreter. */
import assert from 'node:assert/strict';
import type { LoopTarget } from '../../src/accelerators/loops/ir.ts';
import { lower } from '../../src/accelerators/loops/lower.ts';
import type { DType } from '../../src/numerics/dtype.ts';
import { byteLength } from '../../src/numerics/dtype.ts';
import type { Tolerance } from '../../src/numerics/error.ts';
import { compare as compareNumbers } from '../../src/numerics/error.ts';
import type { KernelBuilder } from '../../src/tile/builder.ts';
import { buildKernel } from '../../src/tile/builder.ts';
import { interpret } from '../../src/tile/interpret.ts';
import type { Kernel } from '../../src/tile/ir.ts';
import { viewExtent } from '../../src/tile/ir.ts';
import type { Bf16Sums } from '../../src/tile/sums.ts';
import type { Tile } from '../../src/tile/tile.ts';
import { interpret as interpretLoops } from './loop-interpreter.ts';

const lanes16: LoopTarget = {
  name: '16 lanes',
  lanes: 16,
  vectorRegisters: 32,
  fma: true,
  scales: true,
  pointerBytes: 8,
  bf16Pairs: true,
  matrixRegisters: false,
  cacheWays: 12,
  streamPage: 4096,
  dotTile: { rows: 6, vectors: 4, round: 48 },
  wideTile: { rows: 4, vectors: 6 },
};

export const TARGETS: readonly LoopTarget[] = [
  lanes16,
  { ...lanes16, name: 'matrix registers', matrixRegisters: true },
  {
    name: '8 lanes',
    lanes: 8,
    vectorRegisters: 16,
    fma: true,
    scales: false,
    pointerBytes: 8,
    bf16Pairs: false,
    matrixRegisters: false,
    cacheWays: 8,
    streamPage: 1024,
    dotTile: { rows: 6, vectors: 2, round: 24 },
    wideTile: null,
  },
  {
    name: '4 lanes',
    lanes: 4,
    vectorRegisters: 16,
    fma: true,
    scales: false,
    pointerBytes: 4,
    bf16Pairs: false,
    matrixRegisters: false,
    cacheWays: 8,
    streamPage: 0,
    dotTile: { rows: 3, vectors: 2, round: 6 },
    wideTile: null,
  },
];

/** Bytes between views, which nothing may touch. */
const GUARD = 128;
const GUARD_BYTE = 0xa5;

/** Runs the lowered kernel and returns the contents of every view; checks what lies between them. */
function runLowered(kernel: Kernel, buffers: readonly ArrayBufferView[], target: LoopTarget): Uint8Array[] {
  const fn = lower(kernel, target);
  const offsets: number[] = [];
  let end = GUARD;
  for (const { byteLength: bytes } of buffers) {
    offsets.push(end);
    end = Math.ceil((end + bytes + GUARD) / 64) * 64;
  }
  const memory = new Uint8Array(end + fn.scratchBytes + GUARD).fill(GUARD_BYTE);
  // What scratch holds at first must not matter: NaN in every lane.
  memory.fill(0xff, end, end + fn.scratchBytes);
  buffers.forEach((buffer, i) => {
    memory.set(new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength), offsets[i]);
  });
  interpretLoops(fn, {
    memory: new DataView(memory.buffer),
    views: offsets,
    scratch: end,
    from: 0,
    to: fn.programs,
    fma: target.fma,
    integerBits: target.pointerBytes === 8 ? 64 : 32,
  });
  let position = 0;
  const untouched = (to: number) => {
    for (let i = position; i < to; i++)
      assert.equal(memory[i], GUARD_BYTE, `${kernel.name}: byte ${i} between the views was written`);
  };
  offsets.forEach((offset, i) => {
    untouched(offset);
    position = offset + buffers[i].byteLength;
  });
  untouched(end);
  position = end + fn.scratchBytes;
  untouched(memory.length);
  return offsets.map((offset, i) => memory.slice(offset, offset + buffers[i].byteLength));
}

/**
 * Runs a kernel on the interpreter and lowered for all targets: results must agree to the bit, f32 within `tolerance`.
 */
export function compare(
  kernel: Kernel,
  buffers: readonly ArrayBufferView[],
  tolerance: Tolerance = {},
  targets: readonly LoopTarget[] = TARGETS,
): void {
  const wantedWith = (bf16Sums: Bf16Sums) => {
    const wanted = buffers.map(
      (b) => new Uint8Array(b.buffer.slice(b.byteOffset, b.byteOffset + b.byteLength)),
    );
    interpret(kernel, wanted, { bf16Sums });
    return wanted;
  };
  const expected = { pairs: wantedWith('pairs'), blocks: wantedWith('blocks') };
  for (const target of targets) {
    const wanted = expected[target.matrixRegisters ? 'blocks' : 'pairs'];
    const found = runLowered(kernel, buffers, target);
    kernel.views.forEach(({ name, dtype }, i) => {
      const where = `${kernel.name}, ${target.name}: ${name}`;
      if (dtype === 'f32') {
        const floats = ({ buffer }: Uint8Array) => new Float32Array(buffer);
        const { ok, report } = compareNumbers(floats(found[i]), floats(wanted[i]), tolerance);
        assert.ok(ok, `${where}: ${report}`);
      } else {
        const at = found[i].findIndex((byte, place) => byte !== wanted[i][place]);
        assert.equal(at, -1, `${where}: byte ${at} is ${found[i][at]}, not ${wanted[i][at]}`);
      }
    });
  }
}

let seed = 1;
export function random(): number {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return seed / 2 ** 32;
}

function buffer(dtype: DType, count: number): ArrayBufferView {
  if (dtype === 'f32') return Float32Array.from({ length: count }, () => 4 * random() - 2);
  if (dtype === 'i32' || dtype === 'u32')
    return Int32Array.from(
      { length: count },
      () => Math.floor(random() * 2 ** 32) >> Math.floor(random() * 31),
    );
  if (dtype === 'bf16') return Uint16Array.from({ length: count }, () => 0x3f00 + Math.floor(random() * 512));
  if (dtype === 'f16') return Uint16Array.from({ length: count }, () => 0x3800 + Math.floor(random() * 2048));
  if (dtype === 'bool') return Uint8Array.from({ length: count }, () => Math.floor(random() * 2));
  return Int8Array.from({ length: count }, () => Math.floor(random() * 256) - 128);
}

/** Random contents for every view of a kernel. */
export const randomBuffers = (kernel: Kernel): ArrayBufferView[] =>
  kernel.views.map((view) =>
    buffer(view.dtype, byteLength(view.dtype, viewExtent(view)) / byteLength(view.dtype, 1)),
  );

export interface Input {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data?: ArrayBufferView;
}

/** A kernel that loads its inputs whole, applies `body` and stores the tiles it returns. */
export function check(
  name: string,
  inputs: readonly Input[],
  body: (k: KernelBuilder, ...tiles: Tile[]) => Tile[],
  tolerance: Tolerance = {},
  targets: readonly LoopTarget[] = TARGETS,
): void {
  const kernel = buildKernel(name, (k) => {
    const zero = (shape: readonly number[]) => shape.map(() => 0);
    const tiles = inputs.map(({ dtype, shape }, i) => {
      const rank = shape.length === 0 ? [1] : shape;
      const tile = k.load(k.input(`x${i}`, dtype, rank), zero(rank), rank);
      return shape.length === 0 ? tile.reshape([]) : tile;
    });
    body(k, ...tiles).forEach((tile, i) => {
      const out = tile.shape.length === 0 ? tile.reshape([1]) : tile;
      k.store(k.output(`out${i}`, out.dtype, out.shape), zero(out.shape), out);
    });
  });
  const buffers = randomBuffers(kernel);
  inputs.forEach(({ data }, i) => {
    if (data !== undefined) buffers[i] = data;
  });
  compare(kernel, buffers, tolerance, targets);
}

export const f32 = (...shape: number[]): Input => ({ dtype: 'f32', shape });
