/** A program: the module that holds its kernels and the walk, and the block of memory that the walk reads. */
import type { LoopFunction } from '../loops/ir.ts';
import { KERNEL_TYPE } from './body.ts';
import { generate } from './codegen.ts';
import { encodeModule, type ModuleFunction } from './encoder.ts';
import { CONTROL, controlBytes, generateWalk, RECORD, WALK_TYPE } from './walk.ts';

export const PAGE_BYTES = 65536;
export const LARGEST_MEMORY_PAGES = 65536;
/** Chunks a thread gets of a launch, about: more even the load, fewer spare the counter. */
const CHUNKS_PER_THREAD = 8;
const MAX_PROGRAMS = 2 ** 30;
const TYPES = [KERNEL_TYPE, WALK_TYPE] as const;

/** A kernel ready to be put into modules. */
export interface CompiledKernel {
  readonly name: string;
  readonly body: Uint8Array<ArrayBuffer>;
  readonly views: number;
  readonly programs: number;
  readonly scratchBytes: number;
}

/** `arguments`: the address of each view. */
export interface CompiledLaunch {
  readonly kernel: CompiledKernel;
  readonly arguments: readonly number[];
}

export function compileKernel(fn: LoopFunction, fma: boolean): CompiledKernel {
  const { name, views, programs, scratchBytes } = fn;
  if (programs > MAX_PROGRAMS) {
    throw new RangeError(`kernel ${name} has ${programs} programs; at most ${MAX_PROGRAMS} are possible`);
  }
  return { name, body: generate(fn, fma), views, programs, scratchBytes };
}

/** The kernels of the launches, each once, in order of appearance: their order in table 0. */
export function distinctKernels(launches: readonly CompiledLaunch[]): readonly CompiledKernel[] {
  return [...new Set(launches.map(({ kernel }) => kernel))];
}

/** A module that imports env.memory and exports `walk`. */
export function programModule(kernels: readonly CompiledKernel[], shared: boolean): Uint8Array<ArrayBuffer> {
  const functions: ModuleFunction[] = kernels.map(({ name, body }) => ({ name, type: KERNEL_TYPE, body }));
  const walk = generateWalk(TYPES.indexOf(KERNEL_TYPE));
  functions.push({ name: 'walk', type: WALK_TYPE, body: walk, exported: 'walk' });
  return encodeModule({
    types: TYPES,
    memory: { initial: 1, maximum: LARGEST_MEMORY_PAGES, shared },
    functions,
    tabled: kernels.length,
  });
}

/** Size of the block that `programBlock` fills. */
export function programBlockBytes(launches: readonly CompiledLaunch[], threads: number): number {
  const pointers = launches.reduce((sum, launch) => sum + launch.arguments.length, 0);
  return controlBytes(threads) + launches.length * RECORD.size + 4 * pointers;
}

/** The content of a program's block at `address`: control, launch records, pointers. */
export function programBlock(
  launches: readonly CompiledLaunch[],
  kernels: readonly CompiledKernel[],
  options: { readonly address: number; readonly threads: number; readonly spins: number },
): Uint8Array<ArrayBuffer> {
  const { address, threads, spins } = options;
  const bytes = new Uint8Array(programBlockBytes(launches, threads));
  const data = new DataView(bytes.buffer);
  const put = (offset: number, value: number) => data.setUint32(offset, value, true);
  const records = controlBytes(threads);
  const tableIndex = new Map(kernels.map((kernel, index) => [kernel, index]));
  let pointers = records + launches.length * RECORD.size;
  put(CONTROL.records, address + records);
  put(CONTROL.recordsEnd, address + pointers);
  put(CONTROL.spins, spins);
  launches.forEach(({ kernel, arguments: views }, index) => {
    const record = records + index * RECORD.size;
    put(record + RECORD.kernel, tableIndex.get(kernel)!);
    put(record + RECORD.programs, kernel.programs);
    put(record + RECORD.chunk, Math.max(1, Math.ceil(kernel.programs / (threads * CHUNKS_PER_THREAD))));
    put(record + RECORD.arguments, address + pointers);
    for (const view of views) {
      put(pointers, view);
      pointers += 4;
    }
  });
  return bytes;
}
