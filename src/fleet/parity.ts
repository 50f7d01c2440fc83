/** The parity gate: how far two accelerators that should hold the same model are apart. */

/** Difference between two accelerators that hold the same weights, on sampled tokens. */
export interface ParityReport {
  readonly learner: string;
  readonly rollout: string;
  /** Version of the weights: the optimizer steps behind them. */
  readonly weightVersion: number;
  /** Checksums of the weights on both sides; they must be equal. */
  readonly checksum: { readonly learner: string; readonly rollout: string };
  readonly tokens: number;
  readonly maxAbs: number;
  readonly meanAbs: number;
  /** k3 estimate of KL(rollout || learner) a token. */
  readonly kl: number;
  readonly bound: number;
  readonly passed: boolean;
}

/** The weights of two sides differ, or their log-probabilities are further apart than the run allows. */
export class ParityError extends Error {
  override name = 'ParityError';
  readonly report: ParityReport;
  constructor(report: ParityReport, message: string) {
    super(message);
    this.report = report;
  }
}

export interface LogProbabilityDifference {
  readonly tokens: number;
  readonly maxAbs: number;
  readonly meanAbs: number;
  /** k3 estimate of KL(sampler || learner) a token: mean of r - 1 - log r, r = p(learner) / p(sampler). */
  readonly kl: number;
}

/**
 * Differences of the log-probabilities of the same sampled tokens on two sides.
 * NaN on either side counts as an infinite difference, so that it can never pass a bound.
 */
export function compareLogProbabilities(
  learner: ArrayLike<number>,
  sampler: ArrayLike<number>,
): LogProbabilityDifference {
  if (learner.length !== sampler.length) {
    throw new RangeError(
      `${learner.length} log-probabilities of the learner, ${sampler.length} of the sampler`,
    );
  }
  let maxAbs = 0;
  let sum = 0;
  let kl = 0;
  for (let i = 0; i < learner.length; i++) {
    // Equal values first: Inf - Inf is not a difference.
    const difference = learner[i] === sampler[i] ? 0 : learner[i] - sampler[i];
    const size = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : Math.abs(difference);
    maxAbs = Math.max(maxAbs, size);
    sum += size;
    kl += Number.isNaN(difference) ? Number.POSITIVE_INFINITY : Math.expm1(difference) - difference;
  }
  const count = Math.max(1, learner.length);
  return { tokens: learner.length, maxAbs, meanAbs: sum / count, kl: kl / count };
}

export interface GateInput {
  readonly learner: string;
  readonly rollout: string;
  readonly weightVersion: number;
  readonly checksum: { readonly learner: string; readonly rollout: string };
  readonly difference: LogProbabilityDifference;
  /** Bound on max |Δ log p| between different accelerators; on the same accelerator it is 0. */
  readonly bound: number;
}

/** Judges a hand-over of weights. Never throws: see `explainFailure` for what to do about a failed report. */
export function judgeParity({
  learner,
  rollout,
  weightVersion,
  checksum,
  difference,
  bound,
}: GateInput): ParityReport {
  const allowed = learner === rollout ? 0 : bound;
  const passed = checksum.learner === checksum.rollout && difference.maxAbs <= allowed;
  return { learner, rollout, weightVersion, checksum, ...difference, bound: allowed, passed };
}

/** Why a report failed and what can be done, in a few sentences. */
export function explainFailure(report: ParityReport): string {
  const { learner, rollout, checksum, weightVersion } = report;
  if (checksum.learner !== checksum.rollout) {
    return (
      `the weights of version ${weightVersion} are not the same bytes on ${learner} (checksum ${checksum.learner}) and ` +
      `${rollout} (${checksum.rollout}): their transfer is broken, and nothing sampled from them can be trusted`
    );
  }
  const measured = `log-probabilities of ${report.tokens} sampled tokens differ by up to ${report.maxAbs.toExponential(2)} (mean ${report.meanAbs.toExponential(2)}, KL ${report.kl.toExponential(2)})`;
  if (!Number.isFinite(report.maxAbs)) {
    return (
      `${measured} between ${learner} and ${rollout}. One side gives NaN, because the weights are no longer numbers ` +
      '(training has diverged: lower --learning-rate), or gives a sampled token no probability at all, because it keeps ' +
      'other tokens under --top-k or --top-p'
    );
  }
  if (learner === rollout) {
    return `${measured} between sampling and learning on ${learner}, where they must be equal to the bit: a kernel of this accelerator is not batch-invariant`;
  }
  return (
    `${measured} between ${learner} and ${rollout}, beyond the bound of ${report.bound}. Learning would be off-policy without ` +
    'knowing it. Raise --parity-bound if this difference is acceptable, correct for it with --importance-sampling tis, or ' +
    `sample on ${learner} (--rollout ${learner})`
  );
}
