/**
 * The state of a lowering. Elementwise instructions over one layout gather in a nest, a loop over the elements that a
 * thread holds, in which values stay in variables; what is used after the nest is kept in an array. Code is written in
 * phases: a barrier goes before a phase that meets what other threads did since the last one.
 */
import type { Kernel, TileType, ValueId } from '../../tile/ir.ts';
import type { Lifetime } from './allocate.ts';
import type { Code } from './code.ts';
import { read } from './code.ts';
import type { Facts, User } from './facts.ts';
import { carrier } from './facts.ts';
import type { Expr, Scalar, ThreadArray } from './ir.ts';
import type { Index, Layout } from './layout.ts';
import { eachOwn } from './layout.ts';

/** Where a value is. */
export interface Place {
  /** Of a single value, in every thread. */
  single?: Expr;
  /** Its elements, each in the private array of the thread that holds it. */
  own?: ThreadArray;
  /** Its elements in row-major order, for every thread to read. */
  shared?: ThreadArray;
}

interface Nest {
  readonly layout: Layout;
  readonly members: Set<User>;
  readonly steps: ((index: Index) => void)[];
  readonly defined: ValueId[];
  /** Arrays of which any thread reads any element. */
  readonly others: Set<ThreadArray>;
  readonly memory: MemoryUse[];
}

/** What is done to a view. Equal keys: each element by the thread that did it before. */
export interface MemoryUse {
  readonly view: number;
  readonly key: string;
  readonly stores: boolean;
}

type Touch = 'read own' | 'read other' | 'write own' | 'write other';

/** What happened since the last barrier. */
class Pending {
  readonly arrays = new Map<ThreadArray, Set<Touch>>();
  readonly memory: MemoryUse[] = [];

  touch(array: ThreadArray, touch: Touch): void {
    this.arrays.set(array, (this.arrays.get(array) ?? new Set()).add(touch));
  }
  isEmpty(): boolean {
    return this.arrays.size === 0 && this.memory.length === 0;
  }
  clear(): void {
    this.arrays.clear();
    this.memory.length = 0;
  }
  add(other: Pending): void {
    for (const [array, touches] of other.arrays) for (const touch of touches) this.touch(array, touch);
    this.memory.push(...other.memory);
  }
}

const isWrite = (touch: Touch) => touch.startsWith('write');
const isOwn = (touch: Touch) => touch.endsWith('own');
const conflicts = (a: Touch, b: Touch) => (isWrite(a) || isWrite(b)) && !(isOwn(a) && isOwn(b));

export class Context {
  readonly kernel: Kernel;
  readonly facts: Facts;
  readonly code: Code;
  readonly overlaps: (a: number, b: number) => boolean;
  readonly #privateWords: number;
  readonly #places = new Map<ValueId, Place>();
  /** Arrays that a value shall be written to where it is made: those of loops' carried values. */
  readonly targets = new Map<ValueId, ThreadArray>();
  readonly lifetimes: Lifetime[] = [];
  readonly privates: ThreadArray[] = [];
  #nest: Nest | null = null;
  /** Elements of the nest's values, while its code is written. */
  #locals: { readonly index: Index; readonly values: Map<ValueId, Expr> } | null = null;
  readonly #pending = new Pending();
  #phase: Pending | null = null;
  #epoch = 0;
  barriers = 0;

  constructor(
    kernel: Kernel,
    facts: Facts,
    code: Code,
    options: { overlaps: (a: number, b: number) => boolean; privateWords: number },
  ) {
    this.kernel = kernel;
    this.facts = facts;
    this.code = code;
    this.overlaps = options.overlaps;
    this.#privateWords = options.privateWords;
  }

  get threads(): number {
    return this.facts.threads;
  }
  type(id: ValueId): TileType {
    return this.kernel.types[id];
  }
  scalarType(id: ValueId): Scalar {
    return carrier(this.type(id).dtype);
  }
  layout(id: ValueId): Layout {
    return this.facts.layout(this.type(id).shape);
  }
  place(id: ValueId): Place {
    const found = this.#places.get(id) ?? {};
    this.#places.set(id, found);
    return found;
  }
  /** A single value, or an inline constant's expression. */
  single(id: ValueId): Expr {
    const { single } = this.place(id);
    if (single === undefined) throw new Error(`kernel '${this.kernel.name}': %${id} has no single value`);
    return single;
  }

