/** How each memory type is loaded, stored, widened to 32-bit lanes and narrowed again, without touching other memory. */
import type { Address, IntReg, MemoryType, VecReg } from '../loops/ir.ts';
import type { FunctionBody } from './body.ts';
import type { AccessOp, LaneAccessOp, VectorAccessOp } from './opcodes.ts';

const SIGN = 0x80000000;
const INFINITY = 0x7f800000;
const QUIET_NAN = 0x7fc00000;

/** [f32 lanes] to [f32 lanes]: rounded to bf16, nearest even; a NaN made quiet, its payload cut. */
export function emitRoundBf16(body: FunctionBody): void {
  const { code } = body;
  const value = body.temporary('v128', 0);
  code.set(value);
  code.get(value).v128Splat(0xffff0000).vector('v128.and').v128Splat(0x00400000).vector('v128.or');
  code.get(value).i32(16).vector('i32x4.shr_u').v128Splat(1).vector('v128.and');
  code.v128Splat(0x7fff).vector('i32x4.add').get(value).vector('i32x4.add');
  code.v128Splat(0xffff0000).vector('v128.and');
  code.get(value).get(value).vector('f32x4.ne').vector('v128.bitselect');
}

/** A float format of 16 or 8 bits that has subnormals. */
interface SmallFloat {
  readonly width: 8 | 16;
  readonly fractionBits: number;
  readonly bias: number;
  /** Bits of the largest finite number. */
  readonly largest: number;
  /** What numbers beyond it become: infinity, or the largest. */
  readonly overflow: number;
  /** f32 bits or-ed in when widening what lies beyond `largest`. */
  readonly special: number;
  /** The bits of every NaN, or 'payload': the sign and as much of the payload as there is room for are kept. */
  readonly nan: number | 'payload';
}

const F16: SmallFloat = {
  width: 16,
  fractionBits: 10,
  bias: 15,
  largest: 0x7bff,
  overflow: 0x7c00,
  special: INFINITY,
  nan: 'payload',
};
const E4M3: SmallFloat = {
  width: 8,
  fractionBits: 3,
  bias: 7,
  largest: 0x7e,
  overflow: 0x7e,
  special: QUIET_NAN,
  nan: 0x7f,
};
const E5M2: SmallFloat = {
  width: 8,
  fractionBits: 2,
  bias: 15,
  largest: 0x7b,
  overflow: 0x7b,
  special: INFINITY,
  nan: 0x7e,
};

/** [f32 lanes] to [the format's bits in 32-bit lanes], nearest even. */
function emitEncode(body: FunctionBody, format: SmallFloat): void {
  const { code } = body;
  const { width, fractionBits, bias, overflow, nan } = format;
  const value = body.temporary('v128', 0);
  const magnitude = body.temporary('v128', 1);
  const sign = body.temporary('v128', 2);
  const dropped = 23 - fractionBits;
  const rebase = (127 - bias) << 23;
  const smallestNormal = (128 - bias) << 23;
  // In the binade of this number one unit in the last place is the format's smallest subnormal:
  // adding it rounds to a multiple of that, nearest even, and leaves the multiple in the low bits.
  const aligner = (128 - bias - fractionBits + 23) << 23;
  code.tee(value).v128Splat(0x7fffffff).vector('v128.and').set(magnitude);
  code
    .get(value)
    .i32(32 - width)
    .vector('i32x4.shr_u');
  code
    .v128Splat(1 << (width - 1))
    .vector('v128.and')
    .set(sign);
  // NaN
  if (nan === 'payload') {
    const fraction = (1 << fractionBits) - 1;
    code.get(magnitude).i32(dropped).vector('i32x4.shr_u').v128Splat(fraction).vector('v128.and');
    code
      .v128Splat(overflow | (1 << (fractionBits - 1)))
      .vector('v128.or')
      .get(sign)
      .vector('v128.or');
  } else {
    code.v128Splat(nan);
  }
  // subnormal
  code.get(magnitude).v128Splat(aligner).vector('f32x4.add').v128Splat(aligner).vector('i32x4.sub');
  // normal: a carry out of the fraction moves on to the exponent
  code.get(magnitude).i32(dropped).vector('i32x4.shr_u').v128Splat(1).vector('v128.and');
  code.v128Splat((1 << (dropped - 1)) - 1 - rebase).vector('i32x4.add');
  code.get(magnitude).vector('i32x4.add').i32(dropped).vector('i32x4.shr_s');
  code.v128Splat(overflow).vector('i32x4.min_s');
  code.get(magnitude).v128Splat(smallestNormal).vector('i32x4.lt_s').vector('v128.bitselect');
  code.get(sign).vector('v128.or');
  code.get(value).get(value).vector('f32x4.ne').vector('v128.bitselect');
}

