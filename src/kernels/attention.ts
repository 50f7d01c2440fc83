/**
 * Causal attention with grouped queries, in blocks, without the matrix of scores (Dao and others,
 * "FlashAttention", 2022; backward as in "FlashAttention-2", 2023, section 3.1).
 *
 * One program takes a block of queries with all query heads that share a key head: its rows are
 * (query, head in group). Key blocks have a fixed size and begin at position 0, and masked keys contribute
 * exactly nothing; so prefill, decode and training give the same bits for the same token.
 */
import type { KernelBuilder, ViewHandle } from '../tile/builder.ts';
import { buildKernel, ceilDiv } from '../tile/builder.ts';
import type { Kernel } from '../tile/ir.ts';
import type { Tile } from '../tile/tile.ts';
import type { Storage } from './common.ts';
import { loadF32, memoized, storeAs } from './common.ts';

export interface AttentionOptions {
  readonly sequences: number;
  /** Rows of q for each sequence: q is [sequences * queryLength, heads * headDim]. */
  readonly queryLength: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Slots and positions a slot of the keys and values. */
  readonly slots: number;
  readonly maxLength: number;
  /** 'cache': keys and values lie as `cacheWrite` leaves them; 'tokens': [slots * maxLength, kvHeads * headDim] both. */
  readonly layout: 'cache' | 'tokens';
  /** Type of q, o and their gradients. */
  readonly type?: Storage;
  /** Type of keys, values and their gradients. */
  readonly kvType?: Storage;
  /** Factor of the scores; 1 / sqrt(headDim) when left out. */
  readonly scale?: number;
  /** Forward only: also writes `lse`, which the backward kernels read. */
  readonly training?: boolean;
  /** Rows of queries one program takes. A schedule. */
  readonly blockQueries?: number;
}

/** What has gradients: keys and values of tokens. */
export type TokenAttentionOptions = AttentionOptions & { readonly layout: 'tokens' };

/** Keys that are taken at a time. Their number takes part in the order of the sums, so it is the same for all uses. */
const BLOCK_KEYS = 32;
/** The same in backward kernels: a schedule, as their sums take one key after the other. */
const BACKWARD_KEYS = 64;

interface Setting {
  readonly k: KernelBuilder;
  readonly group: number;
  readonly queries: number;
  readonly keys: number;
  readonly rows: number;
  readonly scale: number;
  readonly width: number;
}

function checked(options: AttentionOptions, keys: number): Omit<Setting, 'k'> {
  const { heads, kvHeads, headDim, queryLength, maxLength } = options;
  if (heads % kvHeads !== 0)
    throw new RangeError(`${heads} query heads cannot share ${kvHeads} key heads evenly`);
  const group = heads / kvHeads;
  const queries = options.blockQueries ?? Math.max(1, Math.min(queryLength, Math.floor(64 / group)));
  const scale = options.scale ?? 1 / Math.sqrt(headDim);
  return {
    group,
    queries,
    keys: Math.min(keys, maxLength),
    rows: queries * group,
    scale,
    width: group * headDim,
  };
}

const suffix = (o: AttentionOptions) =>
  `${o.sequences}x${o.queryLength}_h${o.heads}_${o.kvHeads}x${o.headDim}_kv${o.slots}x${o.maxLength}_${o.layout}_${o.type ?? 'f32'}_${o.kvType ?? 'f32'}`;

/** The view [slots, kvHeads, maxLength, headDim] of keys or values. */
function tokenView(k: KernelBuilder, o: AttentionOptions, name: string, use: 'input' | 'output'): ViewHandle {
  const { slots, kvHeads, maxLength, headDim, kvType = 'f32' } = o;
  const strides =
    o.layout === 'cache' ? undefined : [maxLength * kvHeads * headDim, headDim, kvHeads * headDim, 1];
  return k[use](name, kvType, [slots, kvHeads, maxLength, headDim], { strides });
}

/** q and its likes, [sequences * queryLength, heads * headDim], with the heads of a group side by side. */
function queryView(k: KernelBuilder, o: AttentionOptions, name: string, use: 'input' | 'output'): ViewHandle {
  return k[use](name, o.type ?? 'f32', [
    o.sequences,
    o.queryLength,
    o.kvHeads,
    (o.heads / o.kvHeads) * o.headDim,
  ]);
}

/** lse and delta: f32 [sequences, kvHeads, queryLength * group]. */
function rowView(k: KernelBuilder, o: AttentionOptions, name: string, use: 'input' | 'output'): ViewHandle {
  return k[use](name, 'f32', [o.sequences, o.kvHeads, o.queryLength * (o.heads / o.kvHeads)]);
}

