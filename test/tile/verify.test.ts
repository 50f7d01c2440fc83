import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DType } from '../../src/numerics/dtype.ts';
import { buildKernel } from '../../src/tile/builder.ts';
import type { Instruction, Kernel, Op, TileType, View } from '../../src/tile/ir.ts';
import { print } from '../../src/tile/print.ts';
import { KernelError, verify } from '../../src/tile/verify.ts';

const view = (changes: Partial<View> = {}): View => ({
  name: 'x',
  dtype: 'f32',
  shape: [4, 4],
  strides: [4, 1],
  access: 'read',
  ...changes,
});
const type = (dtype: DType, ...shape: number[]): TileType => ({ dtype, shape });
const at = (results: number[], op: Op): Instruction => ({ results, op });

/** Values every planted kernel begins with. */
const BASE: readonly (readonly [TileType, Op])[] = [
  [type('i32'), { op: 'constant', value: 0 }],
  [type('f32', 2, 3), { op: 'constant', value: 1 }],
  [type('f32', 4, 3), { op: 'constant', value: 1 }],
  [type('i32', 2), { op: 'constant', value: 1 }],
  [type('bool', 2, 3), { op: 'constant', value: 1 }],
];
const [zero, a, b, rows, flag] = [0, 1, 2, 3, 4];

interface Plant {
  readonly views?: readonly View[];
  readonly grid?: readonly number[];
  readonly name?: string;
  /** Types of the values from 5 on. */
  readonly types?: readonly TileType[];
  readonly body?: readonly Instruction[];
}

function plant({
  views = [view(), view({ name: 'y', access: 'write' })],
  grid = [1],
  name = 'planted',
  types = [],
  body = [],
}: Plant): Kernel {
  const base = BASE.map(([, op], id) => at([id], op));
  return { name, views, grid, types: [...BASE.map(([known]) => known), ...types], body: [...base, ...body] };
}
const one = (result: TileType, op: Op): Plant => ({ types: [result], body: [at([5], op)] });
const none = (op: Op): Plant => ({ body: [at([], op)] });
const offsets = [zero, zero];
const limits = [null, null];
const loop = {
  op: 'loop',
  kind: 'serial',
  lo: zero,
  hi: zero,
  step: 1,
  index: 5,
  init: [a],
  params: [6],
  body: [],
  yields: [6],
} as const;
const loopTypes = [type('i32'), type('f32', 2, 3), type('f32', 2, 3)];

