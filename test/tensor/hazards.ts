/** Graphs in which a kernel moved, or a value placed, one step too boldly gives wrong results. */
import { Graph, type Tensor } from '../../src/tensor/index.ts';

export interface Hazard {
  readonly g: Graph;
  readonly outputs: Record<string, Tensor>;
}

const hazard = (build: (g: Graph) => Record<string, Tensor>) => (): Hazard => {
  const g = new Graph();
  return { g, outputs: build(g) };
};

/** So many rows that several programs of a matmul share an operand. */
const ROWS = 130;
const tall = (g: Graph, name: string) => g.parameter(name, 'f32', [ROWS, 8]);
const square = (g: Graph) => g.mul(g.parameter('w', 'f32', [ROWS, ROWS]), 0.1);

export const HAZARDS: Readonly<Record<string, () => Hazard>> = {
  'a product is not written over its operand': hazard((g) => {
    const x = g.exp(tall(g, 'x'));
    return { y: g.transpose(g.add(x, g.matmul(square(g), x))) };
  }),
  'a product of a state is not written over the state while it is read': hazard((g) => {
    const s = g.state('s', 'f32', [ROWS, 8]);
    g.assign(s, g.matmul(square(g), s));
    return { done: g.constant(0) };
  }),
  'a state is not overwritten before others have read it': hazard((g) => {
    const s = g.state('s', 'f32', [4, 4]);
    const x = g.parameter('x', 'f32', [4, 4]);
    const value = g.exp(g.matmul(x, x));
    const read = g.matmul(s, x);
    g.assign(s, value);
    return { read };
  }),
  'a product reads the state as it was, however late its epilogue': hazard((g) => {
    const s = g.state('s', 'f32', [4, 4]);
    const x = g.parameter('x', 'f32', [4, 4]);
    const product = g.matmul(s, x);
    const next = g.assign(s, g.exp(x));
    return { y: g.mul(g.add(product, 1), next) };
  }),
  'a product that the host reads keeps its memory': hazard((g) => {
    const x = g.parameter('x', 'f32', [4, 4]);
    const product = g.matmul(x, x);
    return { product, y: g.add(product, x) };
  }),
  'a value computed again still has memory where a part of it is read': hazard((g) => {
    const x = g.parameter('x', 'f32', [4, 4]);
    const value = g.exp(x);
    return { y: g.mul(g.add(value, g.slice(value, 0, 1)), x) };
  }),
  'a state becomes a copy of one that was written in place': hazard((g) => {
    const rows = g.literal(Int32Array.of(2, 0));
    const s = g.scatterRows(g.state('s', 'f32', [4, 3]), rows, g.parameter('x', 'f32', [2, 3]));
    const t = g.assign(g.state('t', 'f32', [4, 3]), s);
    return { y: g.add(t, s) };
  }),
  'a value goes into two states': hazard((g) => {
    const value = g.exp(g.parameter('x', 'f32', [4]));
    g.assign(g.state('s', 'f32', [4]), value);
    g.assign(g.state('t', 'f32', [4]), value);
    return { done: g.constant(0) };
  }),
  'an output outlives the state it was assigned to': hazard((g) => {
    const x = g.parameter('x', 'f32', [4]);
    const value = g.exp(x);
    const s = g.assign(g.state('s', 'f32', [4]), value);
    g.assign(s, g.tanh(s));
    return { value };
  }),
  'states exchange their contents': hazard((g) => {
    const [s, t] = [g.state('s', 'f32', [4]), g.state('t', 'f32', [4])];
    const [a, b] = [g.mul(s, 1.5), g.mul(t, 0.5)];
    g.assign(s, b);
    g.assign(t, a);
    return { done: g.constant(0) };
  }),
};
