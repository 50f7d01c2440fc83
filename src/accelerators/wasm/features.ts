/** What the WebAssembly engine can do, found out by trying. */
import { Code, encodeModule, type FunctionType } from './encoder.ts';
import { programModule } from './program.ts';

const PROBE_TYPE: FunctionType = { parameters: ['i32', 'i32', 'i32'], results: ['i32'] };

/** Whether the engine takes the modules that programs are made of: SIMD, and atomics on (shared) memory. */
export function hasBasics(shared: boolean): boolean {
  const kernels = [{ name: 'probe', body: simdBody(), views: 0, programs: 1, scratchBytes: 0 }];
  return typeof WebAssembly === 'object' && WebAssembly.validate(programModule(kernels, shared));
}

function simdBody(): Uint8Array<ArrayBuffer> {
  return new Code(4).v128Splat(0).vector('f32x4.nearest').plain('drop').finish();
}

/**
 * What relaxed_madd makes of (1 + 2^-12)^2 - (1 + 2^-11), as f32 bits: `FUSED` (2^-24) when it rounds once, 0 when it
 * rounds the product; null when the engine lacks it. The standard lets engines choose, by processor.
 */
export function probeMultiplyAdd(): number | null {
  const code = new Code(PROBE_TYPE.parameters.length);
  for (const parameter of [0, 1, 2]) code.get(parameter).vector('i32x4.splat');
  code.vector('f32x4.relaxed_madd').lane('i32x4.extract_lane', 0);
  const bytes = encodeModule({
    types: [PROBE_TYPE],
    memory: { initial: 0, maximum: 1, shared: false },
    functions: [{ name: 'probe', type: PROBE_TYPE, body: code.finish(), exported: 'probe' }],
    tabled: 0,
  });
  if (!WebAssembly.validate(bytes)) return null;
  const memory = new WebAssembly.Memory({ initial: 0, maximum: 1 });
  const { probe } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } }).exports;
  return (probe as (a: number, b: number, c: number) => number)(0x3f800800, 0x3f800800, 0xbf801000);
}

export const FUSED = 0x33800000;

/** Whether there is a multiply-add that rounds once. */
export function hasFusedMultiplyAdd(): boolean {
  return probeMultiplyAdd() === FUSED;
}