  newArray(type: Scalar, size: number, space: 'private' | 'shared'): ThreadArray {
    const words = this.privates.reduce((sum, array) => sum + array.size, 0);
    const isPrivate = space === 'private' && words + size <= this.#privateWords;
    const id = this.privates.length + this.lifetimes.length;
    const array: ThreadArray = { id, type, size, space: isPrivate ? 'private' : 'shared', offset: 0 };
    if (isPrivate) this.privates.push(array);
    else this.lifetimes.push({ array, first: Number.POSITIVE_INFINITY, last: Number.NEGATIVE_INFINITY });
    return array;
  }
  /** For elements that only the thread which holds them uses: in registers where there is room. */
  newOwnArray(type: Scalar, layout: Layout): ThreadArray {
    const small = this.privates.reduce((sum, { size }) => sum + size, layout.slots) <= this.#privateWords;
    return small ? this.newArray(type, layout.slots, 'private') : this.newArray(type, layout.count, 'shared');
  }

  /** Element of an array at `index`, which is the thread's own where `own` says so. */
  readAt(array: ThreadArray, index: Index, own: boolean): Expr {
    this.touch(array, own ? 'read own' : 'read other');
    return read(array, this.at(array, index));
  }
  writeAt(array: ThreadArray, index: Index, value: Expr, own: boolean): void {
    this.touch(array, own ? 'write own' : 'write other');
    this.code.write(array, this.at(array, index), value);
  }
  at(array: ThreadArray, index: Index): Expr {
    return array.space === 'private' ? (index.slot as Expr) : index.linear();
  }
  touch(array: ThreadArray, touch: Touch): void {
    if (array.space !== 'private') this.#phase?.touch(array, touch);
  }
  touchMemory(use: MemoryUse): void {
    if (use.stores || this.facts.isWritten(use.view)) this.#phase?.memory.push(use);
  }

  /** The element of a value that is held somewhere, or null. */
  held(id: ValueId, index: Index): Expr | null {
    const { single, own, shared } = this.place(id);
    if (single !== undefined) return single;
    if (this.#locals !== null && this.#locals.index === index) {
      const local = this.#locals.values.get(id);
      if (local !== undefined) return local;
    }
    const isOwn = index.layout !== null && index.layout === this.layout(id).key;
    if (own !== undefined && isOwn) return this.readAt(own, index, true);
    if (shared !== undefined) return this.readAt(shared, index, isOwn);
    return null;
  }

