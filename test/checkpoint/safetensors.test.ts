import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CheckpointError } from '../../src/checkpoint/error.ts';
import { duplicateKey } from '../../src/checkpoint/json.ts';
import type { StoredTensor, StoredType } from '../../src/checkpoint/safetensors.ts';
import {
  fromFloat32,
  parseHeader,
  parseSafetensors,
  STORED_TYPE_BYTES,
  serializeSafetensors,
  toFloat32,
} from '../../src/checkpoint/safetensors.ts';
import { Random } from '../../src/numerics/random.ts';

/** A file with a header of our choosing, true or false. */
function file(header: string | object, dataBytes = 0, statedLength?: bigint): Uint8Array {
  const json = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + json.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, statedLength ?? BigInt(json.length), true);
  bytes.set(json, 8);
  return bytes;
}

const entry = (dtype: unknown, shape: unknown, begin: unknown, end: unknown) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});

test('a file made by hand from the format is read', () => {
  const bytes = file(
    { __metadata__: { format: 'pt' }, b: entry('F32', [1, 2], 0, 8), a: entry('U8', [3], 8, 11) },
    11,
  );
  const data = bytes.subarray(bytes.length - 11);
  new DataView(data.buffer, data.byteOffset).setFloat32(4, 1.5, true);
  data.set([7, 8, 9], 8);
  const { tensors, metadata } = parseSafetensors(bytes);
  assert.deepEqual(metadata, { format: 'pt' });
  assert.deepEqual(tensors.get('b')!.shape, [1, 2]);
  assert.deepEqual([...toFloat32(tensors.get('b')!)], [0, 1.5]);
  assert.deepEqual([...tensors.get('a')!.data], [7, 8, 9]);
});

test('scalars, empty tensors and files without tensors are valid', () => {
  const bytes = file({ s: entry('F64', [], 0, 8), e: entry('F32', [3, 0], 8, 8) }, 8);
  const { tensors } = parseSafetensors(bytes);
  assert.deepEqual(tensors.get('s')!.shape, []);
  assert.equal(tensors.get('e')!.data.length, 0);
  assert.equal(parseSafetensors(file('{}')).tensors.size, 0);
});

test('random tensors of every type survive writing and reading, aligned, and in a stable order', () => {
  const types = Object.keys(STORED_TYPE_BYTES) as StoredType[];
  for (let seed = 0; seed < 40; seed++) {
    const random = new Random(seed, 'tensors');
    const tensors: StoredTensor[] = [];
    for (let i = 0; i < 12; i++) {
      const dtype = random.pick(types);
      const shape = Array.from({ length: random.below(4) }, () => random.below(5));
      const bytes = shape.reduce((a, b) => a * b, 1) * STORED_TYPE_BYTES[dtype];
      const data = Uint8Array.from({ length: bytes }, () => random.below(256));
      tensors.push({ name: random.pick(['ä', '"', 'w.']) + i, dtype, shape, data });
    }
    const bytes = serializeSafetensors(tensors, { seed: String(seed) });
    assert.deepEqual(serializeSafetensors(random.shuffle(tensors), { seed: String(seed) }), bytes);
    const read = parseSafetensors(bytes);
    assert.equal(read.tensors.size, tensors.length);
    assert.equal(read.metadata.seed, String(seed));
    for (const tensor of tensors) {
      const back = read.tensors.get(tensor.name)!;
      assert.deepEqual({ ...back, data: [...back.data] }, { ...tensor, data: [...tensor.data] });
      if (tensor.data.length > 0) assert.equal(back.data.byteOffset % STORED_TYPE_BYTES[tensor.dtype], 0);
    }
  }
});

