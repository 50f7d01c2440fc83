/**
 * The graph of tensor operations. Calling a method records a node and returns the tensor that it will hold; nothing
 * is computed before `compile`. Operations that write (`assign`, `scatterRows`, `adamw`) happen in the order in which
 * they were recorded, and return the new version of the state; the old version cannot be used after that.
 */

import type { QuantizedType } from '../kernels/quantized.ts';
import { ropeTable } from '../kernels/rope.ts';
import type { DType } from '../numerics/dtype.ts';
import type { Kernel, MapFn, ReduceFn } from '../tile/ir.ts';
import { elementCount, MAP_ARITY } from '../tile/ir.ts';
import { broadcastShapes, sameShape, typeText } from '../tile/types.ts';
import { adamwStep } from './adamw.ts';
import type { AttentionShape, CustomGradient } from './primitives.ts';
import { Recording } from './recording.ts';
import type { Tensor } from './tensor.ts';
import { GraphError, resolveAxis } from './types.ts';

/** A tensor, or a number that takes the other operand's element type. */
export type Value = Tensor | number;

/** Where the rows of a batch's sequences belong: i32 [sequences] each. */
export interface SequencePlace {
  /** Which slot of the cache holds the sequence's keys. */
  readonly slots?: Tensor;
  /** Position of the sequence's first row. */
  readonly start?: Tensor;
  /** How many of the sequence's rows count; the rest is padding. */
  readonly lengths?: Tensor;
}

/** Rows of 8-bit integers in groups, see `Graph.quantizeRows`. */
export interface QuantizedRows {
  readonly quads: Tensor;
  readonly scales: Tensor;
  readonly sums: Tensor;
}

export class Graph extends Recording {
  readonly #ropeTables = new Map<string, readonly Tensor[]>();

  /** Written by the host with `program.write(name, …)`; keeps its value from run to run. */
  input(name: string, dtype: DType, shape: readonly number[]): Tensor {
    return this.leaf('input', name, dtype, shape);
  }
  /** A parameter of the `ParameterStore`. Asking again for the same name returns the same tensor. */
  parameter(name: string, dtype: DType, shape: readonly number[]): Tensor {
    return this.leaf('parameter', name, dtype, shape);
  }
  /** Persistent memory of the `ParameterStore` that the program reads and writes: moments, caches, counters. */
  state(name: string, dtype: DType, shape: readonly number[]): Tensor {
    return this.leaf('state', name, dtype, shape);
  }
  /** Every element is `value`. */
  constant(value: number, dtype: DType = 'f32', shape: readonly number[] = [1]): Tensor {
    return this.apply('constant', { value, type: { dtype, shape } })[0];
  }
  /** Fixed data, row-major. f32 from a Float32Array, i32 from an Int32Array. */
  literal(data: Float32Array | Int32Array, shape: readonly number[] = [data.length]): Tensor {
    const dtype = data instanceof Float32Array ? 'f32' : 'i32';
    return this.apply('literal', { data, type: { dtype, shape } })[0];
  }
  /** i32: 0, 1, 2, … along `axis`. */
  iota(shape: readonly number[], axis = -1): Tensor {
    return this.apply('iota', { shape, axis: resolveAxis(axis, shape) })[0];
  }

