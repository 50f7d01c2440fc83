/** How pieces of stored tensors get into device memory: through slots, or out of files that are memory themselves. */
import type { Binding, Device, DeviceBuffer, Launch, MappedFile } from '../accelerators/device.ts';
import { CheckpointError } from '../checkpoint/error.ts';
import type { CheckpointReader } from '../checkpoint/files.ts';
import type { Kernel } from '../tile/ir.ts';

/** Pieces begin at multiples of this in a slot. */
export const ALIGNMENT = 64;

/** A part of a stored tensor, and how it gets to its place. */
export interface Piece {
  readonly name: string;
  /** Bytes of the stored tensor. */
  readonly begin: number;
  readonly bytes: number;
  /** What the kernel writes. */
  readonly targets: readonly Binding[];
  /** What brings the bytes from a slot to the targets; null: they are read to the only one directly. */
  readonly kernel: Kernel | null;
}

/** Brings pieces to their places, in whatever order and number; all are there after `finish`. */
export interface Carrier extends AsyncDisposable {
  add(piece: Piece): Promise<void>;
  finish(): Promise<void>;
}

/** Fills device memory with a piece's bytes as they are. */
async function readPiece(
  device: Device,
  checkpoint: CheckpointReader,
  { name, begin, bytes }: Piece,
  target: Binding,
  view: Uint8Array | undefined,
): Promise<void> {
  const data = view ?? new Uint8Array(bytes);
  await checkpoint.readInto(name, begin, data);
  if (view === undefined) device.write(target.buffer, data, target.byteOffset);
}

async function runOnce(device: Device, launches: readonly Launch[]): Promise<void> {
  if (launches.length === 0) return;
  const executable = await device.compile(launches);
  try {
    await executable.run();
  } finally {
    executable.dispose();
  }
}

/**
 * Files are mapped, and one program reads them: no bytes are copied before, and JavaScript has no part in it once it
 * has begun.
 */
export class MappedFiles implements Carrier {
  readonly #device: Device;
  readonly #checkpoint: CheckpointReader;
  readonly #mapFile: (path: string) => MappedFile;
  readonly #files = new Map<string, MappedFile>();
  readonly #launches: Launch[] = [];
  readonly #reads: Promise<void>[] = [];
  #run: Promise<void> = Promise.resolve();

  constructor(device: Device, checkpoint: CheckpointReader, mapFile: (path: string) => MappedFile) {
    this.#device = device;
    this.#checkpoint = checkpoint;
    this.#mapFile = mapFile;
  }

  async add(piece: Piece): Promise<void> {
    const { name, begin, bytes, kernel, targets } = piece;
    if (kernel === null) {
      const [target] = targets;
      const view = this.#device.map?.(target.buffer, target.byteOffset, bytes);
      const read = readPiece(this.#device, this.#checkpoint, piece, target, view);
      read.catch(() => {});
      this.#reads.push(read);
      return;
    }
    const { path, position } = this.#checkpoint.locate(name);
    let file = this.#files.get(path);
    if (file === undefined) {
      file = this.#mapFile(path);
      this.#files.set(path, file);
    }
    if (position + begin + bytes > file.byteLength) throw cutOff(path);
    this.#launches.push({ kernel, bindings: [{ buffer: file, byteOffset: position + begin }, ...targets] });
  }

  async finish(): Promise<void> {
    this.#run = runOnce(this.#device, this.#launches);
    await Promise.all([this.#run, ...this.#reads]);
    for (const [path, file] of this.#files) if (file.damaged) throw cutOff(path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.#reads, this.#run]);
    for (const file of this.#files.values()) this.#device.free(file);
  }
}

const cutOff = (path: string) =>
  new CheckpointError(
    `${path}: the file was cut off, or could not be read, while the model was loaded; is something else writing it?`,
  );

/** A slot, and its memory as the host sees it, where it does. */
interface Slot {
  readonly buffer: DeviceBuffer;
  readonly view: Uint8Array | undefined;
}

/** Two slots of device memory by turns: while kernels work on what one holds, the other is filled. */
export class Slots implements Carrier {
  readonly #device: Device;
  readonly #checkpoint: CheckpointReader;
  readonly #slotBytes: number;
  /** The one that is filled comes first. Made when the first piece needs them. */
  #slots: Slot[] = [];
  #used = 0;
  #pending = 0;
  #reads: Promise<void>[] = [];
  #launches: Launch[] = [];
  #run: Promise<void> = Promise.resolve();

  constructor(device: Device, checkpoint: CheckpointReader, slotBytes: number) {
    this.#device = device;
    this.#checkpoint = checkpoint;
    this.#slotBytes = slotBytes;
  }

  async add(piece: Piece): Promise<void> {
    if (this.#pending > 0 && this.#pending + piece.bytes > this.#slotBytes) await this.#flush();
    const { kernel, targets, bytes } = piece;
    if (kernel === null) {
      const [{ buffer, byteOffset }] = targets;
      this.#begin(piece, buffer, byteOffset, this.#device.map?.(buffer, byteOffset, bytes));
    } else {
      // A row may be longer than a slot.
      const size = Math.max(this.#slotBytes, bytes);
      if (this.#slots.length === 0 || this.#slots[0].buffer.byteLength < size) await this.#reserve(size);
      const [{ buffer, view }] = this.#slots;
      const source = { buffer, byteOffset: this.#used };
      this.#begin(piece, buffer, this.#used, view?.subarray(this.#used, this.#used + bytes));
      this.#launches.push({ kernel, bindings: [source, ...targets] });
      this.#used += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
    }
    this.#pending += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
  }

  #begin(piece: Piece, target: DeviceBuffer, offset: number, view: Uint8Array | undefined): void {
    const read = readPiece(
      this.#device,
      this.#checkpoint,
      piece,
      { buffer: target, byteOffset: offset },
      view,
    );
    // `#flush` awaits it and hears of a failure; until then it must not count as unhandled.
    read.catch(() => {});
    this.#reads.push(read);
  }

  /** Lets the kernels begin once everything they need is there and the other slot is free again. */
  async #flush(): Promise<void> {
    await Promise.all(this.#reads);
    await this.#run;
    this.#run = runOnce(this.#device, this.#launches);
    this.#run.catch(() => {});
    [this.#reads, this.#launches, this.#used, this.#pending] = [[], [], 0, 0];
    this.#slots.reverse();
  }

  async #reserve(bytes: number): Promise<void> {
    await this.#flush();
    await this.#run;
    for (const { buffer } of this.#slots.splice(0)) this.#device.free(buffer);
    for (let i = 0; i < 2; i++) {
      const buffer = this.#device.allocate(bytes);
      // Once for all pieces: every view counts as memory that the collector of garbage hurries to free.
      this.#slots.push({ buffer, view: this.#device.map?.(buffer, 0, bytes) });
    }
  }

  async finish(): Promise<void> {
    await this.#flush();
    await this.#run;
  }

  /** Also after a failure: nothing may still write to memory that is then freed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.#reads, this.#run]);
    for (const { buffer } of this.#slots.splice(0)) this.#device.free(buffer);
  }
}
