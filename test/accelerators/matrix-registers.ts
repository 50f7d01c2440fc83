/** Matrix registers of the loop IR, as the interpreter of loops has them. */
import type { MatrixShape } from '../../src/accelerators/loops/ir.ts';
import { bf16BitsToF32, bitsToF32, f32ToBits } from '../../src/numerics/float.ts';
import { fmaf } from '../../src/numerics/fma.ts';

/** Bytes from row to row. */
const ROW = 64;

interface Register extends MatrixShape {
  readonly data: DataView;
}

export class MatrixRegisters {
  #registers: Register[] = [];

  shape(shapes: readonly MatrixShape[]): void {
    this.#registers = shapes.map(({ rows, bytes }) => {
      if (rows < 1 || rows > 16 || bytes < 4 || bytes > ROW || bytes % 4 !== 0)
        throw new RangeError(`no matrix register has ${rows} rows of ${bytes} bytes`);
      return { rows, bytes, data: new DataView(new ArrayBuffer(ROW * rows)) };
    });
  }

  zero(register: number): void {
    new Uint8Array(this.#registers[register].data.buffer).fill(0);
  }

  load(register: number, memory: DataView, from: number, stride: number): void {
    this.#each(register, stride, (inside, outside, data) =>
      data.setUint8(inside, memory.getUint8(from + outside)),
    );
  }

  store(register: number, memory: DataView, to: number, stride: number): void {
    this.#each(register, stride, (inside, outside, data) =>
      memory.setUint8(to + outside, data.getUint8(inside)),
    );
  }

  #each(
    register: number,
    stride: number,
    visit: (inside: number, outside: number, data: DataView) => void,
  ): void {
    const { rows, bytes, data } = this.#registers[register];
    for (let row = 0; row < rows; row++)
      for (let byte = 0; byte < bytes; byte++) visit(ROW * row + byte, stride * row + byte, data);
  }

  dot(of: 'pairs' | 'quads', sum: number, a: number, b: number): void {
    const [into, left, right] = [sum, a, b].map((register) => this.#registers[register]);
    const elements = left.bytes / 4;
    if (into.rows !== left.rows || into.bytes !== right.bytes || right.rows !== elements)
      throw new RangeError('shapes of matrix registers do not fit');
    for (let m = 0; m < into.rows; m++)
      for (let n = 0; n < into.bytes; n += 4) {
        const pairs = Array.from({ length: elements }, (_, p): [number, number] => [
          left.data.getInt32(ROW * m + 4 * p, true),
          right.data.getInt32(ROW * p + n, true),
        ]);
        const before = into.data.getInt32(ROW * m + n, true);
        into.data.setInt32(ROW * m + n, ADD[of](before, pairs), true);
      }
  }
}

const low = (bits: number) => bf16BitsToF32(bits & 0xffff);
const high = (bits: number) => bf16BitsToF32(bits >>> 16);

/** The bits of a sum after products of elements were added to it. */
const ADD: {
  readonly [O in 'pairs' | 'quads']: (
    bits: number,
    products: readonly (readonly [number, number])[],
  ) => number;
} = {
  pairs(bits, products) {
    const lows = products.reduce((sum, [x, y]) => fmaf(low(x), low(y), sum), 0);
    const highs = products.reduce((sum, [x, y]) => fmaf(high(x), high(y), sum), 0);
    return f32ToBits(Math.fround(bitsToF32(bits) + Math.fround(lows + highs)));
  },
  quads: (bits, products) =>
    products.reduce(
      (sum, [x, y]) =>
        [0, 8, 16, 24].reduce(
          (total, shift) => (total + ((x << (24 - shift)) >> 24) * ((y >>> shift) & 0xff)) | 0,
          sum,
        ),
      bits,
    ),
};