/** [the format's bits in 32-bit lanes, zero above] to [f32 lanes], exactly. */
function emitDecode(body: FunctionBody, format: SmallFloat): void {
  const { code } = body;
  const { width, fractionBits, bias, largest, special } = format;
  const bits = body.temporary('v128', 0);
  const magnitude = body.temporary('v128', 1);
  const shift = 23 - fractionBits;
  const rebase = (127 - bias) << 23;
  const smallestNormal = (128 - bias) << 23;
  code
    .tee(bits)
    .v128Splat((1 << (width - 1)) - 1)
    .vector('v128.and');
  code.i32(shift).vector('i32x4.shl').set(magnitude);
  // subnormal: the smallest normal number plus the fraction, minus that number
  code.get(magnitude).v128Splat(smallestNormal).vector('i32x4.add');
  code.v128Splat(smallestNormal).vector('f32x4.sub');
  // normal
  code.get(magnitude).v128Splat(rebase).vector('i32x4.add');
  code
    .get(magnitude)
    .v128Splat(1 << 23)
    .vector('i32x4.lt_s')
    .vector('v128.bitselect');
  // infinity, NaN
  code
    .get(magnitude)
    .v128Splat(largest << shift)
    .vector('i32x4.gt_s');
  code.v128Splat(special).vector('v128.and').vector('v128.or');
  code
    .get(bits)
    .i32(32 - width)
    .vector('i32x4.shl')
    .v128Splat(SIGN)
    .vector('v128.and')
    .vector('v128.or');
}

/** [f32 lanes] to [f32 lanes]: rounded to f16 and widened again. */
export function emitRoundF16(body: FunctionBody): void {
  emitEncode(body, F16);
  emitDecode(body, F16);
}

interface Representation {
  readonly bytes: 1 | 2 | 4;
  /** Extended by the sign to 32 bits, before `decode`. */
  readonly signed?: boolean;
  /** [elements extended to 32-bit lanes] to [values]. */
  decode(body: FunctionBody): void;
  /** [values] to [elements in the low bits of 32-bit lanes]. */
  encode(body: FunctionBody): void;
}

function keep(): void {}

function smallFloat(bytes: 1 | 2, format: SmallFloat): Representation {
  return {
    bytes,
    decode: (body) => emitDecode(body, format),
    encode: (body) => emitEncode(body, format),
  };
}

const REPRESENTATIONS: { readonly [T in MemoryType]: Representation } = {
  f32: { bytes: 4, decode: keep, encode: keep },
  i32: { bytes: 4, decode: keep, encode: keep },
  u32: { bytes: 4, decode: keep, encode: keep },
  bf16: {
    bytes: 2,
    decode: ({ code }) => code.i32(16).vector('i32x4.shl'),
    encode: (body) => {
      emitRoundBf16(body);
      body.code.i32(16).vector('i32x4.shr_u');
    },
  },
  f16: smallFloat(2, F16),
  f8e4m3: smallFloat(1, E4M3),
  f8e5m2: smallFloat(1, E5M2),
  i8: { bytes: 1, signed: true, decode: keep, encode: keep },
  u8: { bytes: 1, decode: keep, encode: keep },
  u16: { bytes: 2, decode: keep, encode: keep },
};

/** Instructions by the size of an element. */
interface Sized {
  /** Four elements, into the low bytes. */
  readonly load: VectorAccessOp;
  readonly loadLane: LaneAccessOp;
  readonly loadSplat: VectorAccessOp;
  readonly storeLane: LaneAccessOp;
  readonly storeScalar: AccessOp;
}

const SIZED: { readonly [B in 1 | 2 | 4]: Sized } = {
  1: {
    load: 'v128.load32_zero',
    loadLane: 'v128.load8_lane',
    loadSplat: 'v128.load8_splat',
    storeLane: 'v128.store8_lane',
    storeScalar: 'i32.store8',
  },
  2: {
    load: 'v128.load64_zero',
    loadLane: 'v128.load16_lane',
    loadSplat: 'v128.load16_splat',
    storeLane: 'v128.store16_lane',
    storeScalar: 'i32.store16',
  },
  4: {
    load: 'v128.load',
    loadLane: 'v128.load32_lane',
    loadSplat: 'v128.load32_splat',
    storeLane: 'v128.store32_lane',
    storeScalar: 'i32.store',
  },
};

