/**
 * Which operands of a matrix product are read where they lie, and which are arranged first. Vector loops
 * (`accelerators/loops`) do it, and `schedule.ts` reckons with what it takes.
 */

/** Rows whose distance in bytes this divides fall into few sets of the first-level cache. */
const CONFLICT = 2048;
/** Of bf16 that is multiplied in pairs, half as much of a row is read at a time. */
const CONFLICT_OF_PAIRS = 4096;
/** As many lines as a set of the first-level cache holds: fewer rows stay there all the same. */
const WAYS = 8;

/** Whether so many rows of a, `stride` bytes apart, are copied, as they would drive each other out of the cache. */
export const rowsConflict = (rows: number, stride: number, paired: boolean): boolean =>
  rows >= WAYS && stride % (paired ? CONFLICT_OF_PAIRS : CONFLICT) === 0;

/** Register tiles along m up to which packing b takes longer than reading it in place again. */
const FEW_TILES = 2;

/** Whether b, which lies row by row, is packed into panels for so many rows of a. */
export const worthPacking = (rows: number, tileRows: number): boolean => rows > FEW_TILES * tileRows;
