/** The kernels of each primitive. */

import type { AttentionOptions } from '../kernels/attention.ts';
import {
  attention,
  attentionBackwardKeyValue,
  attentionBackwardQuery,
  attentionDelta,
} from '../kernels/attention.ts';
import type { Storage } from '../kernels/common.ts';
import { crossEntropy, crossEntropyBackward } from '../kernels/crossentropy.ts';
import { embedding, embeddingBackward } from '../kernels/embedding.ts';
import { cacheWrite } from '../kernels/kvcache.ts';
import { NORM_PARTIAL_ROWS, rmsNorm, rmsNormBackward, rmsNormWeightPartial } from '../kernels/norm.ts';
import { panelSizes } from '../kernels/panels.ts';
import { quantizeRows } from '../kernels/quantized-rows.ts';
import { rope } from '../kernels/rope.ts';
import { transpose } from '../kernels/transpose.ts';
import { ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import { elementCount } from '../tile/ir.ts';
import { padKernel, scatterKernel } from './movement.ts';
import { reductionKernel } from './pointwise.ts';
import type { Attributes, Node, Primitive } from './primitives.ts';
import type { Tensor } from './tensor.ts';
import type { TensorType } from './types.ts';

/** Memory that one step needs for itself. */
export class Scratch {
  readonly type: TensorType;
  constructor(type: TensorType) {
    this.type = type;
  }
}

export interface KernelCall {
  readonly kernel: Kernel;
  /** What the kernel's views are bound to. */
  readonly operands: readonly (Tensor | Scratch)[];
}

type Emit<P extends Primitive> = (node: Node<P>, used: (tensor: Tensor) => boolean) => readonly KernelCall[];

/** Primitives that other parts compile: 'memory' has no kernel, 'expression' gets one from its expression. */
type Elsewhere = 'memory' | 'expression';

const storage = (tensor: Tensor) => tensor.dtype as Storage;

function attentionOptions(attributes: Attributes['attention'], q: Tensor, values: Tensor): AttentionOptions {
  const { sequences, heads, kvHeads, headDim, scale } = attributes;
  const cache = values.shape.length === 4;
  return {
    sequences,
    queryLength: q.shape[0] / sequences,
    heads,
    kvHeads,
    headDim,
    scale,
    slots: cache ? values.shape[0] : sequences,
    maxLength: cache ? values.shape[2] : values.shape[0] / sequences,
    layout: cache ? 'cache' : 'tokens',
    type: storage(q),
    kvType: storage(values),
  };
}

export function normOptions(x: Tensor, weight: Tensor, eps: number) {
  const [columns] = weight.shape;
  return {
    rows: elementCount(x.shape) / columns,
    columns,
    eps,
    xType: storage(x),
    weightType: storage(weight),
  };
}

const one = (kernel: Kernel, operands: readonly (Tensor | Scratch)[]) => [{ kernel, operands }];

export const EMIT: { readonly [P in Primitive]: Emit<P> | Elsewhere } = {
  input: 'memory',
  parameter: 'memory',
  state: 'memory',
  literal: 'memory',
  reshape: 'memory',
  slice: 'memory',
  stopGradient: 'memory',
  constant: 'expression',
  iota: 'expression',
  map: 'expression',
  cast: 'expression',
  broadcast: 'expression',
  reduce: 'expression',
  matmul: 'expression',
  quantizedMatmul: 'expression',
  assign: 'expression',

  pad: ({ inputs: [x], outputs, attributes }) =>
    one(padKernel(x.type, attributes.before, attributes.after), [x, ...outputs]),
  transpose: ({ inputs: [x], outputs }) =>
    one(transpose({ rows: x.shape[0], columns: x.shape[1], type: storage(x) }), [x, ...outputs]),
  quantizeRows: ({ inputs: [x], outputs, attributes: { group } }) => {
    const [rows, columns] = x.shape;
    return one(quantizeRows({ rows, columns, group, xType: storage(x) }), [x, ...outputs]);
  },
  embedding: ({ inputs: [table, ids], outputs: [x] }) => {
    const [first, columns] = table.shape;
    const { rows, width } = panelSizes(table.shape);
    const options = {
      tokens: ids.shape[0],
      ...(table.shape.length === 2
        ? { vocabulary: first, columns }
        : { vocabulary: first * width, columns: rows, panel: width }),
      tableType: storage(table),
      type: storage(x),
    };
    return one(embedding(options), [ids, table, x]);
  },
  embeddingGrad: ({ inputs: [dx, ids], outputs: [table] }) => {
    const [vocabulary, columns] = table.shape;
    return one(embeddingBackward({ tokens: ids.shape[0], vocabulary, columns }), [ids, dx, table]);
  },
  rmsNorm: ({ inputs: [x, weight], outputs: [y], attributes }) =>
    one(rmsNorm({ ...normOptions(x, weight, attributes.eps), yType: attributes.type }), [x, weight, y]),
  rmsNormGrad: ({ inputs: [x, weight, dy], outputs: [dx, dweight], attributes }, used) => {
    const options = normOptions(x, weight, attributes.eps);
    const calls: KernelCall[] = [];
    if (used(dx)) calls.push({ kernel: rmsNormBackward(options), operands: [x, weight, dy, dx] });
    if (used(dweight)) {
      const shape = [ceilDiv(options.rows, NORM_PARTIAL_ROWS), options.columns];
      const partial = new Scratch({ dtype: 'f32', shape });
      calls.push({ kernel: rmsNormWeightPartial(options), operands: [x, dy, partial] });
      const expression = {
        shape,
        inputs: [partial.type],
        steps: [],
        outputs: [0],
        outputTypes: ['f32' as const],
      };
      calls.push({
        kernel: reductionKernel('rmsnorm_dweight', expression, 'sum', 0),
        operands: [partial, dweight],
      });
    }
    return calls;
  },
  rope: ({ inputs: [x, positions, cos, sin], outputs: [y], attributes: { headDim, inverse, type } }) => {
    const [tokens, width] = x.shape;
    const options = {
      tokens,
      heads: width / headDim,
      headDim,
      maxPositions: cos.shape[0],
      xType: storage(x),
      type,
      inverse,
    };
    return one(rope(options), [x, positions, cos, sin, y]);
  },
  attention: ({ inputs: [q, keys, values, ...rest], outputs: [out, lse], attributes }, used) => {
    const options = attentionOptions(attributes, q, values);
    return used(lse)
      ? one(attention({ ...options, training: true }), [q, keys, values, ...rest, out, lse])
      : one(attention(options), [q, keys, values, ...rest, out]);
  },
  attentionGrad: ({ inputs, outputs: [dq, dkeys, dvalues], attributes }, used) => {
    const [q, keys, values, slots, start, lengths, out, lse, dout] = inputs;
    const options = { ...attentionOptions(attributes, q, values), layout: 'tokens' } as const;
    const delta = new Scratch(lse.type);
    const common = [q, keys, values, dout, lse, delta, slots, start, lengths];
    const calls: KernelCall[] = [{ kernel: attentionDelta(options), operands: [dout, out, delta] }];
    if (used(dq)) calls.push({ kernel: attentionBackwardQuery(options), operands: [...common, dq] });
    if (used(dkeys) || used(dvalues))
      calls.push({ kernel: attentionBackwardKeyValue(options), operands: [...common, dkeys, dvalues] });
    return calls;
  },
  tokenLogProbability: ({ inputs: [logits, ...rest], outputs }) => {
    const [rows, vocabulary] = logits.shape;
    return one(crossEntropy({ rows, vocabulary, type: storage(logits) }), [logits, ...rest, ...outputs]);
  },
  tokenLogProbabilityGrad: ({ inputs: [logits, ...rest], outputs }) => {
    const [rows, vocabulary] = logits.shape;
    return one(crossEntropyBackward({ rows, vocabulary, type: storage(logits) }), [
      logits,
      ...rest,
      ...outputs,
    ]);
  },
  scatterRows: ({ inputs: [state, rows, value] }) =>
    one(scatterKernel(state.type, rows.shape[0]), [rows, value, state]),
  cacheWrite: ({ inputs: [keys, values, newKeys, newValues, slots, positions] }) => {
    const [slotCount, kvHeads, maxLength, headDim] = values.shape;
    const options = {
      tokens: newKeys.shape[0],
      kvHeads,
      headDim,
      slots: slotCount,
      maxLength,
      type: storage(newKeys),
      cacheType: storage(values),
    };
    return one(cacheWrite(options), [newKeys, newValues, slots, positions, keys, values]);
  },
  custom: ({ attributes: { kernel }, inputs, outputs }) => {
    const updated = kernel.views.filter((view) => view.access === 'readwrite').length;
    let input = 0;
    let output = updated;
    return one(
      kernel,
      kernel.views.map((view) => (view.access === 'write' ? outputs[output++] : inputs[input++])),
    );
  },
};