const FAULTS: { readonly [name: string]: readonly [Plant, RegExp] } = {
  'no name': [{ name: '' }, /needs a name/],
  'four grid axes': [{ grid: [1, 1, 1, 1] }, /grid must be/],
  'an empty grid': [{ grid: [0] }, /grid must be/],
  'a view twice': [{ views: [view(), view()] }, /used twice/],
  'a view of size 0': [{ views: [view({ shape: [0, 4] })] }, /view 'x'.*positive/],
  'missing strides': [{ views: [view({ strides: [1] })] }, /as many strides/],
  'negative strides': [{ views: [view({ strides: [4, -1] })] }, /from 0 on/],
  'writes that repeat': [{ views: [view({ access: 'write', strides: [0, 1] })] }, /stride of 0/],
  'odd i4 rows': [{ views: [view({ dtype: 'i4', shape: [4, 3], strides: [4, 1] })] }, /i4 view must be even/],
  'unpacked i4 rows': [{ views: [view({ dtype: 'i4', strides: [5, 1] })] }, /i4 rows are packed/],
  'a tile of size 0': [one(type('f32', 0), { op: 'constant', value: 0 }), /%5.*positive/],
  'an odd i4 tile': [one(type('i4', 3), { op: 'constant', value: 0 }), /i4 tile must be even/],
  'no such operation': [one(type('f32'), { op: 'jump' } as unknown as Op), /no operation/],
  'no results': [{ body: [at([], { op: 'constant', value: 0 })] }, /must have 1 results, not 0/],
  'a value without a type': [{ body: [at([5], { op: 'constant', value: 0 })] }, /%5 has no type/],
  'a value defined twice': [{ body: [at([a], { op: 'constant', value: 0 })] }, /%1 is defined a second time/],
  'a value used too early': [
    { types: [type('f32', 3, 2)], body: [at([5], { op: 'transpose', arg: 5 })] },
    /%5 is used before/,
  ],
  'a value of an ended loop': [
    { types: [...loopTypes, type('f32', 3, 2)], body: [at([7], loop), at([8], { op: 'transpose', arg: 6 })] },
    /%6 belongs to a loop body/,
  ],
  'a grid axis too many': [one(type('i32'), { op: 'programId', axis: 1 }), /axis 1 is outside the grid/],
  'a programId of f32': [one(type('f32'), { op: 'programId', axis: 0 }), /must be i32/],
  'a bf16 constant': [one(type('bf16'), { op: 'constant', value: 0 }), /a constant must be f32/],
  'a fractional integer': [one(type('i32'), { op: 'constant', value: 0.5 }), /not an integer/],
  'a bool of 2': [one(type('bool'), { op: 'constant', value: 2 }), /0 or 1/],
  'iota of f32': [one(type('f32', 2), { op: 'iota', axis: 0 }), /iota yields i32/],
  'iota of a missing axis': [one(type('i32', 2), { op: 'iota', axis: 1 }), /axis 1 is outside/],
  'a missing view': [
    one(type('f32', 2, 2), { op: 'load', view: 7, offsets, limits, fill: 0 }),
    /view 7 does not exist/,
  ],
  'a load from a written view': [
    one(type('f32', 2, 2), { op: 'load', view: 1, offsets, limits, fill: 0 }),
    /declared 'write'/,
  ],
  'a load of another type': [
    one(type('bf16', 2, 2), { op: 'load', view: 0, offsets, limits, fill: 0 }),
    /holds f32/,
  ],
  'a load of another rank': [
    one(type('f32', 2), { op: 'load', view: 0, offsets, limits, fill: 0 }),
    /has 2 dimensions, but the block/,
  ],
  'an offset too few': [
    one(type('f32', 2, 2), { op: 'load', view: 0, offsets: [zero], limits, fill: 0 }),
    /1 offsets/,
  ],
  'a limit too few': [
    one(type('f32', 2, 2), { op: 'load', view: 0, offsets, limits: [null], fill: 0 }),
    /1 limits/,
  ],
  'an offset of f32': [
    one(type('f32', 2, 2), { op: 'load', view: 0, offsets: [a, zero], limits, fill: 0 }),
    /an offset must be an i32 scalar/,
  ],
  'a limit of bool': [
    one(type('f32', 2, 2), { op: 'load', view: 0, offsets, limits: [flag, null], fill: 0 }),
    /a limit must be an i32 scalar/,
  ],
  'a fractional fill': [
    {
      ...one(type('i32', 2, 2), { op: 'load', view: 0, offsets, limits, fill: 0.5 }),
      views: [view({ dtype: 'i32' })],
    },
    /fill 0.5/,
  ],
  'a store to a read view': [none({ op: 'store', view: 0, offsets, limits, value: a }), /declared 'read'/],
  'a store of another type': [none({ op: 'store', view: 1, offsets, limits, value: flag }), /cast it/],
  'gather by f32': [
    one(type('f32', 2, 3), { op: 'gather', view: 0, rows: a, column: zero, fill: 0 }),
    /rows must be i32/,
  ],
  'gather of too many rows': [
    one(type('f32', 3, 3), { op: 'gather', view: 0, rows, column: zero, fill: 0 }),
    /2 rows need/,
  ],
  'gather of another type': [
    one(type('i32', 2, 3), { op: 'gather', view: 0, rows, column: zero, fill: 0 }),
    /holds f32/,
  ],
  'gather from a vector': [
    {
      ...one(type('f32', 2, 3), { op: 'gather', view: 0, rows, column: zero, fill: 0 }),
      views: [view({ shape: [4], strides: [1] })],
    },
    /must have 2 dimensions/,
  ],
  'scatter to a read view': [
    none({ op: 'scatter', view: 0, rows, column: zero, value: a }),
    /declared 'read'/,
  ],
  'atomicAdd to a written view': [none({ op: 'atomicAdd', view: 1, offsets, value: a }), /declared 'write'/],
  'atomicAdd of bool': [
    {
      ...none({ op: 'atomicAdd', view: 0, offsets, value: flag }),
      views: [view({ dtype: 'bool', access: 'readwrite' })],
    },
    /must be f32 or i32 or u32/,
  ],
  'dot of a vector': [
    one(type('f32', 2, 3), { op: 'dot', a: rows, b, acc: null, transA: false, transB: false }),
    /2 dimensions/,
  ],
  'dot of f32 and bool': [
    one(type('f32', 2, 3), { op: 'dot', a: flag, b, acc: null, transA: false, transB: true }),
    /no product/,
  ],
  'dot of unlike inner sizes': [
    one(type('f32', 2, 3), { op: 'dot', a, b, acc: null, transA: false, transB: false }),
    /inner sizes differ: 3/,
  ],
  'dot onto another shape': [
    one(type('f32', 2, 4), { op: 'dot', a, b, acc: a, transA: false, transB: true }),
    /accumulator must be f32\[2, 4\]/,
  ],
  'a dot result of another shape': [
    one(type('f32', 4, 2), { op: 'dot', a, b, acc: null, transA: false, transB: true }),
    /must be f32\[2, 4\]/,
  ],
  'an argument too many': [
    one(type('f32', 2, 3), { op: 'map', fn: 'exp', args: [a, a] }),
    /takes 1 arguments/,
  ],
  'unlike shapes': [one(type('f32', 2, 3), { op: 'map', fn: 'add', args: [a, b] }), /differ in shape/],
  'exp of i32': [
    one(type('i32', 2), { op: 'map', fn: 'exp', args: [rows] }),
    /argument of 'exp' must be f32/,
  ],
  'unlike types': [one(type('f32', 2, 3), { op: 'map', fn: 'eq', args: [a, flag] }), /differ in type/],
  'a condition of f32': [
    one(type('f32', 2, 3), { op: 'map', fn: 'select', args: [a, a, a] }),
    /condition of 'select' must be bool/,
  ],
  'a comparison of f32 result': [
    one(type('f32', 2, 3), { op: 'map', fn: 'lt', args: [a, a] }),
    /must be bool/,
  ],
  'a reduced bool': [
    one(type('bool', 2, 1), { op: 'reduce', fn: 'sum', axis: 1, arg: flag }),
    /reduce 'sum' must be f32/,
  ],
  'a reduced missing axis': [
    one(type('f32', 2, 3), { op: 'reduce', fn: 'sum', axis: 2, arg: a }),
    /axis 2 is outside/,
  ],
  'a dropped axis': [
    one(type('f32', 2), { op: 'reduce', fn: 'sum', axis: 1, arg: a }),
    /must be f32\[2, 1\]/,
  ],
  'argmax of a scalar': [one(type('i32', 1), { op: 'argmax', arg: zero }), /scalar has no axis/],
  'argmax of f32 result': [one(type('f32', 2, 1), { op: 'argmax', arg: a }), /must be i32\[2, 1\]/],
  'a scanned scalar': [one(type('i32'), { op: 'scan', fn: 'sum', arg: zero }), /scalar has no axis/],
  'a scan of another type': [
    one(type('f32', 3, 2), { op: 'scan', fn: 'sum', arg: a }),
    /must be f32\[2, 3\]/,
  ],
  'an impossible broadcast': [one(type('f32', 4, 3), { op: 'broadcast', arg: a }), /does not broadcast/],
  'a broadcast of another rank': [
    one(type('i32', 3, 2), { op: 'broadcast', arg: rows }),
    /does not broadcast/,
  ],
  'a reshape of another size': [one(type('f32', 5), { op: 'reshape', arg: a }), /has 6 elements/],
  'a transposed vector': [one(type('i32', 2), { op: 'transpose', arg: rows }), /needs 2 dimensions/],
  'a transpose in name only': [one(type('f32', 2, 3), { op: 'transpose', arg: a }), /must be f32\[3, 2\]/],
  'a cast to bool': [one(type('bool', 2, 3), { op: 'cast', arg: a }), /no cast from f32 to bool/],
  'a cast from i32 to bf16': [one(type('bf16', 2), { op: 'cast', arg: rows }), /no cast from i32 to bf16/],
  'a cast of another shape': [one(type('i32', 6), { op: 'cast', arg: a }), /must be i32\[2, 3\]/],
  'a step of 0': [{ types: loopTypes, body: [at([7], { ...loop, step: 0 })] }, /step must be/],
  'a bound of f32': [{ types: loopTypes, body: [at([7], { ...loop, hi: a })] }, /hi must be an i32 scalar/],
  'a yield too few': [{ types: loopTypes, body: [at([7], { ...loop, yields: [] })] }, /0 yields/],
  'a yield of another type': [
    { types: loopTypes, body: [at([7], { ...loop, yields: [b] })] },
    /its yield is f32\[4, 3\]/,
  ],
  'an index of f32': [
    { types: [type('f32'), ...loopTypes.slice(1)], body: [at([7], loop)] },
    /the index must be/,
  ],
};

