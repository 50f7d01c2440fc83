/** Loads and stores of every memory type: values, addresses, and that nothing else is touched. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Address, Instr, MemoryType } from '../../src/accelerators/loops/ir.ts';
import {
  bf16BitsToF32,
  bitsToF32,
  f16BitsToF32,
  f32ToBf16Bits,
  f32ToBits,
  f32ToF16Bits,
} from '../../src/numerics/float.ts';
import {
  f8e4m3BitsToF32,
  f8e5m2BitsToF32,
  f32ToF8e4m3Bits,
  f32ToF8e5m2Bits,
} from '../../src/numerics/fp8.ts';
import { branch, FREE, i, interestingWords, prepare, v } from './harness.ts';

interface Format {
  readonly bytes: 1 | 2 | 4;
  /** Element bits to lane bits and back. */
  readonly widen: (element: number) => number;
  readonly narrow: (lane: number) => number;
  readonly float: boolean;
}
const same = (bits: number) => bits;
const ofFloat = (
  bytes: 1 | 2,
  widen: (bits: number) => number,
  narrow: (value: number) => number,
): Format => ({
  bytes,
  widen: (element) => f32ToBits(widen(element)),
  narrow: (lane) => narrow(bitsToF32(lane)),
  float: true,
});
const FORMATS: { readonly [T in MemoryType]: Format } = {
  f32: { bytes: 4, widen: same, narrow: same, float: false },
  i32: { bytes: 4, widen: same, narrow: same, float: false },
  u32: { bytes: 4, widen: same, narrow: same, float: false },
  bf16: ofFloat(2, bf16BitsToF32, f32ToBf16Bits),
  f16: ofFloat(2, f16BitsToF32, f32ToF16Bits),
  f8e4m3: ofFloat(1, f8e4m3BitsToF32, f32ToF8e4m3Bits),
  f8e5m2: ofFloat(1, f8e5m2BitsToF32, f32ToF8e5m2Bits),
  i8: { bytes: 1, widen: (element) => (element << 24) >> 24, narrow: (lane) => lane & 0xff, float: false },
  u8: { bytes: 1, widen: same, narrow: (lane) => lane & 0xff, float: false },
  u16: { bytes: 2, widen: same, narrow: (lane) => lane & 0xffff, float: false },
};
const TYPES = Object.entries(FORMATS) as [MemoryType, Format][];

function getElement(data: DataView, bytes: 1 | 2 | 4, address: number): number {
  if (bytes === 1) return data.getUint8(address);
  return bytes === 2 ? data.getUint16(address, true) : data.getUint32(address, true);
}
function setElement(data: DataView, bytes: 1 | 2 | 4, address: number, bits: number): void {
  if (bytes === 1) data.setUint8(address, bits);
  else if (bytes === 2) data.setUint16(address, bits, true);
  else data.setUint32(address, bits, true);
}

function sameLane(format: Format, actual: number, expected: number): boolean {
  if (actual >>> 0 === expected >>> 0) return true;
  return format.float && Number.isNaN(bitsToF32(actual)) && Number.isNaN(bitsToF32(expected));
}

const bases: readonly Instr[] = [0, 1, 2].map((index) => ({ o: 'viewBase', dst: i(index), index }));
const at = (base: number, displacement = 0): Address => ({ base: i(base), displacement });

