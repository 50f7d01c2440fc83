/** One element of a value: held somewhere, or computed from its operands' elements. */
import { convert } from '../../tile/convert.ts';
import type { Instruction, Op, OpName, ValueId } from '../../tile/ir.ts';
import { add, both, constant, int, less, mul, op as operation } from './code.ts';
import type { Context, MemoryUse } from './context.ts';
import { carrier } from './facts.ts';
import type { Expr } from './ir.ts';
import { Index } from './layout.ts';
import { constantOf, emitCast, emitMap } from './map.ts';

export type OpOf<P extends OpName> = Extract<Op, { op: P }>;

/** An address in a view, and the condition under which it is inside; null: always. */
interface Address {
  readonly address: Expr;
  readonly inside: Expr | null;
}

export class Elements {
  readonly #context: Context;
  readonly #makers: ReadonlyMap<ValueId, Instruction>;

  constructor(context: Context, makers: ReadonlyMap<ValueId, Instruction>) {
    this.#context = context;
    this.#makers = makers;
  }

  element(id: ValueId, index: Index): Expr {
    const held = this.#context.held(id, index);
    if (held !== null) return held;
    const maker = this.#makers.get(id);
    const { inline, stream } = this.#context.facts;
    if (maker === undefined || !(inline.has(id) || stream.has(id)))
      throw new Error(`kernel '${this.#context.kernel.name}': %${id} is not held where it is used`);
    return this.#context.code.let(this.compute(maker, index));
  }

  /** The element of an elementwise instruction's result. */
  compute({ op, results: [result] }: Instruction, index: Index): Expr {
    const context = this.#context;
    const { code } = context;
    const { dtype, shape } = context.type(result);
    switch (op.op) {
      case 'constant':
        return constantOf(dtype, op.value);
      case 'iota':
        return index.coordinates(shape)[op.axis];
      case 'map': {
        const args = op.args.map((id) => this.element(id, index));
        return emitMap(op.fn, args[args.length - 1].type, args);
      }
      case 'cast':
        return emitCast(context.type(op.arg).dtype, dtype, this.element(op.arg, index));
      case 'reshape':
        return this.element(op.arg, index);
      case 'broadcast': {
        const from = context.type(op.arg).shape;
        if (context.facts.isSingle(op.arg)) return context.single(op.arg);
        const coordinates = index.coordinates(shape).map((x, axis) => (from[axis] === 1 ? int(0) : x));
        return this.element(op.arg, new Index(code, from, coordinates));
      }
      case 'transpose': {
        const [row, column] = index.coordinates(shape);
        return this.element(op.arg, new Index(code, context.type(op.arg).shape, [column, row]));
      }
      case 'load':
        return this.#load(op.view, op.fill, this.block(op, shape, index.coordinates(shape)));
      case 'gather': {
        const [i, j] = index.coordinates(shape);
        return this.#load(op.view, op.fill, this.row(op, this.rowIndex(op.rows, i), j));
      }
      default:
        throw new Error(`'${op.op}' is not elementwise`);
    }
  }

  /** rows[i] of a gather or scatter. */
  rowIndex(rows: ValueId, i: Expr): Expr {
    const { code, facts } = this.#context;
    if (facts.isSingle(rows)) return this.#context.single(rows);
    return this.element(rows, new Index(code, this.#context.type(rows).shape, [i]));
  }

  #load(view: number, fill: number, { address, inside }: Address): Expr {
    const { code, kernel } = this.#context;
    const { dtype } = kernel.views[view];
    const value: Expr = { e: 'load', type: carrier(dtype), view, address };
    if (inside === null) return code.let(value);
    const result = code.declare(constantOf(dtype, convert(fill, dtype === 'f32' ? 'f32' : dtype, dtype)));
    code.if(inside, () => code.assign(result, value));
    return result;
  }

  /** Where an element of a block is; only what is not certain is tested. */
  block(
    op: { view: number; offsets: readonly ValueId[]; limits?: readonly (ValueId | null)[] },
    shape: readonly number[],
    coordinates: readonly Expr[],
  ): Address {
    const { code, kernel, facts } = this.#context;
    const view = kernel.views[op.view];
    let address: Expr = int(0);
    let inside: Expr | null = null;
    op.offsets.forEach((offset, axis) => {
      const size = view.shape[axis];
      const position = code.let(add(this.#context.single(offset), coordinates[axis]));
      const [low, high] = facts.range(offset);
      const limit = op.limits?.[axis] ?? null;
      if (low < 0) inside = both(inside, operation('bool', 'ge', position, int(0)));
      if (high + shape[axis] > size) inside = both(inside, less(position, int(size)));
      if (limit !== null) inside = both(inside, less(position, this.#context.single(limit)));
      address = add(address, mul(position, view.strides[axis]));
    });
    return { address: code.let(address), inside };
  }

  /** Where column `j` beside the first of row `row` is. */
  row(op: { view: number; column: ValueId }, row: Expr, j: Expr): Address {
    const { code, kernel } = this.#context;
    const view = kernel.views[op.view];
    const column = code.let(add(this.#context.single(op.column), j));
    const within = (x: Expr, size: number) =>
      operation('bool', 'lt', operation('u32', 'convert', x), constant('u32', size));
    return {
      address: code.let(add(mul(row, view.strides[0]), mul(column, view.strides[1]))),
      inside: both(within(row, view.shape[0]), within(column, view.shape[1])),
    };
  }

  /** What an instruction does to memory, its elements being shared out by `layout`. */
  memory(
    op: OpOf<'load'> | OpOf<'gather'> | OpOf<'store'> | OpOf<'atomicAdd'>,
    layout: string,
    canonical: (view: number) => number,
  ): MemoryUse {
    const where = op.op === 'gather' ? `rows ${op.rows} ${op.column}` : op.offsets.join();
    return {
      view: op.view,
      key: `${canonical(op.view)} at ${where} by ${layout}`,
      stores: op.op === 'store' || op.op === 'atomicAdd',
    };
  }
}
