/** Values between JavaScript arrays and the bytes of device memory. */
import type { DType } from '../numerics/dtype.ts';
import { bf16BitsToF32, f16BitsToF32, f32ToBf16Bits, f32ToF16Bits } from '../numerics/float.ts';
import { elementCount } from '../tile/ir.ts';
import { typeText } from '../tile/types.ts';
import type { TensorType } from './types.ts';
import { GraphError } from './types.ts';

/** Row-major values on the host. */
export type HostArray = Float32Array | Int32Array | Uint32Array | Uint8Array;

interface Codec {
  readonly encode: (data: HostArray) => ArrayBufferView;
  readonly decode: (bytes: Uint8Array<ArrayBuffer>, count: number) => HostArray;
}

function half(toBits: (value: number) => number, fromBits: (bits: number) => number): Codec {
  return {
    encode: (data) => Uint16Array.from(data, toBits),
    decode: (bytes, count) =>
      Float32Array.from(new Uint16Array(bytes.buffer, bytes.byteOffset, count), fromBits),
  };
}

const CODECS: { readonly [D in DType]?: Codec } = {
  f32: {
    encode: (data) => (data instanceof Float32Array ? data : Float32Array.from(data)),
    decode: (bytes, count) => new Float32Array(bytes.buffer, bytes.byteOffset, count),
  },
  bf16: half(f32ToBf16Bits, bf16BitsToF32),
  f16: half(f32ToF16Bits, f16BitsToF32),
  i32: {
    encode: (data) => (data instanceof Int32Array ? data : Int32Array.from(data)),
    decode: (bytes, count) => new Int32Array(bytes.buffer, bytes.byteOffset, count),
  },
  u32: {
    encode: (data) => (data instanceof Uint32Array ? data : Uint32Array.from(data)),
    decode: (bytes, count) => new Uint32Array(bytes.buffer, bytes.byteOffset, count),
  },
  bool: {
    encode: (data) => Uint8Array.from(data as ArrayLike<number>, (value) => (value === 0 ? 0 : 1)),
    decode: (bytes, count) => bytes.slice(0, count),
  },
};

function codec(dtype: DType): Codec {
  const found = CODECS[dtype];
  if (found === undefined)
    throw new GraphError(`${dtype} values cannot be exchanged with the host; use bytes`);
  return found;
}

/** Device bytes of `data`. Throws `GraphError` when the count differs or floats are given for an integer tensor. */
export function encode(name: string, type: TensorType, data: HostArray): ArrayBufferView {
  const count = elementCount(type.shape);
  if (data.length !== count)
    throw new GraphError(`'${name}' is ${typeText(type)}, ${count} values, but ${data.length} were given`);
  if (data instanceof Float32Array && (type.dtype === 'i32' || type.dtype === 'u32'))
    throw new GraphError(
      `'${name}' is ${typeText(type)}, but floats were given; use an Int32Array or Uint32Array`,
    );
  return codec(type.dtype).encode(data);
}

/** Values of device bytes. */
export function decode(dtype: DType, count: number, bytes: Uint8Array<ArrayBuffer>): HostArray {
  return codec(dtype).decode(bytes, count);
}