interface SequenceViews {
  readonly slots: ViewHandle;
  readonly start: ViewHandle;
  readonly lengths: ViewHandle;
}

function sequenceViews(k: KernelBuilder, o: AttentionOptions): SequenceViews {
  return {
    slots: k.input('slots', 'i32', [o.sequences]),
    start: k.input('start', 'i32', [o.sequences]),
    lengths: k.input('lengths', 'i32', [o.sequences]),
  };
}

/** Dot of two operands that may be held in different types. */
function dot(
  k: KernelBuilder,
  a: Tile,
  b: Tile,
  acc: Tile | null,
  options: { transA?: boolean; transB?: boolean },
): Tile {
  return a.dtype === b.dtype ? k.dot(a, b, acc, options) : k.dot(a.cast('f32'), b.cast('f32'), acc, options);
}

/** Whether row (query, head in group) sees key: key position <= query position. [rows, keys] bool. */
function causal(s: Setting, firstPosition: Tile, firstKey: Tile): Tile {
  const position = s.k.iota([s.rows, 1], 0).div(s.group).add(firstPosition);
  return s.k.iota([1, s.keys], 1).add(firstKey).le(position);
}

/**
 * o = softmax(q · kᵀ * scale, causal) · v. Views: q, keys, values, slots, start, lengths, o[, lse].
 *
 * Sequence s has lengths[s] query rows (the rest of its queryLength rows give zeros) at the positions from start[s] on,
 * and keys at slots[s], which must be one; those of its own queries are written before. `slots`, `start`, `lengths`: i32
 * [sequences].
 * `lse` (training): log of the sum of exp(scores), f32 [sequences, kvHeads, queryLength * group].
 */
export const attention: (options: AttentionOptions) => Kernel = memoized(
  (o: AttentionOptions): Kernel =>
    buildKernel(`attention_${suffix(o)}${o.training ? '_lse' : ''}`, (k) => {
      const s: Setting = { k, ...checked(o, BLOCK_KEYS) };
      const q = queryView(k, o, 'q', 'input');
      const keys = tokenView(k, o, 'keys', 'input');
      const values = tokenView(k, o, 'values', 'input');
      const views = sequenceViews(k, o);
      const out = queryView(k, o, 'o', 'output');
      const lse = o.training ? rowView(k, o, 'lse', 'output') : null;
      k.grid(ceilDiv(o.queryLength, s.queries), o.kvHeads, o.sequences);
      const query = k.programId(0).mul(s.queries);
      const head = k.programId(1);
      const sequence = k.programId(2);
      // So that blocks are known to lie in the cache.
      const slot = k
        .loadScalar(views.slots, [sequence])
        .max(0)
        .min(o.slots - 1);
      const start = k.loadScalar(views.start, [sequence]);
      const length = k.loadScalar(views.lengths, [sequence]);

      const qTile = k
        .load(q, [sequence, query, head, 0], [1, s.queries, 1, s.width], {
          limits: [null, length, null, null],
        })
        .reshape([s.rows, o.headDim]);
      const end = query.add(s.queries).min(length).add(start);
      const hi = query.lt(length).select(end, 0).max(0).min(o.maxLength);
      type State = readonly [Tile, Tile, Tile];
      /** `whole`: all keys of the block are there. */
      const step =
        (whole: boolean) =>
        (key: Tile, [max, sum, acc]: State): State => {
          const limits = [null, null, whole ? null : end, null];
          const load = (view: ViewHandle) =>
            k
              .load(view, [slot, head, key, 0], [1, 1, s.keys, o.headDim], { limits })
              .reshape([s.keys, o.headDim]);
          const vTile = load(values);
          const raw = dot(k, qTile, load(keys), null, { transB: true }).mul(s.scale);
          const seen = causal(s, query.add(start), key).select(raw, Number.NEGATIVE_INFINITY);
          const newMax = max.max(seen.maximum());
          const decay = max.sub(newMax).exp();
          const p = seen.sub(newMax).exp();
          return [newMax, sum.mul(decay).add(p.sum()), k.dot(p.cast(vTile.dtype), vTile, acc.mul(decay))];
        };
      const init: State = [
        k.constant(Number.NEGATIVE_INFINITY, 'f32', [s.rows, 1]),
        k.zeros([s.rows, 1]),
        k.zeros([s.rows, o.headDim]),
      ];
      // In decode a copy of the values would take longer than multiplying them: whole blocks are read in place.
      const apart = o.layout === 'cache' && s.queries === 1;
      const full = hi.div(s.keys).mul(s.keys);
      const loop = (lo: Tile | number, to: Tile, state: State, whole: boolean) =>
        k.loop({ lo, hi: to, step: s.keys, kind: 'pipelined' }, state, step(whole));
      const [highest, total, weighted] = apart
        ? loop(full, hi, loop(0, full, init, true), false)
        : loop(0, hi, init, false);

      const alive = k.iota([s.rows, 1], 0).div(s.group).add(query).lt(length);
      const result = alive.select(weighted.div(total), 0);
      storeAs(k, out, [sequence, query, head, 0], result.reshape([1, s.queries, 1, s.width]));
      if (lse !== null) {
        k.store(
          lse,
          [sequence, head, query.mul(s.group)],
          alive.select(highest.add(total.log()), 0).reshape([1, 1, s.rows]),
        );
      }
    }),
);

