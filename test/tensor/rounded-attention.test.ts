/** Attention whose queries, keys and values are rounded to bf16: near that in f32, forward and backward. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { listDevices, openDevice } from '../../src/accelerators/registry.ts';
import { Graph, gradients } from '../../src/tensor/index.ts';
import { feedsFor, runGraph } from './suite.ts';

const [sequences, length, heads, kvHeads, headDim] = [2, 75, 4, 2, 32];
const tokens = sequences * length;

function attended(type: 'f32' | 'bf16') {
  const g = new Graph();
  const at = g.input('at', 'i32', [tokens]);
  const parameter = (name: string, width: number) => g.parameter(name, 'f32', [tokens, width]);
  const rotary = { headDim, theta: 100, maxPositions: length, type };
  const [q, k, v] = [
    parameter('q', heads * headDim),
    parameter('k', kvHeads * headDim),
    parameter('v', kvHeads * headDim),
  ];
  const shape = { sequences, heads, kvHeads, headDim };
  const seen = g.attention(g.rope(q, at, rotary), g.rope(k, at, rotary), g.cast(v, type), shape);
  const out = g.cast(seen, 'f32');
  const loss = g.sum(g.mul(out, parameter('weight', heads * headDim)));
  const [dq, dk, dv] = gradients(g, loss, [q, k, v]);
  return { g, outputs: { out, dq, dk, dv } };
}

/** How far apart, as a part of how large. */
function distance(x: Float32Array, y: Float32Array): number {
  const norm = (values: Iterable<number>) => Math.hypot(...values);
  return norm(x.map((value, i) => value - y[i])) / norm(y);
}

for (const { name, available, reason } of await listDevices())
  describe(`attention in bf16 on ${name}`, { skip: available ? false : reason }, () => {
    test('gives what it gives in f32 but for the rounding, and so do its gradients', async () => {
      await using device = await openDevice(name);
      const at = Array.from({ length: tokens }, (_, token) => token % length);
      const [exact, rounded] = [attended('f32'), attended('bf16')];
      const run = ({ g, outputs }: typeof exact) =>
        runGraph(device, g, feedsFor(g, { inputs: { at } }), outputs);
      const [wide, narrow] = [await run(exact), await run(rounded)];
      for (const key of Object.keys(exact.outputs)) {
        const apart = distance(narrow.get(key) as Float32Array, wide.get(key) as Float32Array);
        assert.ok(apart > 1e-4 && apart < 8e-3, `${key}: ${apart}`);
      }
    });
  });
