/** Where arrays go in workgroup memory, and which of them do not fit there. */
import type { ThreadArray } from './ir.ts';

/** An array with the stretch of code in which it is used, in barriers passed: stretches that share none may share memory. */
export interface Lifetime {
  readonly array: ThreadArray;
  first: number;
  last: number;
}

/** Words that `lifetimes` take when those that do not overlap share memory; sets offsets. First fit, longest first. */
function place(lifetimes: readonly Lifetime[]): number {
  const placed: Lifetime[] = [];
  let words = 0;
  for (const one of [...lifetimes].sort((a, b) => b.array.size - a.array.size)) {
    const others = placed
      .filter((other) => other.first <= one.last && one.first <= other.last)
      .sort((a, b) => a.array.offset - b.array.offset);
    let offset = 0;
    for (const { array } of others)
      if (array.offset < offset + one.array.size && offset < array.offset + array.size)
        offset = array.offset + array.size;
    one.array.offset = offset;
    words = Math.max(words, offset + one.array.size);
    placed.push(one);
  }
  return words;
}

/** Moves the largest arrays to scratch until the rest fits into `sharedWords`. */
export function allocate(
  lifetimes: readonly Lifetime[],
  sharedWords: number,
): { readonly shared: number; readonly scratch: number } {
  const used = lifetimes.filter(({ first }) => Number.isFinite(first));
  const shared = used.filter(({ array }) => array.space === 'shared');
  let words = place(shared);
  while (words > sharedWords) {
    const largest = shared.reduce((a, b) => (b.array.size > a.array.size ? b : a));
    largest.array.space = 'scratch';
    shared.splice(shared.indexOf(largest), 1);
    words = place(shared);
  }
  return { shared: words, scratch: place(used.filter(({ array }) => array.space === 'scratch')) };
}
