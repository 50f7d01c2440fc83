/**
 * A model's weights from its folder into an accelerator's memory. Needs Node. They are transposed and rounded on the
 * device, by kernels, which read the files where the device can map them; else the files' bytes go to the device in
 * pieces as they are, the next ones while kernels work. So neither the host's memory nor its arithmetic is needed.
 */
import { join } from 'node:path';
import { z } from 'zod';
import type { Binding, Device } from '../accelerators/device.ts';
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
import type { Carrier, Piece } from './carriers.ts';
import { ALIGNMENT, MappedFiles, Slots } from './carriers.ts';
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
  /**
   * Bytes that are read before they are worked on together; there are two slots of this size. Where it is left out, files
   * are mapped if the device can.
   */
  readonly slotBytes?: number;
}

/** Large enough that a read is a few calls and a run keeps all threads busy, small enough to stay in the cache. */
const SLOT_BYTES = 8 * 2 ** 20;
const DEVICE_TYPE: { readonly [T in FloatType]: CopyType } = { F32: 'f32', BF16: 'bf16', F16: 'f16' };

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
  { slotBytes }: LoadOptions = {},
): Promise<LoadingWeights> {
  const configPath = join(folder, 'config.json');
  const config = parseConfig(await readJsonFile(configPath, z.unknown()), configPath);
  const checkpoint = await openCheckpoint(folder);
  try {
    const found = storedWeights(checkpoint, config, folder);
    const held = heldType(found, dtype);
    const weights = new WeightStore(device, config, held, 'panels');
    const mapFile = slotBytes === undefined ? device.mapFile?.bind(device) : undefined;
    const pieceBytes = mapFile === undefined ? (slotBytes ?? SLOT_BYTES) : Number.POSITIVE_INFINITY;
    const carrier =
      mapFile === undefined
        ? new Slots(device, checkpoint, pieceBytes)
        : new MappedFiles(device, checkpoint, mapFile);
    const done = readPieces(
      function* () {
        for (const { spec, info, type } of found) {
          const entries = heldTensors(config, spec, held, 'panels').map(({ name }) =>
            weights.store.get(name),
          );
          yield* piecesOf({ config, spec, dtype: held, info, stored: type, held: entries, pieceBytes });
        }
      },
      carrier,
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
  carrier: Carrier,
  checkpoint: CheckpointReader,
): Promise<void> {
  await using _reader = checkpoint;
  await using carrying = carrier;
  for (const piece of pieces()) await carrying.add(piece);
  await carrying.finish();
}

interface Stored {
  readonly config: Qwen3Config;
  readonly spec: WeightSpec;
  readonly dtype: HeldType;
  readonly info: TensorInfo;
  readonly stored: FloatType;
  /** Where the weight goes, as `heldTensors` lists it. */
  readonly held: readonly StoreEntry[];
  /** Of a piece, at most, where that is a row or more. */
  readonly pieceBytes: number;
}

function* piecesOf({ config, spec, dtype, info, stored, held, pieceBytes }: Stored): Generator<Piece> {
  const { name } = info;
  const total = info.end - info.begin;
  const from = DEVICE_TYPE[stored];
  const width = STORED_TYPE_BYTES[stored];
  const matrix = matrixShape(config, spec);
  const [{ type, buffer }, scales] = held;
  const to = type.dtype as CopyType;
  if (matrix !== null) {
    const [rows, columns] = matrix;
    const panel = panelsOf(columns).width;
    const rowBytes = rows * width;
    const atOnce = panel * Math.max(1, Math.floor(pieceBytes / (panel * rowBytes)));
    const step = total <= pieceBytes ? columns : atOnce;
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
  const step = total <= pieceBytes ? total : Math.max(ALIGNMENT, pieceBytes - (pieceBytes % ALIGNMENT));
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
