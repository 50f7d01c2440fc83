/** Log-probabilities of targets and of samples, forward and backward. */
import { crossEntropy, crossEntropyBackward } from '../../src/kernels/crossentropy.ts';
import { sampledLogp, sampledLogpBackward } from '../../src/kernels/sampling.ts';
import type { Case } from './buffers.ts';
import { normals } from './buffers.ts';
import { logSoftmax } from './references.ts';

export function lossCases(): Case[] {
  const [rows, vocabulary] = [4, 1100];
  const logits = normals(41, rows * vocabulary, 'f32', 3);
  logits[5] = Number.NEGATIVE_INFINITY;
  const targets = [7, 1099, -1, 1030];
  const temperature = [1, 0.5, 2, 0];
  const g = [1, -2, 3, 0.5];
  const row = (r: number) => logits.slice(r * vocabulary, (r + 1) * vocabulary);
  const heat = temperature.map((t) => (t > 0 ? t : 1));
  const logs = heat.map((t, r) => logSoftmax(row(r), t));
  const entropy = logs.map(
    (log) => -log.reduce((sum, x) => sum + (x === Number.NEGATIVE_INFINITY ? 0 : Math.exp(x) * x), 0),
  );
  const lse = logs.map((log, r) => row(r)[0] / heat[r] - log[0]);
  const slope = (log: number[], r: number, keep: (i: number) => boolean) =>
    log.map((x, i) =>
      targets[r] < 0 || !keep(i) ? 0 : (g[r] * ((i === targets[r] ? 1 : 0) - Math.exp(x))) / heat[r],
    );
  const tolerance = { atol: 1e-5, rtol: 1e-5 };
  const topK = [50, 0, 3, 9];
  const topP = [1, 0.7, 0.9, 0.5];
  const truncated = heat.map((t, r) => {
    if (temperature[r] === 0) return () => true;
    const order = row(r)
      .map((_, i) => i)
      .sort((i, j) => row(r)[j] - row(r)[i]);
    const first = topK[r] > 0 ? order.slice(0, topK[r]) : order;
    const p = logSoftmax(row(r), t, (i) => first.includes(i)).map(Math.exp);
    const keep = new Set<number>([targets[r]]);
    let mass = 0;
    for (const i of first) {
      if (mass >= topP[r] && topP[r] < 1) break;
      keep.add(i);
      mass += p[i];
    }
    return (i: number) => keep.has(i);
  });
  const cut = truncated.map((keep, r) => logSoftmax(row(r), heat[r], keep));
  const given = { logits, temperature };
  return [
    {
      name: 'crossEntropy',
      kernel: crossEntropy({ rows, vocabulary }),
      inputs: { ...given, targets },
      expected: { logp: logs.map((log, r) => log[targets[r]] ?? 0), entropy, lse },
      tolerance,
    },
    {
      name: 'crossEntropy backward',
      kernel: crossEntropyBackward({ rows, vocabulary }),
      inputs: { ...given, targets, lse, g },
      expected: { dlogits: logs.flatMap((log, r) => slope(log, r, () => true)) },
      tolerance,
    },
    {
      name: 'sampledLogp',
      kernel: sampledLogp({ rows, vocabulary }),
      inputs: { ...given, topK, topP, tokens: targets },
      expected: { logp: cut.map((log, r) => log[targets[r]] ?? 0) },
      tolerance,
    },
    {
      name: 'sampledLogp backward',
      kernel: sampledLogpBackward({ rows, vocabulary }),
      inputs: { ...given, topK, topP, tokens: targets, g },
      expected: { dlogits: cut.flatMap((log, r) => slope(log, r, truncated[r])) },
      tolerance,
    },
  ];
}
