import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ByteWriter, Code, encodeModule, type FunctionType } from '../../src/accelerators/wasm/encoder.ts';
import {
  ACCESS,
  type AccessOp,
  ATOMIC,
  type AtomicOp,
  LANE,
  LANE_ACCESS,
  type LaneAccessOp,
  type LaneOp,
  PLAIN,
  type PlainOp,
  VECTOR,
  VECTOR_ACCESS,
  type VectorAccessOp,
  type VectorOp,
} from '../../src/accelerators/wasm/opcodes.ts';

const NOTHING: FunctionType = { parameters: [], results: [] };

function moduleOf(body: Uint8Array, shared = false): Uint8Array<ArrayBuffer> {
  return encodeModule({
    types: [NOTHING],
    memory: { initial: 1, maximum: 1, shared },
    functions: [{ name: 'f', type: NOTHING, body, exported: 'f' }],
    tabled: 1,
  });
}

type Write = (code: Code) => Code;

/** Whether the engine accepts the instructions with nothing on the stack before and after. */
function accepted(write: Write): boolean {
  return WebAssembly.validate(moduleOf(write(new Code(0)).finish(), true));
}

const int: Write = (code) => code.i32(64);
const vector: Write = (code) => code.v128Splat(1);
const long: Write = (code) => code.i64(-1);
const drop: Write = (code) => code.plain('drop');
/** Arguments and results that instructions of the tables have. */
const shapes: readonly (readonly Write[])[] = [
  [],
  [int],
  [vector],
  [int, int],
  [int, vector],
  [vector, int],
  [vector, vector],
  [int, int, int],
  [vector, vector, vector],
  [int, int, long],
];

function acceptedSomehow(write: Write): boolean {
  return shapes.some((before) =>
    [[], [drop]].some((after) =>
      accepted((code) => [...before, write, ...after].reduce((c, w) => w(c), code)),
    ),
  );
}

test('LEB128', () => {
  const bytes = (write: (out: ByteWriter) => void) => {
    const out = new ByteWriter();
    write(out);
    return [...out.finish()];
  };
  // From DWARF's and the specification's definitions, worked out by hand.
  for (const [value, expected] of [
    [0, [0]],
    [127, [0x7f]],
    [128, [0x80, 0x01]],
    [624485, [0xe5, 0x8e, 0x26]],
    [0xffffffff, [0xff, 0xff, 0xff, 0xff, 0x0f]],
  ] as const) {
    assert.deepEqual(
      bytes((out) => out.unsigned(value)),
      expected,
    );
  }
  for (const [value, expected] of [
    [0, [0]],
    [63, [0x3f]],
    [64, [0xc0, 0x00]],
    [-1, [0x7f]],
    [-64, [0x40]],
    [-65, [0xbf, 0x7f]],
    [-123456, [0xc0, 0xbb, 0x78]],
    [0x80000000, [0x80, 0x80, 0x80, 0x80, 0x78]],
  ] as const) {
    assert.deepEqual(
      bytes((out) => out.signed(value)),
      expected,
    );
  }
  assert.throws(() => new ByteWriter().unsigned(-1), RangeError);
  assert.throws(() => new ByteWriter().unsigned(2 ** 32), RangeError);
});

test('the engine accepts every instruction of the tables', () => {
  for (const op of Object.keys(PLAIN) as PlainOp[]) {
    assert.ok(
      acceptedSomehow((code) => code.plain(op)),
      op,
    );
  }
  for (const op of Object.keys(ACCESS) as AccessOp[]) {
    assert.ok(
      acceptedSomehow((code) => code.access(op, 300)),
      op,
    );
  }
  for (const op of Object.keys(VECTOR) as VectorOp[]) {
    if (op.includes('relaxed')) continue; // Tested where the engine has them, in fma.test.ts.
    assert.ok(
      acceptedSomehow((code) => code.vector(op)),
      op,
    );
  }
  for (const op of Object.keys(VECTOR_ACCESS) as VectorAccessOp[]) {
    assert.ok(
      acceptedSomehow((code) => code.vectorAccess(op, 300)),
      op,
    );
  }
  for (const op of Object.keys(LANE_ACCESS) as LaneAccessOp[]) {
    assert.ok(
      acceptedSomehow((code) => code.laneAccess(op, 300, 1)),
      op,
    );
  }
  for (const op of Object.keys(LANE) as LaneOp[]) {
    assert.ok(acceptedSomehow((code) => code.lane(op, 3)) || acceptedSomehow(replaceLane(op)), op);
  }
  for (const op of Object.keys(ATOMIC) as AtomicOp[]) {
    assert.ok(
      acceptedSomehow((code) => code.atomic(op, 300)),
      op,
    );
  }
});

function replaceLane(op: LaneOp): Write {
  return (code) => code.v128Splat(0).i32(1).lane(op, 3);
}

test('what is wrong is refused', () => {
  assert.equal(
    accepted((code) => code.v128Splat(0)),
    false,
    'a value is left on the stack',
  );
  assert.equal(
    accepted((code) => code.i32(0).v128Splat(0).plain('i32.add').plain('drop')),
    false,
  );
  assert.throws(() => new Code(0).block().finish(), /1 blocks are still open/);
  assert.throws(() => new Code(0).end(), /without an open block/);
  assert.throws(() => new Code(0).shuffleBytes([1, 2]), /16 bytes/);
  const other: FunctionType = { parameters: ['i32'], results: [] };
  assert.throws(
    () =>
      encodeModule({
        types: [NOTHING],
        memory: { initial: 1, maximum: 1, shared: false },
        functions: [{ name: 'stray', type: other, body: new Code(1).finish() }],
        tabled: 0,
      }),
    /type of function stray/,
  );
});

test('the name section names functions in stack traces', () => {
  const body = new Code(0).plain('unreachable').finish();
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1 });
  const { f } = new WebAssembly.Instance(new WebAssembly.Module(moduleOf(body)), { env: { memory } }).exports;
  assert.throws(f as () => void, (error: Error) => /at f \(wasm/.test(error.stack ?? ''));
});
