/**
 * Weights as they travel: safetensors files, whole or as the difference from weights that the receiver has. This file
 * is the definition of both.
 *
 * The metadata of either says `tandem` ('weights' or 'weights-delta'), `version`, and `checksum`, that of the weights
 * which result (`weightsChecksum`). Tensors have the layout of `weightSpecs`, norms F32, the rest the model's type.
 *
 * A difference also says `base`, the checksum of the weights it applies to. It has an entry for each tensor whose bytes
 * changed: U8, one axis. Unpacked, that is old XOR new, in planes: the first byte of every element, then the second
 * byte of every element, and so on; packed, it is that in raw DEFLATE (RFC 1951). Small updates leave the high bytes of
 * an element as they were, so that whole planes are zeros.
 */
import { CheckpointError } from '../checkpoint/error.ts';
import type { StoredTensor } from '../checkpoint/safetensors.ts';
import {
  fromFloat32,
  parseSafetensors,
  STORED_TYPE_BYTES,
  serializeSafetensors,
  toFloat32,
} from '../checkpoint/safetensors.ts';
import type { WeightType } from '../inference/weights.ts';
import { storedType } from '../inference/weights.ts';
import type { Qwen3Config } from '../models/config.ts';
import type { WeightSpec } from '../models/qwen3.ts';
import { weightSpecs } from '../models/qwen3.ts';
import type { WeightUpdate } from './rollout.ts';
import { weightsChecksum } from './rollout.ts';

/** Weights that were sent are damaged, or do not fit what is there. */
export class TransferError extends Error {
  override name = 'TransferError';
}

