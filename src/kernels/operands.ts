/**
 * Which operands of a matrix product are read where they lie, and which are arranged first. Vector loops
 * (`accelerators/loops`) do it, and `schedule.ts` reckons with what it takes.
 */

/** Lines of a set of the first-level cache where that is not known: few processors have fewer. */
export const LEAST_WAYS = 8;
/** From so many lines on, a set holds those of a register tile's rows of which every other one falls into it. */
const MANY_WAYS = 12;
/** Rows whose distance in bytes this divides fall into few sets of a first-level cache, whose sets repeat every 4 KiB. */
const CONFLICT = 2048;
/** Rows of which all fall into the same set: where it holds many, and of bf16 in pairs, where less of a row is read. */
const CONFLICT_OF_ALL = 4096;

/**
 * Whether so many rows of a, `stride` bytes apart, are copied, as they would drive each other out of the cache; fewer
 * rows than a set has lines (`ways`) stay there all the same.
 */
export const rowsConflict = (rows: number, stride: number, paired: boolean, ways: number): boolean =>
  rows >= ways && stride % (paired || ways >= MANY_WAYS ? CONFLICT_OF_ALL : CONFLICT) === 0;

/** Register tiles along m up to which packing b takes longer than reading it in place again. */
const FEW_TILES = 2;

/** Rows and vectors of the sums that stay in registers. */
export interface RegisterTile {
  readonly rows: number;
  readonly vectors: number;
}

/** Rows from which a product has the wide tile: with few, b is read from memory as often as there are tiles. */
const MANY_ROWS = 64;

/** Whether a product of [m, n] is computed in tiles that are wider than usual, where a processor is faster with those. */
export const fitsWideTile = (tile: RegisterTile, m: number, n: number, lanes: number): boolean =>
  m >= MANY_ROWS && n >= tile.vectors * lanes;

/** Whether b, which lies row by row, is packed into panels for so many rows of a. */
export const worthPacking = (rows: number, tileRows: number): boolean => rows > FEW_TILES * tileRows;
