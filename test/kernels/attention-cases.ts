/** Attention over tokens and over a cache, forward and backward. */
import {
  attention,
  attentionBackwardKeyValue,
  attentionBackwardQuery,
  attentionDelta,
} from '../../src/kernels/attention.ts';
import type { Case } from './buffers.ts';
import { decode, encode, normals } from './buffers.ts';
import { attentionReference } from './references.ts';
import { STORAGES } from './storage.ts';

export function attentionCases(): Case[] {
  const cases: Case[] = [];
  for (const type of STORAGES) {
    for (const layout of ['tokens', 'cache'] as const) {
      const o = {
        sequences: 2,
        queryLength: layout === 'tokens' ? 70 : 5,
        heads: 4,
        kvHeads: 2,
        headDim: 8,
        slots: 3,
        maxLength: 70,
        layout,
        type,
        kvType: type,
      } as const;
      const [slots, start, lengths] =
        layout === 'tokens'
          ? [
              [0, 2],
              [0, 0],
              [70, 37],
            ]
          : [
              [2, 0],
              [62, 3],
              [5, 1],
            ];
      const q = normals(11, o.sequences * o.queryLength * o.heads * o.headDim, type);
      const size = o.slots * o.kvHeads * o.maxLength * o.headDim;
      const [keys, values] = [normals(12, size, type), normals(13, size, type)];
      const gradient = normals(14, q.length, type);
      const r = attentionReference(o, layout, q, keys, values, slots, start, lengths, gradient);
      const where = { slots, start, lengths };
      const tolerance = type === 'f32' ? { atol: 5e-6, rtol: 1e-5 } : { atol: 4e-3, rtol: 2 ** -7 };
      // The delta kernel reads the rounded output.
      const rounded = decode(type, encode(type, r.o));
      const group = o.heads / o.kvHeads;
      const deltaOf = (out: readonly number[]) =>
        Array.from(r.delta, (_, place) => {
          const [sequence, kvHead, t] = [
            Math.floor(place / (o.heads * o.queryLength)),
            Math.floor(place / (o.queryLength * group)) % o.kvHeads,
            Math.floor(place / group) % o.queryLength,
          ];
          const row =
            ((sequence * o.queryLength + t) * o.heads + kvHead * group + (place % group)) * o.headDim;
          let sum = 0;
          for (let d = 0; d < o.headDim; d++) sum += out[row + d] * gradient[row + d];
          return sum;
        });
      cases.push({
        name: `attention ${layout} ${type}`,
        kernel: attention({ ...o, training: true }),
        inputs: { q, keys, values, ...where },
        expected: { o: r.o, lse: r.lse },
        tolerance,
      });
      if (layout === 'cache') continue;
      const tokens = { ...o, layout };
      cases.push({
        name: `attention dq ${type}`,
        kernel: attentionBackwardQuery(tokens),
        inputs: { q, keys, values, do: gradient, lse: r.lse, delta: r.delta, ...where },
        expected: { dq: r.dq },
        tolerance,
      });
      cases.push({
        name: `attention delta ${type}`,
        kernel: attentionDelta(tokens),
        inputs: { do: gradient, o: rounded },
        expected: { delta: deltaOf(rounded) },
        tolerance,
      });
      // Slot 1 belongs to no sequence: it keeps its NaN.
      const unused = (x: Float64Array) =>
        Array.from(x, (value, i) =>
          Math.floor(i / (size / o.slots)) === 3 - slots[0] - slots[1] ? Number.NaN : value,
        );
      cases.push({
        name: `attention dk dv ${type}`,
        kernel: attentionBackwardKeyValue(tokens),
        inputs: { q, keys, values, do: gradient, lse: r.lse, delta: r.delta, ...where },
        expected: { dkeys: unused(r.dkeys), dvalues: unused(r.dvalues) },
        tolerance,
      });
    }
  }
  return cases;
}