test('every 8- and 16-bit pattern widens as it should, loaded and broadcast', () => {
  for (const [type, format] of TYPES) {
    const { bytes } = format;
    const patterns = bytes === 4 ? interestingWords(1000) : Array.from({ length: 256 ** bytes }, (_, k) => k);
    const count = patterns.length;
    const source = FREE + 1; // No alignment is assumed.
    const loaded = 4 * 65536 + 2;
    const broadcast = loaded + 4 * count + 64;
    const element = { base: i(0), index: i(3), scale: bytes, displacement: 0 } as const;
    const execution = prepare(
      [
        ...bases,
        {
          o: 'for',
          index: i(3),
          lo: 0,
          hi: count,
          step: 1,
          body: [
            { o: 'vbroadcast', dst: v(0), type, from: element },
            {
              o: 'vstore',
              src: v(0),
              type: 'f32',
              to: { base: i(2), index: i(3), scale: 4, displacement: 0 },
            },
          ],
        },
        {
          o: 'for',
          index: i(3),
          lo: 0,
          hi: count & ~3,
          step: 4,
          body: [
            { o: 'vload', dst: v(0), type, from: element },
            {
              o: 'vstore',
              src: v(0),
              type: 'f32',
              to: { base: i(1), index: i(3), scale: 4, displacement: 0 },
            },
          ],
        },
      ],
      { views: [source, loaded, broadcast], pages: 16 },
    );
    patterns.forEach((pattern, k) => {
      setElement(execution.data, bytes, source + k * bytes, pattern);
    });
    execution.run();
    patterns.forEach((pattern, k) => {
      const expected = format.widen(pattern);
      if (k < (count & ~3)) {
        const found = execution.data.getUint32(loaded + 4 * k, true);
        assert.ok(sameLane(format, found, expected), `${type} ${pattern}: ${found}, not ${expected >>> 0}`);
      }
      const found = execution.data.getUint32(broadcast + 4 * k, true);
      assert.ok(sameLane(format, found, expected), `${type} ${pattern} broadcast: ${found}`);
    });
  }
});

test('stores round as they should', () => {
  const words = [...interestingWords(0)];
  // Around every rounding boundary of the 8-bit formats, and many of the 16-bit ones.
  for (let high = 0; high < 0x10000; high += 0x7) {
    for (const low of [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff]) words.push(((high << 16) | low) >>> 0);
  }
  for (let high = 0x3200; high < 0x4800; high++) {
    for (const low of [0x0fff, 0x1000, 0x1001, 0x3000, 0xf000]) words.push(((high << 16) | low) >>> 0);
  }
  while (words.length % 4 !== 0) words.push(0);
  for (const [type, format] of TYPES) {
    const { bytes } = format;
    const result = FREE + 4 * words.length + 1;
    const execution = prepare(
      [
        ...bases,
        {
          o: 'for',
          index: i(3),
          lo: 0,
          hi: words.length,
          step: 4,
          body: [
            {
              o: 'vload',
              dst: v(0),
              type: 'f32',
              from: { base: i(0), index: i(3), scale: 4, displacement: 0 },
            },
            { o: 'vstore', src: v(0), type, to: { base: i(1), index: i(3), scale: bytes, displacement: 0 } },
          ],
        },
      ],
      { views: [FREE, result], pages: 64 },
    );
    words.forEach((word, k) => {
      execution.data.setUint32(FREE + 4 * k, word, true);
    });
    execution.run();
    words.forEach((word, k) => {
      const found = getElement(execution.data, bytes, result + k * bytes);
      const expected = format.narrow(word);
      if (found === expected) return;
      const nan = format.float && Number.isNaN(bitsToF32(word));
      assert.ok(
        nan && Number.isNaN(bitsToF32(format.widen(found))),
        `${type} of 0x${word.toString(16)}: ${found.toString(16)}, not ${expected.toString(16)}`,
      );
    });
  }
});

const CANARY = 0xa5;

