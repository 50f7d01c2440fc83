/** Memory outside the JavaScript heap: mappings, and executable code. */
import type { Native } from './native.ts';

const READ = 1;
const WRITE = 2;
const EXECUTE = 4;
const PRIVATE_ANONYMOUS = 0x22;
/** Do not reserve swap: an arena may be larger than what is ever touched. */
const NO_RESERVE = 0x4000;
const ADVISE_DROP = 4;
const ADVISE_HUGE_PAGES = 14;

export const pageBytes = 4096;
const hugePageBytes = 2 * 1024 * 1024;

const roundUp = (value: number, multiple: number): number => Math.ceil(value / multiple) * multiple;

/** Bytes of as many whole pages as hold `byteLength`, one at least. */
export const wholePages = (byteLength: number): number => Math.max(pageBytes, roundUp(byteLength, pageBytes));

/** What mmap returns where it fails. */
export const isFailure = (address: bigint): boolean => BigInt.asIntN(64, address ?? -1n) === -1n;

export function unmap(native: Native, address: bigint, byteLength: number): void {
  if (native.munmap(address, byteLength) !== 0)
    throw new Error(`cannot unmap ${byteLength} bytes: ${native.lastError()}`);
}

/** Gives whole pages of a private mapping back to the system: they are zeros when they are next touched. */
export function releasePages(native: Native, address: bigint, byteLength: number): void {
  if (native.madvise(address, byteLength, ADVISE_DROP) !== 0)
    throw new Error(`cannot release ${byteLength} bytes: ${native.lastError()}`);
}

/** Addresses that are ours until they are freed. */
export interface Region {
  readonly address: bigint;
  readonly byteLength: number;
  free(): void;
}

/** Zero-filled memory, page-aligned, of its own. */
export class Mapping implements Region {
  readonly address: bigint;
  readonly byteLength: number;
  readonly #native: Native;
  #mapped = true;

  /** Throws when the system has no `byteLength` bytes of address space left. */
  constructor(native: Native, byteLength: number) {
    this.#native = native;
    this.byteLength = wholePages(byteLength);
    const huge = this.byteLength >= hugePageBytes;
    // Huge pages need addresses that are multiples of their size: map more and give back both ends.
    const surplus = huge ? hugePageBytes : 0;
    const start = native.mmap(
      null,
      this.byteLength + surplus,
      READ | WRITE,
      PRIVATE_ANONYMOUS | NO_RESERVE,
      -1,
      0,
    );
    if (isFailure(start)) {
      throw new RangeError(`cannot map ${byteLength} bytes of memory: ${native.lastError()}`);
    }
    this.address = huge ? this.#trim(start, surplus) : start;
    // Advice only: without huge pages the memory is as usable, and slower.
    if (huge) native.madvise(this.address, this.byteLength, ADVISE_HUGE_PAGES);
  }

  #trim(start: bigint, surplus: number): bigint {
    const before = Number(-start & BigInt(hugePageBytes - 1));
    const aligned = start + BigInt(before);
    if (before > 0) unmap(this.#native, start, before);
    if (before < surplus) unmap(this.#native, aligned + BigInt(this.byteLength), surplus - before);
    return aligned;
  }

  /** The first 2 GiB, at most, as an array buffer; not to be used after `free`. */
  view(): DataView<ArrayBuffer> {
    return new DataView(this.#native.view(this.address, Math.min(this.byteLength, 2 ** 31)));
  }

  /** Makes the memory read-only and executable, for good. */
  makeExecutable(): void {
    if (this.#native.mprotect(this.address, this.byteLength, READ | EXECUTE) !== 0) {
      throw new Error(
        `the system refuses executable memory (${this.#native.lastError()}): the cpu device cannot run here`,
      );
    }
  }

  free(): void {
    if (!this.#mapped) throw new Error('a mapping is freed twice');
    this.#mapped = false;
    unmap(this.#native, this.address, this.byteLength);
  }
}

/** Machine code in memory, written once and then never writable again; `addresses[i]` is where `parts[i]` begins. */
export class CodeBlock {
  readonly addresses: readonly bigint[];
  readonly #mapping: Mapping;

  constructor(native: Native, parts: readonly Uint8Array[]) {
    const alignment = 64;
    const offsets: number[] = [];
    let total = 0;
    for (const part of parts) {
      offsets.push(total);
      total = roundUp(total + part.length, alignment);
    }
    this.#mapping = new Mapping(native, total);
    parts.forEach((part, i) => {
      native.memcpy(this.#mapping.address + BigInt(offsets[i]), part, part.length);
    });
    this.#mapping.makeExecutable();
    this.addresses = offsets.map((offset) => this.#mapping.address + BigInt(offset));
  }

  free(): void {
    this.#mapping.free();
  }
}
