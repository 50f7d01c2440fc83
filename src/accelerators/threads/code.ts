/** Writes thread code: variables, blocks, and expressions simplified as they are made. */
import type { FunctionName } from './functions.ts';
import type { Expr, OpFn, Scalar, Stmt, ThreadArray } from './ir.ts';

export const constant = (type: Scalar, value: number): Expr => ({ e: 'constant', type, value });
export const int = (value: number): Expr => constant('i32', value);
export const float = (value: number): Expr => constant('f32', Math.fround(value));
export const thread: Expr = { e: 'thread', type: 'i32' };
export const op = (type: Scalar, fn: OpFn, ...args: readonly Expr[]): Expr => ({ e: 'op', type, fn, args });

/** A call of a function of `functions.ts`. */
export const call = (type: Scalar, name: FunctionName, ...args: readonly Expr[]): Expr => ({
  e: 'call',
  type,
  name,
  args,
});

/** c[0] + x * (c[1] + x * (c[2] + …)). */
export function polynomial(code: Code, x: Expr, coefficients: readonly number[]): Expr {
  let sum = float(coefficients[coefficients.length - 1]);
  for (let k = coefficients.length - 2; k >= 0; k--)
    sum = code.let(op('f32', 'fma', sum, x, float(coefficients[k])));
  return sum;
}

const known = (x: Expr): number | null => (x.e === 'constant' ? x.value : null);

export function add(a: Expr, b: Expr): Expr {
  const [x, y] = [known(a), known(b)];
  if (x !== null && y !== null) return int((x + y) | 0);
  if (x === 0) return b;
  return y === 0 ? a : op('i32', 'add', a, b);
}
export function sub(a: Expr, b: Expr): Expr {
  const y = known(b);
  return y !== null ? add(a, int(-y)) : op('i32', 'sub', a, b);
}
export function mul(a: Expr, b: number): Expr {
  const x = known(a);
  if (x !== null) return int(Math.imul(x, b));
  return b === 0 ? int(0) : b === 1 ? a : op('i32', 'mul', a, int(b));
}
/** Of numbers from 0 on, by a positive one. */
export function div(a: Expr, b: number): Expr {
  const x = known(a);
  if (x !== null) return int(Math.trunc(x / b));
  return b === 1 ? a : op('i32', 'div', a, int(b));
}
export function rem(a: Expr, b: number): Expr {
  const x = known(a);
  if (x !== null) return int(x % b);
  return b === 1 ? int(0) : op('i32', 'rem', a, int(b));
}
export const less = (a: Expr, b: Expr): Expr => op('bool', 'lt', a, b);
export const both = (a: Expr | null, b: Expr | null): Expr | null =>
  a === null ? b : b === null ? a : op('bool', 'and', a, b);
export const read = (array: ThreadArray, index: Expr, type: Scalar = array.type): Expr => ({
  e: 'read',
  type,
  array,
  index,
});

/** Statements under construction. Variables are numbered through one counter. */
export class Code {
  #block: Stmt[] = [];
  #variables = 0;

  get length(): number {
    return this.#block.length;
  }
  emit(statement: Stmt): void {
    this.#block.push(statement);
  }
  newId(): number {
    return this.#variables++;
  }
  variable(type: Scalar, id: number): Expr {
    return { e: 'variable', type, id };
  }

  /** The value in a variable of its own, unless it is one already. */
  let(value: Expr): Expr {
    if (value.e === 'constant' || value.e === 'variable' || value.e === 'thread' || value.e === 'program')
      return value;
    const id = this.newId();
    this.emit({ s: 'let', id, value });
    return this.variable(value.type, id);
  }
  /** The value as it is now, in a variable of its own. */
  copy(value: Expr): Expr {
    const id = this.newId();
    this.emit({ s: 'let', id, value });
    return this.variable(value.type, id);
  }
  /** A variable that can be assigned to. */
  declare(value: Expr): Expr & { e: 'variable' } {
    const id = this.newId();
    this.emit({ s: 'declare', id, value });
    return { e: 'variable', type: value.type, id };
  }
  assign(target: Expr & { e: 'variable' }, value: Expr): void {
    this.emit({ s: 'assign', id: target.id, value });
  }
  write(array: ThreadArray, index: Expr, value: Expr): void {
    this.emit({ s: 'write', array, index, value });
  }

  /** The statements that `body` emits. */
  block(body: () => void): Stmt[] {
    const outer = this.#block;
    this.#block = [];
    try {
      body();
      return this.#block;
    } finally {
      this.#block = outer;
    }
  }
  if(condition: Expr | null, body: () => void): void {
    if (condition === null) body();
    else this.emit({ s: 'if', condition, then: this.block(body) });
  }
  for(lo: Expr, hi: Expr, step: number, body: (index: Expr) => void): void {
    const id = this.newId();
    const statements = this.block(() => body(this.variable('i32', id)));
    this.emit({ s: 'for', id, lo, hi, step, body: statements });
  }
}
