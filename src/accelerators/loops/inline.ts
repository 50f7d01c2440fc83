/** Loops that run exactly once become part of the block around them. */
import type { Instruction, Kernel, Op, ValueId } from '../../tile/ir.ts';

type Rename = (id: ValueId) => ValueId;

/** The operation with every value it reads renamed; a loop's body too. */
function renamed(op: Op, rename: Rename): Op {
  const all = (ids: readonly ValueId[]) => ids.map(rename);
  switch (op.op) {
    case 'programId':
    case 'constant':
    case 'iota':
      return op;
    case 'load':
    case 'store': {
      const places = {
        offsets: all(op.offsets),
        limits: op.limits.map((id) => (id === null ? null : rename(id))),
      };
      return op.op === 'load' ? { ...op, ...places } : { ...op, ...places, value: rename(op.value) };
    }
    case 'gather':
      return { ...op, rows: rename(op.rows), column: rename(op.column) };
    case 'scatter':
      return { ...op, rows: rename(op.rows), column: rename(op.column), value: rename(op.value) };
    case 'atomicAdd':
      return { ...op, offsets: all(op.offsets), value: rename(op.value) };
    case 'dot':
      return { ...op, a: rename(op.a), b: rename(op.b), acc: op.acc === null ? null : rename(op.acc) };
    case 'map':
      return { ...op, args: all(op.args) };
    case 'loop':
      return {
        ...op,
        lo: rename(op.lo),
        hi: rename(op.hi),
        init: all(op.init),
        yields: all(op.yields),
        body: op.body.map((inner) => ({ ...inner, op: renamed(inner.op, rename) })),
      };
    default:
      return { ...op, arg: rename(op.arg) };
  }
}

/** The kernel without loops that are known to run once. */
export function inlineLoops(kernel: Kernel): Kernel {
  const constants = new Map<ValueId, number>();
  const names = new Map<ValueId, ValueId>();
  const rename: Rename = (id) => {
    const other = names.get(id);
    return other === undefined ? id : rename(other);
  };
  const block = (body: readonly Instruction[]): Instruction[] =>
    body.flatMap(({ op: before, results }): Instruction[] => {
      const op = renamed(before, rename);
      if (op.op === 'constant') constants.set(results[0], op.value);
      if (op.op !== 'loop') return [{ op, results }];
      const [lo, hi] = [constants.get(op.lo), constants.get(op.hi)];
      const once = lo !== undefined && hi !== undefined && lo < hi && lo + op.step >= hi;
      if (!once) return [{ op: { ...op, body: block(op.body), yields: op.yields.map(rename) }, results }];
      names.set(op.index, op.lo);
      op.params.forEach((id, i) => {
        names.set(id, op.init[i]);
      });
      const inner = block(op.body);
      results.forEach((id, i) => {
        names.set(id, rename(op.yields[i]));
      });
      return inner;
    });
  return { ...kernel, body: block(kernel.body) };
}