for (const [name, [planted, message]] of Object.entries(FAULTS)) {
  test(`rejects ${name}`, () => {
    assert.throws(
      () => verify(plant(planted)),
      (error) =>
        error instanceof KernelError && error.message.startsWith("kernel '") && message.test(error.message),
    );
  });
}

test('accepts the unplanted kernel and a loop', () => {
  verify(plant({ types: loopTypes, body: [at([7], loop)] }));
});

test('prints one line an instruction', () => {
  const kernel = buildKernel('scale', (k) => {
    const x = k.inout('x', 'f32', [8]);
    k.loop({ hi: 8, step: 4 }, [] as const, (i) => {
      k.store(x, [i], k.load(x, [i], [4], { limits: [7], fill: -1 }).mul(2));
      return undefined;
    });
  });
  assert.equal(
    print(kernel),
    `kernel scale grid [1]
  @x : readwrite f32[8] strides [1]
{
  %0 = constant 0 : i32
  %1 = constant 8 : i32
  loop serial %2 = %0 to %1 step 4 {
    %3 = constant 7 : i32
    %4 = load @x[%2 below %3] fill -1 : f32[4]
    %5 = constant 2 : f32[4]
    %6 = mul %4, %5 : f32[4]
    store @x[%2], %6
  }
}
`,
  );
});
