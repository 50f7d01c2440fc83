/**
 * The WebAssembly instructions that kernels use, by kind of immediate, with their binary opcodes (WebAssembly Core
 * Specification 2.0, "Binary Format: Instructions"; threads and relaxed SIMD from their proposals). The name of an
 * opcode in the text format is its key. The vector and the atomic instructions are numbers behind a prefix byte.
 */

export const VECTOR_PREFIX = 0xfd;
export const ATOMIC_PREFIX = 0xfe;

/** One byte, no immediates. */
export const PLAIN = {
  unreachable: 0x00,
  return: 0x0f,
  drop: 0x1a,
  select: 0x1b,
  'i32.eqz': 0x45,
  'i32.eq': 0x46,
  'i32.ne': 0x47,
  'i32.lt_s': 0x48,
  'i32.lt_u': 0x49,
  'i32.gt_s': 0x4a,
  'i32.gt_u': 0x4b,
  'i32.le_s': 0x4c,
  'i32.le_u': 0x4d,
  'i32.ge_s': 0x4e,
  'i32.ge_u': 0x4f,
  'i32.add': 0x6a,
  'i32.sub': 0x6b,
  'i32.mul': 0x6c,
  'i32.div_s': 0x6d,
  'i32.rem_s': 0x6f,
  'i32.and': 0x71,
  'i32.or': 0x72,
  'i32.xor': 0x73,
  'i32.shl': 0x74,
  'i32.shr_s': 0x75,
  'i32.shr_u': 0x76,
} as const;
export type PlainOp = keyof typeof PLAIN;

/** Scalar loads and stores: an address and a static offset. */
export const ACCESS = {
  'i32.load': 0x28,
  'i32.load8_s': 0x2c,
  'i32.load8_u': 0x2d,
  'i32.load16_u': 0x2f,
  'i32.store': 0x36,
  'i32.store8': 0x3a,
  'i32.store16': 0x3b,
} as const;
export type AccessOp = keyof typeof ACCESS;

/** Vector instructions without immediates. */
export const VECTOR = {
  'i8x16.splat': 15,
  'i32x4.splat': 17,
  'i32x4.eq': 55,
  'i32x4.lt_s': 57,
  'i32x4.lt_u': 58,
  'i32x4.gt_s': 59,
  'i32x4.gt_u': 60,
  'i32x4.le_s': 61,
  'i32x4.le_u': 62,
  'f32x4.eq': 65,
  'f32x4.ne': 66,
  'f32x4.lt': 67,
  'f32x4.le': 69,
  'v128.not': 77,
  'v128.and': 78,
  'v128.andnot': 79,
  'v128.or': 80,
  'v128.xor': 81,
  'v128.bitselect': 82,
  'f32x4.floor': 104,
  'f32x4.nearest': 106,
  'i16x8.extend_low_i8x16_s': 135,
  'i16x8.extend_low_i8x16_u': 137,
  'i16x8.shl': 139,
  'i16x8.shr_s': 140,
  'i16x8.shr_u': 141,
  'i32x4.extend_low_i16x8_s': 167,
  'i32x4.extend_low_i16x8_u': 169,
  'i32x4.shl': 171,
  'i32x4.shr_s': 172,
  'i32x4.shr_u': 173,
  'i32x4.add': 174,
  'i32x4.sub': 177,
  'i32x4.mul': 181,
  'i32x4.min_s': 182,
  'i32x4.min_u': 183,
  'i32x4.max_s': 184,
  'i32x4.max_u': 185,
  'i32x4.dot_i16x8_s': 186,
  'i64x2.extmul_low_i32x4_u': 222,
  'i64x2.extmul_high_i32x4_u': 223,
  'f32x4.abs': 224,
  'f32x4.neg': 225,
  'f32x4.sqrt': 227,
  'f32x4.add': 228,
  'f32x4.sub': 229,
  'f32x4.mul': 230,
  'f32x4.div': 231,
  'f32x4.min': 232,
  'f32x4.max': 233,
  'f32x4.pmin': 234,
  'f32x4.pmax': 235,
  'i32x4.trunc_sat_f32x4_s': 248,
  'i32x4.trunc_sat_f32x4_u': 249,
  'f32x4.convert_i32x4_s': 250,
  'f32x4.convert_i32x4_u': 251,
  /** Relaxed SIMD: a * b + c, rounded once or twice as the engine likes. */
  'f32x4.relaxed_madd': 0x105,
} as const;
export type VectorOp = keyof typeof VECTOR;

/** Vector loads and stores: an address and a static offset. */
export const VECTOR_ACCESS = {
  'v128.load': 0,
  'v128.load8_splat': 7,
  'v128.load16_splat': 8,
  'v128.load32_splat': 9,
  'v128.store': 11,
  'v128.load32_zero': 92,
  'v128.load64_zero': 93,
} as const;
export type VectorAccessOp = keyof typeof VECTOR_ACCESS;

/** Loads and stores of one lane: an address, a static offset and the lane. */
export const LANE_ACCESS = {
  'v128.load8_lane': 84,
  'v128.load16_lane': 85,
  'v128.load32_lane': 86,
  'v128.store8_lane': 88,
  'v128.store16_lane': 89,
  'v128.store32_lane': 90,
  'v128.store64_lane': 91,
} as const;
export type LaneAccessOp = keyof typeof LANE_ACCESS;

/** A lane as immediate. */
export const LANE = { 'i32x4.extract_lane': 27, 'i32x4.replace_lane': 28 } as const;
export type LaneOp = keyof typeof LANE;

/** Atomic accesses of 32 bits: an address and a static offset. */
export const ATOMIC = {
  'memory.atomic.notify': 0x00,
  'memory.atomic.wait32': 0x01,
  'i32.atomic.load': 0x10,
  'i32.atomic.store': 0x17,
  'i32.atomic.rmw.add': 0x1e,
  'i32.atomic.rmw.sub': 0x25,
} as const;
export type AtomicOp = keyof typeof ATOMIC;

/** Instructions with immediates of their own kind; `Code` has a method for each. */
export const SPECIAL = {
  block: 0x02,
  loop: 0x03,
  if: 0x04,
  else: 0x05,
  end: 0x0b,
  br: 0x0c,
  br_if: 0x0d,
  call_indirect: 0x11,
  'local.get': 0x20,
  'local.set': 0x21,
  'local.tee': 0x22,
  'i32.const': 0x41,
  'i64.const': 0x42,
} as const;
export const VECTOR_SPECIAL = { 'v128.const': 12, 'i8x16.shuffle': 13 } as const;
