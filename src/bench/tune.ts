/** Measures in which blocks matrix products are fastest on a device. */
import type { Device, DeviceBuffer, Executable, Launch } from '../accelerators/device.ts';
import type { Epilogue } from '../kernels/matmul.ts';
import { matmul } from '../kernels/matmul.ts';
import type { MatmulBlocks, Product } from '../kernels/schedule.ts';
import { productName } from '../kernels/schedule.ts';
import { byteLength } from '../numerics/dtype.ts';
import { f32ToBf16 } from '../numerics/float.ts';
import { Random } from '../numerics/random.ts';
import type { Kernel } from '../tile/ir.ts';
import { elementCount } from '../tile/ir.ts';

/** A product as a program has it. */
export interface TunedProduct extends Product {
  readonly epilogue?: Epilogue;
}

/** Bytes over which the measured launches go, so that operands are as far away as those of a program are. */
const FOOTPRINT = 96 * 2 ** 20;
/** Launches of a list at most: each is compiled into the list, and one of a small product takes microseconds. */
const MOST_COPIES = 64;
/** A run shorter than this is repeated until it is as long. */
const MIN_RUN_MS = 4;

const viewBytes = ({ dtype, shape }: Kernel['views'][number]) => byteLength(dtype, elementCount(shape));
const align = (bytes: number) => Math.ceil(bytes / 64) * 64;

/** The product in several blocks, over the same operands, ready to be timed and compared. */
export class Trial implements Disposable {
  readonly #device: Device;
  readonly #product: TunedProduct;
  readonly #buffers: DeviceBuffer[] = [];
  readonly #copies: number;
  readonly #executables: Executable[] = [];
  readonly #kernels: readonly Kernel[];
  #repeat = 1;

  private constructor(device: Device, product: TunedProduct, blocks: readonly MatmulBlocks[]) {
    this.#device = device;
    this.#product = product;
    this.#kernels = blocks.map((each) => matmul({ ...product, blocks: each }));
    const { views } = this.#kernels[0];
    const bytes = views.reduce((sum, view) => sum + align(viewBytes(view)), 0);
    this.#copies = Math.max(1, Math.min(MOST_COPIES, Math.ceil(FOOTPRINT / bytes)));
  }

  /** Throws the device's error for a kernel that it cannot run. */
  static async open(device: Device, product: TunedProduct, blocks: readonly MatmulBlocks[]): Promise<Trial> {
    const trial = new Trial(device, product, blocks);
    try {
      await trial.#prepare();
    } catch (error) {
      trial.dispose();
      throw error;
    }
    return trial;
  }

  async #prepare(): Promise<void> {
    const [{ views }] = this.#kernels;
    views.forEach((view, index) => {
      const each = align(viewBytes(view));
      const buffer = this.#device.allocate(each * this.#copies);
      this.#buffers.push(buffer);
      if (view.access !== 'read') return;
      const random = new Random(0, 'tune', index);
      const values = Float32Array.from({ length: elementCount(view.shape) }, () => random.float() - 0.5);
      const data = view.dtype === 'bf16' ? f32ToBf16(values) : values;
      for (let copy = 0; copy < this.#copies; copy++) this.#device.write(buffer, data, copy * each);
    });
    for (const kernel of this.#kernels) {
      const launches = Array.from(
        { length: this.#copies },
        (_, copy): Launch => ({
          kernel,
          bindings: views.map((view, index) => ({
            buffer: this.#buffers[index],
            byteOffset: copy * align(viewBytes(view)),
          })),
        }),
      );
      this.#executables.push(await this.#device.compile(launches));
    }
  }

  /** Runs each of the blocks once and compares. Throws where a result differs, naming the kernel. */
  async verify(): Promise<void> {
    const [{ views }] = this.#kernels;
    const index = views.findIndex(({ access }) => access !== 'read');
    const buffer = this.#buffers[index];
    const results: Uint8Array[] = [];
    for (const executable of this.#executables) {
      this.#device.write(buffer, new Uint8Array(buffer.byteLength));
      await executable.run();
      results.push(await this.#device.read(buffer));
    }
    results.forEach((bytes, which) => {
      const at = bytes.findIndex((byte, i) => byte !== results[0][i]);
      if (at >= 0)
        throw new Error(
          `kernel '${this.#kernels[which].name}' gives another result in other blocks, from byte ${at} on: ` +
            'results must not depend on how a product is cut, so this is an error of Tandem',
        );
    });
  }

  /** Least seconds of one product, for those of the blocks that `which` lists, in turns. */
  async time(which: readonly number[], rounds: number): Promise<number[]> {
    const best = which.map(() => Number.POSITIVE_INFINITY);
    for (let round = 0; round < rounds; round++)
      for (const [place, index] of which.entries()) {
        let milliseconds = await this.#run(index);
        while (milliseconds < MIN_RUN_MS) {
          this.#repeat = Math.max(
            this.#repeat + 1,
            Math.ceil((1.2 * this.#repeat * MIN_RUN_MS) / milliseconds),
          );
          milliseconds = await this.#run(index);
        }
        best[place] = Math.min(best[place], milliseconds / 1000 / this.#repeat / this.#copies);
      }
    return best;
  }

  async #run(index: number): Promise<number> {
    const start = performance.now();
    await this.#executables[index].run(this.#repeat);
    return performance.now() - start;
  }

  get name(): string {
    return productName(this.#product);
  }

  dispose(): void {
    for (const executable of this.#executables.splice(0)) executable.dispose();
    for (const buffer of this.#buffers.splice(0)) this.#device.free(buffer);
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
