/**
 * Counter-based random numbers: Philox4x32 with 10 rounds (Salmon, Moraes, Dror, Shaw, "Parallel random
 * numbers: as easy as 1, 2, 3", SC 2011). A number is a pure function of (seed, stream, index, position), so
 * nothing but those four needs to be saved to go on exactly where a run stopped, and work can be divided in
 * any way without changing the numbers.
 */
import { hash32 } from './hash.ts';

const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;
const ROUNDS = 10;

/** The upper 32 bits of the 64-bit product of two unsigned 32-bit integers. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const low = aLow * bLow;
  const middle = aHigh * bLow + (low >>> 16);
  const carry = aLow * bHigh + (middle % 0x10000);
  return aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(carry / 0x10000);
}

/**
 * One block of Philox4x32-10: four unsigned 32-bit words for a counter of four words and a key of two.
 * Writes to `out` (at least 4 long) and returns it.
 */
export function philox4x32(
  counter: ArrayLike<number>,
  key: ArrayLike<number>,
  out: Uint32Array = new Uint32Array(4),
): Uint32Array {
  let c0 = counter[0]! >>> 0;
  let c1 = counter[1]! >>> 0;
  let c2 = counter[2]! >>> 0;
  let c3 = counter[3]! >>> 0;
  let k0 = key[0]! >>> 0;
  let k1 = key[1]! >>> 0;
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = multiplyHigh(MULTIPLIER_0, c0);
    const low0 = Math.imul(MULTIPLIER_0, c0);
    const high1 = multiplyHigh(MULTIPLIER_1, c2);
    const low1 = Math.imul(MULTIPLIER_1, c2);
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1 >>> 0;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0 >>> 0;
    k0 = (k0 + WEYL_0) >>> 0;
    k1 = (k1 + WEYL_1) >>> 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
  return out;
}

/** Everything a generator is: plain data, to be stored as JSON. */
export interface RandomState {
  /** Integer from 0 to 2^53 - 1. */
  readonly seed: number;
  /** What the numbers are for, as an unsigned 32-bit integer; a name's `hash32`. */
  readonly stream: number;
  /** Which of the stream's independent sequences: an example, a step. Integer from 0 to 2^53 - 1. */
  readonly index: number;
  /** How many 32-bit words were drawn so far. Integer from 0 to 2^34 - 1. */
  readonly position: number;
}

const WORDS_PER_SEQUENCE = 2 ** 34;

/**
 * A seeded sequence of random numbers. Different (seed, stream, index) give independent sequences, each of
 * 2^34 words. Two generators made with the same three give the same numbers, on every machine.
 */
export class Random {
  private readonly seed: number;
  private readonly stream: number;
  private readonly index: number;
  private position: number;
  private readonly key: readonly [number, number];
  private readonly counter: [number, number, number, number];
  private readonly block = new Uint32Array(4);
  private blockNumber = -1;

  /**
   * @param seed integer from 0 to 2^53 - 1
   * @param stream what the numbers are for: a name, or an unsigned 32-bit integer
   * @param index which sequence of the stream: integer from 0 to 2^53 - 1
   * @throws RangeError where one of them is out of its range
   */
  constructor(seed: number, stream: number | string = 0, index = 0) {
    this.seed = checkedInteger('seed', seed, Number.MAX_SAFE_INTEGER);
    this.stream = typeof stream === 'string' ? hash32(stream) : checkedInteger('stream', stream, 0xffffffff);
    this.index = checkedInteger('index', index, Number.MAX_SAFE_INTEGER);
    this.position = 0;
    this.key = [seed >>> 0, Math.floor(seed / 2 ** 32)];
    this.counter = [0, index >>> 0, Math.floor(index / 2 ** 32), this.stream];
  }

  /** The generator that goes on from a saved state. */
  static restore(state: RandomState): Random {
    const random = new Random(state.seed, state.stream, state.index);
    random.position = checkedInteger('position', state.position, WORDS_PER_SEQUENCE);
    return random;
  }

  /** What `restore` needs to go on from here. */
  get state(): RandomState {
    return { seed: this.seed, stream: this.stream, index: this.index, position: this.position };
  }

  /** The next word: an integer from 0 to 2^32 - 1. */
  uint32(): number {
    if (this.position >= WORDS_PER_SEQUENCE) {
      throw new RangeError(`sequence ${this.index} of stream ${this.stream} is used up: take another index`);
    }
    const blockNumber = Math.floor(this.position / 4);
    if (blockNumber !== this.blockNumber) {
      this.counter[0] = blockNumber;
      philox4x32(this.counter, this.key, this.block);
      this.blockNumber = blockNumber;
    }
    return this.block[this.position++ % 4]!;
  }

  /** Uniform in [0, 1): a multiple of 2^-53. Takes two words. */
  float(): number {
    const high = this.uint32() >>> 5;
    const low = this.uint32() >>> 6;
    return (high * 2 ** 26 + low) / 2 ** 53;
  }

  /** Uniform integer from 0 to `bound` - 1, without bias. `bound`: 1 to 2^32. */
  below(bound: number): number {
    if (!Number.isInteger(bound) || bound < 1 || bound > 2 ** 32) {
      throw new RangeError(`below: the bound must be an integer from 1 to 2^32, but is ${bound}`);
    }
    // Words from the last, incomplete run of `bound` values would make the small results likelier.
    const limit = 2 ** 32 - (2 ** 32 % bound);
    let word = this.uint32();
    while (word >= limit) word = this.uint32();
    return word % bound;
  }

  /** Uniform integer from `low` to `high`, both included, without bias. */
  integer(low: number, high: number): number {
    if (!Number.isSafeInteger(low) || !Number.isSafeInteger(high) || high < low) {
      throw new RangeError(`integer: needs whole numbers low <= high, but got ${low} and ${high}`);
    }
    return low + this.below(high - low + 1);
  }

  /** True with the given probability. */
  chance(probability: number): boolean {
    return this.float() < probability;
  }

  /** One of the items, each as likely. */
  pick<T>(items: readonly T[]): T {
    if (items.length === 0) throw new RangeError('pick: there is nothing to pick from');
    return items[this.below(items.length)]!;
  }

  /** The items in random order, as a new array; every order is as likely (Fisher-Yates). */
  shuffle<T>(items: readonly T[]): T[] {
    const result = [...items];
    for (let i = result.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      const swapped = result[i]!;
      result[i] = result[j]!;
      result[j] = swapped;
    }
    return result;
  }

  /** Normally distributed, mean 0 and variance 1 (Box-Muller). Takes four words. */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.float()));
    return radius * Math.cos(2 * Math.PI * this.float());
  }
}

function checkedInteger(name: string, value: number, maximum: number): number {
  if (!Number.isInteger(value) || value < 0 || value > maximum) {
    throw new RangeError(`${name} must be an integer from 0 to ${maximum}, but is ${value}`);
  }
  return value;
}
