/** AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) as graph operations. */
import type { Graph } from './graph.ts';
import type { Tensor } from './tensor.ts';

/** Order of the values in the tensor that `adamw` reads its settings from; all f32. */
export interface AdamWHyper {
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  readonly weightDecay: number;
  /** Number of this update, from 1: corrects the bias of the moments. */
  readonly step: number;
}

/** The contents of `adamw`'s `hyper` tensor (f32 [7]); bias corrections are computed here in float64. */
export function adamwHyper(hyper: AdamWHyper): Float32Array<ArrayBuffer> {
  const { learningRate, beta1, beta2, eps, weightDecay, step } = hyper;
  return Float32Array.of(
    learningRate,
    beta1,
    beta2,
    eps,
    weightDecay,
    1 / (1 - beta1 ** step),
    1 / (1 - beta2 ** step),
  );
}

/** See `Graph.adamw`. Fuses into one kernel a parameter. */
export function adamwStep(
  g: Graph,
  step: { parameter: Tensor; gradient: Tensor; m: Tensor; v: Tensor; hyper: Tensor; decay: boolean },
): { parameter: Tensor; m: Tensor; v: Tensor } {
  const { parameter, gradient, m, v, hyper, decay } = step;
  const at = (index: number) => g.slice(hyper, index, index + 1);
  const [lr, beta1, beta2, eps, weightDecay, correction1, correction2] = [0, 1, 2, 3, 4, 5, 6].map(at);
  const p = g.cast(parameter, 'f32');
  const dp = g.cast(gradient, 'f32');
  const nextM = g.add(g.mul(m, beta1), g.mul(dp, g.sub(1, beta1)));
  const nextV = g.add(g.mul(v, beta2), g.mul(g.mul(dp, dp), g.sub(1, beta2)));
  const denominator = g.add(g.sqrt(g.mul(nextV, correction2)), eps);
  const kept = decay ? g.sub(p, g.mul(p, g.mul(lr, weightDecay))) : p;
  const next = g.sub(kept, g.div(g.mul(lr, g.mul(nextM, correction1)), denominator));
  return {
    m: g.assign(m, nextM),
    v: g.assign(v, nextV),
    parameter: g.assign(parameter, g.cast(next, parameter.dtype)),
  };
}
