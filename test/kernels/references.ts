/** Plain float64 references. */

export type Numbers = ArrayLike<number>;

export function matmulReference(
  a: Numbers,
  b: Numbers,
  m: number,
  n: number,
  k: number,
  transA = false,
  transB = false,
): number[] {
  return Array.from({ length: m * n }, (_, e) => {
    const [i, j] = [Math.floor(e / n), e % n];
    let sum = 0;
    for (let p = 0; p < k; p++) sum += a[transA ? p * m + i : i * k + p] * b[transB ? j * k + p : p * n + j];
    return sum;
  });
}

export interface AttentionShape {
  readonly sequences: number;
  readonly queryLength: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly maxLength: number;
}

/** Index into keys in either layout. */
export function keyIndex(
  o: Pick<AttentionShape, 'kvHeads' | 'maxLength' | 'headDim'>,
  layout: 'cache' | 'tokens',
  slot: number,
  head: number,
  position: number,
): number {
  return layout === 'cache'
    ? ((slot * o.kvHeads + head) * o.maxLength + position) * o.headDim
    : ((slot * o.maxLength + position) * o.kvHeads + head) * o.headDim;
}

/** o, lse, and for a given gradient of o: delta, dq, dkeys, dvalues. */
export function attentionReference(
  o: AttentionShape,
  layout: 'cache' | 'tokens',
  q: Numbers,
  keys: Numbers,
  values: Numbers,
  slots: Numbers,
  start: Numbers,
  lengths: Numbers,
  gradient: Numbers = new Float64Array(q.length),
) {
  const { sequences, queryLength, heads, kvHeads, headDim } = o;
  const group = heads / kvHeads;
  const out = new Float64Array(q.length);
  const dq = new Float64Array(q.length);
  const dkeys = new Float64Array(keys.length);
  const dvalues = new Float64Array(keys.length);
  const lse = new Float64Array(sequences * heads * queryLength);
  const delta = new Float64Array(lse.length);
  for (let s = 0; s < sequences; s++) {
    for (let t = 0; t < lengths[s]; t++) {
      for (let h = 0; h < heads; h++) {
        const kvHead = Math.floor(h / group);
        const row = ((s * queryLength + t) * heads + h) * headDim;
        const place = ((s * kvHeads + kvHead) * queryLength + t) * group + (h % group);
        const at = (j: number) => keyIndex(o, layout, slots[s], kvHead, j);
        const count = start[s] + t + 1;
        const dots = (x: Numbers, xo: number, y: Numbers, yo: number) => {
          let sum = 0;
          for (let d = 0; d < headDim; d++) sum += x[xo + d] * y[yo + d];
          return sum;
        };
        const scale = 1 / Math.sqrt(headDim);
        const scores = Array.from({ length: count }, (_, j) => dots(q, row, keys, at(j)) * scale);
        const max = Math.max(...scores);
        lse[place] = max + Math.log(scores.reduce((sum, score) => sum + Math.exp(score - max), 0));
        const p = scores.map((score) => Math.exp(score - lse[place]));
        for (let j = 0; j < count; j++)
          for (let d = 0; d < headDim; d++) out[row + d] += p[j] * values[at(j) + d];
        delta[place] = dots(gradient, row, out, row);
        for (let j = 0; j < count; j++) {
          const ds = p[j] * (dots(gradient, row, values, at(j)) - delta[place]) * scale;
          for (let d = 0; d < headDim; d++) {
            dq[row + d] += ds * keys[at(j) + d];
            dkeys[at(j) + d] += ds * q[row + d];
            dvalues[at(j) + d] += p[j] * gradient[row + d];
          }
        }
      }
    }
  }
  return { o: out, lse, delta, dq, dkeys, dvalues };
}

export function rmsNormReference(
  x: Numbers,
  weight: Numbers,
  rows: number,
  columns: number,
  eps: number,
  dy: Numbers = new Float64Array(x.length),
) {
  const y = new Float64Array(x.length);
  const dx = new Float64Array(x.length);
  const contributions = new Float64Array(x.length);
  for (let r = 0; r < rows; r++) {
    let squares = 0;
    let mixed = 0;
    for (let c = 0; c < columns; c++) {
      const i = r * columns + c;
      squares += x[i] * x[i];
      mixed += dy[i] * weight[c] * x[i];
    }
    const inverse = 1 / Math.sqrt(squares / columns + eps);
    for (let c = 0; c < columns; c++) {
      const i = r * columns + c;
      y[i] = x[i] * inverse * weight[c];
      dx[i] = inverse * dy[i] * weight[c] - (x[i] * inverse ** 3 * mixed) / columns;
      contributions[i] = dy[i] * x[i] * inverse;
    }
  }
  return { y, dx, contributions };
}

export const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

/** Log-probabilities of a row of logits at a temperature; -Infinity where `keep` says no. */
export function logSoftmax(
  logits: readonly number[],
  temperature: number,
  keep: (index: number) => boolean = () => true,
): number[] {
  const z = logits.map((x, i) => (keep(i) ? x / temperature : Number.NEGATIVE_INFINITY));
  const max = Math.max(...z);
  const log = max + Math.log(z.reduce((sum, x) => sum + Math.exp(x - max), 0));
  return z.map((x) => x - log);
}
