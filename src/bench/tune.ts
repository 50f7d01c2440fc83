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
  using trial = await Trial.open(device, product, list);
  await trial.verify();
  const all = list.map((_, index) => index);
  const [estimate] = await trial.time([0], 2);
  const most = Math.floor(PATIENCE / (estimate * trial.length * list.length));
  const rounds = (wanted: number) => Math.max(3, Math.min(wanted, most));
  const first = await trial.time(all, rounds(ROUNDS.search));
  const best = all.reduce((least, index) => (first[index] < first[least] ? index : least));
  let wins = first[best] <= CLEAR_GAIN * first[0];
  let [secondsBefore, secondsBest] = [first[0], first[best]];
  for (let proof = 0; wins && proof < PROOFS; proof++) {
    const [usual, other] = await trial.time([0, best], rounds(ROUNDS.proof));
    wins = other <= CLEAR_GAIN * usual;
    secondsBefore = Math.min(secondsBefore, usual);
    secondsBest = Math.min(secondsBest, other);
  }
  wins &&= secondsBest <= CLEAR_GAIN * secondsBefore;
  return {
    name: productName(product),
    operations: 2 * (product.batch ?? 1) * product.m * product.n * product.k,
    before,
    after: wins ? list[best] : before,
    secondsBefore,
    secondsAfter: wins ? secondsBest : secondsBefore,
  };
}
