/** AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) and gradient clipping, on the device. */
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Storage } from './common.ts';
import { loadF32, memoized } from './common.ts';

export interface AdamWOptions {
  readonly size: number;
  readonly gradType?: Storage;
  /** Also writes the new parameter in bf16, as the last view. */
  readonly shadow?: boolean;
}

/** Places in the f32 view `hyper`; the corrections are 1 - beta^step. */
export const HYPER = [
  'learningRate',
  'beta1',
  'beta2',
  'eps',
  'weightDecay',
  'correction1',
  'correction2',
  'gradScale',
] as const;

const BLOCK = 1024;

/**
 * One step in place: g = grad * gradScale * clip[1]; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g²;
 * param -= lr * (m / c1 / (sqrt(v / c2) + eps) + decay * param).
 * Views: param, grad, m, v [size], hyper f32 [8] (see HYPER), clip f32 [2] (from `gradientClip`)[, shadow].
 */
export const adamW: (options: AdamWOptions) => Kernel = memoized(
  ({ size, gradType = 'f32', shadow = false }: AdamWOptions): Kernel =>
    buildKernel(`adamw_${size}_${gradType}${shadow ? '_shadow' : ''}`, (k) => {
      const param = k.inout('param', 'f32', [size]);
      const grad = k.input('grad', gradType, [size]);
      const mView = k.inout('m', 'f32', [size]);
      const vView = k.inout('v', 'f32', [size]);
      const hyper = k.input('hyper', 'f32', [HYPER.length]);
      const clip = k.input('clip', 'f32', [2]);
      const copy = shadow ? k.output('shadow', 'bf16', [size]) : null;
      const block = Math.min(size, BLOCK);
      k.grid(ceilDiv(size, block));
      const at = [k.programId(0).mul(block)];
      const [lr, beta1, beta2, eps, decay, correction1, correction2, gradScale] = HYPER.map((_, place) =>
        k.loadScalar(hyper, [place]),
      );
      const g = loadF32(k, grad, at, [block]).mul(gradScale.mul(k.loadScalar(clip, [1])));
      const one = k.constant(1);
      const m = k
        .load(mView, at, [block])
        .mul(beta1)
        .add(g.mul(one.sub(beta1)));
      const v = k
        .load(vView, at, [block])
        .mul(beta2)
        .add(g.mul(g).mul(one.sub(beta2)));
      const p = k.load(param, at, [block]);
      const step = m.div(correction1).div(v.div(correction2).sqrt().add(eps)).add(p.mul(decay));
      const next = p.sub(step.mul(lr));
      k.store(mView, at, m);
      k.store(vView, at, v);
      k.store(param, at, next);
      if (copy !== null) k.store(copy, at, next.cast('bf16'));
    }),
);

/** Elements whose squares one program adds up; the order of the sum, thus fixed. */
export const SQUARES_CHUNK = 16384;

/** partials[p] = sum of squares of the p-th 16384 elements. Views: x [size], partials f32 [ceil(size / 16384)]. */
export const sumSquares: (options: { size: number; type?: Storage }) => Kernel = memoized(
  ({ size, type = 'f32' }: { size: number; type?: Storage }): Kernel =>
    buildKernel(`sum_squares_${size}_${type}`, (k) => {
      const x = k.input('x', type, [size]);
      const programs = ceilDiv(size, SQUARES_CHUNK);
      const partials = k.output('partials', 'f32', [programs]);
      k.grid(programs);
      const lo = k.programId(0).mul(SQUARES_CHUNK);
      const [sum] = k.loop(
        { lo, hi: lo.add(SQUARES_CHUNK).min(size), step: BLOCK },
        [k.zeros([1])] as const,
        (position, [acc]) => {
          const tile = loadF32(k, x, [position], [BLOCK]);
          return [acc.add(tile.mul(tile).sum())] as const;
        },
      );
      k.store(partials, [k.programId(0)], sum);
    }),
);

/**
 * clip = [norm, factor]: norm = gradScale * sqrt(sum of all partials), factor = min(1, maxNorm / norm); maxNorm <= 0: 1.
 * Views: partials f32 [count], limits f32 [2] = [maxNorm, gradScale], clip f32 [2].
 */
export const gradientClip: (options: { count: number }) => Kernel = memoized(
  ({ count }: { count: number }): Kernel =>
    buildKernel(`gradient_clip_${count}`, (k) => {
      const partials = k.input('partials', 'f32', [count]);
      const limits = k.input('limits', 'f32', [2]);
      const clip = k.output('clip', 'f32', [2]);
      const [sum] = k.loop(
        { hi: count, step: BLOCK },
        [k.zeros([1])] as const,
        (position, [acc]) => [acc.add(k.load(partials, [position], [BLOCK]).sum())] as const,
      );
      const maxNorm = k.load(limits, [0], [1]);
      const norm = sum.sqrt().mul(k.load(limits, [1], [1]));
      k.store(clip, [0], norm);
      k.store(clip, [1], maxNorm.gt(0).and(norm.gt(maxNorm)).select(maxNorm.div(norm), 1));
    }),
);
