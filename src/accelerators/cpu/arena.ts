/**
 * Memory for buffers of any size out of few mappings. Those are large enough for huge pages, so reading one buffer
 * after another, as decoding does with weights, finds its addresses translated; a buffer with a mapping of its own has
 * small pages at its end, and nothing else where it is small.
 */
import { Mapping, type Region, releasePages, wholePages } from './memory.ts';
import type { Native } from './native.ts';

/**
 * What the first mapping has: too little for huge pages, of which one would take longer to fill with zeros than all that
 * a few small buffers are for. Later ones have as much as there is already, so that their number stays low.
 */
const smallestBytes = 2 ** 20;
const largestBytes = 256 * 2 ** 20;
/** Buffers from this size on have a mapping of their own. */
const largeBytes = 32 * 2 ** 20;

/** Bytes [from, to) of a slab. */
interface Span {
  from: number;
  to: number;
}

/** A mapping and what of it is free: spans in ascending order that do not touch. Free pages hold zeros. */
class Slab {
  readonly mapping: Mapping;
  readonly #free: Span[];

  constructor(native: Native, byteLength: number) {
    this.mapping = new Mapping(native, byteLength);
    this.#free = [{ from: 0, to: this.mapping.byteLength }];
  }

  /** Bytes taken and not given back. */
  get used(): number {
    return this.#free.reduce((left, { from, to }) => left - (to - from), this.mapping.byteLength);
  }

  /** Where so many bytes begin from now on; null where no free span has them. */
  take(byteLength: number): number | null {
    const index = this.#free.findIndex(({ from, to }) => to - from >= byteLength);
    if (index < 0) return null;
    const span = this.#free[index];
    const { from } = span;
    span.from += byteLength;
    if (span.from === span.to) this.#free.splice(index, 1);
    return from;
  }

  giveBack(from: number, byteLength: number): void {
    const to = from + byteLength;
    const after = this.#free.findIndex((span) => span.from >= to);
    const index = after < 0 ? this.#free.length : after;
    const [before, next] = [this.#free[index - 1], this.#free[index]];
    const joinsBefore = before !== undefined && before.to === from;
    const joinsNext = next !== undefined && next.from === to;
    const joined = { from: joinsBefore ? before.from : from, to: joinsNext ? next.to : to };
    this.#free.splice(index - Number(joinsBefore), Number(joinsBefore) + Number(joinsNext), joined);
  }
}

export class Arena {
  readonly #native: Native;
  readonly #slabs = new Set<Slab>();

  constructor(native: Native) {
    this.#native = native;
  }

  /** Zero-filled and page-aligned. Throws RangeError when the system has no address space left. */
  allocate(byteLength: number): Region {
    const bytes = wholePages(byteLength);
    if (bytes >= largeBytes) return new Mapping(this.#native, bytes);
    for (const slab of this.#slabs) {
      const from = slab.take(bytes);
      if (from !== null) return this.#region(slab, from, bytes);
    }
    const held = [...this.#slabs].reduce((sum, { mapping }) => sum + mapping.byteLength, 0);
    const slab = new Slab(
      this.#native,
      Math.max(bytes, Math.min(largestBytes, Math.max(smallestBytes, held))),
    );
    this.#slabs.add(slab);
    return this.#region(slab, slab.take(bytes) as number, bytes);
  }

  #region(slab: Slab, from: number, byteLength: number): Region {
    const address = slab.mapping.address + BigInt(from);
    let free = false;
    return {
      address,
      byteLength,
      free: () => {
        if (free) throw new Error('a region is freed twice');
        free = true;
        if (slab.used === byteLength) {
          this.#slabs.delete(slab);
          slab.mapping.free();
          return;
        }
        releasePages(this.#native, address, byteLength);
        slab.giveBack(from, byteLength);
      },
    };
  }
}
