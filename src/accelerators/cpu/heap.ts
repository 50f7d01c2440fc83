/** Buffers of the cpu device: memory, and files. */
import { formatBytes } from '../bytes.ts';
import type { Device, DeviceBuffer, MappedFile } from '../device.ts';
import { Arena } from './arena.ts';
import { FileMapping } from './file-mapping.ts';
import { availableMemory, residentMemory } from './host.ts';
import type { Region } from './memory.ts';
import type { Native } from './native.ts';

class HeapBuffer implements DeviceBuffer {
  readonly device: Device;
  readonly byteLength: number;
  /** Null once it is freed. */
  mapping: Region | null;
  /** Runs that use it. */
  pins = 0;

  constructor(device: Device, byteLength: number, mapping: Region) {
    this.device = device;
    this.byteLength = byteLength;
    this.mapping = mapping;
  }

  get readOnly(): boolean {
    return this.mapping instanceof FileMapping;
  }

  /** Of a file. */
  get damaged(): boolean {
    return this.mapping instanceof FileMapping && this.mapping.damaged;
  }
}

// Pages are taken from the system when they are first touched, so what the system calls available still includes
// what was promised to earlier buffers. The growth of the resident set tells how much of the promise is kept.
let promisedBytes = 0;
let residentAtStart: number | undefined;

function headroom(): number {
  residentAtStart ??= residentMemory();
  const touched = Math.max(0, residentMemory() - residentAtStart);
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
  readonly #arena: Arena;
  #allocatedBytes = 0;

  constructor(native: Native, device: Device) {
    this.#native = native;
    this.#device = device;
    this.#arena = new Arena(native);
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
    const mapping = this.#arena.allocate(byteLength);
    const buffer = new HeapBuffer(this.#device, byteLength, mapping);
    this.#live.add(buffer);
    this.#allocatedBytes += byteLength;
    promisedBytes += mapping.byteLength;
    return buffer;
  }

  /** A file as read-only memory, which counts as allocated but is the system's. */
  mapFile(path: string): MappedFile {
    const mapping = new FileMapping(this.#native, path);
    const buffer = new HeapBuffer(this.#device, mapping.byteLength, mapping);
    this.#live.add(buffer);
    this.#allocatedBytes += buffer.byteLength;
    return buffer;
  }

  /** Throws when the buffer is another device's or was freed before. */
  free(buffer: DeviceBuffer): void {
    const own = this.#own(buffer, 'free a buffer');
    if (own.pins > 0) throw new Error('cannot free a buffer: a run is using it; await the run first');
    this.#live.delete(own);
    this.#allocatedBytes -= own.byteLength;
    if (!own.readOnly) promisedBytes -= own.mapping.byteLength;
    own.mapping.free();
    (own as HeapBuffer).mapping = null;
  }

  freeAll(): void {
    for (const buffer of [...this.#live]) this.free(buffer);
  }

  #own(buffer: DeviceBuffer, action: string): HeapBuffer & { mapping: Region } {
    if (!(buffer instanceof HeapBuffer) || buffer.device !== this.#device) {
      throw new Error(`cannot ${action}: it was not allocated by this device`);
    }
    if (buffer.mapping === null) throw new Error(`cannot ${action}: it is already freed`);
    return buffer as HeapBuffer & { mapping: Region };
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
