/** Compiled kernels of one device, each kept for its content and the way its views lie in memory. */
import { DTYPES } from '../../numerics/dtype.ts';
import type { Kernel, View } from '../../tile/ir.ts';
import { verify } from '../../tile/verify.ts';
import { viewBytes } from '../bindings.ts';
import { kernelContent } from '../content.ts';
import type { DeviceBuffer, Launch } from '../device.ts';
import type { ThreadTarget } from '../threads/lower.ts';
import { lower, unsupported } from '../threads/lower.ts';
import { COMPUTE_STAGE } from './gpu.ts';
import type { Shader } from './wgsl.ts';
import { FIRST_BUFFER, shaderOf } from './wgsl.ts';

/** How the views of a launch lie in buffers. */
export interface Arrangement {
  /** Different buffers, in the order in which views name them. */
  readonly buffers: readonly DeviceBuffer[];
  /** Of each view. */
  readonly bufferOf: readonly number[];
  /** Where each view begins, in elements of its type. */
  readonly bases: readonly number[];
  readonly overlaps: readonly (readonly boolean[])[];
  readonly canonical: readonly number[];
}

export interface Pipeline {
  readonly shader: Shader;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

const sameElements = (a: View, b: View) =>
  DTYPES[a.dtype].bits === DTYPES[b.dtype].bits &&
  a.shape.join() === b.shape.join() &&
  a.strides.join() === b.strides.join();

/** Throws RangeError where a view begins within an element. */
export function arrange({ kernel, bindings }: Launch): Arrangement {
  const buffers = [...new Set(bindings.map(({ buffer }) => buffer))];
  const ranges = bindings.map(({ buffer, byteOffset }, view) => ({
    buffer,
    begin: byteOffset,
    end: byteOffset + viewBytes(kernel, view),
  }));
  const overlaps = ranges.map((a) =>
    ranges.map((b) => a.buffer === b.buffer && a.begin < b.end && b.begin < a.end),
  );
  const canonical = ranges.map((range, view) =>
    ranges.findIndex(
      (other, index) =>
        index === view ||
        (other.buffer === range.buffer &&
          other.begin === range.begin &&
          sameElements(kernel.views[index], kernel.views[view])),
    ),
  );
  const bases = bindings.map(({ byteOffset }, view) => {
    const { name, dtype } = kernel.views[view];
    const base = (byteOffset * 8) / DTYPES[dtype].bits;
    if (!Number.isInteger(base))
      throw new RangeError(
        `kernel '${kernel.name}', view '${name}': on webgpu the byte offset must be a multiple of the size of ${dtype}, not ${byteOffset}`,
      );
    return base;
  });
  const bufferOf = bindings.map(({ buffer }) => buffers.indexOf(buffer));
  return { buffers, bufferOf, bases, overlaps, canonical };
}

export class Pipelines {
  readonly #device: GPUDevice;
  readonly #target: ThreadTarget;
  readonly #contents = new WeakMap<Kernel, string>();
  readonly #numbers = new Map<string, number>();
  readonly #pipelines = new Map<string, Promise<Pipeline>>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();

  constructor(device: GPUDevice, target: ThreadTarget) {
    this.#device = device;
    this.#target = target;
  }

  /** Throws an Error that names the kernel and what is not supported of it. */
  get(kernel: Kernel, arrangement: Arrangement): Promise<Pipeline> {
    const { bufferOf, overlaps, canonical } = arrangement;
    const key = JSON.stringify([
      this.#number(kernel),
      bufferOf,
      overlaps.map((row) => row.map(Number)),
      canonical,
    ]);
    const found = this.#pipelines.get(key) ?? this.#compile(kernel, arrangement);
    this.#pipelines.set(key, found);
    // A failure may have passed by the next time.
    found.catch(() => this.#pipelines.delete(key));
    return found;
  }

  /** A number that kernels of the same content share. Only verified kernels have one. */
  #number(kernel: Kernel): number {
    let content = this.#contents.get(kernel);
    if (content === undefined) {
      content = kernelContent(kernel);
      if (!this.#numbers.has(content)) {
        verify(kernel);
        this.#numbers.set(content, this.#numbers.size);
      }
      this.#contents.set(kernel, content);
    }
    return this.#numbers.get(content) as number;
  }

  /** The text of a kernel whose views lie so. Throws like `get`. */
  shader(kernel: Kernel, { bufferOf, overlaps, canonical }: Arrangement): Shader {
    const reason = unsupported(kernel, this.#target);
    if (reason !== null) throw new Error(`kernel '${kernel.name}' cannot be compiled for webgpu: ${reason}`);
    const program = lower(kernel, this.#target, {
      overlaps: (a, b) => overlaps[a][b],
      canonical: (view) => canonical[view],
    });
    return shaderOf(program, bufferOf);
  }

  async #compile(kernel: Kernel, arrangement: Arrangement): Promise<Pipeline> {
    const { buffers } = arrangement;
    const most = this.#device.limits.maxStorageBuffersPerShaderStage;
    const shader = this.shader(kernel, arrangement);
    const needed = buffers.length + (shader.scratchBytes > 0 ? 1 : 0);
    if (needed > most)
      throw new Error(
        `kernel '${kernel.name}' needs ${needed} buffers at once, but this WebGPU device binds at most ${most}: place some of its views in one buffer`,
      );
    const layout = this.#layout(shader);
    this.#device.pushErrorScope('validation');
    const module = this.#device.createShaderModule({ label: kernel.name, code: shader.text });
    const [info, error] = await Promise.all([module.getCompilationInfo(), this.#device.popErrorScope()]);
    const faults = info.messages.filter(({ type }) => type === 'error');
    if (faults.length > 0 || error !== null) {
      const first = faults[0];
      const line = first === undefined ? '' : `\n${shader.text.split('\n')[first.lineNum - 1]}`;
      throw new Error(
        `kernel '${kernel.name}': its WGSL is refused: ${first === undefined ? error?.message : `line ${first.lineNum}: ${first.message}${line}`}`,
      );
    }
    try {
      const pipeline = await this.#device.createComputePipelineAsync({
        label: kernel.name,
        layout: this.#device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute: { module, entryPoint: 'main' },
      });
      return { shader, pipeline, layout };
    } catch (cause) {
      throw new Error(`kernel '${kernel.name}': no pipeline: ${(cause as Error).message}`, { cause });
    }
  }

  #layout({ access, scratchBytes }: Shader): GPUBindGroupLayout {
    const types: GPUBufferBindingType[] = [...access, ...(scratchBytes > 0 ? (['storage'] as const) : [])];
    const key = types.join();
    const found =
      this.#layouts.get(key) ??
      this.#device.createBindGroupLayout({
        entries: [
          { binding: 0, visibility: COMPUTE_STAGE, buffer: { type: 'uniform' } },
          ...types.map((type, index) => ({
            binding: FIRST_BUFFER + index,
            visibility: COMPUTE_STAGE,
            buffer: { type },
          })),
        ],
      });
    this.#layouts.set(key, found);
    return found;
  }
}
