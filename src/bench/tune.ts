/** Measures in which blocks matrix products are fastest on a device. */
import type { Device, DeviceBuffer, Executable, Launch } from '../accelerators/device.ts';
import type { Epilogue } from '../kernels/matmul.ts';
import { matmul } from '../kernels/matmul.ts';
import type { MatmulBlocks, Product } from '../kernels/schedule.ts';
import { candidateBlocks, defaultBlocks, plainBlocks, productName } from '../kernels/schedule.ts';
import { byteLength } from '../numerics/dtype.ts';
import { f32ToBf16 } from '../numerics/float.ts';
import { Random } from '../numerics/random.ts';
import type { Kernel } from '../tile/ir.ts';
import { elementCount } from '../tile/ir.ts';

/** A product as a program has it. */
export interface TunedProduct extends Product {
  readonly epilogue?: Epilogue;
}

/** Bytes over which runs go in turns, so that operands are as far away as those of a program are. */
const FOOTPRINT = 64 * 2 ** 20;
const MOST_COPIES = 64;
/** A run that is much longer is interrupted on a busy machine, a shorter one measures how runs begin. */
const RUN_MS = 1.5;

const viewBytes = ({ dtype, shape }: Kernel['views'][number]) => byteLength(dtype, elementCount(shape));
const align = (bytes: number) => Math.ceil(bytes / 64) * 64;

/** The product in several blocks, over the same operands, ready to be timed and compared. */
export class Trial implements Disposable {
  readonly #device: Device;
  readonly #buffers: DeviceBuffer[] = [];
  readonly #copies: number;
  readonly #kernels: readonly Kernel[];
  /** Launches of a run. */
  #length = 1;
  /** By blocks: runs over one part of the copies after the other. */
  #runs: Executable[][] = [];
  /** Runs so far: the next goes over other memory than the last, or its operands would still be in the caches. */
  #count = 0;

  private constructor(device: Device, product: TunedProduct, blocks: readonly MatmulBlocks[]) {
    this.#device = device;
    this.#kernels = blocks.map((each) => matmul({ ...product, blocks: each }));
    const bytes = this.#kernels[0].views.reduce((sum, view) => sum + align(viewBytes(view)), 0);
    this.#copies = Math.max(1, Math.min(MOST_COPIES, Math.ceil(FOOTPRINT / bytes)));
  }

