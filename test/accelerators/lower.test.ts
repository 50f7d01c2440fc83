import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { LoopTarget } from '../../src/accelerators/loops/ir.ts';
import { lower, unsupported } from '../../src/accelerators/loops/lower.ts';
import { attention } from '../../src/kernels/attention.ts';
import { matmul } from '../../src/kernels/matmul.ts';
import { rmsNorm } from '../../src/kernels/norm.ts';
import { sample } from '../../src/kernels/sampling.ts';
import type { DType } from '../../src/numerics/dtype.ts';
import { byteLength } from '../../src/numerics/dtype.ts';
import type { KernelBuilder } from '../../src/tile/builder.ts';
import { buildKernel } from '../../src/tile/builder.ts';
import { interpret } from '../../src/tile/interpret.ts';
import type { Kernel } from '../../src/tile/ir.ts';
import { viewExtent } from '../../src/tile/ir.ts';
import type { Tile } from '../../src/tile/tile.ts';
import { interpret as interpretLoops } from './loop-interpreter.ts';

const TARGETS: readonly LoopTarget[] = [
  {
    name: '16 lanes',
    lanes: 16,
    vectorRegisters: 32,
    fma: true,
    pointerBytes: 8,
    bf16Pairs: true,
    dotTile: { rows: 6, vectors: 4, round: 48 },
  },
  {
    name: '8 lanes',
    lanes: 8,
    vectorRegisters: 16,
    fma: true,
    pointerBytes: 8,
    bf16Pairs: false,
    dotTile: { rows: 6, vectors: 2, round: 24 },
  },
  {
    name: '4 lanes',
    lanes: 4,
    vectorRegisters: 16,
    fma: true,
    pointerBytes: 4,
    bf16Pairs: false,
    dotTile: { rows: 3, vectors: 2, round: 6 },
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

const ARRAYS: { readonly [D in DType]?: (bytes: ArrayBuffer) => ArrayLike<number> } = {
  f32: (bytes) => new Float32Array(bytes),
  u32: (bytes) => new Uint32Array(bytes),
  i32: (bytes) => new Int32Array(bytes),
};

/** Distance in units in the last place between two f32. */
function ulps(a: number, b: number): number {
  if (Object.is(a, b) || (Number.isNaN(a) && Number.isNaN(b)) || a === b) return 0;
  if (!Number.isFinite(a) || !Number.isFinite(b)) return Number.POSITIVE_INFINITY;
  const order = (x: number) => {
    const bits = new Int32Array(Float32Array.of(x).buffer)[0];
    return bits < 0 ? -(bits & 0x7fffffff) : bits;
  };
  return Math.abs(order(a) - order(b));
}

/** Runs a kernel on the interpreter and lowered for all targets; results must agree, f32 within `tolerance(wanted)`. */
function compare(
  kernel: Kernel,
  buffers: readonly ArrayBufferView[],
  tolerance: number | null = 0,
  targets: readonly LoopTarget[] = TARGETS,
): void {
  const wanted = buffers.map(
    (b) => new Uint8Array(b.buffer.slice(b.byteOffset, b.byteOffset + b.byteLength)),
  );
  interpret(kernel, wanted);
  for (const target of targets) {
    const found = runLowered(kernel, buffers, target);
    kernel.views.forEach(({ name, dtype }, i) => {
      const read = ARRAYS[dtype] ?? ((bytes: ArrayBuffer) => new Uint8Array(bytes));
      const [a, b] = [read(found[i].buffer as ArrayBuffer), read(wanted[i].buffer as ArrayBuffer)];
      for (let j = 0; j < b.length; j++) {
        const off = dtype === 'f32' ? ulps(a[j], b[j]) : a[j] === b[j] ? 0 : Number.POSITIVE_INFINITY;
        const close =
          tolerance === null ? Math.abs(a[j] - b[j]) <= 1e-5 * (1 + Math.abs(b[j])) : off <= tolerance;
        assert.ok(
          close || off === 0,
          `${kernel.name}, ${target.name}: ${name}[${j}] is ${a[j]}, not ${b[j]}`,
        );
      }
    });
  }
}

let seed = 1;
function random(): number {
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

const buffersOf = (kernel: Kernel): ArrayBufferView[] =>
  kernel.views.map((view) =>
    buffer(view.dtype, byteLength(view.dtype, viewExtent(view)) / byteLength(view.dtype, 1)),
  );

interface Input {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data?: ArrayBufferView;
}

/** A kernel that loads its inputs whole, applies `body` and stores the tiles it returns. */
function check(
  name: string,
  inputs: readonly Input[],
  body: (k: KernelBuilder, ...tiles: Tile[]) => Tile[],
  tolerance: number | null = 0,
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
  const buffers = buffersOf(kernel);
  inputs.forEach(({ data }, i) => {
    if (data !== undefined) buffers[i] = data;
  });
  compare(kernel, buffers, tolerance, targets);
}

const f32 = (...shape: number[]): Input => ({ dtype: 'f32', shape });
const SHAPES = [
  [],
  [1],
  [5],
  [16],
  [37],
  [1, 1],
  [3, 1],
  [1, 19],
  [7, 20],
  [2, 3, 33],
  [3, 5, 1],
  [2, 1, 16],
];

const SPECIAL = [
  0,
  -0,
  1,
  -1,
  0.5,
  -0.5,
  1e-40,
  -1e-40,
  3e38,
  -3e38,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  Number.NaN,
  1e-38,
  88.7,
  -87.4,
  -103.5,
  Math.SQRT1_2,
  2,
  1024,
];

test('elementwise functions of every type and shape', () => {
  for (const shape of SHAPES) {
    check(`float${shape}`, [f32(...shape), f32(...shape), f32(...shape)], (k, a, b, c) => [
      a.add(b).mul(c).sub(a),
      a.div(b).abs().neg(),
      a.min(b).max(c),
      a.fma(b, c),
      k.select(a.lt(b).or(b.ge(c)).xor(a.ne(c)).not(), a, b.abs().sqrt()),
      k.select(a.lt(0).eq(b.lt(0)), a.floor(), 3),
    ]);
    for (const dtype of ['i32', 'u32'] as const)
      check(
        `${dtype}${shape}`,
        [
          { dtype, shape },
          { dtype, shape },
        ],
        (k, a, b) => [
          a.add(b).mul(b).sub(a),
          a.div(b),
          a.rem(b),
          a.div(b.and(7)),
          a.div(1).add(a.div(2)).xor(a.div(64)),
          a.div(3),
          a.min(b).xor(a.max(b)).or(b).not(),
          a.shl(b.and(63)),
          a.shr(b.and(63)),
          a.neg().abs(),
          k.select(a.lt(b), a, b),
          k.select(a.ge(b).and(a.ne(b)), a, 5),
          dtype === 'u32' ? a.mulhi(b) : a.abs(),
        ],
      );
  }
});

test('special numbers', () => {
  const n = SPECIAL.length;
  const data = Float32Array.from({ length: n * n }, (_, i) => SPECIAL[i % n]);
  const other = Float32Array.from({ length: n * n }, (_, i) => SPECIAL[Math.floor(i / n)]);
  const shape = [n, n];
  check(
    'special',
    [
      { dtype: 'f32', shape, data },
      { dtype: 'f32', shape, data: other },
    ],
    (k, a, b) => [
      a.add(b),
      a.div(b),
      a.max(b),
      a.min(b),
      k.select(a.le(b), a, b),
      a.lt(b).cast('i32'),
      a.ne(b).cast('f32'),
      a.cast('i32'),
      a.cast('u32'),
      a.cast('bf16'),
      a.cast('f16').cast('f32'),
      a.sum(),
      a.maximum(),
      a.minimum(0),
      a.argmax(),
      b.argmax(),
      a.cumsum(),
    ],
  );
});

test('transcendental functions', () => {
  const ALL = [...TARGETS, { ...TARGETS[2], name: 'no fused multiply-add', fma: false }];
  const values = [...SPECIAL];
  for (let i = 0; i < 1500; i++) values.push((random() - 0.5) * 2 ** (Math.floor(random() * 40) - 30));
  for (let i = 0; i < 300; i++) values.push((random() - 0.5) * 220, random() * 2 ** (random() * 250 - 140));
  for (let i = -12; i < 12; i++) values.push(i, 2 ** i);
  // Near multiples of pi/2 little is left of the argument.
  for (let i = 1; i < 60000; i += 1 + (i >> 6)) values.push((i * Math.PI) / 2);
  values.push(52516.43359375, 4476.76953125, 1e22, 2 ** 127);
  const data = Float32Array.from(values);
  const input: Input = { dtype: 'f32', shape: [data.length], data };
  for (const fn of ['exp', 'exp2', 'log', 'log2', 'tanh', 'sigmoid'] as const)
    check(fn, [input], (_, x) => [x[fn]()], fn === 'tanh' || fn === 'sigmoid' || fn === 'log2' ? 3 : 2, ALL);
  for (const fn of ['sin', 'cos'] as const) check(fn, [input], (_, x) => [x[fn]()], 2, ALL);
  check('exact', [{ dtype: 'f32', shape: [2], data: Float32Array.of(0, -0) }], (_, x) => [
    x.exp(),
    x.cos(),
    x.sin(),
  ]);
});

test('casts, broadcasts, reshapes and transposes', () => {
  for (const dtype of ['f32', 'bf16', 'f16', 'i32', 'u32', 'i8', 'bool'] as const) {
    for (const shape of [[], [5], [3, 21], [4, 1]]) {
      check(`cast_${dtype}_${shape}`, [{ dtype, shape }], (_, a) => [
        ...(dtype === 'bf16' || dtype === 'f16' ? [] : [a.cast('i32')]).map((x) => x),
        a.cast('f32'),
        ...(dtype === 'i32' || dtype === 'u32' || dtype === 'f32' ? [a.cast('i8')] : []),
        ...(dtype === 'i32' ? [a.cast('u32')] : []),
        a,
      ]);
    }
  }
  check('broadcast', [f32(5, 1), f32(1, 20), f32(), f32(3, 1, 4)], (k, a, b, c, d) => [
    a.add(b),
    k.broadcast(a, [5, 37]),
    k.broadcast(b, [7, 20]),
    k.broadcast(c, [2, 18]),
    k.broadcast(d, [3, 5, 4]),
    a.broadcast([5, 20]).sum(),
    b.broadcast([5, 20]).sum(0),
    b.broadcast([5, 20]).transpose(),
    a.broadcast([5, 20]).reshape([10, 10]),
    k.constant(2, 'f32', [3, 17]).sum(),
    k.iota([4, 19], 0).add(k.iota([4, 19], 1)),
    k.iota([4, 19, 2], 1),
  ]);
  check('shape', [f32(6, 20), f32(4, 6, 32), f32(33, 18), f32(1, 7)], (_, a, b, c, d) => [
    a.reshape([120]),
    a.reshape([2, 3, 20]),
    a.reshape([6, 5, 4]),
    a.reshape([8, 15]),
    a.reshape([24, 5]).reshape([6, 20]),
    b.reshape([24, 32]),
    b.reshape([4, 192]).mul(2),
    a.transpose(),
    c.transpose().add(1),
    d.transpose(),
    d.reshape([7, 1, 1]),
  ]);
});

test('reductions keep the order of sums', () => {
  for (const shape of [
    [1],
    [5],
    [16],
    [47],
    [300],
    [3, 1],
    [5, 20],
    [4, 64],
    [1, 33],
    [40, 1],
    [3, 4, 21],
    [3, 17, 1],
    [4, 5, 2],
  ])
    for (const dtype of ['f32', 'i32', 'u32'] as const)
      check(`reduce_${dtype}_${shape}`, [{ dtype, shape }], (_, a) => [
        ...shape.flatMap((_, axis) => [a.sum(axis), a.maximum(axis), a.minimum(axis)]),
        a.argmax(),
        a.cumsum(),
      ]);
});

test('dot in every orientation and odd sizes', () => {
  for (const [m, n, depth] of [
    [1, 1, 1],
    [1, 40, 7],
    [5, 1, 9],
    [7, 33, 12],
    [16, 16, 1],
    [13, 70, 8],
    [1, 1, 20],
  ])
    for (const dtype of ['f32', 'bf16', 'i8'] as const)
      for (const transA of [false, true])
        for (const transB of [false, true])
          check(
            `dot_${m}_${n}_${depth}_${dtype}_${transA}_${transB}`,
            [
              { dtype, shape: transA ? [depth, m] : [m, depth] },
              { dtype, shape: transB ? [n, depth] : [depth, n] },
              { dtype: dtype === 'i8' ? 'i32' : 'f32', shape: [m, n] },
            ],
            (k, a, b, c) => [k.dot(a, b, null, { transA, transB }), k.dot(a, b, c, { transA, transB }), c],
          );
});

/** Row, column, and limits of rows and columns. */
const BLOCKS: readonly (readonly [number, number, number | null, number | null])[] = [
  [0, 0, null, null],
  [-2, -3, null, null],
  [4, 30, null, null],
  [-9, 0, null, null],
  [2, 3, 4, 20],
  [0, 50, 0, 5],
  [1, -30, 9, 9],
  [0, 0, -4, 100],
  [2147483647, -2147483648, null, null],
];

test('blocks at the borders of views', () => {
  for (const dtype of ['f32', 'bf16', 'bool', 'i8'] as const)
    for (const [row, column, rowLimit, columnLimit] of BLOCKS) {
      const kernel = buildKernel(`block_${dtype}_${row}_${column}`, (k) => {
        const at = k.input('at', 'i32', [4]);
        const x = k.input('x', dtype, [6, 37], { strides: [41, 1] });
        const columns = k.input('columns', dtype, [6, 37], { strides: [1, 6] });
        const out = k.output('out', dtype, [6, 37], { strides: [41, 1] });
        const outColumns = k.output('outColumns', dtype, [6, 37], { strides: [1, 7] });
        const whole = k.output('whole', dtype, [3, 4, 20]);
        const scalar = (i: number) => k.loadScalar(at, [i]);
        const limits = [rowLimit === null ? null : scalar(2), columnLimit === null ? null : scalar(3)];
        const block = { limits, fill: dtype === 'f32' ? 2.5 : 1 };
        const a = k.load(x, [scalar(0), scalar(1)], [4, 20], block);
        const b = k.load(columns, [row, column], [4, 20], { limits });
        k.store(whole, [0, 0, 0], a.reshape([1, 4, 20]));
        k.store(whole, [1, 0, 0], b.reshape([1, 4, 20]));
        k.store(out, [row, column], a, { limits });
        k.store(outColumns, [scalar(0), scalar(1)], a, { limits });
      });
      const buffers = buffersOf(kernel);
      buffers[0] = Int32Array.of(row, column, rowLimit ?? 0, columnLimit ?? 0);
      compare(kernel, buffers);
    }
});

test('gather and scatter skip rows outside the view', () => {
  for (const column of [0, -3, 20]) {
    const kernel = buildKernel('rows', (k) => {
      const index = k.input('index', 'i32', [7]);
      const x = k.input('x', 'bf16', [5, 33]);
      const out = k.output('out', 'f32', [7, 24]);
      const target = k.output('target', 'bf16', [5, 33]);
      const rows = k.load(index, [0], [7]);
      const found = k.gather(x, rows, column, 24, 0.3);
      k.store(out, [0, 0], found.cast('f32'));
      k.scatter(target, rows, column, found);
      k.store(out, [5, 0], k.gather(x, k.load(index, [2], [1]), 1, 24).cast('f32'));
    });
    const buffers = buffersOf(kernel);
    buffers[0] = Int32Array.of(3, -1, 0, 5, 3, 4, 2 ** 31 - 1);
    compare(kernel, buffers);
  }
});

test('loops carry, swap and repeat values', () => {
  for (const trips of [0, 1, 3]) {
    check(`loop${trips}`, [f32(5, 20), f32(5, 20), { dtype: 'i32', shape: [] }], (k, a, b, n) => {
      const [x, y, count, s, t, u] = k.loop(
        { lo: 1, hi: 1 + 2 * trips, step: 2 },
        [a, b, n, n.cast('f32'), k.zeros([5, 20]), a] as const,
        (i, [p, q, c, f, g, h]) =>
          [
            q,
            p.add(i.cast('f32')),
            c.add(i),
            f.mul(0.5),
            k.dot(p, q, null, { transB: true }).sum().add(g),
            h.mul(0.5),
          ] as const,
      );
      return [x, y, count, s, t, u, a];
    });
  }
});

test('groups: memory is read before it is written, and after what was written before', () => {
  // Views that share memory element for element, as the memory plan lets them.
  const shape = [6, 40];
  for (const limit of [null, 37]) {
    const kernel = buildKernel(`groups_${limit}`, (k) => {
      const a = k.inout('a', 'f32', shape);
      const b = k.inout('b', 'f32', [8, 48]);
      const flags = k.output('flags', 'bool', shape);
      const sums = k.output('sums', 'f32', [6, 1]);
      const limits = { limits: [null, limit === null ? null : k.constant(limit, 'i32')] };
      const x = k.load(a, [0, 0], shape, limits);
      const y = k.load(b, [1, 2], shape, limits);
      const z = x.mul(y);
      k.store(a, [0, 0], z, limits);
      k.store(b, [1, 2], x.add(z), limits);
      const again = k.load(b, [0, 2], shape);
      k.store(flags, [0, 0], again.lt(z));
      k.store(sums, [0, 0], again.add(x).sum());
      k.store(b, [2, 2], again.mul(2), limits);
      k.store(b, [1, 1], again.mul(3), limits);
    });
    compare(kernel, buffersOf(kernel));
  }
});

test('programs of a grid and nested loops', () => {
  const kernel = buildKernel('grid', (k) => {
    k.grid(3, 2, 2);
    const out = k.output('out', 'i32', [2, 2, 3]);
    const [x, y, z] = [k.programId(0), k.programId(1), k.programId(2)];
    const [sum] = k.loop(
      { hi: x.add(2) },
      [z.mul(100).add(y.mul(10))] as const,
      (i, [s]) => k.loop({ lo: i, hi: 4 }, [s] as const, (j, [r]) => [r.add(i.mul(j))] as const) as never,
    );
    k.store(out, [z, y, x], sum.reshape([1, 1, 1]));
  });
  compare(kernel, buffersOf(kernel));
});

test('kernels of the library', () => {
  for (const options of [
    { m: 33, n: 40, k: 70, blocks: { m: 16, n: 32, k: 16 } },
    {
      m: 5,
      n: 24,
      k: 33,
      transA: true,
      transB: true,
      bType: 'bf16' as const,
      blocks: { m: 4, n: 16, k: 16 },
    },
    { m: 8, n: 20, k: 16, batch: 2, accumulate: true, blocks: { m: 8, n: 16, k: 16 } },
  ]) {
    const kernel = matmul(options);
    compare(kernel, buffersOf(kernel));
  }
  const norm = rmsNorm({ rows: 5, columns: 48, eps: 1e-5 });
  compare(norm, buffersOf(norm), null);
  for (const layout of ['cache', 'tokens'] as const) {
    const kernel = attention({
      sequences: 1,
      queryLength: 9,
      heads: 2,
      kvHeads: 1,
      headDim: 16,
      slots: 2,
      maxLength: 70,
      layout,
    });
    const buffers = buffersOf(kernel).map((data, i) =>
      kernel.views[i].dtype === 'i32' ? new Int32Array(data.byteLength / 4).fill(1) : data,
    );
    compare(kernel, buffers, null);
  }
  const sampling = sample({ rows: 2, vocabulary: 70 });
  assert.equal(unsupported(sampling, TARGETS[0]), null);
  compare(sampling, buffersOf(sampling), null);
});

test('what is not supported is named', () => {
  const add = buildKernel('adds', (k) => {
    const out = k.inout('out', 'f32', [4]);
    k.atomicAdd(out, [0], k.zeros([4]));
  });
  assert.match(String(unsupported(add, TARGETS[0])), /adds.*atomicAdd/);
  assert.throws(() => lower(add, TARGETS[0]), /atomicAdd/);
  const packed = buildKernel('packed', (k) => {
    k.load(k.input('weights', 'i4', [4, 8]), [0, 0], [4, 8]);
  });
  assert.match(String(unsupported(packed, TARGETS[0])), /weights.*i4/);
});
