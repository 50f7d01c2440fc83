/** Random graphs: fusion, memory plan and updates in place meet in ways that nobody would write. */
import { Graph, type Tensor } from '../../src/tensor/index.ts';
import { random } from './random.ts';

/** A graph of random operations on [4, 4] matrices, rows and columns, some written into states. */
export function randomGraph(seed: number): { g: Graph; outputs: Record<string, Tensor> } {
  const next = random(seed);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)];
  const g = new Graph();
  const values: Tensor[] = ['a', 'b', 'c'].map((name) => g.parameter(name, 'f32', [4, 4]));
  values.push(g.parameter('row', 'f32', [1, 4]), g.parameter('column', 'f32', [4, 1]));
  const states = ['s', 't'].map((name) => g.state(name, 'f32', [4, 4]));
  const full = () => g.broadcastTo(pick(values), [4, 4]);
  const kinds: readonly (() => Tensor)[] = [
    () => g.add(full(), full()),
    () => g.mul(full(), pick(values)),
    () => g.tanh(pick(values)),
    () => g.sub(pick(values), 0.25),
    () => g.tanh(g.matmul(full(), full(), { transA: next() < 0.5, transB: next() < 0.5 })),
    () => g.tanh(g.sum(full(), next() < 0.5 ? 0 : 1)),
    () => g.transpose(full()),
    () => g.slice(g.pad(full(), 1, 2), 2, 6),
    () => g.reshape(g.tanh(g.reshape(full(), [2, 8])), [4, 4]),
    () => g.add(states[0], full()),
    () => {
      const which = next() < 0.5 ? 0 : 1;
      const value = next() < 0.5 ? g.mul(states[which], 0.5) : full();
      states[which] = g.assign(states[which], next() < 0.5 ? g.tanh(g.add(states[which], value)) : value);
      return g.tanh(states[which]);
    },
  ];
  for (let i = 0; i < 30; i++) {
    const value = pick(kinds)();
    if (value.node.primitive !== 'assign') values.push(value);
  }
  const computed = values.slice(5);
  return { g, outputs: { x: pick(computed), y: pick(computed), z: computed[computed.length - 1] } };
}
