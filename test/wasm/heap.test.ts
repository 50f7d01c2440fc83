import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Heap } from '../../src/accelerators/wasm/heap.ts';
import { Random } from '../../src/numerics/random.ts';

function makeHeap(first = 100, limit = 1 << 20) {
  let memory = new Uint8Array(0);
  const heap = new Heap({
    first,
    limit,
    ensure: (end) => {
      if (end <= memory.length) return;
      const larger = new Uint8Array(end);
      larger.set(memory);
      memory = larger;
    },
    clear: (address, byteLength) => memory.fill(0, address, address + byteLength),
  });
  return { heap, bytes: (address: number, length: number) => memory.subarray(address, address + length) };
}

test('blocks are aligned, apart, and zero whenever they are handed out', () => {
  const { heap, bytes } = makeHeap();
  const random = new Random(1);
  const blocks: { address: number; size: number; mark: number }[] = [];
  for (let step = 0; step < 5000; step++) {
    if (blocks.length > 0 && (blocks.length > 60 || random.below(2) === 0)) {
      const [block] = blocks.splice(random.below(blocks.length), 1);
      assert.ok(bytes(block!.address, block!.size).every((byte) => byte === block!.mark));
      heap.release(block!.address);
    } else {
      const size = random.below(5000);
      const address = heap.allocate(size);
      assert.equal(address % 64, 0);
      assert.ok(address >= 100);
      assert.ok(bytes(address, size).every((byte) => byte === 0));
      const mark = 1 + random.below(255);
      bytes(address, size).fill(mark);
      blocks.push({ address, size, mark });
    }
  }
});

test('free neighbours are joined, so that the whole can be had again', () => {
  for (const order of [
    [0, 1, 2],
    [2, 1, 0],
    [1, 0, 2],
    [0, 2, 1],
  ]) {
    const { heap } = makeHeap(0, 64 * 300);
    const blocks = [heap.allocate(64 * 100), heap.allocate(64 * 100), heap.allocate(64 * 100)];
    for (const index of order) heap.release(blocks[index]!);
    assert.equal(heap.allocate(64 * 300), 0);
  }
  // A free block at the top is used up before the memory grows.
  const { heap } = makeHeap(0, 64 * 10);
  heap.allocate(64);
  heap.release(heap.allocate(64 * 3));
  assert.equal(heap.allocate(64 * 9), 64);
});

test('exhaustion, double frees and sizes that are none', () => {
  const { heap } = makeHeap(0, 1000);
  const block = heap.allocate(500);
  assert.throws(
    () => heap.allocate(500),
    /out of WebAssembly memory: 500 bytes do not fit; 512 of 1000 bytes/,
  );
  heap.release(block);
  assert.throws(() => heap.release(block), /no block of memory is in use at address 0/);
  assert.equal(heap.allocate(900), 0);
  assert.throws(() => heap.allocate(-1), RangeError);
  assert.throws(() => heap.allocate(1.5), RangeError);
  assert.notEqual(makeHeap().heap.allocate(0), undefined);
});
