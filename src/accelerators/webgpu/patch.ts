/** Writes bytes that do not fill a word: WebGPU itself copies whole words only. */
import { USAGE } from './gpu.ts';

const TEXT = `
@group(0) @binding(0) var<storage, read_write> target_words: array<u32>;
@group(0) @binding(1) var<uniform> patch_data: vec4<u32>;
@compute @workgroup_size(1) fn main() {
  let at = patch_data.x;
  target_words[at] = (target_words[at] & ~patch_data.y) | patch_data.z;
}
`;

export class Patcher {
  readonly #device: GPUDevice;
  #pipeline: GPUComputePipeline | null = null;

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** Replaces the bits of `mask` in a word. */
  patch(memory: GPUBuffer, word: number, mask: number, bits: number): void {
    const device = this.#device;
    this.#pipeline ??= device.createComputePipeline({
      layout: 'auto',
      compute: { module: device.createShaderModule({ code: TEXT }), entryPoint: 'main' },
    });
    const data = device.createBuffer({ size: 16, usage: USAGE.uniform | USAGE.copyTarget });
    device.queue.writeBuffer(data, 0, Uint32Array.of(word, mask, bits, 0));
    const group = device.createBindGroup({
      layout: this.#pipeline.getBindGroupLayout(0),
      entries: [
        { binding: 0, resource: { buffer: memory } },
        { binding: 1, resource: { buffer: data } },
      ],
    });
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(this.#pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(1);
    pass.end();
    device.queue.submit([encoder.finish()]);
    data.destroy();
  }
}
