/** A compiled list of launches: pipelines with their bindings, recorded into one command buffer a run. */
import type { Executable, Launch } from '../device.ts';
import { USAGE } from './gpu.ts';
import type { Arrangement, Pipeline } from './pipelines.ts';
import { FIRST_BUFFER } from './wgsl.ts';

export interface WebGpuExecutable extends Executable {
  /** Of one run. */
  readonly dispatches: number;
}

/** One launch, ready to be recorded. */
interface Dispatch {
  readonly pipeline: GPUComputePipeline;
  readonly group: GPUBindGroup;
  readonly size: readonly [number, number, number];
}

export interface CompiledLaunch {
  readonly launch: Launch;
  readonly arrangement: Arrangement;
  readonly compiled: Pipeline;
}

/** Dispatches in one command buffer, at most: a long list of repeats is handed over in pieces. */
const MOST_DISPATCHES = 4096;

export class Recording {
  readonly #device: GPUDevice;
  readonly #dispatches: readonly Dispatch[];
  /** Memory of its own: where views begin, and scratch. */
  readonly #buffers: readonly GPUBuffer[];

  /** `memoryOf` gives the memory of a device's buffer. */
  constructor(
    device: GPUDevice,
    launches: readonly CompiledLaunch[],
    memoryOf: (buffer: Arrangement['buffers'][number]) => GPUBuffer,
  ) {
    this.#device = device;
    const alignment = device.limits.minUniformBufferOffsetAlignment;
    const places = launches.map(
      ({ arrangement }) => 16 * Math.max(1, Math.ceil(arrangement.bases.length / 4)),
    );
    let bytes = 0;
    const offsets = places.map((size) => {
      const offset = bytes;
      bytes += Math.ceil(size / alignment) * alignment;
      return offset;
    });
    const words = new Uint32Array(bytes / 4);
    for (const [index, { arrangement }] of launches.entries())
      words.set(arrangement.bases, offsets[index] / 4);
    const uniforms = device.createBuffer({
      size: Math.max(16, bytes),
      usage: USAGE.uniform | USAGE.copyTarget,
    });
    device.queue.writeBuffer(uniforms, 0, words);
    const scratchBytes = Math.max(0, ...launches.map(({ compiled }) => compiled.shader.scratchBytes));
    const scratch =
      scratchBytes === 0 ? null : device.createBuffer({ size: scratchBytes, usage: USAGE.storage });
    this.#buffers = scratch === null ? [uniforms] : [uniforms, scratch];
    this.#dispatches = launches.map(({ arrangement, compiled: { pipeline, layout, shader } }, index) => {
      const memory = arrangement.buffers.map(memoryOf);
      if (shader.scratchBytes > 0) memory.push(scratch as GPUBuffer);
      const group = device.createBindGroup({
        layout,
        entries: [
          { binding: 0, resource: { buffer: uniforms, offset: offsets[index], size: places[index] } },
          ...memory.map((buffer, slot) => ({ binding: FIRST_BUFFER + slot, resource: { buffer } })),
        ],
      });
      return { pipeline, group, size: shader.groups };
    });
  }

  get dispatches(): number {
    return this.#dispatches.length;
  }

  /** Records launch i alone, for a pass of its own. */
  dispatch(pass: GPUComputePassEncoder, i: number): void {
    const { pipeline, group, size } = this.#dispatches[i];
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(...size);
  }

  /** Hands `repeat` executions of the list to the device, in order. */
  submit(repeat: number): void {
    const each = this.#dispatches.length;
    if (each === 0) return;
    const atOnce = Math.max(1, Math.floor(MOST_DISPATCHES / each));
    for (let done = 0; done < repeat; done += atOnce) {
      const encoder = this.#device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      let current: GPUComputePipeline | null = null;
      for (let i = done; i < Math.min(repeat, done + atOnce); i++)
        for (const { pipeline, group, size } of this.#dispatches) {
          if (pipeline !== current) pass.setPipeline(pipeline);
          current = pipeline;
          pass.setBindGroup(0, group);
          pass.dispatchWorkgroups(...size);
        }
      pass.end();
      this.#device.queue.submit([encoder.finish()]);
    }
  }

  dispose(): void {
    for (const buffer of this.#buffers) buffer.destroy();
  }
}
