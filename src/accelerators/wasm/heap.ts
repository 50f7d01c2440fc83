/** Which parts of the linear memory are in use. Blocks are 64-byte aligned; free neighbours are joined. */

const ALIGNMENT = 64;

interface Span {
  address: number;
  size: number;
}

export class Heap {
  readonly #limit: number;
  readonly #ensure: (end: number) => void;
  readonly #clear: (address: number, byteLength: number) => void;
  readonly #used = new Map<number, number>();
  /** By ascending address; never two that touch. All of it lies below #top. */
  readonly #free: Span[] = [];
  /** Nothing at or above was ever handed out: it still holds zeros. */
  #top: number;

  /**
   * Hands out addresses in [first, limit). `ensure(end)` makes the memory at least that long or throws;
   * `clear` fills with zeros.
   */
  constructor(options: {
    first: number;
    limit: number;
    ensure: (end: number) => void;
    clear: (address: number, byteLength: number) => void;
  }) {
    this.#top = Math.ceil(options.first / ALIGNMENT) * ALIGNMENT;
    this.#limit = options.limit;
    this.#ensure = options.ensure;
    this.#clear = options.clear;
  }

  /** The address of a new block of at least `byteLength` zeros. Throws when there is no room. */
  allocate(byteLength: number): number {
    if (!Number.isSafeInteger(byteLength) || byteLength < 0) {
      throw new RangeError(`cannot allocate ${byteLength} bytes: the size must be a whole number, 0 or more`);
    }
    const size = Math.max(1, Math.ceil(byteLength / ALIGNMENT)) * ALIGNMENT;
    const address = this.#reuse(size) ?? this.#extend(size, byteLength);
    this.#used.set(address, size);
    return address;
  }

  /** Gives the block at the address back. Throws when there is none. */
  release(address: number): void {
    const size = this.#used.get(address);
    if (size === undefined) throw new Error(`no block of memory is in use at address ${address}`);
    this.#used.delete(address);
    let at = this.#free.findIndex((span) => span.address > address);
    if (at < 0) at = this.#free.length;
    const before = this.#free[at - 1];
    const after = this.#free[at];
    const joinsBefore = before !== undefined && before.address + before.size === address;
    const joinsAfter = after !== undefined && address + size === after.address;
    if (joinsBefore) {
      before.size += size + (joinsAfter ? after.size : 0);
      if (joinsAfter) this.#free.splice(at, 1);
    } else if (joinsAfter) {
      after.address = address;
      after.size += size;
    } else {
      this.#free.splice(at, 0, { address, size });
    }
  }

  /** The smallest free span that is large enough. */
  #reuse(size: number): number | null {
    let best = -1;
    this.#free.forEach((span, index) => {
      if (span.size >= size && (best < 0 || span.size < this.#free[best]!.size)) best = index;
    });
    if (best < 0) return null;
    const span = this.#free[best]!;
    const { address } = span;
    if (span.size === size) this.#free.splice(best, 1);
    else {
      span.address += size;
      span.size -= size;
    }
    this.#clear(address, size);
    return address;
  }

  #extend(size: number, byteLength: number): number {
    // A free span that reaches the top is used up before the memory grows.
    const last = this.#free.at(-1);
    const start = last !== undefined && last.address + last.size === this.#top ? last.address : this.#top;
    const end = start + size;
    if (end > this.#limit) {
      const inUse = [...this.#used.values()].reduce((sum, used) => sum + used, 0);
      throw new RangeError(
        `out of WebAssembly memory: ${byteLength} bytes do not fit; ${inUse} of ${this.#limit} bytes are in use. ` +
          'Free buffers, or use a smaller model or batch.',
      );
    }
    this.#ensure(end);
    if (start < this.#top) {
      this.#free.pop();
      this.#clear(start, this.#top - start);
    }
    this.#top = end;
    return start;
  }
}
