/** Shapes and element types of every primitive's results, and the checks of its arguments. */

import { panelShape, panelSizes, panelsOf } from '../kernels/panels.ts';
import { quantizedShape } from '../kernels/quantized.ts';
import type { DType } from '../numerics/dtype.ts';
import { elementCount, MAP_ARITY } from '../tile/ir.ts';
import { COMPARISONS, castable, MAP_TYPES, sameShape, sameType, typeText } from '../tile/types.ts';
import type { Attributes, Primitive } from './primitives.ts';
import type { TensorType } from './types.ts';
import { GraphError } from './types.ts';

type Infer<P extends Primitive> = (
  attributes: Attributes[P],
  inputs: readonly TensorType[],
) => readonly TensorType[];

function expect(condition: boolean, message: () => string): void {
  if (!condition) throw new GraphError(message());
}

function expectRank(type: TensorType, rank: number, what: string): void {
  expect(type.shape.length === rank, () => `${what} must have ${rank} dimensions, not ${typeText(type)}`);
}

function expectDType(type: TensorType, dtypes: readonly DType[], what: string): void {
  expect(
    dtypes.includes(type.dtype),
    () => `${what} must be ${dtypes.join(' or ')}, not ${typeText(type)}; cast it`,
  );
}

function expectSame(found: TensorType, wanted: TensorType, what: string): void {
  expect(sameType(found, wanted), () => `${what} must be ${typeText(wanted)}, not ${typeText(found)}`);
}

function leaf(attributes: { readonly type: TensorType }): readonly TensorType[] {
  const { type } = attributes;
  expect(
    type.shape.length > 0 && type.shape.every(positive),
    () => `a shape is one or more positive integers, not [${type.shape.join(', ')}]; a single value is [1]`,
  );
  return [type];
}

const positive = (size: number) => Number.isInteger(size) && size > 0;
const STORED: readonly DType[] = ['f32', 'bf16'];