  /** Elementwise function with NumPy's broadcasting. At least one operand is a tensor. */
  map(fn: MapFn, ...operands: readonly Value[]): Tensor {
    if (operands.length !== MAP_ARITY[fn])
      throw new GraphError(`'${fn}' takes ${MAP_ARITY[fn]} arguments, not ${operands.length}`);
    const valued = operands.filter(
      (operand, index) => typeof operand !== 'number' && (fn !== 'select' || index > 0),
    );
    const dtype = (valued[0] as Tensor | undefined)?.dtype ?? 'f32';
    let shape: readonly number[] = [1];
    for (const operand of operands) {
      if (typeof operand === 'number') continue;
      try {
        shape = broadcastShapes(shape, operand.shape);
      } catch {
        throw new GraphError(
          `'${fn}': shapes ${operands.map((o) => (typeof o === 'number' ? o : typeText(o.type))).join(', ')} do not broadcast`,
        );
      }
    }
    const inputs = operands.map((operand) =>
      typeof operand === 'number' ? this.constant(operand, dtype, shape) : this.broadcastTo(operand, shape),
    );
    return this.apply('map', { fn }, inputs)[0];
  }
  add(a: Value, b: Value): Tensor {
    return this.map('add', a, b);
  }
  sub(a: Value, b: Value): Tensor {
    return this.map('sub', a, b);
  }
  mul(a: Value, b: Value): Tensor {
    return this.map('mul', a, b);
  }
  /** Exactly rounded for f32; truncates for integers. */
  div(a: Value, b: Value): Tensor {
    return this.map('div', a, b);
  }
  /** Smaller of the two; of equal values the gradient goes to `a`. */
  min(a: Value, b: Value): Tensor {
    return this.map('min', a, b);
  }
  /** Larger of the two; of equal values the gradient goes to `a`. */
  max(a: Value, b: Value): Tensor {
    return this.map('max', a, b);
  }
  /** x limited to low … high; no gradient outside. */
  clip(x: Tensor, low: Value, high: Value): Tensor {
    return this.min(this.max(x, low), high);
  }
  neg(x: Tensor): Tensor {
    return this.map('neg', x);
  }
  abs(x: Tensor): Tensor {
    return this.map('abs', x);
  }
  exp(x: Tensor): Tensor {
    return this.map('exp', x);
  }
  log(x: Tensor): Tensor {
    return this.map('log', x);
  }
  sqrt(x: Tensor): Tensor {
    return this.map('sqrt', x);
  }
  rsqrt(x: Tensor): Tensor {
    return this.map('rsqrt', x);
  }
  sigmoid(x: Tensor): Tensor {
    return this.map('sigmoid', x);
  }
  tanh(x: Tensor): Tensor {
    return this.map('tanh', x);
  }
  /** Elementwise comparison; bool. */
  compare(fn: 'lt' | 'le' | 'gt' | 'ge' | 'eq' | 'ne', a: Value, b: Value): Tensor {
    return this.map(fn, a, b);
  }
  /** condition ? a : b, elementwise; `condition` is bool. */
  where(condition: Tensor, a: Value, b: Value): Tensor {
    return this.map('select', condition, a, b);
  }
  /** x * sigmoid(x). */
  silu(x: Tensor): Tensor {
    return this.mul(x, this.sigmoid(x));
  }
  /** silu(gate) * up. */
  swiglu(gate: Tensor, up: Tensor): Tensor {
    return this.mul(this.silu(gate), up);
  }
  /** Converts the element type with the tile language's rounding. */
  cast(x: Tensor, dtype: DType): Tensor {
    return this.apply('cast', { dtype }, [x])[0];
  }
  /** Repeats size-1 and missing leading dimensions. */
  broadcastTo(x: Tensor, shape: readonly number[]): Tensor {
    if (sameShape(x.shape, shape)) return this.itself(x, 'broadcast');
    const padded = [...Array<number>(Math.max(0, shape.length - x.shape.length)).fill(1), ...x.shape];
    return this.apply('broadcast', { shape }, [this.reshape(x, padded)])[0];
  }
  /** The same elements under another shape; one size may be -1 (whatever is left). */
  reshape(x: Tensor, shape: readonly number[]): Tensor {
    const known = shape.reduce((product, size) => (size === -1 ? product : product * size), 1);
    const full = shape.map((size) => (size === -1 ? elementCount(x.shape) / known : size));
    return sameShape(x.shape, full)
      ? this.itself(x, 'reshape')
      : this.apply('reshape', { shape: full }, [x])[0];
  }
  /** Rows `start` to `end` (exclusive; the last when left out) of the first axis, without a copy. */
  slice(x: Tensor, start: number, end = x.shape[0]): Tensor {
    return this.apply('slice', { start, end }, [x])[0];
  }
  /** Rows of zeros before and after `x` along the first axis. */
  pad(x: Tensor, before: number, after: number): Tensor {
    return this.apply('pad', { before, after }, [x])[0];
  }
  /** Swaps the dimensions of a matrix. */
  transpose(x: Tensor): Tensor {
    return this.apply('transpose', {}, [x])[0];
  }
  /** x, through which no gradient flows. */
  stopGradient(x: Tensor): Tensor {
    return this.apply('stopGradient', {}, [x])[0];
  }
  /** Reduction along one axis (the last), which is kept with size 1. */
  reduce(fn: ReduceFn, x: Tensor, axis = -1): Tensor {
    return this.apply('reduce', { fn, axis: resolveAxis(axis, x.shape) }, [x])[0];
  }
  /** Sum along `axis`, kept with size 1; of all elements, as [1], when no axis is given. */
  sum(x: Tensor, axis?: number): Tensor {
    return axis === undefined ? this.reduce('sum', this.reshape(x, [-1])) : this.reduce('sum', x, axis);
  }
  /** Mean along `axis`, kept with size 1; of all elements, as [1], when no axis is given. */
  mean(x: Tensor, axis?: number): Tensor {
    const total = this.sum(x, axis);
    return this.div(total, elementCount(x.shape) / elementCount(total.shape));
  }

