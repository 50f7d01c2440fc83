/**
 * The rules a kernel obeys before any accelerator sees it. Everything downstream (interpreter, lowerings) relies
 * on them and checks nothing again.
 */
import type { Instruction, Kernel, Op, ValueId } from './ir.ts';
import { operands } from './ir.ts';
import { type Context, checkScalar, RESULTS, RULES } from './rules.ts';
import { typeText } from './types.ts';

/** A kernel that breaks a rule of the tile language. The message names kernel, instruction and fault. */
export class KernelError extends Error {
  override readonly name = 'KernelError';
}

const positive = (size: number) => Number.isInteger(size) && size > 0;

/** Throws `KernelError` unless the kernel obeys every rule. */
export function verify(kernel: Kernel): void {
  const at = (where: string, condition: boolean, message: () => string): void => {
    if (!condition) throw new KernelError(`kernel '${kernel.name}'${where}: ${message()}`);
  };
  at('', kernel.name.length > 0, () => 'a kernel needs a name');
  at(
    '',
    kernel.grid.length >= 1 && kernel.grid.length <= 3 && kernel.grid.every(positive),
    () => `the grid must be 1 to 3 positive integers, not [${kernel.grid}]`,
  );
  verifyViews(kernel, at);
  kernel.types.forEach((type, id) => {
    const where = `, value %${id}`;
    at(where, type.shape.every(positive), () => `sizes must be positive integers, not ${typeText(type)}`);
    at(
      where,
      type.dtype !== 'i4' || (type.shape.length > 0 && type.shape[type.shape.length - 1] % 2 === 0),
      () => `the last dimension of an i4 tile must be even, not ${typeText(type)}`,
    );
  });

  const everDefined = new Set<ValueId>();
  const visible = new Set<ValueId>();
  const define = (where: string, id: ValueId, scope: ValueId[]) => {
    at(where, Number.isInteger(id) && id >= 0 && id < kernel.types.length, () => `%${id} has no type`);
    at(where, !everDefined.has(id), () => `%${id} is defined a second time`);
    everDefined.add(id);
    visible.add(id);
    scope.push(id);
  };
  const use = (where: string, id: ValueId) => {
    at(where, visible.has(id), () =>
      everDefined.has(id)
        ? `%${id} belongs to a loop body that has ended`
        : `%${id} is used before it is defined`,
    );
  };

  /** Verifies instructions and returns the values that they define. */
  const block = (instructions: readonly Instruction[], path: string): readonly ValueId[] => {
    const scope: ValueId[] = [];
    instructions.forEach(({ op, results }, position) => {
      const left = results.length > 0 ? `${results.map((id) => `%${id}`).join(', ')} = ` : '';
      const where = `, instruction ${path}${position} (${left}${op.op})`;
      const expect = (condition: boolean, message: () => string) => at(where, condition, message);
      expect(Object.hasOwn(RULES, op.op), () => 'is no operation of the tile language');
      for (const id of operands(op)) use(where, id);
      const wanted = RESULTS[op.op];
      expect(
        wanted === null || results.length === wanted,
        () => `must have ${wanted} results, not ${results.length}`,
      );
      const type = (id: ValueId) => kernel.types[id];
      const context: Context = { kernel, results: results.map(type), type, expect };
      if (op.op === 'loop') {
        const inner: ValueId[] = [];
        for (const id of [op.index, ...op.params]) define(where, id, inner);
        checkScalar(context, op.index, 'the index');
        inner.push(...block(op.body, `${path}${position}.`));
        for (const id of op.yields) use(where, id);
        for (const id of inner) visible.delete(id);
      }
      for (const id of results) define(where, id, scope);
      (RULES[op.op] as (op: Op, context: Context) => void)(op, context);
    });
    return scope;
  };
  block(kernel.body, '');
}

function verifyViews(
  kernel: Kernel,
  at: (where: string, condition: boolean, message: () => string) => void,
): void {
  const names = new Set<string>();
  for (const view of kernel.views) {
    const where = `, view '${view.name}'`;
    const last = view.shape.length - 1;
    at(where, !names.has(view.name), () => 'the name is used twice');
    names.add(view.name);
    at(
      where,
      view.shape.length > 0 && view.shape.every(positive),
      () => `sizes must be positive integers, not [${view.shape}]`,
    );
    at(
      where,
      view.strides.length === view.shape.length,
      () => `${view.shape.length} dimensions need as many strides, not ${view.strides.length}`,
    );
    at(
      where,
      view.strides.every((stride) => Number.isInteger(stride) && stride >= 0),
      () => `strides must be integers from 0 on, not [${view.strides}]`,
    );
    at(
      where,
      view.access === 'read' || view.strides.every((stride, axis) => stride > 0 || view.shape[axis] === 1),
      () => 'a stride of 0 repeats elements: such a view can only be read',
    );
    if (view.dtype !== 'i4') continue;
    at(
      where,
      view.shape[last] % 2 === 0,
      () => `the last dimension of an i4 view must be even, not ${view.shape[last]}`,
    );
    at(
      where,
      view.strides.every((stride, axis) => (axis === last ? stride === 1 : stride % 2 === 0)),
      () => `i4 rows are packed: the last stride is 1 and the others are even, not [${view.strides}]`,
    );
  }
}
