/** Steps to kernel calls. */
import type { Storage } from '../kernels/common.ts';
import type { Epilogue, Schedule } from '../kernels/matmul.ts';
import { matmul } from '../kernels/matmul.ts';
import { quantizedBlockRows, quantizedMatmul } from '../kernels/quantized.ts';
import { quantizeRows } from '../kernels/quantized-rows.ts';
import { hash32 } from '../numerics/hash.ts';
import type { KernelBuilder } from '../tile/builder.ts';
import type { Tile } from '../tile/tile.ts';
import type { KernelCall } from './emit.ts';
import { EMIT } from './emit.ts';
import type { Kind } from './epilogue.ts';
import { epilogueKind } from './epilogue.ts';
import type { Expression } from './expression.ts';
import { evaluate, expressionKey } from './expression.ts';
import type { Step } from './fuse.ts';
import { pointwiseKernel, reductionKernel } from './pointwise.ts';
import type { Node, Primitive } from './primitives.ts';
import { is } from './primitives.ts';
import type { Tensor } from './tensor.ts';

/** A readable, unique name: the functions inside and a hash of the whole. */
function nameOf(parts: readonly string[], expression: Expression): string {
  const shown = parts.slice(0, 6).join('_');
  return `${shown || 'fill'}${parts.length > 6 ? '_etc' : ''}_${hash32(expressionKey(expression)).toString(16)}`;
}

function epilogueOf(step: Step, expression: Expression): Epilogue {
  return {
    key: nameOf(step.parts, expression),
    inputs: expression.inputs.slice(1).map((input, index) => ({
      name: `in${index}`,
      dtype: input.dtype as Storage,
      kind: epilogueKind(input.shape, expression.shape) as Kind,
    })),
    apply: (acc, inputs, k) => evaluate(k, expression, [acc, ...inputs], [], acc.shape)[0],
  };
}

function matmulCall(step: Step, node: Node<'matmul'>, schedule: Schedule): KernelCall {
  const [a, b] = node.inputs;
  const { transA, transB, columns } = node.attributes;
  const { expression } = step;
  const [m, n] = node.outputs[0].shape;
  const [c] = step.outputs;
  const kernel = matmul({
    m,
    n,
    k: a.shape[transA ? 0 : 1],
    transA,
    transB,
    ...(columns === null ? {} : { panel: b.shape[2] }),
    aType: a.dtype as Storage,
    bType: b.dtype as Storage,
    cType: c.dtype as Storage,
    ...schedule,
    ...(expression === null ? {} : { epilogue: epilogueOf(step, expression) }),
  });
  return { kernel, operands: [...step.operands, ...step.inputs, c] };
}

function quantizedMatmulCall(step: Step, node: Node<'quantizedMatmul'>, schedule: Schedule): KernelCall {
  const { type, columns } = node.attributes;
  const [quads] = step.operands;
  const { expression } = step;
  const [c] = step.outputs;
  const kernel = quantizedMatmul({
    type,
    m: quads.shape[0],
    n: columns,
    k: 4 * quads.shape[1],
    blockRows: quantizedBlockRows(schedule),
    cType: c.dtype as Storage,
    ...(expression === null ? {} : { epilogue: epilogueOf(step, expression) }),
  });
  return { kernel, operands: [...step.operands, ...step.inputs, c] };
}

/** Rows quantized as an expression computes them. */
function quantizeRowsCall(step: Step, node: Node<'quantizeRows'>, expression: Expression): KernelCall {
  const [rows, columns] = expression.shape;
  const prologue = {
    key: nameOf(step.parts, expression),
    inputs: expression.inputs.map(({ dtype }, index) => ({ name: `in${index}`, dtype: dtype as Storage })),
    apply: (inputs: readonly Tile[], k: KernelBuilder) =>
      evaluate(k, expression, inputs, [], inputs[0].shape)[0].cast('f32'),
  };
  const kernel = quantizeRows({ rows, columns, group: node.attributes.group, prologue });
  return { kernel, operands: [...step.inputs, ...step.outputs] };
}

/** The kernels that carry out a step. `used` says which tensors anybody reads, `schedule` how the device likes them cut. */
export function callsOf(
  step: Step,
  used: (tensor: Tensor) => boolean,
  schedule: Schedule,
): readonly KernelCall[] {
  const { anchor, expression, combined } = step;
  if (combined !== null) return [{ kernel: combined, operands: [...step.operands, ...step.outputs] }];
  const operands = [...step.inputs, ...step.outputs];
  if (anchor === null) {
    const it = expression as Expression;
    return [{ kernel: pointwiseKernel(nameOf(step.parts, it), it), operands }];
  }
  if (is(anchor, 'reduce')) {
    const it = expression as Expression;
    const { fn, axis } = anchor.attributes;
    return [{ kernel: reductionKernel(nameOf(step.parts, it), it, fn, axis), operands }];
  }
  if (is(anchor, 'matmul')) return [matmulCall(step, anchor, schedule)];
  if (is(anchor, 'quantizedMatmul')) return [quantizedMatmulCall(step, anchor, schedule)];
  if (is(anchor, 'quantizeRows') && expression !== null) return [quantizeRowsCall(step, anchor, expression)];
  const rule = EMIT[anchor.primitive];
  if (typeof rule === 'string') throw new Error(`no kernel is made for '${anchor.primitive}' on its own`);
  return (rule as (node: Node<Primitive>, used: (tensor: Tensor) => boolean) => readonly KernelCall[])(
    anchor,
    used,
  );
}

/** Floating-point operations of a step, roughly: for profiles. */
export function flopsOf(step: Step): number {
  const count = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1);
  const { anchor, expression } = step;
  const elementwise =
    expression === null ? 0 : count(expression.shape) * (expression.steps.length + (anchor === null ? 0 : 1));
  if (anchor === null) return elementwise;
  if (is(anchor, 'matmul')) {
    const [a] = anchor.inputs;
    return 2 * count(anchor.outputs[0].shape) * a.shape[anchor.attributes.transA ? 0 : 1] + elementwise;
  }
  if (is(anchor, 'quantizedMatmul')) {
    const [quads] = anchor.inputs;
    return step.outputs.reduce((sum, c) => sum + 2 * count(c.shape) * 4 * quads.shape[1], elementwise);
  }
  if (is(anchor, 'attention') || is(anchor, 'attentionGrad')) {
    // Half of the scores are masked; forward has two products, backward seven in two kernels.
    const [q, , values] = anchor.inputs;
    const { shape } = values;
    const length = shape.length === 4 ? shape[2] : shape[0] / anchor.attributes.sequences;
    return (is(anchor, 'attention') ? 2 : 7) * count(q.shape) * length;
  }
  return elementwise === 0 ? 4 * count(anchor.inputs[0].shape) : elementwise;
}
