/**
 * A model's weights from its folder into an accelerator's memory. Needs Node. The files' bytes go to the device in
 * pieces as they are; they are transposed and rounded there, by kernels, while the next pieces are read. So
 * neither the host's memory nor its arithmetic is needed: beyond the weights themselves, two slots of device memory are.
 */
import { join } from 'node:path';
import { z } from 'zod';
import type { Binding, Device, DeviceBuffer, Launch } from '../accelerators/device.ts';
import type { CheckpointReader } from '../checkpoint/files.ts';
import { openCheckpoint, readJsonFile } from '../checkpoint/files.ts';
import { checkWeight } from '../checkpoint/layout.ts';
import type { FloatType, TensorInfo } from '../checkpoint/safetensors.ts';
import { checkFloat, STORED_TYPE_BYTES } from '../checkpoint/safetensors.ts';
import { convertKernel } from '../kernels/convert.ts';
import { packTransposed, panelsOf } from '../kernels/panels.ts';
import { isQuantized, quantizeColumns, quantizedShape } from '../kernels/quantized.ts';
import type { CopyType } from '../kernels/transpose.ts';
import type { Qwen3Config } from '../models/config.ts';
import { parseConfig } from '../models/config.ts';
import type { WeightSpec } from '../models/qwen3.ts';
import { heldTensors, matrixShape, weightSpecs } from '../models/qwen3.ts';
import { byteLength } from '../numerics/dtype.ts';
import type { StoreEntry } from '../tensor/store.ts';
import type { Kernel } from '../tile/ir.ts';
import type { HeldType } from './weights.ts';
import { WeightStore } from './weights.ts';

export interface LoadedWeights {
  readonly config: Qwen3Config;
  /** The caller's: dispose of it before the device is closed. */
  readonly weights: WeightStore;
}

/** Weights whose memory is there, and whose values are still being read. */
export interface LoadingWeights extends LoadedWeights {
  /**
   * Resolves when all values are there. Rejects with what `loadWeights` throws once nothing writes to them any more.
   * Until then nothing may read them or dispose of them.
   */
  readonly done: Promise<void>;
}

export interface LoadOptions {
  /** Bytes that are read before they are worked on together; there are two slots of this size. */
  readonly slotBytes?: number;
}

/** Large enough that a read is a few calls and a run keeps all threads busy, small enough to stay in the cache. */
const SLOT_BYTES = 8 * 2 ** 20;
/** Pieces begin at multiples of this. */
const ALIGNMENT = 64;

const DEVICE_TYPE: { readonly [T in FloatType]: CopyType } = { F32: 'f32', BF16: 'bf16', F16: 'f16' };

/** A part of a stored tensor, and how it gets to its place. */
interface Piece {
  readonly name: string;
  /** Bytes of the stored tensor. */
  readonly begin: number;
  readonly bytes: number;
  /** What the kernel writes. */
  readonly targets: readonly Binding[];
  /** What brings the bytes from a slot to the targets; null: they are read to the only one directly. */
  readonly kernel: Kernel | null;
}

/**
 * Reads a Qwen3 model's weights into `device`, in panels, rounded or quantized to `dtype` (norms: f32; f32 stays bf16
 * where the files hold that).
 * @throws CheckpointError or ConfigError where a file is missing, damaged, or lacks a weight or has one of a wrong
 *   shape or type; RangeError where it has sizes that `dtype` cannot hold; the device's error where its memory is too
 *   small
 */
export async function loadWeights(
  folder: string,
  device: Device,
  dtype: HeldType,
  options?: LoadOptions,
): Promise<LoadedWeights> {
  const { config, weights, done } = await beginLoading(folder, device, dtype, options);
  try {
    await done;
  } catch (error) {
    weights.dispose();
    throw error;
  }
  return { config, weights };
}

/** The same, but resolves once all is checked and allocated, so that programs can be compiled while values are read. */
export async function beginLoading(
  folder: string,
  device: Device,
  dtype: HeldType,
  { slotBytes = SLOT_BYTES }: LoadOptions = {},
): Promise<LoadingWeights> {
  const configPath = join(folder, 'config.json');
  const config = parseConfig(await readJsonFile(configPath, z.unknown()), configPath);
  const checkpoint = await openCheckpoint(folder);
  try {
    const found = storedWeights(checkpoint, config, folder);
    const held = heldType(found, dtype);
    const weights = new WeightStore(device, config, held, 'panels');
    const done = readPieces(
      function* () {
        for (const { spec, info, type } of found) {
          const entries = heldTensors(config, spec, held, 'panels').map(({ name }) =>
            weights.store.get(name),
          );
          yield* piecesOf({ config, spec, dtype: held, info, stored: type, held: entries, slotBytes });
        }
      },
      new Slots(device, checkpoint, slotBytes),
      checkpoint,
    );
    // Whoever began it awaits it, perhaps later; until then a failure must not count as unhandled.
    done.catch(() => {});
    return { config, weights, done };
  } catch (error) {
    await checkpoint.close();
    throw error;
  }
}

