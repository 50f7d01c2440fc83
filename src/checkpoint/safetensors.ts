/**
 * The safetensors format (huggingface/safetensors, README "Format"): 8 bytes with the header's length, little
 * endian; the header, a JSON object of tensors; then the tensors' bytes, little endian, without gaps.
 *
 * Files come from strangers, so nothing in the header is believed before it is checked. All functions here
 * work on bytes in memory; `files.ts` reads and writes files.
 */
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../numerics/float.ts';
import { CheckpointError } from './error.ts';
import { duplicateKey, quoted } from './json.ts';

/** Bytes of one element, for every type that can be read. Types of less than a byte are not supported. */
export const STORED_TYPE_BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
  C64: 8,
} as const;

export type StoredType = keyof typeof STORED_TYPE_BYTES;

/** The type, shape and place of a tensor. */
export interface TensorInfo {
  readonly name: string;
  readonly dtype: StoredType;
  readonly shape: readonly number[];
  /** First byte and the byte after the last, from the start of the data, which follows the header. */
  readonly begin: number;
  readonly end: number;
}

/** A tensor with its bytes, little endian, row-major. */
export interface StoredTensor {
  readonly name: string;
  readonly dtype: StoredType;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

export interface SafetensorsHeader {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: Readonly<Record<string, string>>;
  /** Where the data begins, in bytes from the start of the file. */
  readonly dataOffset: number;
}

const PREFIX_BYTES = 8;
const MAX_HEADER_BYTES = 100_000_000;
const METADATA_KEY = '__metadata__';

/**
 * Checks the length of the header, which the first 8 bytes state.
 * @param prefix at least the first 8 bytes, or the whole file where it is shorter
 * @param fileSize bytes in the whole file
 * @returns bytes of the header, without the 8 before it
 */
export function headerLength(prefix: Uint8Array, fileSize: number): number {
  if (fileSize < PREFIX_BYTES || prefix.length < PREFIX_BYTES) {
    throw new CheckpointError(
      `the file has ${fileSize} bytes, but a safetensors file begins with 8 bytes that state its header's length`,
    );
  }
  const stated = new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true);
  if (stated > BigInt(MAX_HEADER_BYTES)) {
    throw new CheckpointError(
      `the header's length is stated as ${stated} bytes, more than the limit of ${MAX_HEADER_BYTES}: ` +
        'this is not a safetensors file, or it is damaged',
    );
  }
  const length = Number(stated);
  if (PREFIX_BYTES + length > fileSize) {
    throw new CheckpointError(
      `the header's length is stated as ${length} bytes, but the file ends ${fileSize - PREFIX_BYTES} bytes ` +
        'after that statement: it is cut off or damaged',
    );
  }
  if (length < 2) {
    throw new CheckpointError(`the header's length is stated as ${length} bytes, too few for a JSON object`);
  }
  return length;
}

/**
 * Reads and checks a header.
 * @param head the file's first bytes, at least to the end of the header
 * @param fileSize bytes in the whole file
 * @throws CheckpointError that names the tensor and says what is wrong with it
 */
export function parseHeader(head: Uint8Array, fileSize: number): SafetensorsHeader {
  const length = headerLength(head, fileSize);
  const dataOffset = PREFIX_BYTES + length;
  if (head.length < dataOffset) {
    throw new RangeError(`parseHeader needs the first ${dataOffset} bytes, but got ${head.length}`);
  }
  const entries = parseObject(head.subarray(PREFIX_BYTES, dataOffset));
  const metadata = checkMetadata(entries.get(METADATA_KEY));
  const tensors = new Map<string, TensorInfo>();
  for (const [name, entry] of entries) {
    if (name !== METADATA_KEY) tensors.set(name, checkTensor(name, entry));
  }
  checkLayout(tensors.values(), fileSize - dataOffset);
  return { tensors, metadata, dataOffset };
}

