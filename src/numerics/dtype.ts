/** The element types of Tandem: the only place where their sizes and kinds are written down. */

export type DType = 'f32' | 'bf16' | 'f16' | 'f8e4m3' | 'f8e5m2' | 'i32' | 'u32' | 'i8' | 'i4' | 'bool';

export interface DTypeInfo {
  /** Size in memory, in bits. `bool` is a byte in memory. */
  readonly bits: number;
  readonly kind: 'float' | 'int' | 'bool';
  /** True for the types in which arithmetic is done; the others are for storage and `dot` operands. */
  readonly arithmetic: boolean;
}

export const DTYPES: { readonly [D in DType]: DTypeInfo } = {
  f32: { bits: 32, kind: 'float', arithmetic: true },
  bf16: { bits: 16, kind: 'float', arithmetic: false },
  f16: { bits: 16, kind: 'float', arithmetic: false },
  f8e4m3: { bits: 8, kind: 'float', arithmetic: false },
  f8e5m2: { bits: 8, kind: 'float', arithmetic: false },
  i32: { bits: 32, kind: 'int', arithmetic: true },
  u32: { bits: 32, kind: 'int', arithmetic: true },
  i8: { bits: 8, kind: 'int', arithmetic: false },
  i4: { bits: 4, kind: 'int', arithmetic: false },
  bool: { bits: 8, kind: 'bool', arithmetic: true },
};

/** Bytes that `elements` contiguous elements of type `dtype` occupy. */
export function byteLength(dtype: DType, elements: number): number {
  return Math.ceil((elements * DTYPES[dtype].bits) / 8);
}

export function isFloat(dtype: DType): boolean {
  return DTYPES[dtype].kind === 'float';
}
