/**
 * A 64-bit checksum of bytes for comparing weights across accelerators: two independent 32-bit multiplicative
 * hashes over little-endian words (FNV-1a's scheme with two different primes and a final avalanche). It finds
 * accidents, not attacks.
 */
export class Checksum {
  #a = 0x811c9dc5 | 0;
  #b = 0x9747b28c | 0;
  #length = 0;

  /** Adds bytes; their number must be a multiple of 4 except in the last call. */
  update(bytes: Uint8Array): this {
    const whole = bytes.length >> 2;
    const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
    const words = new Int32Array(aligned.buffer, aligned.byteOffset, whole);
    let a = this.#a;
    let b = this.#b;
    for (let i = 0; i < whole; i++) {
      a = Math.imul(a ^ words[i], 0x01000193);
      a ^= a >>> 15;
      b = Math.imul(b ^ words[i], 0x85ebca6b);
      b = (b << 13) | (b >>> 19);
    }
    for (let i = whole * 4; i < bytes.length; i++) {
      a = Math.imul(a ^ bytes[i], 0x01000193);
      b = Math.imul(b ^ bytes[i], 0x85ebca6b);
    }
    this.#a = a;
    this.#b = b;
    this.#length = (this.#length + bytes.length) | 0;
    return this;
  }

  /** 16 hexadecimal digits. */
  digest(): string {
    return avalanche(this.#a ^ this.#length) + avalanche(this.#b + this.#length);
  }
}

function avalanche(word: number): string {
  let x = word;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return ((x ^ (x >>> 16)) >>> 0).toString(16).padStart(8, '0');
}
