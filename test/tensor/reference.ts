/** Evaluates graphs in float64 on plain arrays, one node at a time: what programs are compared with. */

import type { Graph } from '../../src/tensor/graph.ts';
import type { Node, Primitive } from '../../src/tensor/primitives.ts';
import type { Tensor } from '../../src/tensor/tensor.ts';
import type { MapFn } from '../../src/tile/ir.ts';
import { elementCount } from '../../src/tile/ir.ts';
import { rowsOf } from '../kernels/quantized-cases.ts';

export type Values = readonly number[];
/** Values of inputs, parameters and states by name; states are replaced as the graph writes them. */
export type Feeds = Map<string, Values>;

const bool = (x: boolean) => (x ? 1 : 0);
const MAPS: { readonly [F in MapFn]: (...args: number[]) => number } = {
  neg: (x) => -x,
  abs: Math.abs,
  not: (x) => bool(x === 0),
  floor: Math.floor,
  sqrt: Math.sqrt,
  rsqrt: (x) => 1 / Math.sqrt(x),
  exp: Math.exp,
  exp2: (x) => 2 ** x,
  log: Math.log,
  log2: Math.log2,
  tanh: Math.tanh,
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  sin: Math.sin,
  cos: Math.cos,
  add: (x, y) => x + y,
  sub: (x, y) => x - y,
  mul: (x, y) => x * y,
  div: (x, y) => x / y,
  rem: (x, y) => x % y,
  min: Math.min,
  max: Math.max,
  and: (x, y) => x & y,
  or: (x, y) => x | y,
  xor: (x, y) => x ^ y,
  shl: (x, y) => x << y,
  shr: (x, y) => x >> y,
  mulhi: (x, y) => Number((BigInt(x) * BigInt(y)) >> 32n),
  lt: (x, y) => bool(x < y),
  le: (x, y) => bool(x <= y),
  gt: (x, y) => bool(x > y),
  ge: (x, y) => bool(x >= y),
  eq: (x, y) => bool(x === y),
  ne: (x, y) => bool(x !== y),
  fma: (x, y, z) => x * y + z,
  select: (c, x, y) => (c !== 0 ? x : y),
};

type Rule<P extends Primitive> = (
  node: Node<P>,
  inputs: readonly Values[],
  feeds: Feeds,
) => readonly Values[];

const range = (size: number) => Array.from({ length: size }, (_, index) => index);
const zeros = (size: number) => new Array<number>(size).fill(0);

/** Index in `from`, whose sizes are those of `to` or 1, for each element of `to`. */
function broadcastIndex(from: readonly number[], to: readonly number[]): number[] {
  return range(elementCount(to)).map((flat) => {
    let index = 0;
    let stride = 1;
    for (let axis = to.length - 1; axis >= 0; axis--) {
      if (from[axis] !== 1) index += (flat % to[axis]) * stride;
      stride *= from[axis];
      flat = Math.floor(flat / to[axis]);
    }
    return index;
  });
}

function feed(node: Node<'input'> | Node<'parameter'> | Node<'state'>, _: readonly Values[], feeds: Feeds) {
  const values = feeds.get(node.attributes.name);
  if (values === undefined) throw new Error(`no values for ${node.attributes.name}`);
  return [values];
}

/** Remembers a state's new contents for the caller. */
function update(tensor: Tensor, values: Values, feeds: Feeds): void {
  let { node } = tensor;
  while (node.primitive === 'assign' || node.primitive === 'scatterRows') node = node.inputs[0].node;
  feeds.set((node as Node<'state'>).attributes.name, values);
}

function softmaxRow(row: readonly number[], temperature: number) {
  const z = row.map((x) => x / (temperature > 0 ? temperature : 1));
  const max = Math.max(...z);
  const lse = max + Math.log(z.reduce((sum, x) => sum + Math.exp(x - max), 0));
  return { lse, logp: z.map((x) => x - lse), p: z.map((x) => Math.exp(x - lse)) };
}

