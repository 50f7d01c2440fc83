/**
 * Matrices that are read once, from memory, by products of few rows. Processors fetch ahead of ascending reads, but not
 * into the next page, whose addresses they do not know; each page would begin with a wait. So the code asks for the
 * first lines of a page while it reads the one before.
 */
import type { Code } from './code.ts';
import type { IntReg } from './ir.ts';

const LINE_BYTES = 64;
/** Lines of the next page that are asked for: as many as are read until the processor has seen where reads go. */
const LINES = 8;

function ask(
  code: Code,
  base: IntReg,
  { from, step, count }: { from: number; step: number; count: number },
): void {
  for (let index = 0; index < count; index++)
    code.emit({ o: 'prefetch', from: { base, displacement: from + step * index } });
}

/** To be called before each read of the next `bytes` bytes at `pointer`, which ascends by as many each time. */
export function fetchAhead(code: Code, pointer: IntReg, bytes: number): void {
  const { streamPage } = code.target;
  if (bytes >= streamPage) return;
  const within = code.int('and', pointer, streamPage - 1);
  code.if(code.int('lt', within, bytes), () =>
    ask(code, pointer, { from: streamPage, step: LINE_BYTES, count: LINES }),
  );
}

/** Asks for the `bytes` bytes that lie a page behind those at `base`: matrix registers are filled from rows of lines. */
export function fetchPageAhead(code: Code, base: IntReg, bytes: number): void {
  const { streamPage } = code.target;
  if (streamPage > 0)
    ask(code, base, { from: streamPage, step: LINE_BYTES, count: Math.ceil(bytes / LINE_BYTES) });
}

/** Lines from `next` on that are asked for at once, each time the ones behind those of the time before. */
export interface Following {
  readonly next: IntReg;
  readonly lines: number;
}

/**
 * What lies a page behind `bytes` bytes at `base`, or null where these are more than a page: then it would be driven out
 * before it is read. It is asked for at `places`, so evenly that what is multiplied meanwhile hides how long each takes.
 */
export function followingOf(
  code: Code,
  { base, bytes }: { readonly base: IntReg; readonly bytes: number },
  places: number,
): Following | null {
  const { streamPage } = code.target;
  if (bytes > streamPage) return null;
  const next = code.newInt();
  code.emit({ o: 'imove', dst: next, a: code.pointer(base, streamPage) });
  return { next, lines: Math.ceil(bytes / LINE_BYTES / places) };
}

export function fetchFollowing(code: Code, { next, lines }: Following): void {
  ask(code, next, { from: 0, step: LINE_BYTES, count: lines });
  code.emit({ o: 'ibin', dst: next, fn: 'add', a: next, b: LINE_BYTES * lines });
}

/** Steps along k from what is read to what is asked for, where these lie apart. */
const STEPS_AHEAD = 32;

/**
 * Asks for what the register tile after this one will read of the same stretch along k: processors do not see that coming
 * where rows are a stride apart. `step` and `k` are the bytes from row to row and along k.
 */
export function fetchNextTile(
  code: Code,
  base: IntReg,
  { step, k, rows, depth }: { step: number; k: number; rows: number; depth: number },
): void {
  if (code.target.streamPage === 0) return;
  if (step < k) ask(code, base, { from: step * rows + k * STEPS_AHEAD, step: k, count: depth });
  else ask(code, base, { from: step * rows + LINE_BYTES, step, count: rows });
}

/** Asks for the first line of each of `rows` rows that lie `stride` bytes apart. */
export function fetchRows(code: Code, base: IntReg, rows: number, stride: number): void {
  if (code.target.streamPage > 0) ask(code, base, { from: 0, step: stride, count: rows });
}
