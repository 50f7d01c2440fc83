/** Memory for buffers: regions do not overlap, hold zeros, and go back to the system. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Arena } from '../../src/accelerators/cpu/arena.ts';
import { residentMemory } from '../../src/accelerators/cpu/host.ts';
import type { Region } from '../../src/accelerators/cpu/memory.ts';
import { loadNative } from '../../src/accelerators/cpu/native.ts';
import { Random } from '../../src/numerics/random.ts';

const MiB = 2 ** 20;
const usable = process.platform === 'linux' && process.arch === 'x64';

describe('arena', { skip: usable ? false : 'not Linux on x86-64' }, async () => {
  const native = await loadNative();
  const bytesOf = ({ address, byteLength }: Region) => new Uint8Array(native.view(address, byteLength));

  test('regions of any size, in any order, hold zeros at first and then what was written', () => {
    const arena = new Arena(native);
    const random = new Random(7, 'arena');
    const live: { readonly region: Region; readonly mark: number }[] = [];
    const check = ({ region, mark }: (typeof live)[number]) => {
      assert.ok(bytesOf(region).every((byte) => byte === mark));
      region.free();
    };
    for (let round = 1; round <= 400; round++) {
      if (live.length > 0 && random.below(5) < 2) check(live.splice(random.below(live.length), 1)[0]);
      const region = arena.allocate(random.below(2 ** (4 + random.below(18))));
      assert.equal(region.address & 4095n, 0n);
      const bytes = bytesOf(region);
      assert.ok(
        bytes.every((byte) => byte === 0),
        `round ${round}: not zeros`,
      );
      const mark = 1 + (round % 255);
      bytes.fill(mark);
      live.push({ region, mark });
    }
    for (const each of live) check(each);
  });

  test('neighbours lie next to each other, and what is free joins up', () => {
    const arena = new Arena(native);
    const regions = Array.from({ length: 4 }, () => arena.allocate(4096));
    regions.forEach(({ address }, index) => {
      assert.equal(address, regions[0].address + BigInt(4096 * index));
    });
    // The second and third, freed in either order, make room for one of both their sizes.
    for (const order of [
      [1, 2],
      [2, 1],
    ]) {
      for (const index of order) regions[index].free();
      const both = arena.allocate(8192);
      assert.equal(both.address, regions[1].address);
      both.free();
      for (const index of [1, 2]) regions[index] = arena.allocate(4096);
    }
    assert.throws(() => {
      regions[0].free();
      regions[0].free();
    }, /freed twice/);
    for (const region of regions.slice(1)) region.free();
  });

  test('memory goes back to the system when a region is freed, not only when its neighbours are', () => {
    const arena = new Arena(native);
    const before = residentMemory();
    const regions = Array.from({ length: 32 }, () => arena.allocate(2 * MiB));
    for (const region of regions) bytesOf(region).fill(1);
    const full = residentMemory() - before;
    assert.ok(full > 56 * MiB, `${full} bytes were touched`);
    for (let index = 0; index < 32; index += 2) regions[index].free();
    const half = residentMemory() - before;
    assert.ok(half < full - 24 * MiB, `${full} bytes became ${half}`);
    for (let index = 1; index < 32; index += 2) {
      assert.ok(bytesOf(regions[index]).every((byte) => byte === 1));
      regions[index].free();
    }
    assert.ok(residentMemory() - before < 16 * MiB);
  });

  test('a large region has a mapping of its own', () => {
    const arena = new Arena(native);
    const large = arena.allocate(40 * MiB + 1);
    assert.equal(large.byteLength, 40 * MiB + 4096);
    large.free();
    assert.throws(() => large.free(), /freed twice/);
    assert.throws(() => arena.allocate(2 ** 50), /cannot map/);
  });
});