/** Reads a file that is in memory whole. The tensors' bytes are views of `bytes`, not copies. */
export function parseSafetensors(bytes: Uint8Array): {
  tensors: Map<string, StoredTensor>;
  metadata: Readonly<Record<string, string>>;
} {
  const header = parseHeader(bytes, bytes.length);
  const tensors = new Map<string, StoredTensor>();
  for (const [name, { dtype, shape, begin, end }] of header.tensors) {
    const data = bytes.subarray(header.dataOffset + begin, header.dataOffset + end);
    tensors.set(name, { name, dtype, shape, data });
  }
  return { tensors, metadata: header.metadata };
}

function parseObject(bytes: Uint8Array): Map<string, unknown> {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new CheckpointError('the header is not valid UTF-8');
  }
  if (text[0] !== '{') throw new CheckpointError("the header does not begin with '{'");
  let value: object;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new CheckpointError(`the header is not valid JSON: ${(error as Error).message}`);
  }
  const twice = duplicateKey(text);
  if (twice !== undefined) throw new CheckpointError(`the header has the key ${quoted(twice)} twice`);
  return new Map(Object.entries(value));
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function checkMetadata(value: unknown): Record<string, string> {
  if (value === undefined) return {};
  if (!isObject(value)) throw new CheckpointError(`${METADATA_KEY} must be an object of strings`);
  for (const [key, entry] of Object.entries(value)) {
    if (typeof entry !== 'string') {
      throw new CheckpointError(`${METADATA_KEY}: the value of ${quoted(key)} must be a string`);
    }
  }
  return value as Record<string, string>;
}

function checkTensor(name: string, entry: unknown): TensorInfo {
  const fail = (problem: string) => new CheckpointError(`tensor ${quoted(name)}: ${problem}`);
  if (!isObject(entry)) throw fail('its entry in the header must be an object');
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== 'string' || !Object.hasOwn(STORED_TYPE_BYTES, dtype)) {
    const known = Object.keys(STORED_TYPE_BYTES).join(', ');
    throw fail(`unknown dtype ${quoted(dtype)} (known: ${known})`);
  }
  if (!Array.isArray(shape)) throw fail('shape must be an array');
  let elements = 1;
  for (const size of shape) {
    if (!Number.isSafeInteger(size) || size < 0) {
      throw fail(`shape ${quoted(shape)} must hold whole numbers from 0 to 2^53 - 1`);
    }
    elements *= size;
    if (elements > Number.MAX_SAFE_INTEGER) throw fail(`shape ${quoted(shape)} has too many elements`);
  }
  const isOffset = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isOffset)) {
    throw fail(`data_offsets must be two whole numbers from 0 to 2^53 - 1, but is ${quoted(offsets)}`);
  }
  const [begin, end] = offsets as [number, number];
  if (end < begin) throw fail(`its data ends at byte ${end}, before it begins at byte ${begin}`);
  const bytes = elements * STORED_TYPE_BYTES[dtype as StoredType];
  if (end - begin !== bytes) {
    throw fail(`${dtype} of shape ${quoted(shape)} needs ${bytes} bytes, but it has ${end - begin}`);
  }
  return { name, dtype: dtype as StoredType, shape, begin, end };
}

/** The tensors must cover the data exactly: no byte twice, none left out. */
function checkLayout(tensors: Iterable<TensorInfo>, dataBytes: number): void {
  const sorted = [...tensors].sort((a, b) => a.begin - b.begin || a.end - b.end);
  let covered = 0;
  for (const { name, begin, end } of sorted) {
    const subject = `tensor ${quoted(name)}`;
    if (end > dataBytes) {
      throw new CheckpointError(
        `${subject}: its data ends at byte ${end}, but the file holds only ${dataBytes} bytes of data: ` +
          'it is cut off or damaged',
      );
    }
    if (begin < covered) {
      throw new CheckpointError(
        `${subject}: its data begins at byte ${begin} and overlaps another tensor's, which ends at byte ${covered}`,
      );
    }
    if (begin > covered) {
      throw new CheckpointError(
        `${subject}: its data begins at byte ${begin}, which leaves a gap after byte ${covered}`,
      );
    }
    covered = end;
  }
  if (covered < dataBytes) {
    throw new CheckpointError(`the file has ${dataBytes - covered} bytes after the last tensor`);
  }
}

