/**
 * Sine and cosine of f32, to about 1 to 2 units in the last place for arguments up to `RANGE`; beyond it the
 * argument's reduction loses digits.
 */
import type { VecReg } from '../ir.ts';
import type { Code } from './code.ts';

/** pi/2 in three parts of 24 bits, for a multiply-add that rounds once: the product of each is exact inside it. */
const PARTS_FUSED = [
  Math.fround(Math.PI / 2),
  Math.fround(Math.PI / 2 - Math.fround(Math.PI / 2)),
  Math.PI / 2 - Math.fround(Math.PI / 2) - Math.fround(Math.PI / 2 - Math.fround(Math.PI / 2)),
];
/** pi/2 in parts of 8 bits, so that products with a quadrant number of up to 16 bits are exact by themselves. */
const PARTS_SPLIT = split(Math.PI / 2, 8, 5);

function split(value: number, bits: number, count: number): readonly number[] {
  const parts: number[] = [];
  let rest = value;
  while (parts.length < count - 1) {
    const unit = 2 ** (Math.floor(Math.log2(rest)) + 1 - bits);
    const part = Math.floor(rest / unit) * unit;
    parts.push(part);
    rest -= part;
  }
  return [...parts, rest];
}

function series(code: Code, square: VecReg, coefficients: readonly number[]): VecReg {
  let sum = code.f32(coefficients[coefficients.length - 1]);
  for (let i = coefficients.length - 2; i >= 0; i--) sum = code.fma(sum, square, code.f32(coefficients[i]));
  return sum;
}

/** sin(|x| + turn * pi/2), without the sign of x. */
function wave(code: Code, x: VecReg, turn: 0 | 1): VecReg {
  const size = code.un('fabs', x);
  const n = code.un('fround', code.bin('fmul', size, code.f32(2 / Math.PI)));
  const negative = code.un('fneg', n);
  let r = size;
  for (const part of code.target.fma ? PARTS_FUSED : PARTS_SPLIT) r = code.fma(negative, code.f32(part), r);
  const quadrant = code.bin('iadd', code.un('ftoi', n), code.bits(turn));
  const square = code.bin('fmul', r, r);
  const sine = code.fma(
    code.bin('fmul', r, square),
    series(code, square, [-1 / 6, 1 / 120, -1 / 5040, 1 / 362880]),
    r,
  );
  const tail = series(code, square, [1 / 24, -1 / 720, 1 / 40320, -1 / 3628800]);
  const half = code.bin('fmul', square, code.f32(0.5));
  const cosine = code.bin(
    'fsub',
    code.f32(1),
    code.bin('fsub', half, code.bin('fmul', code.bin('fmul', square, square), tail)),
  );
  const odd = code.bin('ieq', code.bin('and', quadrant, code.bits(1)), code.bits(1));
  const flip = code.shift('ishl', code.shift('ushr', quadrant, 1), 31);
  return code.bin('xor', code.select(odd, cosine, sine), flip);
}

export function sin(code: Code, x: VecReg): VecReg {
  return code.bin('xor', wave(code, x, 0), code.bin('and', x, code.bits(-0x80000000)));
}

export function cos(code: Code, x: VecReg): VecReg {
  return wave(code, x, 1);
}