  /** Throws the device's error for a kernel that it cannot run. */
  static async open(device: Device, product: TunedProduct, blocks: readonly MatmulBlocks[]): Promise<Trial> {
    const trial = new Trial(device, product, blocks);
    try {
      trial.#fill();
      await trial.#compile();
      const [seconds] = await trial.time([0], 3);
      trial.#length = Math.max(1, Math.min(trial.#copies, Math.round(RUN_MS / 1000 / seconds)));
      if (trial.#length > 1) await trial.#compile();
    } catch (error) {
      trial.dispose();
      throw error;
    }
    return trial;
  }

  #fill(): void {
    this.#kernels[0].views.forEach((view, index) => {
      const each = align(viewBytes(view));
      const buffer = this.#device.allocate(each * this.#copies);
      this.#buffers.push(buffer);
      if (view.access !== 'read') return;
      const random = new Random(0, 'tune', index);
      const values = Float32Array.from({ length: elementCount(view.shape) }, () => random.float() - 0.5);
      const data = view.dtype === 'bf16' ? f32ToBf16(values) : values;
      for (let copy = 0; copy < this.#copies; copy++) this.#device.write(buffer, data, copy * each);
    });
  }

  async #compile(): Promise<void> {
    this.#disposeRuns();
    const parts = Math.floor(this.#copies / this.#length);
    for (const kernel of this.#kernels) {
      const runs: Executable[] = [];
      this.#runs.push(runs);
      for (let part = 0; part < parts; part++)
        runs.push(
          await this.#device.compile(
            Array.from({ length: this.#length }, (_, i) => this.#launch(kernel, part * this.#length + i)),
          ),
        );
    }
  }

  #launch(kernel: Kernel, copy: number): Launch {
    return {
      kernel,
      bindings: kernel.views.map((view, index) => ({
        buffer: this.#buffers[index],
        byteOffset: copy * align(viewBytes(view)),
      })),
    };
  }

  /** Runs each of the blocks once and compares. Throws where a result differs, naming the kernel. */
  async verify(): Promise<void> {
    const index = this.#kernels[0].views.findIndex(({ access }) => access !== 'read');
    const bytes = viewBytes(this.#kernels[0].views[index]);
    const results: Uint8Array[] = [];
    for (const [run] of this.#runs) {
      this.#device.write(this.#buffers[index], new Uint8Array(bytes));
      await run.run();
      results.push(await this.#device.read(this.#buffers[index], 0, bytes));
    }
    results.forEach((result, which) => {
      const at = result.findIndex((byte, i) => byte !== results[0][i]);
      if (at >= 0)
        throw new Error(
          `kernel '${this.#kernels[which].name}' gives another result in other blocks, from byte ${at} on: ` +
            'results must not depend on how a product is cut, so this is an error of Tandem',
        );
    });
  }

  /** Least seconds of one product, for those of the blocks that `which` lists, in turns. */
  async time(which: readonly number[], rounds: number): Promise<number[]> {
    const least = which.map(() => Number.POSITIVE_INFINITY);
    for (let round = 0; round < rounds; round++)
      for (const [place, index] of which.entries()) {
        const runs = this.#runs[index];
        const run = runs[this.#count++ % runs.length];
        const start = performance.now();
        await run.run();
        least[place] = Math.min(least[place], (performance.now() - start) / 1000 / this.#length);
      }
    return least;
  }

  /** Products of a run. */
  get length(): number {
    return this.#length;
  }

  #disposeRuns(): void {
    for (const runs of this.#runs.splice(0)) for (const run of runs) run.dispose();
  }

  dispose(): void {
    this.#disposeRuns();
    for (const buffer of this.#buffers.splice(0)) this.#device.free(buffer);
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** A product before and after it was tuned. */
export interface Tuned {
  readonly name: string;
  readonly operations: number;
  /** Blocks that were in use, and those that measured better by a clear margin; else the same. */
  readonly before: MatmulBlocks;
  readonly after: MatmulBlocks;
  /** Least seconds of all that were measured, in turns. */
  readonly secondsBefore: number;
  readonly secondsAfter: number;
}

/** Blocks that the model expects most of, which are measured. */
const TRIED = 6;
/** Less is within what a machine that does other things too makes of equal code. */
const CLEAR_GAIN = 0.98;
/** Rounds in which all blocks are compared, and those of each of the proofs that the best one's lead was no chance. */
const ROUNDS = { search: 12, proof: 8 };
const PROOFS = 3;
/** Seconds that a product may take, roughly: those of large models have fewer rounds. */
const PATIENCE = 3;

/** Measures a product in the blocks `before`, those of the model and of the plain rule. Throws where results differ. */
export async function tuneProduct(
  device: Device,
  product: TunedProduct,
  before: MatmulBlocks,
): Promise<Tuned> {
  const { schedule = {} } = device;
  const tried = new Map<string, MatmulBlocks>();
  for (const blocks of [
    before,
    defaultBlocks(product, schedule),
    plainBlocks(product, schedule),
    ...candidateBlocks(product, schedule).slice(0, TRIED),
  ])
    tried.set(`${blocks.m}x${blocks.n}x${blocks.k}`, blocks);
  const list = [...tried.values()];
  const { best, seconds } = await search(device, product, list);
  const found = best === 0 ? null : await prove(device, product, [before, list[best]]);
  return {
    name: productName(product),
    operations: 2 * (product.batch ?? 1) * product.m * product.n * product.k,
    before,
    after: found === null ? before : list[best],
    secondsBefore: found === null ? seconds : found.before,
    secondsAfter: found === null ? seconds : found.after,
  };
}

/** How often everything can be run, of the rounds that are wanted. */
async function affordable(trial: Trial, count: number, wanted: number): Promise<number> {
  const [estimate] = await trial.time([0], 2);
  const most = Math.floor(PATIENCE / (estimate * trial.length * count));
  return Math.max(3, Math.min(wanted, most));
}

/** The fastest of the list if it is clearly faster than the first, else the first; and the first one's seconds. */
async function search(
  device: Device,
  product: TunedProduct,
  list: readonly MatmulBlocks[],
): Promise<{ best: number; seconds: number }> {
  using trial = await Trial.open(device, product, list);
  await trial.verify();
  const all = list.map((_, index) => index);
  const seconds = await trial.time(all, await affordable(trial, list.length, ROUNDS.search));
  const best = all.reduce((least, index) => (seconds[index] < seconds[least] ? index : least));
  return { best: seconds[best] <= CLEAR_GAIN * seconds[0] ? best : 0, seconds: seconds[0] };
}

/**
 * Least seconds of both, where the second one leads clearly in every proof; else null. In other memory than the search
 * had: how pages lie can make a difference of its own.
 */
async function prove(
  device: Device,
  product: TunedProduct,
  both: readonly [MatmulBlocks, MatmulBlocks],
): Promise<{ before: number; after: number } | null> {
  using trial = await Trial.open(device, product, both);
  const rounds = await affordable(trial, PROOFS * both.length, ROUNDS.proof);
  let [before, after] = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
  for (let proof = 0; proof < PROOFS; proof++) {
    const [first, second] = await trial.time([0, 1], rounds);
    if (second > CLEAR_GAIN * first) return null;
    [before, after] = [Math.min(before, first), Math.min(after, second)];
  }
  return after <= CLEAR_GAIN * before ? { before, after } : null;
}