/** Calls `visit` for every (query row, head, visible key rows); returns flat offsets. */
function attend(
  node: Node<'attention'> | Node<'attentionGrad'>,
  inputs: readonly Values[],
  visit: (queryAt: number, keysAt: readonly number[], statistic: number) => void,
): void {
  const { sequences, heads, kvHeads, headDim } = node.attributes;
  const [q, , values] = node.inputs.map((input) => input.shape);
  const queries = q[0] / sequences;
  const group = heads / kvHeads;
  const [slots, start, lengths] = inputs.slice(3);
  const keyAt = (slot: number, head: number, position: number) =>
    values.length === 4
      ? ((slot * kvHeads + head) * values[2] + position) * headDim
      : ((slot * (values[0] / sequences) + position) * kvHeads + head) * headDim;
  for (const s of range(sequences))
    for (const i of range(lengths[s]))
      for (const h of range(heads)) {
        const kv = Math.floor(h / group);
        visit(
          ((s * queries + i) * heads + h) * headDim,
          range(start[s] + i + 1).map((position) => keyAt(slots[s], kv, position)),
          (s * kvHeads + kv) * queries * group + i * group + (h % group),
        );
      }
}

const dotAt = (a: Values, at: number, b: Values, bt: number, n: number) =>
  range(n).reduce((sum, d) => sum + a[at + d] * b[bt + d], 0);

