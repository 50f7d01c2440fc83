/** Memory outside the JavaScript heap: mappings, executable code, and the heap of device buffers. */
import type { Device, DeviceBuffer } from '../device.ts';
import { availableMemory } from './host.ts';
import type { Native } from './native.ts';

const READ = 1;
const WRITE = 2;
const EXECUTE = 4;
const PRIVATE_ANONYMOUS = 0x22;
/** Do not reserve swap: an arena may be larger than what is ever touched. */
const NO_RESERVE = 0x4000;
const ADVISE_HUGE_PAGES = 14;

export const pageBytes = 4096;
const hugePageBytes = 2 * 1024 * 1024;

const roundUp = (value: number, multiple: number): number => Math.ceil(value / multiple) * multiple;

/** Zero-filled memory, page-aligned, of its own. */
export class Mapping {
  readonly address: bigint;
  readonly byteLength: number;
  readonly #native: Native;
  #mapped = true;

  /** Throws when the system has no `byteLength` bytes of address space left. */
  constructor(native: Native, byteLength: number) {
    this.#native = native;
    this.byteLength = Math.max(pageBytes, roundUp(byteLength, pageBytes));
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
    if (BigInt.asIntN(64, start ?? -1n) === -1n) {
      throw new RangeError(`cannot map ${byteLength} bytes of memory: ${native.lastError()}`);
    }
    this.address = huge ? this.#trim(start, surplus) : start;
    // Advice only: without huge pages the memory is as usable, and slower.
    if (huge) native.madvise(this.address, this.byteLength, ADVISE_HUGE_PAGES);
  }

  #trim(start: bigint, surplus: number): bigint {
    const before = Number(-start & BigInt(hugePageBytes - 1));
    const aligned = start + BigInt(before);
    if (before > 0) this.#unmap(start, before);
    if (before < surplus) this.#unmap(aligned + BigInt(this.byteLength), surplus - before);
    return aligned;
  }

  #unmap(address: bigint, byteLength: number): void {
    if (this.#native.munmap(address, byteLength) !== 0) {
      throw new Error(`cannot unmap ${byteLength} bytes: ${this.#native.lastError()}`);
    }
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
    this.#unmap(this.address, this.byteLength);
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

class HeapBuffer implements DeviceBuffer {
  readonly device: Device;
  readonly byteLength: number;
  /** Null once it is freed. */
  mapping: Mapping | null;
  /** Runs that use it. */
  pins = 0;

  constructor(device: Device, byteLength: number, mapping: Mapping) {
    this.device = device;
    this.byteLength = byteLength;
    this.mapping = mapping;
  }
}

/** `bytes` for people. */
export function formatBytes(bytes: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

// Pages are taken from the system when they are first touched, so what the system calls available still includes
// what was promised to earlier buffers. The growth of the resident set tells how much of the promise is kept.
let promisedBytes = 0;
let residentAtStart: number | undefined;

function headroom(): number {
  residentAtStart ??= process.memoryUsage.rss();
  const touched = Math.max(0, process.memoryUsage.rss() - residentAtStart);
  return Math.max(0, availableMemory() - Math.max(0, promisedBytes - touched));
}

/** Below this, available memory is not looked up for a buffer. */
const smallBytes = 1024 * 1024;
/** For so long, and for this share of what was found, looking it up once is enough for many buffers. */
const lookUpMilliseconds = 100;
const lookUpShare = 0.25;
let lookedUp = { at: Number.NEGATIVE_INFINITY, left: 0 };

/** Whether `byteLength` more bytes are certain to fit: the system keeps its figures in many files, which take time. */
function surelyFits(byteLength: number): boolean {
  if (performance.now() - lookedUp.at > lookUpMilliseconds || byteLength > lookedUp.left) return false;
  lookedUp.left -= byteLength;
  return true;
}

/** The buffers of one device. */
export class DeviceHeap {
  readonly #native: Native;
  readonly #device: Device;
  readonly #live = new Set<HeapBuffer>();
  #allocatedBytes = 0;

  constructor(native: Native, device: Device) {
    this.#native = native;
    this.#device = device;
  }

  /** Bytes allocated and not yet freed. */
  get allocatedBytes(): number {
    return this.#allocatedBytes;
  }

  /** Zero-filled and page-aligned. Throws RangeError when the machine has less than `byteLength` bytes left. */
  allocate(byteLength: number): DeviceBuffer {
    if (!Number.isSafeInteger(byteLength) || byteLength < 0) {
      throw new RangeError(`cannot allocate ${byteLength} bytes: the size must be a whole number, 0 or more`);
    }
    if (byteLength >= smallBytes && !surelyFits(byteLength)) {
      const available = headroom();
      lookedUp = { at: performance.now(), left: lookUpShare * available - byteLength };
      if (byteLength > available) {
        throw new RangeError(
          `out of memory on the cpu device: ${formatBytes(byteLength)} were asked for and ${formatBytes(available)} ` +
            `are available (this device holds ${formatBytes(this.#allocatedBytes)}); ` +
            'use a smaller batch, context or model, or free buffers first',
        );
      }
    }
    const mapping = new Mapping(this.#native, byteLength);
    const buffer = new HeapBuffer(this.#device, byteLength, mapping);
    this.#live.add(buffer);
    this.#allocatedBytes += byteLength;
    promisedBytes += mapping.byteLength;
    return buffer;
  }

  /** Throws when the buffer is another device's or was freed before. */
  free(buffer: DeviceBuffer): void {
    const own = this.#own(buffer, 'free a buffer');
    if (own.pins > 0) throw new Error('cannot free a buffer: a run is using it; await the run first');
    this.#live.delete(own);
    this.#allocatedBytes -= own.byteLength;
    promisedBytes -= own.mapping.byteLength;
    own.mapping.free();
    (own as HeapBuffer).mapping = null;
  }

  freeAll(): void {
    for (const buffer of [...this.#live]) this.free(buffer);
  }

  #own(buffer: DeviceBuffer, action: string): HeapBuffer & { mapping: Mapping } {
    if (!(buffer instanceof HeapBuffer) || buffer.device !== this.#device) {
      throw new Error(`cannot ${action}: it was not allocated by this device`);
    }
    if (buffer.mapping === null) throw new Error(`cannot ${action}: it is already freed`);
    return buffer as HeapBuffer & { mapping: Mapping };
  }

  /** The address of `byteOffset` in a live buffer of this device, after which `byteLength` bytes lie within it. */
  address(buffer: DeviceBuffer, byteOffset: number, byteLength: number, action: string): bigint {
    const { mapping } = this.#own(buffer, action);
    const fits =
      Number.isSafeInteger(byteOffset) &&
      Number.isSafeInteger(byteLength) &&
      byteOffset >= 0 &&
      byteLength >= 0 &&
      byteOffset + byteLength <= buffer.byteLength;
    if (!fits) {
      throw new RangeError(
        `cannot ${action}: ${byteLength} bytes at offset ${byteOffset} are not within its ${buffer.byteLength} bytes`,
      );
    }
    return mapping.address + BigInt(byteOffset);
  }

  /** Keeps live buffers of this device from being freed until the function that is returned is called. */
  pin(buffers: ReadonlySet<DeviceBuffer>): () => void {
    const own = [...buffers].map((buffer) => this.#own(buffer, 'run with a buffer'));
    for (const buffer of own) buffer.pins++;
    return () => {
      for (const buffer of own) buffer.pins--;
    };
  }
}