/** A weight as files hold it. */
export interface StoredWeight {
  readonly spec: WeightSpec;
  readonly info: TensorInfo;
  readonly type: FloatType;
}

/** A model's weights in a checkpoint. Throws CheckpointError where one is missing or has a wrong shape or type. */
export const storedWeights = (
  checkpoint: CheckpointReader,
  config: Qwen3Config,
  folder: string,
): StoredWeight[] =>
  weightSpecs(config).map((spec) => {
    const info = checkpoint.tensors.get(spec.name);
    checkWeight(spec, info, folder);
    return { spec, info, type: checkFloat(info) };
  });

/** How matrices are held that are multiplied in `dtype`: what is stored in bf16 need not be wider for f32. */
export function heldType<T extends HeldType>(found: readonly StoredWeight[], dtype: T): T | 'bf16' {
  const narrow = found.every(({ spec, type }) => spec.kind === 'norm' || type === 'BF16');
  return dtype === 'f32' && narrow ? 'bf16' : dtype;
}

/** Reads all into place, and closes the checkpoint. */
async function readPieces(
  pieces: () => Iterable<Piece>,
  slots: Slots,
  checkpoint: CheckpointReader,
): Promise<void> {
  await using _reader = checkpoint;
  await using reading = slots;
  for (const piece of pieces()) await reading.add(piece);
  await reading.finish();
}

interface Stored {
  readonly config: Qwen3Config;
  readonly spec: WeightSpec;
  readonly dtype: HeldType;
  readonly info: TensorInfo;
  readonly stored: FloatType;
  /** Where the weight goes, as `heldTensors` lists it. */
  readonly held: readonly StoreEntry[];
  readonly slotBytes: number;
}

function* piecesOf({ config, spec, dtype, info, stored, held, slotBytes }: Stored): Generator<Piece> {
  const { name, begin, end } = info;
  const from = DEVICE_TYPE[stored];
  const width = STORED_TYPE_BYTES[stored];
  const matrix = matrixShape(config, spec);
  const [{ type, buffer }, scales] = held;
  const to = type.dtype as CopyType;
  if (matrix !== null) {
    const [rows, columns] = matrix;
    const panel = panelsOf(columns).width;
    const rowBytes = rows * width;
    const step = panel * Math.max(1, Math.floor(slotBytes / (panel * rowBytes)));
    for (let column = 0; column < columns; column += step) {
      const count = Math.min(step, columns - column);
      const options = { columns: count, rows, width: panel };
      const at = (target: StoreEntry, perColumn: number): Binding => ({
        buffer: target.buffer,
        byteOffset: byteLength(target.type.dtype, column * perColumn),
      });
      const piece = { name, begin: column * rowBytes, bytes: count * rowBytes };
      if (isQuantized(dtype)) {
        const { words, groups } = quantizedShape(dtype, rows);
        const kernel = quantizeColumns({ ...options, type: dtype, xType: from });
        yield { ...piece, targets: [at(held[0], words), at(scales, groups)], kernel };
      } else {
        const kernel = packTransposed({ ...options, type: from, yType: to });
        yield { ...piece, targets: [at(held[0], rows)], kernel };
      }
    }
    return;
  }
  const total = end - begin;
  const step = Math.max(ALIGNMENT, slotBytes - (slotBytes % ALIGNMENT));
  for (let at = 0; at < total; at += step) {
    const bytes = Math.min(step, total - at);
    yield {
      name,
      begin: at,
      bytes,
      targets: [{ buffer, byteOffset: byteLength(to, at / width) }],
      kernel: from === to ? null : convertKernel({ size: bytes / width, from, to }),
    };
  }
}

/** A slot, and its memory as the host sees it, where it does. */
interface Slot {
  readonly buffer: DeviceBuffer;
  readonly view: Uint8Array | undefined;
}

/** Two slots of device memory by turns: while kernels work on what one holds, the other is filled. */
class Slots implements AsyncDisposable {
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
    const read = this.#read(piece, target, offset, view);
    // `#flush` awaits it and hears of a failure; until then it must not count as unhandled.
    read.catch(() => {});
    this.#reads.push(read);
  }

  async #read(
    { name, begin, bytes }: Piece,
    target: DeviceBuffer,
    offset: number,
    view: Uint8Array | undefined,
  ): Promise<void> {
    const data = view ?? new Uint8Array(bytes);
    await this.#checkpoint.readInto(name, begin, data);
    if (view === undefined) this.#device.write(target, data, offset);
  }

  /** Lets the kernels begin once everything they need is there and the other slot is free again. */
  async #flush(): Promise<void> {
    await Promise.all(this.#reads);
    await this.#run;
    this.#run = this.#launches.length === 0 ? Promise.resolve() : this.#work(this.#launches);
    this.#run.catch(() => {});
    [this.#reads, this.#launches, this.#used, this.#pending] = [[], [], 0, 0];
    this.#slots.reverse();
  }

  async #work(launches: readonly Launch[]): Promise<void> {
    const executable = await this.#device.compile(launches);
    try {
      await executable.run();
    } finally {
      executable.dispose();
    }
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