test('partial loads and stores touch nothing else, also at the very end of the memory', () => {
  const end = 3 * 65536;
  for (const [type, format] of TYPES) {
    const { bytes } = format;
    const execution = prepare(
      [
        ...bases,
        { o: 'iload', dst: i(3), type: 'i32', from: at(2) },
        { o: 'vloadpart', dst: v(0), type, from: at(0, 64), count: i(3) },
        { o: 'vstore', src: v(0), type: 'f32', to: at(2, 16) },
        { o: 'vload', dst: v(1), type: 'f32', from: at(2, 32) },
        { o: 'vstorepart', src: v(1), type, to: at(1, -32), count: i(3) },
      ],
      { views: [0, 0, FREE], pages: 3 },
    );
    const { data, memory } = execution;
    for (const count of [-(2 ** 31), -1, 0, 1, 2, 3, 4, 5, 2 ** 31 - 1]) {
      const elements = Math.min(4, Math.max(0, count));
      // The source ends with the memory, so reading more would trap; the target has canaries around.
      const source = end - elements * bytes;
      const target = FREE + 1001;
      memory.fill(CANARY, FREE + 512);
      for (let k = 0; k < elements; k++) setElement(data, bytes, source + k * bytes, 0x3c + k);
      const words = [0x3f800000, 0xc0600000, 0x447a0000, 0x00000009];
      words.forEach((word, k) => {
        data.setUint32(FREE + 32 + 4 * k, word, true);
      });
      data.setUint32(65536, source - 64, true);
      data.setUint32(65536 + 4, target + 32, true);
      data.setInt32(FREE, count, true);
      execution.run();
      for (let k = 0; k < 4; k++) {
        const found = data.getUint32(FREE + 16 + 4 * k, true);
        const expected = k < elements ? format.widen(0x3c + k) : 0;
        assert.ok(sameLane(format, found, expected), `${type}, ${count} elements: lane ${k} is ${found}`);
      }
      for (let k = 0; k < elements; k++) {
        const found = getElement(data, bytes, target + k * bytes);
        assert.equal(found, format.narrow(words[k]!), `${type}, ${count} elements: element ${k}`);
      }
      for (let byte = FREE + 512; byte < source; byte++) {
        const inside = byte >= target && byte < target + elements * bytes;
        if (!inside && memory[byte] !== CANARY)
          assert.fail(`${type}, ${count} elements: wrote ${byte - target}`);
      }
    }
  }
});

test('a whole store and a store of the first lane write their bytes only', () => {
  for (const [type, { bytes, narrow }] of TYPES) {
    const execution = prepare(
      [
        ...bases,
        { o: 'vload', dst: v(0), type: 'f32', from: at(0) },
        { o: 'vstore', src: v(0), type, to: at(1) },
        { o: 'vstorefirst', src: v(0), type, to: at(2) },
      ],
      { views: [FREE, FREE + 101, FREE + 203] },
    );
    const words = [0x41200000, 0xbf800000, 0x3f000000, 0x00000003];
    execution.memory.fill(CANARY, FREE + 16);
    words.forEach((word, k) => {
      execution.data.setUint32(FREE + 4 * k, word, true);
    });
    execution.run();
    const expected = new Uint8Array(300).fill(CANARY);
    const view = new DataView(expected.buffer);
    words.forEach((word, k) => {
      setElement(view, bytes, 101 + k * bytes, narrow(word));
    });
    setElement(view, bytes, 203, narrow(words[0]!));
    assert.deepEqual(execution.memory.slice(FREE + 16, FREE + 300), expected.slice(16), type);
  }
});

test('transposes of every size up to 4 x 4 write their block only', () => {
  for (let rows = 1; rows <= 4; rows++) {
    for (let columns = 1; columns <= 4; columns++) {
      const [fromStride, toStride] = [36, 52];
      const source = 3 * 65536 - (rows - 1) * fromStride - columns * 4;
      const execution = prepare(
        [...bases, { o: 'vtranspose', from: at(0), fromStride, to: at(1, 8), toStride, rows, columns }],
        { views: [source, FREE], pages: 3 },
      );
      execution.memory.fill(CANARY, FREE);
      const expected = execution.memory.slice(FREE, FREE + 400);
      const view = new DataView(expected.buffer);
      for (let r = 0; r < rows; r++) {
        for (let c = 0; c < columns; c++) {
          const bits = 0x7f800001 + 16 * r + c; // Signalling NaNs must survive.
          execution.data.setUint32(source + r * fromStride + 4 * c, bits, true);
          view.setUint32(8 + c * toStride + 4 * r, bits, true);
        }
      }
      execution.run();
      assert.deepEqual(execution.memory.slice(FREE, FREE + 400), expected, `${rows} x ${columns}`);
    }
  }
});

