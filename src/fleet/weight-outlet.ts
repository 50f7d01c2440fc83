/** The present weights of a run as files for tabs: whole, or as the difference to what a tab has. */
import type { Snapshot } from './weight-transfer.ts';
import { encodeDelta, encodeFull } from './weight-transfer.ts';

export interface WeightFile {
  readonly kind: 'full' | 'delta';
  readonly bytes: Uint8Array;
}

export class WeightOutlet {
  #current: Snapshot | null = null;
  #previous: Snapshot | null = null;
  #full: Uint8Array | null = null;
  /** To the present weights, by the checksum of what they differ from. */
  readonly #deltas = new Map<string, Promise<Uint8Array>>();

  get current(): Snapshot | null {
    return this.#current;
  }

  /** Makes these weights the present ones. */
  advance(next: Snapshot): void {
    this.#previous = this.#current;
    this.#current = next;
    this.#full = null;
    this.#deltas.clear();
  }

  /** The smaller file that makes the present weights of `base`; null where meanwhile there are newer ones. */
  async fileFor(base: Snapshot | null): Promise<WeightFile | null> {
    const next = this.#current;
    if (next === null) throw new Error('there are no weights yet');
    const near = base !== null && (base === this.#previous || base.checksum === next.checksum);
    const delta = near ? await this.#delta(base, next) : null;
    if (next !== this.#current) return null;
    this.#full ??= encodeFull(next);
    return delta !== null && delta.length < this.#full.length
      ? { kind: 'delta', bytes: delta }
      : { kind: 'full', bytes: this.#full };
  }

  #delta(base: Snapshot, next: Snapshot): Promise<Uint8Array> {
    const encoded = this.#deltas.get(base.checksum) ?? encodeDelta(base, next);
    this.#deltas.set(base.checksum, encoded);
    return encoded;
  }
}