export const INFER: { readonly [P in Primitive]: Infer<P> } = {
  input: leaf,
  parameter: leaf,
  state: leaf,
  literal: (attributes) => {
    const count = elementCount(attributes.type.shape);
    expect(
      count === attributes.data.length,
      () => `${attributes.data.length} values do not fill ${typeText(attributes.type)} of ${count} elements`,
    );
    return leaf(attributes);
  },
  constant: (attributes) => {
    expectDType(attributes.type, ['f32', 'i32', 'u32', 'bool'], 'a constant');
    return leaf(attributes);
  },
  iota: ({ shape }) => leaf({ type: { dtype: 'i32', shape } }),

  map: ({ fn }, inputs) => {
    expect(
      inputs.length === MAP_ARITY[fn],
      () => `'${fn}' takes ${MAP_ARITY[fn]} arguments, not ${inputs.length}`,
    );
    const valued = fn === 'select' ? inputs.slice(1) : inputs;
    if (fn === 'select') expectDType(inputs[0], ['bool'], `the condition of 'select'`);
    for (const input of valued) {
      expectDType(input, MAP_TYPES[fn], `an argument of '${fn}'`);
      expect(
        input.dtype === valued[0].dtype,
        () => `arguments of '${fn}' differ in type: ${typeText(valued[0])} and ${typeText(input)}; cast one`,
      );
    }
    for (const input of inputs)
      expect(
        sameShape(input.shape, inputs[0].shape),
        () => `arguments of '${fn}' differ in shape: ${typeText(inputs[0])} and ${typeText(input)}`,
      );
    return [{ dtype: COMPARISONS.has(fn) ? 'bool' : valued[0].dtype, shape: inputs[0].shape }];
  },
  cast: ({ dtype }, [x]) => {
    expect(
      castable(x.dtype, dtype),
      () => `no cast from ${x.dtype} to ${dtype}; go through f32 (to bool: compare)`,
    );
    return [{ dtype, shape: x.shape }];
  },
  broadcast: ({ shape }, [x]) => {
    expect(
      x.shape.length === shape.length && x.shape.every((size, axis) => size === 1 || size === shape[axis]),
      () => `${typeText(x)} does not broadcast to [${shape.join(', ')}]`,
    );
    return [{ dtype: x.dtype, shape }];
  },
  reshape: ({ shape }, [x]) => {
    expect(
      shape.length > 0 && shape.every(positive) && elementCount(shape) === elementCount(x.shape),
      () => `${typeText(x)} has ${elementCount(x.shape)} elements and cannot become [${shape.join(', ')}]`,
    );
    return [{ dtype: x.dtype, shape }];
  },
  slice: ({ start, end }, [x]) => {
    expect(
      Number.isInteger(start) && Number.isInteger(end) && start >= 0 && end > start && end <= x.shape[0],
      () => `rows ${start} to ${end} are not within ${typeText(x)}`,
    );
    return [{ dtype: x.dtype, shape: [end - start, ...x.shape.slice(1)] }];
  },
  pad: ({ before, after }, [x]) => {
    expect(before >= 0 && after >= 0, () => `padding must not be negative: ${before}, ${after}`);
    return [{ dtype: x.dtype, shape: [x.shape[0] + before + after, ...x.shape.slice(1)] }];
  },
  transpose: (_, [x]) => {
    expectRank(x, 2, 'the argument of transpose');
    return [{ dtype: x.dtype, shape: [x.shape[1], x.shape[0]] }];
  },
  stopGradient: (_, [x]) => [x],
  reduce: ({ fn, axis }, [x]) => {
    expectDType(x, ['f32', 'i32', 'u32'], `the argument of '${fn}'`);
    return [{ dtype: x.dtype, shape: x.shape.map((size, dimension) => (dimension === axis ? 1 : size)) }];
  },

  matmul: ({ transA, transB, columns }, [a, b]) => {
    expectRank(a, 2, 'the first matrix');
    if (columns === null) expectRank(b, 2, 'the second matrix');
    expect(
      STORED.includes(a.dtype) && STORED.includes(b.dtype),
      () => `no matrix product of ${typeText(a)} and ${typeText(b)}; cast both to f32 or bf16`,
    );
    const [m, k] = transA ? [a.shape[1], a.shape[0]] : a.shape;
    if (columns !== null) {
      const wanted = panelShape(b.dtype, k, columns);
      expect(
        !transB && sameShape(b.shape, wanted),
        () => `a matrix [${k}, ${columns}] in panels is [${wanted}], not transposed, and not ${typeText(b)}`,
      );
      return [{ dtype: 'f32', shape: [m, columns] }];
    }
    const [k2, n] = transB ? [b.shape[1], b.shape[0]] : b.shape;
    expect(
      k === k2,
      () =>
        `inner sizes of a matrix product differ: ${k} of ${typeText(a)}${transA ? ' transposed' : ''} and ${k2} of ${typeText(b)}${transB ? ' transposed' : ''}`,
    );
    return [{ dtype: 'f32', shape: [m, n] }];
  },
  quantizeRows: ({ group }, [x]) => {
    expectRank(x, 2, 'what is quantized');
    expectDType(x, STORED, 'what is quantized');
    const [rows, columns] = x.shape;
    expect(
      positive(group / 4) && columns % group === 0,
      () =>
        `${typeText(x)} cannot be quantized in groups of ${group}; that must be a multiple of 4 and divide it`,
    );
    return [
      { dtype: 'i32', shape: [rows, columns / 4] },
      { dtype: 'f32', shape: [columns / group, rows] },
      { dtype: 'i32', shape: [columns / group, rows] },
    ];
  },
  quantizedMatmul: ({ type, columns }, [quads, rowScales, sums, words, scales]) => {
    expectRank(quads, 2, 'quantized rows');
    expectDType(quads, ['i32'], 'quantized rows');
    const [rows, across] = quads.shape;
    const { groups, words: height } = quantizedShape(type, 4 * across);
    const { width, count } = panelsOf(columns);
    expectSame(rowScales, { dtype: 'f32', shape: [groups, rows] }, 'the scales of rows');
    expectSame(sums, { dtype: 'i32', shape: [groups, rows] }, 'the sums of rows');
    expectSame(words, { dtype: 'i32', shape: [count, height, width] }, `a matrix in ${type}`);
    expectSame(scales, { dtype: 'bf16', shape: [count, groups, width] }, 'the scales of a matrix');
    return [{ dtype: 'f32', shape: [rows, columns] }];
  },
  embedding: (_, [table, ids]) => {
    const panelled = table.shape.length > 2;
    if (!panelled) expectRank(table, 2, 'an embedding table');
    expectDType(table, STORED, 'an embedding table');
    expectRank(ids, 1, 'token ids');
    expectDType(ids, ['i32'], 'token ids');
    const columns = panelled ? panelSizes(table.shape).rows : table.shape[1];
    return [{ dtype: table.dtype, shape: [ids.shape[0], columns] }];
  },
  embeddingGrad: ({ vocabulary }, [cotangent, ids]) => {
    expectDType(cotangent, ['f32'], 'the cotangent of an embedding');
    expect(cotangent.shape[0] === ids.shape[0], () => `${typeText(cotangent)} does not have a row a token`);
    return [{ dtype: 'f32', shape: [vocabulary, cotangent.shape[1]] }];
  },
  rmsNorm: ({ type }, [x, weight]) => {
    expectRank(x, 2, 'the argument of rmsNorm');
    expectDType(x, STORED, 'the argument of rmsNorm');
    expectRank(weight, 1, 'the weight of rmsNorm');
    expectDType(weight, STORED, 'the weight of rmsNorm');
    expect(
      x.shape[1] % weight.shape[0] === 0,
      () => `rmsNorm: ${typeText(x)} does not divide into groups of ${weight.shape[0]}`,
    );
    return [{ dtype: type, shape: x.shape }];
  },
  rmsNormGrad: (_, [x, weight, cotangent]) => {
    expectSame(cotangent, { dtype: 'f32', shape: x.shape }, 'the cotangent of rmsNorm');
    return [x, { dtype: 'f32', shape: weight.shape }];
  },
  rope: ({ headDim, type }, [x, positions, cos, sin]) => {
    expectRank(x, 2, 'the argument of rope');
    expectDType(x, STORED, 'the argument of rope');
    expectSame(positions, { dtype: 'i32', shape: [x.shape[0]] }, 'positions');
    expect(
      headDim % 2 === 0 && x.shape[1] % headDim === 0,
      () => `rope: ${typeText(x)} does not divide into heads of even size ${headDim}`,
    );
    expectSame(cos, { dtype: 'f32', shape: [cos.shape[0], headDim / 2] }, 'the cosines');
    expectSame(sin, cos, 'the sines');
    return [{ dtype: type, shape: x.shape }];
  },
  attention: ({ sequences, heads, kvHeads, headDim }, [q, keys, values, ...rest]) => {
    expectRank(q, 2, 'queries');
    expectDType(q, STORED, 'queries');
    expect(
      q.shape[1] === heads * headDim && q.shape[0] % sequences === 0,
      () => `queries must be [${sequences} * n, ${heads} * ${headDim}], not ${typeText(q)}`,
    );
    expect(heads % kvHeads === 0, () => `${heads} heads cannot share ${kvHeads} key-value heads`);
    expectDType(values, STORED, 'values');
    const { shape } = values;
    expect(
      shape.length === 4
        ? shape[1] === kvHeads && shape[3] === headDim
        : shape.length === 2 && shape[1] === kvHeads * headDim && shape[0] % sequences === 0,
      () =>
        `values must be [${sequences} * n, ${kvHeads} * ${headDim}] or a cache [slots, ${kvHeads}, n, ${headDim}], not ${typeText(values)}`,
    );
    expectSame(keys, values, 'keys');
    ['slots', 'start', 'lengths'].forEach((what, index) => {
      expectSame(rest[index], { dtype: 'i32', shape: [sequences] }, what);
    });
    return [q, { dtype: 'f32', shape: [sequences * kvHeads, (q.shape[0] / sequences) * (heads / kvHeads)] }];
  },
  attentionGrad: (_, [q, keys, values, _slots, _start, _lengths, out, logSumExp, cotangent]) => {
    expectDType(logSumExp, ['f32'], 'the log-sum-exp of attention');
    expectSame(cotangent, out, 'the cotangent of attention');
    return [q, keys, values];
  },
  tokenLogProbability: (_, [logits, targets, temperature]) => {
    expectRank(logits, 2, 'logits');
    expectDType(logits, STORED, 'logits');
    expectSame(targets, { dtype: 'i32', shape: [logits.shape[0]] }, 'targets');
    const row: TensorType = { dtype: 'f32', shape: [logits.shape[0]] };
    expectSame(temperature, row, 'temperature');
    return [row, row, row];
  },
  tokenLogProbabilityGrad: (_, [logits, targets, temperature, logSumExp, cotangent]) => {
    expectSame(temperature, { dtype: 'f32', shape: targets.shape }, 'temperature');
    expectSame(logSumExp, temperature, 'the log-sum-exp');
    expectSame(cotangent, temperature, 'the cotangent of the log-probability');
    return [logits];
  },

  assign: (_, [state, value]) => {
    expectSame(value, state, 'the new value of a state');
    return [state];
  },
  scatterRows: (_, [state, rows, value]) => {
    expectRank(state, 2, 'the state of scatterRows');
    expectRank(rows, 1, 'row indices');
    expectDType(rows, ['i32'], 'row indices');
    expectSame(value, { dtype: state.dtype, shape: [rows.shape[0], state.shape[1]] }, 'the rows to write');
    return [state];
  },
  cacheWrite: (_, [keys, values, newKeys, newValues, slots, positions]) => {
    expectRank(values, 4, 'a cache of values');
    expectDType(values, STORED, 'a cache');
    expectSame(keys, values, 'the cache of keys');
    expectRank(newKeys, 2, 'new keys');
    expectDType(newKeys, STORED, 'new keys');
    expect(
      newKeys.shape[1] === values.shape[1] * values.shape[3],
      () => `new keys for a cache of values ${typeText(values)} cannot be ${typeText(newKeys)}`,
    );
    expectSame(newValues, newKeys, 'new values');
    expectSame(slots, { dtype: 'i32', shape: [newKeys.shape[0]] }, 'slots');
    expectSame(positions, slots, 'positions');
    return [keys, values];
  },
  custom: ({ kernel }, inputs) => {
    const read = kernel.views.filter((view) => view.access !== 'write');
    expect(
      inputs.length === read.length,
      () =>
        `kernel '${kernel.name}' reads ${read.length} views (${read.map((view) => view.name).join(', ')}), but has ${inputs.length} inputs`,
    );
    read.forEach((view, index) => {
      const found = inputs[index];
      expect(
        found.dtype === view.dtype && elementCount(found.shape) >= span(view),
        () =>
          `view '${view.name}' of kernel '${kernel.name}' is ${typeText(view)}, but the input is ${typeText(found)}`,
      );
    });
    return [
      ...read.flatMap((view, index) => (view.access === 'readwrite' ? [inputs[index]] : [])),
      ...kernel.views
        .filter((view) => view.access === 'write')
        .map((view) => {
          expect(
            elementCount(view.shape) === span(view),
            () => `view '${view.name}' of kernel '${kernel.name}' must be contiguous to be an output`,
          );
          return { dtype: view.dtype, shape: view.shape };
        }),
    ];
  },
};

/** Elements from a view's first to its last. */
function span(view: { readonly shape: readonly number[]; readonly strides: readonly number[] }): number {
  return view.shape.reduce((total, size, axis) => total + (size - 1) * view.strides[axis], 1);
}

/** Result types of one application. Throws `GraphError`. */
export function inferTypes<P extends Primitive>(
  primitive: P,
  attributes: Attributes[P],
  inputs: readonly TensorType[],
): readonly TensorType[] {
  return (INFER[primitive] as Infer<P>)(attributes, inputs);
}