  /** Writes code that belongs together, after a barrier where it needs one. */
  phase(body: () => void): void {
    if (this.#phase !== null) throw new Error('phases do not nest');
    const phase = new Pending();
    this.#phase = phase;
    const statements = this.code.block(body);
    this.#phase = null;
    if (this.#needsBarrier(phase)) this.barrier();
    this.#enter(phase);
    for (const statement of statements) this.code.emit(statement);
  }
  #enter(phase: Pending): void {
    for (const { array } of this.lifetimes) if (phase.arrays.has(array)) this.#extend(array);
    this.#pending.add(phase);
  }
  #extend(array: ThreadArray): void {
    const lifetime = this.lifetimes.find((one) => one.array === array) as Lifetime;
    lifetime.first = Math.min(lifetime.first, this.#epoch);
    lifetime.last = Math.max(lifetime.last, this.#epoch);
  }
  #needsBarrier(phase: Pending): boolean {
    for (const [array, touches] of phase.arrays)
      for (const before of this.#pending.arrays.get(array) ?? [])
        for (const touch of touches) if (conflicts(before, touch)) return true;
    return this.#conflictsInMemory(this.#pending.memory, phase.memory);
  }
  #conflictsInMemory(before: readonly MemoryUse[], after: readonly MemoryUse[]): boolean {
    return after.some((b) =>
      before.some((a) => (a.stores || b.stores) && a.key !== b.key && this.overlaps(a.view, b.view)),
    );
  }

  barrier(): void {
    this.code.emit({ s: 'barrier', memory: this.#pending.memory.length > 0 });
    this.barriers++;
    this.#epoch++;
    this.#pending.clear();
  }
  /** A barrier, if anything happened since the last. */
  settle(): void {
    if (!this.#pending.isEmpty()) this.barrier();
  }

  /**
   * A loop that all threads run together, at the end of whose body they meet if they exchange anything. What it uses
   * from outside lives as long as the loop. `fromMemory`: the bounds may, as far as the accelerator knows, differ.
   */
  loop(
    bounds: { lo: Expr; hi: Expr; step: number; fromMemory?: boolean },
    body: (index: Expr) => void,
  ): void {
    const before = new Set(this.lifetimes.map(({ array }) => array));
    const { barriers } = this;
    this.settle();
    const first = this.#epoch;
    const id = this.code.newId();
    const statements = this.code.block(() => {
      body(this.code.variable('i32', id));
      this.closeNest();
      this.settle();
    });
    const agreed = (value: Expr): Expr => {
      if (bounds.fromMemory !== true || this.barriers === barriers || value.e === 'constant') return value;
      const agreedId = this.code.newId();
      this.code.emit({ s: 'uniform', id: agreedId, value });
      this.barriers += 2;
      return this.code.variable('i32', agreedId);
    };
    const [lo, hi] = [agreed(bounds.lo), agreed(bounds.hi)];
    this.code.emit({ s: 'for', id, lo, hi, step: bounds.step, body: statements });
    for (const lifetime of this.lifetimes)
      if (before.has(lifetime.array) && lifetime.last >= first) lifetime.last = this.#epoch;
  }

  /**
   * Adds an elementwise instruction to the nest of its layout. `step` writes its code and returns the result's element.
   * `others`: values of which it needs other elements than the result's. `memory`: the views that it uses.
   */
  join(
    by: User,
    layout: Layout,
    step: (index: Index) => Expr | null,
    options: { result?: ValueId; others?: readonly ValueId[]; memory?: MemoryUse } = {},
  ): void {
    const { result, others = [], memory } = options;
    const otherArrays = others.flatMap((id) => {
      const { shared } = this.place(id);
      return shared === undefined ? [] : [shared];
    });
    const nest = this.#nest;
    const target = result === undefined ? undefined : this.targets.get(result);
    const fits =
      nest !== null &&
      nest.layout.key === layout.key &&
      !others.some((id) => nest.defined.includes(id)) &&
      !(target !== undefined && (nest.others.has(target) || otherArrays.includes(target))) &&
      !otherArrays.some((array) => nest.defined.some((id) => this.targets.get(id) === array)) &&
      !(memory !== undefined && this.#conflictsInMemory(nest.memory, [memory]));
    if (!fits) this.closeNest();
    this.#nest ??= { layout, members: new Set(), steps: [], defined: [], others: new Set(), memory: [] };
    const open = this.#nest;
    open.members.add(by);
    for (const array of otherArrays) open.others.add(array);
    if (memory !== undefined) open.memory.push(memory);
    if (result !== undefined) open.defined.push(result);
    open.steps.push((index) => {
      if (memory !== undefined) this.touchMemory(memory);
      const value = step(index);
      if (result !== undefined && value !== null) this.#locals?.values.set(result, this.code.let(value));
    });
  }

  /** Whether the nest holds memory uses that must come before this one. */
  nestConflicts(use: MemoryUse): boolean {
    return this.#nest !== null && this.#conflictsInMemory(this.#nest.memory, [use]);
  }

  /** Writes the nest's code, and keeps those of its values that others use. */
  closeNest(): void {
    const nest = this.#nest;
    if (nest === null) return;
    this.#nest = null;
    const kept = nest.defined.map((id) => ({ id, place: this.#placeFor(id, nest.members) }));
    this.phase(() => {
      eachOwn(this.code, nest.layout, this.threads, (index) => {
        // Made here so that nothing in an inner block is the first to need it.
        index.linear();
        const values = new Map<ValueId, Expr>();
        this.#locals = { index, values };
        for (const step of nest.steps) step(index);
        this.#locals = null;
        for (const { id, place } of kept)
          for (const array of new Set([place.own, place.shared]))
            if (array !== undefined) this.writeAt(array, index, values.get(id) as Expr, true);
      });
    });
    for (const { id, place } of kept) Object.assign(this.place(id), place);
  }

  /** Arrays for a value, by what those who use it outside `members` need. */
  #placeFor(id: ValueId, members: ReadonlySet<User>): Place {
    const target = this.targets.get(id);
    if (target !== undefined) return target.space === 'private' ? { own: target } : { shared: target };
    return this.arraysFor(
      id,
      this.facts
        .uses(id)
        .filter(({ by }) => !members.has(by))
        .map(({ access }) => access),
    );
  }
  arraysFor(id: ValueId, accesses: readonly ('own' | 'other')[]): Place {
    const place: Place = {};
    const layout = this.layout(id);
    if (accesses.includes('other')) place.shared = this.newArray(this.scalarType(id), layout.count, 'shared');
    if (accesses.includes('own')) {
      const own = this.newOwnArray(this.scalarType(id), layout);
      if (own.space === 'private') place.own = own;
      else place.shared ??= own;
    }
    return place;
  }
}
