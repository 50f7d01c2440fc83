/** Readable text of a kernel, one line an instruction. */
import type { Instruction, Kernel, Op, OpName, TileType, ValueId } from './ir.ts';

const value = (id: ValueId) => `%${id}`;
const list = (ids: readonly ValueId[]) => ids.map(value).join(', ');
const typeText = (type: TileType) =>
  type.shape.length === 0 ? type.dtype : `${type.dtype}[${type.shape.join(', ')}]`;

function block(
  kernel: Kernel,
  op: { view: number; offsets: readonly ValueId[]; limits?: readonly (ValueId | null)[] },
): string {
  const at = op.offsets.map((id, axis) => {
    const limit = op.limits?.[axis] ?? null;
    return limit === null ? value(id) : `${value(id)} below ${value(limit)}`;
  });
  return `@${kernel.views[op.view].name}[${at.join(', ')}]`;
}

const rows = (kernel: Kernel, op: { view: number; rows: ValueId; column: ValueId }) =>
  `@${kernel.views[op.view].name}[rows ${value(op.rows)}, ${value(op.column)}]`;
const outside = (fill: number) => (fill === 0 ? '' : ` fill ${fill}`);

/** The right-hand side of each operation; a loop's body is printed by `lines`. */
const TEXT: { readonly [P in OpName]: (op: Extract<Op, { op: P }>, kernel: Kernel) => string } = {
  programId: (op) => `programId ${op.axis}`,
  constant: (op) => `constant ${Object.is(op.value, -0) ? '-0' : op.value}`,
  iota: (op) => `iota ${op.axis}`,
  load: (op, kernel) => `load ${block(kernel, op)}${outside(op.fill)}`,
  store: (op, kernel) => `store ${block(kernel, op)}, ${value(op.value)}`,
  gather: (op, kernel) => `gather ${rows(kernel, op)}${outside(op.fill)}`,
  scatter: (op, kernel) => `scatter ${rows(kernel, op)}, ${value(op.value)}`,
  atomicAdd: (op, kernel) => `atomicAdd ${block(kernel, op)}, ${value(op.value)}`,
  dot: (op) =>
    `dot ${value(op.a)}${op.transA ? 'ᵀ' : ''}, ${value(op.b)}${op.transB ? 'ᵀ' : ''}${op.acc === null ? '' : `, acc ${value(op.acc)}`}`,
  map: (op) => `${op.fn} ${list(op.args)}`,
  reduce: (op) => `reduce ${op.fn} ${value(op.arg)}, axis ${op.axis}`,
  argmax: (op) => `argmax ${value(op.arg)}`,
  scan: (op) => `scan ${op.fn} ${value(op.arg)}`,
  broadcast: (op) => `broadcast ${value(op.arg)}`,
  reshape: (op) => `reshape ${value(op.arg)}`,
  transpose: (op) => `transpose ${value(op.arg)}`,
  cast: (op) => `cast ${value(op.arg)}`,
  loop: (op) => {
    const carried = op.params.map((id, position) => `${value(id)} = ${value(op.init[position])}`).join(', ');
    return `loop ${op.kind} ${value(op.index)} = ${value(op.lo)} to ${value(op.hi)} step ${op.step}${carried === '' ? '' : ` carry (${carried})`}`;
  },
};

function lines(kernel: Kernel, instructions: readonly Instruction[], indent: string): string[] {
  return instructions.flatMap(({ op, results }) => {
    const left = results.length === 0 ? '' : `${list(results)} = `;
    const types =
      results.length === 0 ? '' : ` : ${results.map((id) => typeText(kernel.types[id])).join(', ')}`;
    const text = (TEXT[op.op] as (op: Op, kernel: Kernel) => string)(op, kernel);
    if (op.op !== 'loop') return [`${indent}${left}${text}${types}`];
    return [
      `${indent}${left}${text}${types} {`,
      ...lines(kernel, op.body, `${indent}  `),
      ...(op.yields.length === 0 ? [] : [`${indent}  yield ${list(op.yields)}`]),
      `${indent}}`,
    ];
  });
}

/** The kernel as text, for error messages, snapshots and people. Not meant to be parsed. */
export function print(kernel: Kernel): string {
  const views = kernel.views.map(
    (view) =>
      `  @${view.name} : ${view.access} ${view.dtype}[${view.shape.join(', ')}] strides [${view.strides.join(', ')}]`,
  );
  return [
    `kernel ${kernel.name} grid [${kernel.grid.join(', ')}]`,
    ...views,
    '{',
    ...lines(kernel, kernel.body, '  '),
    '}',
    '',
  ].join('\n');
}