/** delta[row] = sum over headDim of do * o. Views: do, o, delta. delta: as lse. */
export const attentionDelta: (options: TokenAttentionOptions) => Kernel = memoized(
  (o: TokenAttentionOptions): Kernel =>
    buildKernel(`attention_delta_${suffix(o)}`, (k) => {
      const s: Setting = { k, ...checked(o, BACKWARD_KEYS) };
      const gradient = queryView(k, o, 'do', 'input');
      const out = queryView(k, o, 'o', 'input');
      const delta = rowView(k, o, 'delta', 'output');
      k.grid(ceilDiv(o.queryLength, s.queries), o.kvHeads, o.sequences);
      const query = k.programId(0).mul(s.queries);
      const [head, sequence] = [k.programId(1), k.programId(2)];
      const load = (view: ViewHandle) =>
        loadF32(k, view, [sequence, query, head, 0], [1, s.queries, 1, s.width]).reshape([s.rows, o.headDim]);
      k.store(
        delta,
        [sequence, head, query.mul(s.group)],
        load(gradient).mul(load(out)).sum().reshape([1, 1, s.rows]),
      );
    }),
);

/** What both backward kernels compute of one (query block, key block): probabilities and the gradient of the raw scores. */
function backwardBlock(
  s: Setting,
  qTile: Tile,
  doTile: Tile,
  kTile: Tile,
  vTile: Tile,
  lse: Tile,
  delta: Tile,
  visible: Tile,
): { readonly p: Tile; readonly ds: Tile } {
  const scores = dot(s.k, qTile, kTile, null, { transB: true }).mul(s.scale);
  const p = visible.select(scores.sub(lse).exp(), 0);
  const dp = dot(s.k, doTile, vTile, null, { transB: true });
  return { p, ds: p.mul(dp.sub(delta)).mul(s.scale) };
}

/**
 * dq. Views: q, keys, values, do, lse, delta, slots, start, lengths, dq. Rows beyond lengths get zeros.
 */
export const attentionBackwardQuery: (options: TokenAttentionOptions) => Kernel = memoized(
  (o: TokenAttentionOptions): Kernel =>
    buildKernel(`attention_dq_${suffix(o)}`, (k) => {
      const s: Setting = { k, ...checked(o, BACKWARD_KEYS) };
      const q = queryView(k, o, 'q', 'input');
      const keys = tokenView(k, o, 'keys', 'input');
      const values = tokenView(k, o, 'values', 'input');
      const gradient = queryView(k, o, 'do', 'input');
      const lse = rowView(k, o, 'lse', 'input');
      const delta = rowView(k, o, 'delta', 'input');
      const views = sequenceViews(k, o);
      const dq = queryView(k, o, 'dq', 'output');
      k.grid(ceilDiv(o.queryLength, s.queries), o.kvHeads, o.sequences);
      const query = k.programId(0).mul(s.queries);
      const [head, sequence] = [k.programId(1), k.programId(2)];
      const slot = k.loadScalar(views.slots, [sequence]);
      const start = k.loadScalar(views.start, [sequence]);
      const length = k.loadScalar(views.lengths, [sequence]);
      const loadQuery = (view: ViewHandle) =>
        k
          .load(view, [sequence, query, head, 0], [1, s.queries, 1, s.width], {
            limits: [null, length, null, null],
          })
          .reshape([s.rows, o.headDim]);
      const loadRow = (view: ViewHandle) =>
        k
          .load(view, [sequence, head, query.mul(s.group)], [1, 1, s.rows], {
            limits: [null, null, length.mul(s.group)],
          })
          .reshape([s.rows, 1]);
      const [qTile, doTile, lseTile, deltaTile] = [
        loadQuery(q),
        loadQuery(gradient),
        loadRow(lse),
        loadRow(delta),
      ];
      const alive = k.iota([s.rows, 1], 0).div(s.group).add(query).lt(length);
      const end = query.add(s.queries).min(length).add(start);
      const hi = query.lt(length).select(end, 0);
      const [sum] = k.loop(
        { hi, step: s.keys, kind: 'pipelined' },
        [k.zeros([s.rows, o.headDim])] as const,
        (key, [acc]) => {
          const load = (view: ViewHandle) =>
            k
              .load(view, [slot, head, key, 0], [1, 1, s.keys, o.headDim], {
                limits: [null, null, end, null],
              })
              .reshape([s.keys, o.headDim]);
          const kTile = load(keys);
          const visible = causal(s, query.add(start), key).and(alive);
          const { ds } = backwardBlock(s, qTile, doTile, kTile, load(values), lseTile, deltaTile, visible);
          return [k.dot(ds.cast(kTile.dtype), kTile, acc)] as const;
        },
      );
      storeAs(k, dq, [sequence, query, head, 0], sum.reshape([1, s.queries, 1, s.width]));
    }),
);