/** [elements in the low bytes] to [values]. */
function emitUnpack(body: FunctionBody, { bytes, signed, decode }: Representation): void {
  const { code } = body;
  if (bytes === 1) code.vector(signed ? 'i16x8.extend_low_i8x16_s' : 'i16x8.extend_low_i8x16_u');
  if (bytes <= 2) code.vector(signed ? 'i32x4.extend_low_i16x8_s' : 'i32x4.extend_low_i16x8_u');
  decode(body);
}

/** [values] to [elements in the low bytes]. */
function emitPack(body: FunctionBody, { bytes, encode }: Representation): void {
  encode(body);
  if (bytes === 4) return;
  const { code } = body;
  const packed = body.temporary('v128', 0);
  code.tee(packed).get(packed);
  const low = [0, 4, 8, 12].flatMap((lane) => (bytes === 1 ? [lane] : [lane, lane + 1]));
  code.shuffleBytes(Array.from({ length: 16 }, (_, byte) => low[byte % low.length]!));
}

export function emitLoad(body: FunctionBody, type: MemoryType, from: Address): void {
  const representation = REPRESENTATIONS[type];
  const offset = body.address(from);
  body.code.vectorAccess(SIZED[representation.bytes].load, offset);
  emitUnpack(body, representation);
}

export function emitBroadcast(body: FunctionBody, type: MemoryType, from: Address): void {
  const representation = REPRESENTATIONS[type];
  const { bytes, signed, decode } = representation;
  const { code } = body;
  const offset = body.address(from);
  code.vectorAccess(SIZED[bytes].loadSplat, offset);
  if (bytes < 4) code.i32(32 - 8 * bytes).vector(signed ? 'i32x4.shr_s' : 'i32x4.shr_u');
  decode(body);
}

export function emitLoadPart(body: FunctionBody, type: MemoryType, from: Address, count: IntReg): void {
  const representation = REPRESENTATIONS[type];
  const { bytes } = representation;
  const { code } = body;
  const address = body.temporary('i32', 0);
  const loaded = body.temporary('v128', 0);
  const offset = body.address(from);
  code.set(address);
  body.get(count);
  code.i32(4).plain('i32.ge_s').if();
  code.get(address).vectorAccess(SIZED[bytes].load, offset).set(loaded);
  code.else();
  code.v128Splat(0).set(loaded).block();
  for (let lane = 0; lane < 3; lane++) {
    body.get(count);
    code.i32(lane).plain('i32.le_s').brIf(0);
    code
      .get(address)
      .get(loaded)
      .laneAccess(SIZED[bytes].loadLane, offset + lane * bytes, lane);
    code.set(loaded);
  }
  code.end().end().get(loaded);
  emitUnpack(body, representation);
}

export function emitStore(body: FunctionBody, type: MemoryType, to: Address, source: VecReg): void {
  const representation = REPRESENTATIONS[type];
  const { code } = body;
  const offset = body.address(to);
  body.get(source);
  emitPack(body, representation);
  if (representation.bytes === 4) code.vectorAccess('v128.store', offset);
  else code.laneAccess(representation.bytes === 2 ? 'v128.store64_lane' : 'v128.store32_lane', offset, 0);
}

export function emitStorePart(
  body: FunctionBody,
  type: MemoryType,
  to: Address,
  source: VecReg,
  count: IntReg,
): void {
  const representation = REPRESENTATIONS[type];
  const { bytes } = representation;
  const { code } = body;
  const address = body.temporary('i32', 0);
  const packed = body.temporary('v128', 0);
  const offset = body.address(to);
  code.set(address);
  body.get(source);
  emitPack(body, representation);
  code.set(packed).block();
  for (let lane = 0; lane < 4; lane++) {
    body.get(count);
    code.i32(lane).plain('i32.le_s').brIf(0);
    code
      .get(address)
      .get(packed)
      .laneAccess(SIZED[bytes].storeLane, offset + lane * bytes, lane);
  }
  code.end();
}

export function emitStoreFirst(body: FunctionBody, type: MemoryType, to: Address, source: VecReg): void {
  const { bytes, encode } = REPRESENTATIONS[type];
  const offset = body.address(to);
  body.get(source);
  encode(body);
  body.code.lane('i32x4.extract_lane', 0).access(SIZED[bytes].storeScalar, offset);
}