test('scalar loads and stores, and all kinds of addresses', () => {
  const far = 3 * 65536 + 17;
  const addresses: Address[] = [
    { base: i(0), displacement: far - FREE },
    { base: i(1), displacement: -100 },
    { base: i(0), index: i(4), scale: 1, displacement: far - FREE - 24 },
    { base: i(0), index: i(4), scale: 4, displacement: far - FREE - 96 },
    { base: i(0), index: i(4), scale: 8, displacement: far - FREE - 192 },
    // A base below zero with a displacement that makes up for it.
    { base: i(5), displacement: 30000 },
    { base: i(6), displacement: 2 ** 31 - 1 },
  ];
  for (const address of addresses) {
    const next = { ...address, displacement: address.displacement };
    const execution = prepare(
      [
        ...bases,
        { o: 'iconst', dst: i(4), value: 24 },
        { o: 'iconst', dst: i(5), value: far - 30000 },
        { o: 'iconst', dst: i(6), value: (far - (2 ** 31 - 1)) | 0 },
        { o: 'iload', dst: i(10), type: 'i32', from: address },
        { o: 'iload', dst: i(11), type: 'i8', from: address },
        { o: 'iload', dst: i(12), type: 'u8', from: next },
        { o: 'iload', dst: i(13), type: 'u16', from: next },
        ...[10, 11, 12, 13].map(
          (register, k): Instr => ({ o: 'istore', src: i(register), type: 'i32', to: at(2, 4 * k) }),
        ),
        { o: 'istore', src: i(10), type: 'u8', to: at(2, 20) },
        { o: 'istore', src: i(10), type: 'u16', to: at(2, 24) },
      ],
      { views: [FREE, far + 100, FREE + 64], pages: 5 },
    );
    execution.data.setUint32(far, 0xfedcba98, true);
    execution.run();
    const found = [0, 4, 8, 12].map((offset) => execution.data.getInt32(FREE + 64 + offset, true));
    assert.deepEqual(found, [0xfedcba98 | 0, 0xffffff98 | 0, 0x98, 0xba98]);
    assert.equal(execution.data.getUint32(FREE + 84, true), 0x98);
    assert.equal(execution.data.getUint32(FREE + 88, true), 0xba98);
  }
});

test('loops, branches, selection and parameters', () => {
  const add = (register: number, b: number): Instr => ({
    o: 'ibin',
    fn: 'add',
    dst: i(register),
    a: i(register),
    b,
  });
  const execution = prepare(
    [
      { o: 'parameter', dst: i(0), which: 'scratch' },
      { o: 'parameter', dst: i(1), which: 'from' },
      { o: 'parameter', dst: i(2), which: 'to' },
      { o: 'iconst', dst: i(5), value: 0 },
      { o: 'iconst', dst: i(6), value: 0 },
      {
        o: 'for',
        index: i(3),
        lo: i(1),
        hi: i(2),
        step: 3,
        body: [
          { o: 'for', index: i(4), lo: 5, hi: 5, step: 1, body: [add(5, 1000)] },
          { o: 'for', index: i(4), lo: 0, hi: i(3), step: 2, body: [add(5, 1)] },
          branch(i(3), 'ge', 10, [add(6, 1)], [add(6, 100)]),
        ],
      },
      branch(i(1), 'eq', i(2), [add(6, 10000)], []),
      { o: 'iselect', dst: i(7), c: i(1), a: i(5), b: i(6) },
      ...[5, 6, 7].map(
        (register, k): Instr => ({ o: 'istore', src: i(register), type: 'i32', to: at(0, 4 * k) }),
      ),
    ],
    {},
  );
  for (const [from, to] of [
    [0, 0],
    [4, 17],
    [-5, 12],
    [17, 4],
  ] as const) {
    let [steps, branches] = [0, 0];
    for (let x = from; x < to; x += 3) {
      for (let y = 0; y < x; y += 2) steps++;
      branches += x >= 10 ? 1 : 100;
    }
    if (from === to) branches += 10000;
    execution.run(FREE, from, to);
    const found = [0, 4, 8].map((offset) => execution.data.getInt32(FREE + offset, true));
    assert.deepEqual(found, [steps, branches, from !== 0 ? steps : branches]);
  }
});