  /**
   * Matrix product, accumulated in f32 over ascending k: a [m, k] (or [k, m] with `transA`), b [k, n] (or [n, k] with
   * `transB`), each f32 or bf16, to f32 [m, n]. Of two types,
   * bf16 is widened, which is exact.
   */
  matmul(
    a: Tensor,
    b: Tensor,
    options: { transA?: boolean; transB?: boolean; columns?: number } = {},
  ): Tensor {
    const { transA = false, transB = false, columns = null } = options;
    return this.apply('matmul', { transA, transB, columns }, [a, b])[0];
  }
  /**
   * Rows of x [T, K], f32 or bf16, in groups of 8-bit integers (`kernels/quantized-rows.ts`), for products with quantized
   * matrices.
   */
  quantizeRows(x: Tensor, group: number): QuantizedRows {
    const [quads, scales, sums] = this.apply('quantizeRows', { group }, [x]);
    return { quads, scales, sums };
  }
  /** Rows times a quantized matrix of `columns` columns (`kernels/quantized.ts`), f32 [T, columns]. */
  quantizedMatmul(
    rows: QuantizedRows,
    { words, scales }: { readonly words: Tensor; readonly scales: Tensor },
    options: { readonly type: QuantizedType; readonly columns: number },
  ): Tensor {
    return this.apply('quantizedMatmul', options, [rows.quads, rows.scales, rows.sums, words, scales])[0];
  }
  /** Rows `ids` (i32 [T]) of `table` [V, D]: [T, D] of the table's type. Also selects rows of activations. */
  embedding(table: Tensor, ids: Tensor): Tensor {
    return this.apply('embedding', {}, [table, ids])[0];
  }
  /**
   * x / sqrt(mean(x²) + eps) * weight over groups of `weight`'s size N: x [T, D] with D a multiple of N (N = head
   * size for the norm of queries and keys). f32, or `type`. (Zhang and Sennrich 2019.)
   */
  rmsNorm(x: Tensor, weight: Tensor, eps: number, options: { type?: 'f32' | 'bf16' } = {}): Tensor {
    return this.apply('rmsNorm', { eps, type: options.type ?? 'f32' }, [x, weight])[0];
  }
  /**
   * Rotary positions (Su et al. 2021): x [T, heads * headDim], positions i32 [T] below `maxPositions`. Rotates the two
   * halves of each head against each other by position * theta^(-2i / headDim), as Hugging Face's models do. Like x, or of
   * `type`.
   */
  rope(
    x: Tensor,
    positions: Tensor,
    options: { headDim: number; theta: number; maxPositions: number; type?: 'f32' | 'bf16' },
  ): Tensor {
    const { headDim, theta, maxPositions, type = x.dtype as 'f32' | 'bf16' } = options;
    const key = `${headDim} ${theta} ${maxPositions}`;
    let tables = this.#ropeTables.get(key);
    if (tables === undefined) {
      const { cos, sin } = ropeTable(maxPositions, headDim, theta);
      tables = [cos, sin].map((data) => this.literal(data, [maxPositions, headDim / 2]));
      this.#ropeTables.set(key, tables);
    }
    return this.apply('rope', { headDim, inverse: false, type }, [x, positions, ...tables])[0];
  }
  /**
   * Causal attention (softmax(q kᵀ scale) v) of `sequences` sequences whose queries are stacked along the rows: q
   * [sequences * Q, heads * headDim], out like q. Keys and values are [sequences * K, kvHeads * headDim], or caches (see
   * `cacheWrite`), which have no gradient. Of sequence s, the first lengths[s] rows count (the others give zeros), at
   * positions from start[s] on, and its keys are in slots[s]; its own must be written before. All three are i32
   * [sequences]; left out: Q, 0, and s.
   */
  attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    shape: AttentionShape,
    place: SequencePlace = {},
  ): Tensor {
    const { sequences, heads, kvHeads, headDim, scale = 1 / Math.sqrt(headDim) } = shape;
    const queries = q.shape[0] / sequences;
    const slots = place.slots ?? this.iota([sequences]);
    const start = place.start ?? this.constant(0, 'i32', [sequences]);
    const lengths = place.lengths ?? this.constant(queries, 'i32', [sequences]);
    const inputs = [q, keys, values, slots, start, lengths];
    return this.apply('attention', { sequences, heads, kvHeads, headDim, scale }, inputs)[0];
  }
  /**
   * Writes the keys and values of new tokens, [T, kvHeads * headDim], into the states `keys` (its shape: `keysShape`) and
   * `values` [slots, kvHeads, maxLength, headDim] at slots[t], positions[t] (i32 [T]; outside, such as -1 for padding:
   * skipped), where `attention` finds them. Returns the new versions.
   */
  cacheWrite(
    keys: Tensor,
    values: Tensor,
    newKeys: Tensor,
    newValues: Tensor,
    slots: Tensor,
    positions: Tensor,
  ): { keys: Tensor; values: Tensor } {
    const [k, v] = this.apply('cacheWrite', {}, [keys, values, newKeys, newValues, slots, positions]);
    return { keys: k, values: v };
  }
  /**
   * Of each row of logits [T, V]: log softmax(logits / temperature)[target], f32 [T], and the entropy of that
   * distribution in nats, f32 [T]. A negative target (padding) gives log-probability 0 and no gradient through it.
   * `temperature`: a number, or f32 [T]; 0 reads as 1. No gradient flows to the temperature.
   */
  tokenLogProbability(
    logits: Tensor,
    targets: Tensor,
    temperature: Value = 1,
  ): { logprob: Tensor; entropy: Tensor } {
    const t =
      typeof temperature === 'number'
        ? this.constant(temperature, 'f32', targets.shape)
        : this.broadcastTo(temperature, targets.shape);
    const [logprob, entropy] = this.apply('tokenLogProbability', {}, [logits, targets, t]);
    return { logprob, entropy };
  }

  /** The state's (or parameter's) memory becomes `value`; returns the new version. */
  assign(state: Tensor, value: Tensor): Tensor {
    return this.apply('assign', {}, [state, value])[0];
  }
  /** state[rows[i], :] = value[i, :] for each i, in place; rows outside (-1: padding) are skipped. Returns the new version. */
  scatterRows(state: Tensor, rows: Tensor, value: Tensor): Tensor {
    return this.apply('scatterRows', {}, [state, rows, value])[0];
  }
  /**
   * One step of AdamW (Loshchilov and Hutter 2019) on a parameter with f32 moments `m`, `v`, all updated in place:
   * `hyper` is f32 [7], filled from `adamwHyper`. The decay, when on, is decoupled: parameter -= lr * weightDecay * parameter.
   * Returns the new versions.
   */
  adamw(
    parameter: Tensor,
    gradient: Tensor,
    m: Tensor,
    v: Tensor,
    hyper: Tensor,
    options: { decay?: boolean } = {},
  ): { parameter: Tensor; m: Tensor; v: Tensor } {
    return adamwStep(this, { parameter, gradient, m, v, hyper, decay: options.decay ?? true });
  }
  /**
   * A user's kernel. `inputs` fill its 'read' and 'readwrite' views in order. Results: the new versions of what
   * fills 'readwrite' views (states only), then the 'write' views. `gradient` may be left out where none is asked for.
   */
  custom(
    kernel: Kernel,
    inputs: readonly Tensor[],
    options: { gradient?: CustomGradient } = {},
  ): readonly Tensor[] {
    return this.apply('custom', { kernel, gradient: options.gradient ?? null }, inputs);
  }
}
