/** Places blocks that live for a while into one arena, so that blocks alive at the same time do not overlap. */

export interface Block {
  readonly bytes: number;
  /** First and last step at which the contents matter, both included. */
  readonly first: number;
  readonly last: number;
}

export interface Placement {
  /** Byte offset of each block, in their order. */
  readonly offsets: readonly number[];
  /** Size of the arena. */
  readonly bytes: number;
}

/** Vector loads and cache lines of every accelerator divide this. */
export const ALIGNMENT = 64;

export function align(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

/** First fit, larger blocks first (of equal size: the earlier). */
export function placeBlocks(blocks: readonly Block[]): Placement {
  const order = blocks.map((_, index) => index);
  order.sort((a, b) => blocks[b].bytes - blocks[a].bytes || blocks[a].first - blocks[b].first || a - b);
  const offsets = new Array<number>(blocks.length).fill(0);
  /** Indices of placed blocks by ascending offset. */
  const placed: number[] = [];
  let total = 0;
  for (const index of order) {
    const block = blocks[index];
    let offset = 0;
    for (const other of placed) {
      if (blocks[other].first > block.last || blocks[other].last < block.first) continue;
      if (offset + block.bytes <= offsets[other]) break;
      offset = Math.max(offset, align(offsets[other] + blocks[other].bytes));
    }
    offsets[index] = offset;
    total = Math.max(total, offset + block.bytes);
    const at = placed.findIndex((other) => offsets[other] > offset);
    placed.splice(at < 0 ? placed.length : at, 0, index);
  }
  return { offsets, bytes: align(total) };
}