/**
 * dk and dv. Views: q, keys, values, do, lse, delta, slots, start, lengths, dkeys, dvalues. Every position of
 * the slots named by `slots` (all different) is written, with zeros where no query saw it. The sum runs over queries
 * in ascending order, within one over its heads: no atomics.
 */
export const attentionBackwardKeyValue: (options: TokenAttentionOptions) => Kernel = memoized(
  (o: TokenAttentionOptions): Kernel =>
    buildKernel(`attention_dkv_${suffix(o)}`, (k) => {
      const s: Setting = { k, ...checked(o, BACKWARD_KEYS) };
      const q = queryView(k, o, 'q', 'input');
      const keys = tokenView(k, o, 'keys', 'input');
      const values = tokenView(k, o, 'values', 'input');
      const gradient = queryView(k, o, 'do', 'input');
      const lse = rowView(k, o, 'lse', 'input');
      const delta = rowView(k, o, 'delta', 'input');
      const views = sequenceViews(k, o);
      const dkeys = tokenView(k, o, 'dkeys', 'output');
      const dvalues = tokenView(k, o, 'dvalues', 'output');
      k.grid(ceilDiv(o.maxLength, s.keys), o.kvHeads, o.sequences);
      const key = k.programId(0).mul(s.keys);
      const [head, sequence] = [k.programId(1), k.programId(2)];
      const slot = k.loadScalar(views.slots, [sequence]);
      const start = k.loadScalar(views.start, [sequence]);
      const length = k.loadScalar(views.lengths, [sequence]);
      const loadKey = (view: ViewHandle) =>
        k
          .load(view, [slot, head, key, 0], [1, 1, s.keys, o.headDim], {
            limits: [null, null, start.add(length), null],
          })
          .reshape([s.keys, o.headDim]);
      const [kTile, vTile] = [loadKey(keys), loadKey(values)];
      // The first query block that has a row at or after this key block's first position.
      const lo = key.sub(start).max(0).div(s.queries).mul(s.queries);
      const zeros = k.zeros([s.keys, o.headDim]);
      const [dk, dv] = k.loop(
        { lo, hi: length, step: s.queries, kind: 'pipelined' },
        [zeros, zeros] as const,
        (query, [dkAcc, dvAcc]) => {
          const loadQuery = (view: ViewHandle) =>
            k
              .load(view, [sequence, query, head, 0], [1, s.queries, 1, s.width], {
                limits: [null, length, null, null],
              })
              .reshape([s.rows, o.headDim]);
          const loadRow = (view: ViewHandle) =>
            k
              .load(view, [sequence, head, query.mul(s.group)], [1, 1, s.rows], {
                limits: [null, null, length.mul(s.group)],
              })
              .reshape([s.rows, 1]);
          const [qTile, doTile] = [loadQuery(q), loadQuery(gradient)];
          const alive = k.iota([s.rows, 1], 0).div(s.group).add(query).lt(length);
          const visible = causal(s, query.add(start), key).and(alive);
          const { p, ds } = backwardBlock(
            s,
            qTile,
            doTile,
            kTile,
            vTile,
            loadRow(lse),
            loadRow(delta),
            visible,
          );
          return [
            k.dot(ds.cast(qTile.dtype), qTile, dkAcc, { transA: true }),
            k.dot(p.cast(doTile.dtype), doTile, dvAcc, { transA: true }),
          ] as const;
        },
      );
      const shape = [1, 1, s.keys, o.headDim];
      storeAs(k, dkeys, [slot, head, key, 0], dk.reshape(shape));
      storeAs(k, dvalues, [slot, head, key, 0], dv.reshape(shape));
    }),
);
