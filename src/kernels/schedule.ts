/**
 * How matrix products are cut into blocks: what could be tried, a model of what it costs on a processor with caches,
 * and the choice. Results do not depend on it.
 */
import { ceilDiv } from '../tile/builder.ts';
import type { Storage } from './common.ts';
import type { RegisterTile } from './operands.ts';
import { fitsWideTile, rowsConflict, worthPacking } from './operands.ts';

/** Sizes of the block of C one program computes, and of the step along k. */
export interface MatmulBlocks {
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/** What a product is apart from how it is cut. */
export interface Product {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Number of independent products; every view then has a first dimension of this size. */
  readonly batch?: number;
  /** a is held as [k, m]. */
  readonly transA?: boolean;
  /** b is held as [n, k]. */
  readonly transB?: boolean;
  /** b is held in panels of so many columns: see `panels.ts`. Not with `transB` or `batch`. */
  readonly panel?: number;
  readonly aType?: Storage;
  readonly bType?: Storage;
  readonly cType?: Storage;
  /** c = c + result instead of c = result. The sum is rounded once more. */
  readonly accumulate?: boolean;
  readonly epilogue?: {
    readonly inputs: readonly { readonly dtype: Storage; readonly kind: 'full' | 'row' | 'column' }[];
  };
}

/** A processor as far as the choice of blocks depends on it. */
export interface Machine {
  /** Bytes of the first and second cache of a core, and of the third. */
  readonly caches: { readonly l1: number; readonly l2: number; readonly l3: number };
  /** Lines that a set of the first cache holds. */
  readonly cacheWays: number;
  /** Elements of a vector. */
  readonly lanes: number;
  readonly tile: RegisterTile;
  /** Of products of many rows and columns, where cores begin two multiply-adds a cycle; else null. */
  readonly wideTile: RegisterTile | null;
  /** One instruction multiplies pairs of bf16. */
  readonly bf16Pairs: boolean;
  /** Products of bf16 are computed in matrix registers. */
  readonly matrixRegisters: boolean;
}

/** How kernels are cut for an accelerator. */
export interface Schedule {
  /** Rows, and columns, of a block of a matrix product, at most. */
  readonly largestBlock?: number;
  /** Programs that run at once; they should share a grid evenly. */
  readonly parallel?: number;
  /** Without it, blocks are chosen by a rule that knows nothing of caches. */
  readonly machine?: Machine;
  /** Names the machine in tables of measured blocks. */
  readonly machineKey?: string;
  /** Blocks that measuring has found for a product. */
  readonly measured?: (product: Product) => MatmulBlocks | undefined;
}

/**
 * Names a product and everything that its best blocks depend on: '512x3072x1024 n·panel32 bf16·bf16>f32 +full f32',
 * rows x columns x depth.
 */
export function productName(product: Product): string {
  const { m, n, k, batch, transA, transB, panel, accumulate, epilogue } = product;
  const { aType = 'f32', bType = 'f32', cType = 'f32' } = product;
  const size = `${batch === undefined ? '' : `${batch}*`}${m}x${n}x${k}`;
  const layout = `${transA ? 't' : 'n'}·${panel === undefined ? (transB ? 't' : 'n') : `panel${panel}`}`;
  const extras = (epilogue?.inputs ?? []).map(({ dtype, kind }) => ` +${kind} ${dtype}`);
  return `${size} ${layout} ${aType}·${bType}>${cType}${accumulate ? ' accumulated' : ''}${extras.join('')}`;
}

/** Rows of a product up to which reading b takes longer than multiplying. */
const FEW_ROWS = 16;
/** Elements along k that few rows are taken at once, so that their sums stay in registers for long. */
const FEW_ROWS_STEP = 1024;
/** A processor with large pages and a second cache of a megabyte gains nothing beyond. */
const LARGEST_BLOCK = 256;
/** Multiply-adds that take the time of bringing one element of an operand to where it is used. */
const ELEMENT_COST = 8;
/** Programs at once, where that is not known. */
const PARALLEL = 4;

/**
 * Blocks where nothing is known of the caches. Few rows (decode) are taken whole, so that weights are read once. Else
 * large blocks, which use each element often, as far as the grid stays even.
 */
export function plainBlocks(
  product: Product,
  { largestBlock = LARGEST_BLOCK, parallel = PARALLEL }: Schedule,
) {
  const { m, n, k, panel, transB } = product;
  if (panel !== undefined)
    return m <= FEW_ROWS
      ? { m, n: panel, k: Math.min(k, FEW_ROWS_STEP) }
      : { m: Math.min(m, largestBlock, 128), n: 4 * panel, k: Math.min(k, 256) };
  const step = Math.min(k, 256);
  if (m <= FEW_ROWS) return { m, n: Math.min(n, transB ? 128 : 256), k: step };
  const sizes = (total: number) =>
    new Set([64, 128, LARGEST_BLOCK].map((size) => Math.min(size, largestBlock, total)));
  let best = { m, n, cost: Number.POSITIVE_INFINITY };
  for (const rows of sizes(m))
    for (const columns of sizes(n)) {
      const programs = ceilDiv(m, rows) * ceilDiv(n, columns);
      const cost = ceilDiv(programs, parallel) * (rows * columns + ELEMENT_COST * (rows + columns));
      if (cost < best.cost) best = { m: rows, n: columns, cost };
    }
  return { m: best.m, n: best.n, k: step };
}

/** What a product's parts take, in the time of one vector multiply-add. */
interface Costs {
  /** Of a register tile, to begin and end. */
  readonly tile: number;
  /** Of one vector of sums that goes into registers and back. */
  readonly sum: number;
  /** Of one vector of b that is packed. */
  readonly pack: number;
  /** Of one vector of a that is copied because its rows would fall into one set of the cache. */
  readonly copy: number;
  /** Of a cache line that comes from the second cache, the third, and memory. */
  readonly second: number;
  readonly third: number;
  readonly memory: number;
  /** Of a program, to be claimed and begun. */
  readonly program: number;
  /** Bytes of a row of a from which its lines come sooner, the longer it is: processors fetch ahead along it. */
  readonly run: number;
  /** Of a cache, what a program can count on: the rest holds what else goes by. */
  readonly usable: number;
  /** What the model cannot tell apart. */
  readonly uncertain: number;
}
/** Fitted to measurements on a Zen 4 core. */
const COST: Costs = {
  tile: 12,
  sum: 10,
  pack: 9,
  copy: 3,
  second: 0.4,
  third: 4,
  memory: 12,
  program: 50,
  run: Number.POSITIVE_INFINITY,
  usable: 0.8,
  uncertain: 1.03,
};
/** In wide tiles, and beside them where a core has those. Fitted to a Xeon core with AMX. */
const WIDE_COST: Costs = { ...COST, sum: 2, pack: 15, run: 512, usable: 0.7, uncertain: 1.01 };
/**
 * Matrix registers: products that are added in the time of one vector multiply-add, what a vector of sums and of b that
 * is packed take, and what stays near (`accelerators/loops/matrix.ts`). Fitted to a Sapphire Rapids core.
 */
const MATRIX = { rows: 32, products: 32, sum: 1.5, pack: 3, stretch: 256, band: 128 };
/** Of a program's time, what threads wait for the last one at the end, as they have other things to do now and then. */
const UNEVEN = 0.04;
/** Bytes of a cache line. */
const LINE = 64;
const BYTES: { readonly [S in Storage]: number } = { f32: 4, bf16: 2 };

/** What decides how a product is computed on a machine. */
function waysOf(product: Product, { wideTile, bf16Pairs, matrixRegisters }: Machine) {
  const { aType = 'f32', bType = 'f32' } = product;
  const paired = bf16Pairs && aType === 'bf16' && bType === 'bf16';
  const matrix = matrixRegisters && paired ? MATRIX : null;
  // What is unpacked needs registers of its own.
  const wide = matrix !== null || (bType === 'bf16' && !paired) ? null : wideTile;
  return { paired, matrix, wide, cost: wide === null ? COST : WIDE_COST };
}

/** What `predictedCost` says of every choice of blocks. */
function costModel(product: Product, machine: Machine, parallel: number): (blocks: MatmulBlocks) => number {
  const { caches, cacheWays, lanes } = machine;
  const { m, n, k, batch = 1, transA, transB, panel, aType = 'f32', bType = 'f32' } = product;
  const [bytesA, bytesB] = [BYTES[aType], BYTES[bType]];
  const { paired, matrix, wide, cost } = waysOf(product, machine);
  const stride = bytesA * k;
  const widened = aType === 'bf16' && !paired;
  const [l1, l2, l3] = [caches.l1, caches.l2, caches.l3].map((bytes) => cost.usable * bytes);
  /** Of a line that is used again after so many bytes went by. */
  const from = (between: number) =>
    between <= l1 ? 0 : between <= l2 ? cost.second : between <= l3 ? cost.third : cost.memory;

  return (blocks) => {
    const steps = ceilDiv(k, blocks.k);
    const tile = wide !== null && fitsWideTile(wide, blocks.m, blocks.n, lanes) ? wide : machine.tile;
    const rows = Math.min(matrix?.rows ?? tile.rows, blocks.m);
    // Few rows leave registers for more vectors beside each other.
    const few = matrix === null && rows < tile.rows;
    const vectors = few ? Math.min(8, Math.floor((2 * tile.rows) / rows)) : tile.vectors;
    const width = panel ?? vectors * lanes;
    const across = ceilDiv(blocks.n, width);
    const down = ceilDiv(blocks.m, rows);

    const multiply =
      (blocks.m * across * (width / lanes) * blocks.k) / (matrix?.products ?? (paired ? 2 : 1));
    const tiles = across * down * (cost.tile + (matrix?.sum ?? cost.sum) * rows * (width / lanes));
    const packed =
      panel === undefined && (matrix !== null || transB === true || worthPacking(blocks.m, tile.rows));
    const packing = packed ? ((blocks.k * blocks.n) / lanes) * (matrix?.pack ?? cost.pack) : 0;
    const apart = aType === bType && !transA && rowsConflict(blocks.m, stride, paired, cacheWays);
    const copied = widened || (matrix === null ? apart : transA === true);
    const copying = copied ? ((blocks.m * blocks.k) / lanes) * cost.copy : 0;
    const sooner = transA ? 1 : Math.min(1, cost.run / (bytesA * blocks.k));
    const fromA = (line: number) => (line > cost.second ? Math.max(cost.second, sooner * line) : line);

    const aBytes = blocks.m * blocks.k * (paired ? 2 : 4);
    const bBytes = blocks.n * blocks.k * (packed ? 4 / (paired ? 2 : 1) : bytesB);
    const sumBytes = 4 * blocks.m * blocks.n;
    // What is near at a time: all of it, or stretches along k of bands of rows.
    const stretch = Math.min(1, (matrix?.stretch ?? blocks.k) / blocks.k);
    const band = Math.min(1, (matrix?.band ?? blocks.m) / blocks.m);
    const strip = (stretch * aBytes) / down;
    const panelBytes = (stretch * bBytes) / across;
    // What is packed at once in long steps along k may not stay in the second cache until it is used.
    const arranged = matrix === null ? 0 : (packed ? bBytes : 0) + (copied ? aBytes : 0);
    // A panel of b is used by each strip of a; the whole of a by each panel; the sums at each step along k,
    // where there are several: else they go to c, whatever the blocks.
    const again =
      (down - 1) * bBytes * from(panelBytes + strip) +
      (across - 1) * aBytes * fromA(from(band * stretch * aBytes + panelBytes)) +
      arranged * from(arranged) +
      (steps > 1 ? 2 * sumBytes * from(sumBytes + aBytes + bBytes) : 0);
    // Programs beside each other share their rows of a; all columns of b go by before they are read again.
    const wholeA = blocks.m * k * bytesA;
    const wholeB = n * k * bytesB;
    const programs = batch * ceilDiv(m, blocks.m) * ceilDiv(n, blocks.n);
    const turns = ceilDiv(programs, parallel);
    // Each thread fetches the rows of a that it needs: of several rows of programs, those beside each other run on
    // several threads, so for each program; of one row, once.
    const far = Math.max(cost.third, from(wholeA));
    const fetchA =
      parallel === 1 ? from(wholeA) : blocks.m >= m ? (far + (turns - 1) * from(wholeA)) / turns : far;
    const first =
      blocks.m * bytesA * blocks.k * fromA(fetchA) + blocks.n * bytesB * blocks.k * from(wholeA + wholeB);
    const program = steps * (multiply + tiles + packing + copying + (again + first) / LINE) + cost.program;
    return (turns + (parallel > 1 ? UNEVEN : 0)) * program;
  };
}

/**
 * Time that a product takes in blocks, in that of one vector multiply-add. A program packs its part of b, reads its
 * part of a once for every register tile beside another, and sums as often as it goes along k; each comes from the
 * first cache in which it stays meanwhile.
 */
export const predictedCost = (
  product: Product,
  blocks: MatmulBlocks,
  machine: Machine,
  parallel = 1,
): number => costModel(product, machine, parallel)(blocks);

/** Sizes that blocks are tried in, before they are evened out. */
const SIZES = { rows: [64, 128, 256, 512], columns: [64, 128, 256, 512], panels: [1, 2, 4, 8] };
const DEPTHS = [128, 256, 512, 1024, 2048, 4096];
/** What pieces are rounded up to: vectors of either length, and pairs. */
const EVEN = 16;

/** Pieces of `total`, none much above `size`, that leave little over: what is over is computed as if it were there. */
const piece = (total: number, size: number) =>
  Math.min(total, EVEN * Math.ceil(ceilDiv(total, ceilDiv(total, size)) / EVEN));

interface Priced {
  readonly blocks: MatmulBlocks;
  readonly cost: number;
}

function pricedBlocks(product: Product, cost: (blocks: MatmulBlocks) => number): Priced[] {
  const { m, n, k, panel } = product;
  const distinct = (sizes: readonly number[]) => [...new Set(sizes)];
  const rows = m <= FEW_ROWS ? [m] : distinct(SIZES.rows.map((size) => piece(m, size)));
  const columns =
    panel === undefined
      ? distinct(SIZES.columns.map((size) => piece(n, size)))
      : SIZES.panels.filter((count) => count === 1 || count * panel <= n).map((count) => count * panel);
  const depths = distinct(DEPTHS.map((size) => piece(k, size)));
  const priced: Priced[] = [];
  for (const m of rows)
    for (const n of columns)
      for (const k of depths) {
        const blocks = { m, n, k };
        priced.push({ blocks, cost: cost(blocks) });
      }
  return priced;
}

/** Blocks worth a thought, the cheapest of the model first. Empty where the machine is not known. */
export function candidateBlocks(product: Product, { machine, parallel = 1 }: Schedule): MatmulBlocks[] {
  if (machine === undefined) return [];
  return pricedBlocks(product, costModel(product, machine, parallel))
    .sort((one, other) => one.cost - other.cost)
    .map(({ blocks }) => blocks);
}

/** Of what the model cannot tell from the cheapest, the blocks nearest to those of the plain rule, which are tried. */
function modelBlocks(product: Product, machine: Machine, schedule: Schedule): MatmulBlocks {
  const cost = costModel(product, machine, schedule.parallel ?? 1);
  const { uncertain } = waysOf(product, machine).cost;
  const usual = plainBlocks(product, schedule);
  const priced = pricedBlocks(product, cost);
  const least = priced.reduce((so, each) => Math.min(so, each.cost), Number.POSITIVE_INFINITY);
  if (cost(usual) <= uncertain * least) return usual;
  const distance = ({ m, n, k }: MatmulBlocks) =>
    Math.abs(Math.log2(m / usual.m)) + Math.abs(Math.log2(n / usual.n)) + Math.abs(Math.log2(k / usual.k));
  return priced
    .filter(({ cost }) => cost <= uncertain * least)
    .sort((one, other) => one.cost - other.cost)
    .map(({ blocks }) => blocks)
    .reduce((best, blocks) => (distance(blocks) < distance(best) ? blocks : best));
}

/** By machine and threads, then product: a program asks for the same products again and again. */
const chosen = new WeakMap<Machine, Map<string, MatmulBlocks>>();

/** Blocks of a product that were not measured: the model's where the machine is known, else the plain rule's. */
export function defaultBlocks(product: Product, schedule: Schedule): MatmulBlocks {
  const { machine, parallel, largestBlock } = schedule;
  if (machine === undefined) return plainBlocks(product, schedule);
  let known = chosen.get(machine);
  if (known === undefined) {
    known = new Map();
    chosen.set(machine, known);
  }
  const key = `${parallel} ${largestBlock} ${productName(product)}`;
  let blocks = known.get(key);
  if (blocks === undefined) {
    blocks = modelBlocks(product, machine, schedule);
    known.set(key, blocks);
  }
  return blocks;
}

/** The blocks of a product: those that measuring found, else the default ones. */
export function chooseBlocks(product: Product, schedule: Schedule): MatmulBlocks {
  return schedule.measured?.(product) ?? defaultBlocks(product, schedule);
}