/** The weights of one version, as bytes. */
export interface Snapshot {
  readonly version: number;
  readonly checksum: string;
  /** In the order of `weightSpecs`. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
}

const KINDS = { full: 'weights', delta: 'weights-delta' } as const;

const storedAs = (spec: WeightSpec, dtype: WeightType) =>
  storedType(spec.kind, dtype) === 'bf16' ? 'BF16' : 'F32';

/** `weights` must be values of the model's type (`roundWeights`): they are stored without loss, and not copied. */
export function takeSnapshot(
  config: Qwen3Config,
  dtype: WeightType,
  { version, weights }: WeightUpdate,
): Snapshot {
  const tensors = new Map(
    weightSpecs(config).map((spec) => [
      spec.name,
      fromFloat32(spec.name, spec.shape, weights.get(spec.name)!, storedAs(spec, dtype)),
    ]),
  );
  return { version, checksum: weightsChecksum(config, weights), tensors };
}

export function encodeFull({ version, checksum, tensors }: Snapshot): Uint8Array {
  return serializeSafetensors(tensors.values(), { tandem: KINDS.full, version: String(version), checksum });
}

/** What turns `base` into `next`, which must be of the same model. */
export async function encodeDelta(base: Snapshot, next: Snapshot): Promise<Uint8Array> {
  const changed: StoredTensor[] = [];
  for (const [name, { dtype, data }] of next.tensors) {
    const planes = differenceInPlanes(base.tensors.get(name)!.data, data, STORED_TYPE_BYTES[dtype]);
    if (planes === null) continue;
    const packed = await pack(planes);
    changed.push({ name, dtype: 'U8', shape: [packed.length], data: packed });
  }
  return serializeSafetensors(changed, {
    tandem: KINDS.delta,
    version: String(next.version),
    checksum: next.checksum,
    base: base.checksum,
  });
}

/** null where nothing differs. */
function differenceInPlanes(from: Uint8Array, to: Uint8Array, width: number): Uint8Array<ArrayBuffer> | null {
  const planes = new Uint8Array(to.length);
  const elements = to.length / width;
  let any = 0;
  for (let byte = 0; byte < width; byte++) {
    for (let i = 0; i < elements; i++) {
      const at = i * width + byte;
      const bits = from[at] ^ to[at];
      planes[byte * elements + i] = bits;
      any |= bits;
    }
  }
  return any === 0 ? null : planes;
}

function applyPlanes(from: Uint8Array, planes: Uint8Array, width: number): Uint8Array {
  const to = new Uint8Array(from.length);
  const elements = to.length / width;
  for (let byte = 0; byte < width; byte++) {
    for (let i = 0; i < elements; i++) {
      const at = i * width + byte;
      to[at] = from[at] ^ planes[byte * elements + i];
    }
  }
  return to;
}

async function pack(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream('deflate-raw'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Never makes more than `size` bytes, whatever it is given. */
async function unpack(packed: Uint8Array, size: number, name: string): Promise<Uint8Array> {
  const out = new Uint8Array(size);
  let filled = 0;
  const wrong = (problem: string) => new TransferError(`the difference of '${name}' ${problem}`);
  const stream = new Blob([new Uint8Array(packed)])
    .stream()
    .pipeThrough(new DecompressionStream('deflate-raw'));
  const reader = stream.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch((error: Error) => {
      throw wrong(`cannot be unpacked: ${error.message}`);
    });
    if (done) break;
    if (filled + value.length > size) {
      await reader.cancel().catch(() => {});
      throw wrong(`has more than the ${size} bytes of the tensor`);
    }
    out.set(value, filled);
    filled += value.length;
  }
  if (filled !== size) throw wrong(`has ${filled} bytes, not the ${size} of the tensor`);
  return out;
}

/** The receiving side: holds the last weights, so that differences can be applied. */
export class WeightReceiver {
  readonly #config: Qwen3Config;
  readonly #dtype: WeightType;
  #tensors = new Map<string, StoredTensor>();
  #checksum: string | null = null;

  constructor(config: Qwen3Config, dtype: WeightType) {
    this.#config = config;
    this.#dtype = dtype;
  }

  /**
   * The weights that a file of `encodeFull` or `encodeDelta` leads to.
   * @throws TransferError where it is damaged or does not apply; what was there before stays
   */
  async apply(file: Uint8Array): Promise<WeightUpdate> {
    const { tensors, metadata } = readFile(file);
    const { version, checksum } = metadata;
    const tensorsThen =
      metadata.tandem === KINDS.full ? this.#whole(tensors) : await this.#changed(tensors, metadata.base);
    const weights = new Map([...tensorsThen].map(([name, tensor]) => [name, toFloat32(tensor)]));
    const actual = weightsChecksum(this.#config, weights);
    if (actual !== checksum)
      throw new TransferError(
        `the weights of version ${version} arrived with checksum ${actual}, not ${checksum}: they are damaged`,
      );
    this.#tensors = tensorsThen;
    this.#checksum = checksum;
    return { version: Number(version), weights };
  }

  #whole(tensors: ReadonlyMap<string, StoredTensor>): Map<string, StoredTensor> {
    const specs = weightSpecs(this.#config);
    if (tensors.size !== specs.length)
      throw new TransferError(`${tensors.size} weights arrived, not ${specs.length}`);
    return new Map(
      specs.map((spec) => {
        const tensor = tensors.get(spec.name);
        if (tensor === undefined) throw new TransferError(`the weight '${spec.name}' is missing`);
        const [dtype, shape] = [storedAs(spec, this.#dtype), `[${spec.shape}]`];
        if (tensor.dtype !== dtype || `[${tensor.shape}]` !== shape)
          throw new TransferError(
            `the weight '${spec.name}' is ${tensor.dtype} [${tensor.shape}], not ${dtype} ${shape}`,
          );
        // A copy: the file's bytes need not be kept.
        return [spec.name, { ...tensor, data: new Uint8Array(tensor.data) }];
      }),
    );
  }

  async #changed(
    changes: ReadonlyMap<string, StoredTensor>,
    base: string | undefined,
  ): Promise<Map<string, StoredTensor>> {
    if (base !== this.#checksum)
      throw new TransferError(
        `a difference from weights with checksum ${base} arrived, but ${this.#checksum ?? 'none'} are here`,
      );
    const tensors = new Map(this.#tensors);
    for (const [name, { dtype, data }] of changes) {
      const old = tensors.get(name);
      if (old === undefined || dtype !== 'U8')
        throw new TransferError(`'${name}' of type ${dtype} is no difference of a weight of this model`);
      const planes = await unpack(data, old.data.length, name);
      tensors.set(name, { ...old, data: applyPlanes(old.data, planes, STORED_TYPE_BYTES[old.dtype]) });
    }
    return tensors;
  }
}

function readFile(file: Uint8Array) {
  let parsed: ReturnType<typeof parseSafetensors>;
  try {
    parsed = parseSafetensors(file);
  } catch (error) {
    if (error instanceof CheckpointError) throw new TransferError(`weights: ${error.message}`);
    throw error;
  }
  const { metadata } = parsed;
  const known = Object.values(KINDS).some((kind) => kind === metadata.tandem);
  if (!known || !/^\d+$/u.test(metadata.version ?? '') || metadata.checksum === undefined)
    throw new TransferError('the file is not one of weights that were sent: its metadata does not say so');
  return parsed;
}