const RULES: { readonly [P in Primitive]: Rule<P> } = {
  input: feed,
  parameter: feed,
  state: feed,
  literal: (node) => [[...node.attributes.data]],
  constant: (node) => [zeros(elementCount(node.attributes.type.shape)).map(() => node.attributes.value)],
  iota: ({ attributes: { axis, shape } }) => {
    const inner = elementCount(shape.slice(axis + 1));
    return [range(elementCount(shape)).map((i) => Math.floor(i / inner) % shape[axis])];
  },
  map: (node, inputs) => {
    const results = inputs[0].map((_, i) => MAPS[node.attributes.fn](...inputs.map((x) => x[i])));
    return [node.outputs[0].dtype === 'i32' ? results.map(Math.trunc) : results];
  },
  cast: (node, [x]) => [x.map((value) => (node.attributes.dtype === 'i32' ? Math.trunc(value) : value))],
  broadcast: (node, [x]) => [broadcastIndex(node.inputs[0].shape, node.attributes.shape).map((i) => x[i])],
  reshape: (_, [x]) => [x],
  slice: ({ inputs: [{ shape }], attributes }, [x]) => {
    const row = elementCount(shape.slice(1));
    return [x.slice(attributes.start * row, attributes.end * row)];
  },
  pad: ({ inputs: [{ shape }], attributes }, [x]) => {
    const row = elementCount(shape.slice(1));
    return [[...zeros(attributes.before * row), ...x, ...zeros(attributes.after * row)]];
  },
  transpose: ({ inputs: [{ shape }] }, [x]) => {
    const [rows, columns] = shape;
    return [range(rows * columns).map((i) => x[(i % rows) * columns + Math.floor(i / rows)])];
  },
  stopGradient: (_, [x]) => [x],
  reduce: ({ inputs: [{ shape }], attributes: { fn, axis } }, [x]) => {
    const inner = elementCount(shape.slice(axis + 1));
    const result = zeros(x.length / shape[axis]).map(() =>
      fn === 'sum' ? 0 : fn === 'max' ? -Infinity : Infinity,
    );
    const join = { sum: MAPS.add, max: Math.max, min: Math.min }[fn];
    x.forEach((value, i) => {
      const at = Math.floor(i / (inner * shape[axis])) * inner + (i % inner);
      result[at] = join(result[at], value);
    });
    return [result];
  },
  matmul: ({ inputs: [ta], outputs: [c], attributes: { transA, transB } }, [a, b]) => {
    const [m, n] = c.shape;
    const k = ta.shape[transA ? 0 : 1];
    return [
      range(m * n).map((index) => {
        const [i, j] = [Math.floor(index / n), index % n];
        return range(k).reduce(
          (sum, l) => sum + a[transA ? l * m + i : i * k + l] * b[transB ? j * k + l : l * n + j],
          0,
        );
      }),
    ];
  },
  quantizeRows: ({ inputs: [{ shape }], attributes: { group } }, [x]) => {
    const { quads, made } = rowsOf(x, shape[1], group);
    return [quads, made.scales, made.sums];
  },
  quantizedMatmul: ({ inputs: [{ shape }, ...rest], attributes: { type, columns } }, inputs) => {
    const [quads, rowScales, , words, scales] = inputs;
    const [{ shape: scaled }, , { shape: panels }] = rest;
    const [groups, rows] = scaled;
    const width = panels[2];
    const depth = 4 * shape[1];
    const group = depth / groups;
    /** The integer in row k of a column. */
    const element = (k: number, column: number) => {
      const inGroup = k % group;
      const half = type === 'int4' && inGroup >= group / 2 ? 1 : 0;
      const quad = Math.floor((inGroup - (half * group) / 2) / 4);
      const at = (Math.floor(k / group) * panels[1]) / groups + quad;
      const byte =
        words[(Math.floor(column / width) * panels[1] + at) * width + (column % width)] >> (8 * (k % 4));
      return type === 'int8' ? (byte & 255) - 128 : ((byte >> (4 * half)) & 15) - 8;
    };
    return [
      range(shape[0] * columns).map((index) => {
        const [row, column] = [Math.floor(index / columns), index % columns];
        return range(depth).reduce((sum, k) => {
          const g = Math.floor(k / group);
          const x = (quads[row * shape[1] + Math.floor(k / 4)] << (24 - 8 * (k % 4))) >> 24;
          const scale = scales[(Math.floor(column / width) * groups + g) * width + (column % width)];
          return sum + x * rowScales[g * rows + row] * element(k, column) * scale;
        }, 0);
      }),
    ];
  },
  embedding: ({ inputs: [table] }, [x, ids]) => {
    const [vocabulary, columns] = table.shape;
    return [
      ids.flatMap((id) =>
        id < 0 || id >= vocabulary ? zeros(columns) : x.slice(id * columns, (id + 1) * columns),
      ),
    ];
  },
  embeddingGrad: ({ outputs: [{ shape }] }, [dx, ids]) => {
    const [vocabulary, columns] = shape;
    const table = zeros(vocabulary * columns);
    ids.forEach((id, t) => {
      if (id >= 0 && id < vocabulary)
        for (const c of range(columns)) table[id * columns + c] += dx[t * columns + c];
    });
    return [table];
  },
  rmsNorm: ({ attributes: { eps } }, [x, weight]) => {
    const n = weight.length;
    return [
      x.map((value, i) => {
        const row = x.slice(i - (i % n), i - (i % n) + n);
        return (value / Math.sqrt(row.reduce((sum, v) => sum + v * v, 0) / n + eps)) * weight[i % n];
      }),
    ];
  },
  rmsNormGrad: ({ attributes: { eps } }, [x, weight, dy]) => {
    const n = weight.length;
    const dx = zeros(x.length);
    const dweight = zeros(n);
    for (let base = 0; base < x.length; base += n) {
      const r = 1 / Math.sqrt(range(n).reduce((sum, i) => sum + x[base + i] ** 2, 0) / n + eps);
      const mean = range(n).reduce((sum, i) => sum + dy[base + i] * weight[i] * x[base + i], 0) / n;
      for (const i of range(n)) {
        dx[base + i] = r * (dy[base + i] * weight[i] - x[base + i] * r * r * mean);
        dweight[i] += dy[base + i] * x[base + i] * r;
      }
    }
    return [dx, dweight];
  },
  rope: ({ attributes: { headDim, inverse } }, [x, positions, cos, sin]) => {
    const half = headDim / 2;
    const width = x.length / positions.length;
    return [
      x.map((value, i) => {
        const d = (i % width) % headDim;
        const at = positions[Math.floor(i / width)] * half + (d % half);
        const s = inverse ? -sin[at] : sin[at];
        return d < half ? value * cos[at] - x[i + half] * s : value * cos[at] + x[i - half] * s;
      }),
    ];
  },
  attention: (node, inputs) => {
    const { headDim, scale } = node.attributes;
    const [q, k, v] = inputs;
    const out = zeros(q.length);
    const lse = zeros(elementCount(node.outputs[1].shape));
    attend(node, inputs, (at, keysAt, statistic) => {
      const row = softmaxRow(
        keysAt.map((keyAt) => scale * dotAt(q, at, k, keyAt, headDim)),
        1,
      );
      lse[statistic] = row.lse;
      for (const d of range(headDim))
        out[at + d] = row.p.reduce((sum, p, j) => sum + p * v[keysAt[j] + d], 0);
    });
    return [out, lse];
  },
  attentionGrad: (node, inputs) => {
    const { headDim, scale } = node.attributes;
    const [q, k, v] = inputs;
    const dout = inputs[8];
    const [dq, dk, dv] = [q, k, v].map((x) => zeros(x.length));
    attend(node, inputs, (at, keysAt) => {
      const { p } = softmaxRow(
        keysAt.map((keyAt) => scale * dotAt(q, at, k, keyAt, headDim)),
        1,
      );
      const dp = keysAt.map((keyAt) => dotAt(dout, at, v, keyAt, headDim));
      const mean = p.reduce((sum, weight, j) => sum + weight * dp[j], 0);
      keysAt.forEach((keyAt, j) => {
        const ds = p[j] * (dp[j] - mean) * scale;
        for (const d of range(headDim)) {
          dq[at + d] += ds * k[keyAt + d];
          dk[keyAt + d] += ds * q[at + d];
          dv[keyAt + d] += p[j] * dout[at + d];
        }
      });
    });
    return [dq, dk, dv];
  },
  tokenLogProbability: ({ inputs: [{ shape }] }, [logits, targets, temperature]) => {
    const rows = targets.map((_, t) =>
      softmaxRow(logits.slice(t * shape[1], (t + 1) * shape[1]), temperature[t]),
    );
    return [
      rows.map(({ logp }, t) => (targets[t] < 0 ? 0 : logp[targets[t]])),
      rows.map(({ p, logp }) => -p.reduce((sum, x, j) => sum + x * logp[j], 0)),
      rows.map(({ lse }) => lse),
    ];
  },
  tokenLogProbabilityGrad: ({ inputs: [{ shape }] }, [logits, targets, temperature, , cotangent]) => [
    targets.flatMap((target, t) => {
      const { p } = softmaxRow(logits.slice(t * shape[1], (t + 1) * shape[1]), temperature[t]);
      const scale = target < 0 ? 0 : cotangent[t] / (temperature[t] > 0 ? temperature[t] : 1);
      return p.map((x, j) => scale * ((j === target ? 1 : 0) - x));
    }),
  ],
  assign: ({ inputs: [state] }, [, value], feeds) => {
    update(state, value, feeds);
    return [value];
  },
  scatterRows: ({ inputs: [state] }, [old, rows, value], feeds) => {
    const [height, columns] = state.shape;
    const next = [...old];
    rows.forEach((row, i) => {
      if (row >= 0 && row < height)
        for (const c of range(columns)) next[row * columns + c] = value[i * columns + c];
    });
    update(state, next, feeds);
    return [next];
  },
  cacheWrite: ({ inputs: [, { shape }] }, [keys, values, newKeys, newValues, slots, positions]) => {
    const [slotCount, heads, length, headDim] = shape;
    const write = (old: Values, fresh: Values) => {
      const next = [...old];
      slots.forEach((slot, t) => {
        if (slot < 0 || slot >= slotCount || positions[t] < 0 || positions[t] >= length) return;
        for (const h of range(heads))
          for (const d of range(headDim))
            next[((slot * heads + h) * length + positions[t]) * headDim + d] =
              fresh[(t * heads + h) * headDim + d];
      });
      return next;
    };
    return [write(keys, newKeys), write(values, newValues)];
  },
  custom: ({ attributes: { kernel } }) => {
    throw new Error(`the reference does not know kernel '${kernel.name}'`);
  },
};

/** Values of `outputs`, after evaluating the first `count` nodes (those up to the last output) in order. */
export function evaluateGraph(
  graph: Graph,
  feeds: Feeds,
  outputs: readonly Tensor[],
  count = Math.max(...outputs.map((output) => output.node.id)) + 1,
): Values[] {
  const values = new Map<Tensor, Values>();
  for (const node of graph.nodes.slice(0, count)) {
    const inputs = node.inputs.map((input) => values.get(input) as Values);
    const results = (RULES[node.primitive] as Rule<Primitive>)(node as Node<Primitive>, inputs, feeds);
    node.outputs.forEach((output, index) => {
      values.set(output, results[index]);
    });
  }
  return outputs.map((output) => values.get(output) as Values);
}
