/** The linear memory as the device reaches it: shared with the threads, or in the hands of the only one. */
import { PAGE_BYTES } from './program.ts';
import type { Team } from './team.ts';

export interface LinearMemory {
  /** Makes the memory at least so long. Throws when the engine has no more. */
  ensure(byteLength: number): void;
  /** Copies bytes in; ordered before any later run. */
  write(address: number, bytes: Uint8Array): void;
  clear(address: number, byteLength: number): void;
  read(address: number, byteLength: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** A shared memory of one page that may grow as far as the engine can reserve addresses for: 4 GiB, if possible. */
export function createSharedMemory(maximumPages: number): { memory: WebAssembly.Memory; maximum: number } {
  for (let maximum = maximumPages; ; maximum = Math.floor(maximum / 2)) {
    try {
      return { memory: new WebAssembly.Memory({ initial: 1, maximum, shared: true }), maximum };
    } catch (error) {
      // What is left after halving down to 16 MiB is no memory to work with.
      if (!(error instanceof RangeError) || maximum <= 256) throw error;
    }
  }
}

export class SharedMemory implements LinearMemory {
  readonly #memory: WebAssembly.Memory;

  constructor(memory: WebAssembly.Memory) {
    this.#memory = memory;
  }

  ensure(byteLength: number): void {
    const missing = byteLength - this.#memory.buffer.byteLength;
    if (missing <= 0) return;
    try {
      this.#memory.grow(Math.ceil(missing / PAGE_BYTES));
    } catch (cause) {
      throw new RangeError(`the system has no ${missing} more bytes for the WebAssembly memory`, { cause });
    }
  }

  write(address: number, bytes: Uint8Array): void {
    this.#view(address, bytes.length).set(bytes);
  }

  clear(address: number, byteLength: number): void {
    this.#view(address, byteLength).fill(0);
  }

  async read(address: number, byteLength: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(byteLength);
    bytes.set(this.#view(address, byteLength));
    return bytes;
  }

  /** Made anew each time: a buffer from before a growth ends where the memory ended then. */
  #view(address: number, byteLength: number): Uint8Array {
    return new Uint8Array(this.#memory.buffer, address, byteLength);
  }
}

/** Messages keep their order, so what is written is there when a later run begins. */
export class RemoteMemory implements LinearMemory {
  readonly #team: Team;
  #pages: number;

  constructor(team: Team, pages: number) {
    this.#team = team;
    this.#pages = pages;
  }

  ensure(byteLength: number): void {
    const pages = Math.ceil(byteLength / PAGE_BYTES);
    if (pages <= this.#pages) return;
    this.#pages = pages;
    this.#team.order({ type: 'ensure', pages });
  }

  write(address: number, bytes: Uint8Array): void {
    const copy = new Uint8Array(bytes);
    this.#team.order({ type: 'write', address, bytes: copy }, [copy.buffer]);
  }

  clear(address: number, byteLength: number): void {
    this.#team.order({ type: 'clear', address, byteLength });
  }

  read(address: number, byteLength: number): Promise<Uint8Array<ArrayBuffer>> {
    return this.#team.read(address, byteLength);
  }
}