const hostile: [string, Uint8Array, RegExp][] = [
  ['an empty file', new Uint8Array(0), /the file has 0 bytes, but a safetensors file begins with 8/],
  ['seven bytes', new Uint8Array(7), /the file has 7 bytes/],
  [
    'a huge header length',
    file('{}', 0, 2n ** 63n),
    /stated as 9223372036854775808 bytes, more than the limit/,
  ],
  ['a header length over the limit', file('{}', 0, 100_000_001n), /more than the limit of 100000000/],
  ['a header length over the file', file('{}', 0, 3n), /stated as 3 bytes, but the file ends 2 bytes after/],
  ['a header length of 0', file('', 8), /stated as 0 bytes, too few/],
  ['invalid UTF-8', file('{"a":1}').fill(0xff, 10, 11), /not valid UTF-8/],
  ['no object', file('[]'), /does not begin with '\{'/],
  ['a space before the object', file(' {}'), /does not begin with '\{'/],
  ['a byte order mark', file('\ufeff{}'), /does not begin with '\{'/],
  ['invalid JSON', file('{"a":}'), /not valid JSON/],
  ['JSON cut off', file('{"a":{"dtype":"F32"'), /not valid JSON/],
  ['text after the JSON', file('{}x'), /not valid JSON/],
  ['a tensor twice', file('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":1}'), /key "a" twice/],
  ['a tensor twice, escaped', file('{"a":1, "\\u0061"  :2}'), /key "a" twice/],
  ['dtype twice', file('{"a":{"dtype":"U8","dtype":"F32"}}'), /key "dtype" twice/],
  ['metadata no object', file({ __metadata__: ['x'] }), /__metadata__ must be an object/],
  ['metadata null', file({ __metadata__: null }), /__metadata__ must be an object/],
  [
    'metadata not strings',
    file({ __metadata__: { n: 1 } }),
    /__metadata__: the value of "n" must be a string/,
  ],
  ['an entry no object', file({ w: 5 }), /tensor "w": its entry in the header must be an object/],
  ['an entry null', file({ w: null }), /tensor "w": its entry/],
  [
    'an unknown dtype',
    file({ w: entry('F99', [1], 0, 1) }, 1),
    /tensor "w": unknown dtype "F99" \(known: BOOL/,
  ],
  [
    'an inherited dtype',
    file({ w: entry('toString', [1], 0, 1) }, 1),
    /tensor "w": unknown dtype "toString"/,
  ],
  ['no dtype', file({ w: { shape: [], data_offsets: [0, 4] } }, 4), /tensor "w": unknown dtype undefined/],
  ['no shape', file({ w: { dtype: 'F32', data_offsets: [0, 4] } }, 4), /tensor "w": shape must be an array/],
  [
    'a negative size',
    file({ w: entry('F32', [-1], 0, 4) }, 4),
    /tensor "w": shape \[-1\] must hold whole numbers/,
  ],
  [
    'two negative sizes',
    file({ w: entry('F32', [-1, -1], 0, 4) }, 4),
    /tensor "w": shape \[-1,-1\] must hold/,
  ],
  [
    'a fractional size',
    file({ w: entry('F32', [0.5, 2], 0, 4) }, 4),
    /tensor "w": shape \[0.5,2\] must hold/,
  ],
  ['a text size', file({ w: entry('F32', ['1'], 0, 4) }, 4), /tensor "w": shape \["1"\] must hold/],
  [
    'a size over 2^53',
    file('{"w":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,1]}}', 1),
    /must hold/,
  ],
  ['infinite sizes', file('{"w":{"dtype":"U8","shape":[1e999],"data_offsets":[0,1]}}', 1), /must hold whole/],
  ['sizes that overflow', file({ w: entry('F32', [2 ** 40, 2 ** 40], 0, 4) }, 4), /too many elements/],
  [
    'sizes that wrap to 4',
    file({ w: entry('U8', [2 ** 32 + 1, 2 ** 32 + 1], 0, 4) }, 4),
    /too many elements/,
  ],
  [
    'no offsets',
    file({ w: { dtype: 'F32', shape: [1] } }, 4),
    /tensor "w": data_offsets must be two whole numbers/,
  ],
  [
    'three offsets',
    file({ w: { dtype: 'U8', shape: [1], data_offsets: [0, 1, 2] } }, 2),
    /data_offsets must be two/,
  ],
  ['negative offsets', file({ w: entry('U8', [1], -1, 0) }, 1), /tensor "w": data_offsets must be/],
  ['fractional offsets', file({ w: entry('U8', [1], 0.5, 1.5) }, 2), /tensor "w": data_offsets must be/],
  ['offsets reversed', file({ w: entry('U8', [1], 1, 0) }, 1), /ends at byte 0, before it begins at byte 1/],
  [
    'offsets beyond the file',
    file({ w: entry('U8', [9], 0, 9) }, 8),
    /tensor "w": .* holds only 8 bytes of data/,
  ],
  [
    'offsets too few',
    file({ w: entry('F32', [2], 0, 4) }, 4),
    /tensor "w": F32 of shape \[2\] needs 8 bytes, but it has 4/,
  ],
  [
    'offsets too many',
    file({ w: entry('BF16', [2], 0, 8) }, 8),
    /tensor "w": BF16 of shape \[2\] needs 4 bytes/,
  ],
  [
    'an overlap',
    file({ a: entry('U8', [4], 0, 4), w: entry('U8', [4], 2, 6) }, 6),
    /tensor "w": its data begins at byte 2 and overlaps another tensor's, which ends at byte 4/,
  ],
  [
    'the same place twice',
    file({ a: entry('U8', [4], 0, 4), w: entry('U8', [4], 0, 4) }, 4),
    /tensor "w": .* overlaps/,
  ],
  [
    'a gap',
    file({ a: entry('U8', [1], 0, 1), w: entry('U8', [1], 2, 3) }, 3),
    /"w": .* leaves a gap after byte 1/,
  ],
  ['a gap at the start', file({ w: entry('U8', [1], 1, 2) }, 2), /leaves a gap after byte 0/],
  ['trailing bytes', file({ w: entry('U8', [1], 0, 1) }, 4), /3 bytes after the last tensor/],
  ['trailing bytes without tensors', file('{}', 1), /1 bytes after the last tensor/],
  ['a tensor named __proto__', file('{"__proto__":{"dtype":"Q"}}'), /tensor "__proto__": unknown dtype "Q"/],
];

for (const [name, bytes, message] of hostile) {
  test(`refused: ${name}`, () => {
    assert.throws(
      () => parseSafetensors(bytes),
      (error: Error) => {
        assert.ok(error instanceof CheckpointError, `${error}`);
        assert.match(error.message, message);
        return true;
      },
    );
  });
}

test('random damage to a valid header is refused or read within the file, never anything else', () => {
  const tensors = [
    fromFloat32('a', [2, 3], Float32Array.from([1, 2, 3, 4, 5, 6])),
    fromFloat32('b', [4], Float32Array.from([1, 2, 3, 4]), 'BF16'),
  ];
  const valid = serializeSafetensors(tensors, { k: 'v' });
  let refused = 0;
  for (let seed = 0; seed < 3000; seed++) {
    const random = new Random(seed, 'damage');
    const bytes = valid.slice(0, random.chance(0.2) ? random.below(valid.length) : valid.length);
    for (let i = random.integer(1, 3); i > 0 && bytes.length > 0; i--) {
      bytes[random.below(bytes.length)] = random.pick([0, 0x22, 0x2c, 0x39, 0x7b, 0xff, random.below(256)]);
    }
    try {
      for (const tensor of parseSafetensors(bytes).tensors.values()) {
        const elements = tensor.shape.reduce((a, b) => a * b, 1);
        assert.equal(tensor.data.length, elements * STORED_TYPE_BYTES[tensor.dtype]);
      }
    } catch (error) {
      assert.ok(error instanceof CheckpointError, `seed ${seed}: ${error}`);
      refused++;
    }
  }
  assert.ok(refused > 1500, `only ${refused} were refused`);
});

test('an enormous name makes no enormous message', () => {
  const bytes = file({ ['x'.repeat(1_000_000)]: 5 });
  assert.throws(
    () => parseHeader(bytes, bytes.length),
    (error: Error) => error.message.length < 400,
  );
});

test('float32, bf16 and f16 convert both ways, at odd addresses and from Node buffers', () => {
  const values = Float32Array.from([0, -0, 1, -1.5, 65504, 2 ** -24, Infinity, NaN]);
  for (const dtype of ['F32', 'BF16', 'F16'] as const) {
    const tensor = fromFloat32('w', [2, 4], values, dtype);
    assert.equal(tensor.data.length, 8 * STORED_TYPE_BYTES[dtype]);
    const shifted = Buffer.alloc(tensor.data.length + 1);
    shifted.set(tensor.data, 1);
    const back = toFloat32({ ...tensor, data: shifted.subarray(1) });
    const expected = dtype === 'BF16' ? [0, -0, 1, -1.5, 65536, 2 ** -24, Infinity, NaN] : [...values];
    assert.deepEqual([...back], expected);
  }
});

test('what cannot be written or converted is refused with its name', () => {
  const w = fromFloat32('w', [1], Float32Array.of(1));
  assert.throws(() => serializeSafetensors([w, w]), /two tensors are named "w"/);
  assert.throws(() => serializeSafetensors([{ ...w, name: '__metadata__' }]), /must not be named/);
  assert.throws(
    () => serializeSafetensors([{ ...w, shape: [2] }]),
    /tensor "w": F32 of shape \[2\] needs 8 bytes/,
  );
  assert.throws(() => serializeSafetensors([w], { n: 1 as unknown as string }), /"n" must be a string/);
  assert.throws(
    () => fromFloat32('w', [3], new Float32Array(2)),
    /tensor "w": shape \[3\] has 3 elements, but .* 2/,
  );
  const ids = { name: 'ids', dtype: 'I64' as const, shape: [1], data: new Uint8Array(8) };
  assert.throws(() => toFloat32(ids), /tensor "ids": is I64, but F32, BF16 or F16 is needed/);
});

test('duplicateKey looks at keys of one object only', () => {
  assert.equal(duplicateKey('{"a":{"a":"a"},"b":["a","a",{"a":1}],"c":"\\"a\\":"}'), undefined);
  assert.equal(duplicateKey('[{"x":1},{"x":1,"y":{},"x":2}]'), 'x');
  assert.equal(duplicateKey(`{"a"${' '.repeat(500)}:1,"a":2}`), 'a');
});