/**
 * The beginning of a file that holds these tensors, and the order in which their bytes must follow it: wide
 * types first, then by name, so that every tensor is aligned to its element and equal contents give equal
 * files.
 */
export function serializeHeader<T extends StoredTensor>(
  tensors: Iterable<T>,
  metadata: Readonly<Record<string, string>> = {},
): { head: Uint8Array; ordered: T[] } {
  const ordered = [...tensors].sort(
    (a, b) => STORED_TYPE_BYTES[b.dtype] - STORED_TYPE_BYTES[a.dtype] || (a.name < b.name ? -1 : 1),
  );
  const entries = new Map<string, unknown>();
  if (Object.keys(metadata).length > 0) entries.set(METADATA_KEY, checkMetadata(metadata));
  let offset = 0;
  for (const { name, dtype, shape, data } of ordered) {
    if (name === METADATA_KEY) throw new CheckpointError(`a tensor must not be named ${METADATA_KEY}`);
    if (entries.has(name)) throw new CheckpointError(`two tensors are named ${quoted(name)}`);
    const end = offset + data.length;
    checkTensor(name, { dtype, shape, data_offsets: [offset, end] });
    entries.set(name, { dtype, shape, data_offsets: [offset, end] });
    offset = end;
  }
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  const length = Math.ceil(json.length / 8) * 8;
  if (length > MAX_HEADER_BYTES) {
    throw new CheckpointError(
      `the header would have ${length} bytes, more than the limit of ${MAX_HEADER_BYTES}`,
    );
  }
  const head = new Uint8Array(PREFIX_BYTES + length).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(length), true);
  head.set(json, PREFIX_BYTES);
  return { head, ordered };
}

/** A whole file in memory. */
export function serializeSafetensors(
  tensors: Iterable<StoredTensor>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const { head, ordered } = serializeHeader(tensors, metadata);
  const file = new Uint8Array(ordered.reduce((total, { data }) => total + data.length, head.length));
  file.set(head);
  let offset = head.length;
  for (const { data } of ordered) {
    file.set(data, offset);
    offset += data.length;
  }
  return file;
}

/** The types that convert to and from float32 here. */
export type FloatType = 'F32' | 'BF16' | 'F16';

/** A tensor's type. Throws CheckpointError where it is not F32, BF16 or F16. */
export function checkFloat({ name, dtype }: Pick<TensorInfo, 'name' | 'dtype'>): FloatType {
  if (dtype === 'F32' || dtype === 'BF16' || dtype === 'F16') return dtype;
  throw new CheckpointError(`tensor ${quoted(name)}: is ${dtype}, but F32, BF16 or F16 is needed here`);
}

/**
 * A tensor's values as float32, exactly, as a new array.
 * @throws CheckpointError where its type is not F32, BF16 or F16
 */
export function toFloat32(tensor: StoredTensor): Float32Array {
  // A copy, because the data of a file may begin at any byte, which typed arrays cannot.
  const { buffer } = new Uint8Array(tensor.data);
  return VALUES[checkFloat(tensor)](buffer);
}

const VALUES: { readonly [T in FloatType]: (bytes: ArrayBuffer) => Float32Array } = {
  F32: (bytes) => new Float32Array(bytes),
  BF16: (bytes) => bf16ToF32(new Uint16Array(bytes)),
  F16: (bytes) => f16ToF32(new Uint16Array(bytes)),
};

/** A tensor to be stored, from float32 values, rounded to nearest even where `dtype` is narrower. */
export function fromFloat32(
  name: string,
  shape: readonly number[],
  values: Float32Array,
  dtype: FloatType = 'F32',
): StoredTensor {
  const elements = shape.reduce((product, size) => product * size, 1);
  if (elements !== values.length) {
    throw new CheckpointError(
      `tensor ${quoted(name)}: shape ${quoted(shape)} has ${elements} elements, but there are ${values.length} values`,
    );
  }
  const stored = dtype === 'F32' ? values : dtype === 'BF16' ? f32ToBf16(values) : f32ToF16(values);
  return { name, dtype, shape, data: new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength) };
}
