/** A graph compiled for a device: planned memory and an executable list of kernels. */
import type { Binding, Device, DeviceBuffer, Executable, Launch } from '../accelerators/device.ts';
import { elementCount } from '../tile/ir.ts';
import type { KernelCall } from './emit.ts';
import { Scratch } from './emit.ts';
import { fuse } from './fuse.ts';
import type { Graph } from './graph.ts';
import { decode, encode, type HostArray } from './host.ts';
import { callsOf, flopsOf } from './launches.ts';
import { align } from './memory.ts';
import type { Place, Region } from './plan.ts';
import { planMemory } from './plan.ts';
import { is } from './primitives.ts';
import type { ParameterStore } from './store.ts';
import type { Tensor } from './tensor.ts';
import type { TensorType } from './types.ts';
import { GraphError, typeBytes } from './types.ts';
import type { Uses } from './uses.ts';

export interface CompileOptions {
  /** Tensors the host can read after a run, by name. */
  readonly outputs?: Readonly<Record<string, Tensor>>;
  /** False: one kernel a node, for comparison and debugging. */
  readonly fuse?: boolean;
}

/** Sizes in bytes. */
export interface ProgramMemory {
  /** Intermediate values, all in one block. */
  readonly arena: number;
  /** What the intermediate values would take without sharing. */
  readonly arenaUnshared: number;
  /** Inputs, outputs and fixed data. */
  readonly io: number;
  /** The entries of the store that the program uses. */
  readonly store: number;
}

/** One kernel of a program, for profiles. */
export interface LaunchInfo {
  readonly name: string;
  readonly grid: readonly number[];
  /** Of each view: name, type and shape. */
  readonly views: readonly string[];
  /** Bytes of all views. */
  readonly bytes: number;
  /** Floating-point operations, roughly. */
  readonly flops: number;
}

interface Parts {
  readonly device: Device;
  readonly executable: Executable;
  readonly arena: DeviceBuffer | null;
  readonly io: DeviceBuffer | null;
  // Types rather than tensors, which would keep the whole graph.
  readonly inputs: ReadonlyMap<string, { readonly type: TensorType; readonly offset: number | null }>;
  readonly outputs: ReadonlyMap<string, { readonly type: TensorType; readonly binding: Binding }>;
  readonly memory: ProgramMemory;
  readonly launches: readonly LaunchInfo[];
}

/** Made by `compile`. Dispose of it before its store and its device; `using program = await compile(…)` does. */
export class Program {
  readonly #parts: Parts;
  readonly #missing: Set<string>;
  #disposed = false;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#missing = new Set(
      [...parts.inputs].filter(([, { offset }]) => offset !== null).map(([name]) => name),
    );
  }
  /** All inputs of the graph by name, also those that nothing depends on. */
  get inputs(): ReadonlyMap<string, TensorType> {
    return new Map([...this.#parts.inputs].map(([name, { type }]) => [name, type]));
  }
  get memory(): ProgramMemory {
    return this.#parts.memory;
  }
  get launches(): readonly LaunchInfo[] {
    return this.#parts.launches;
  }
  /** Where intermediate values live during a run; its contents mean nothing between runs. For tests. */
  get arena(): DeviceBuffer | null {
    return this.#parts.arena;
  }
  #check(): void {
    if (this.#disposed) throw new GraphError('the program has been disposed of');
  }

  /** Writes an input, row-major; it keeps its value until the next write. An input that nothing depends on is accepted. */
  write(name: string, data: HostArray): void {
    this.#check();
    const input = this.#parts.inputs.get(name);
    if (input === undefined)
      throw new GraphError(
        `the graph has no input '${name}'; it has ${[...this.#parts.inputs.keys()].map((known) => `'${known}'`).join(', ') || 'none'}`,
      );
    const bytes = encode(name, input.type, data);
    if (input.offset !== null) this.#parts.device.write(this.#parts.io as DeviceBuffer, bytes, input.offset);
    this.#missing.delete(name);
  }
  /** Runs all kernels `repeat` times. Throws `GraphError` when an input has never been written. */
  async run(repeat = 1): Promise<void> {
    this.#check();
    if (this.#missing.size > 0)
      throw new GraphError(
        `inputs have not been written: ${[...this.#missing].map((name) => `'${name}'`).join(', ')}`,
      );
    await this.#parts.executable.run(repeat);
  }
  /** An output after the last run: floats of any width as Float32Array, integers as Int32Array, bool as 0 and 1. */
  async read(name: string): Promise<HostArray> {
    this.#check();
    const output = this.#parts.outputs.get(name);
    if (output === undefined)
      throw new GraphError(
        `the program has no output '${name}'; it has ${[...this.#parts.outputs.keys()].map((known) => `'${known}'`).join(', ') || 'none'}`,
      );
    const { type, binding } = output;
    const { buffer, byteOffset } = binding;
    const bytes = await this.#parts.device.read(buffer, byteOffset, typeBytes(type));
    return decode(type.dtype, elementCount(type.shape), bytes);
  }
  /** Frees the program's memory; the store's stays. Calling it again does nothing. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    const { device, executable, arena, io } = this.#parts;
    executable.dispose();
    if (arena !== null) device.free(arena);
    if (io !== null) device.free(io);
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** The contents of memory that no kernel writes; null for any other tensor. */
function fixedData(tensor: Tensor, uses: Uses): ArrayBufferView | null {
  const { node, type } = tensor;
  if (is(node, 'literal')) return node.attributes.data;
  if (is(node, 'constant') && uses.needsMemory(node)) {
    const { value } = node.attributes;
    const values = type.dtype === 'f32' ? Float32Array : type.dtype === 'u32' ? Uint32Array : Int32Array;
    return encode('constant', type, new values(elementCount(type.shape)).fill(value));
  }
  if (is(node, 'iota') && uses.needsMemory(node)) {
    const inner = elementCount(type.shape.slice(node.attributes.axis + 1));
    const size = type.shape[node.attributes.axis];
    return Int32Array.from({ length: elementCount(type.shape) }, (_, i) => Math.floor(i / inner) % size);
  }
  return null;
}

/**
 * Compiles what `outputs` and the graph's writes depend on. Parameters must be in the store; states that are not are
 * created with zeros. Throws `GraphError` for what the graph does wrong, and the device's error for a kernel it cannot run.
 */
export async function compile(
  graph: Graph,
  device: Device,
  store: ParameterStore,
  options: CompileOptions = {},
): Promise<Program> {
  if (store.device !== device) throw new GraphError('the store is on another device');
  const outputs = options.outputs ?? {};
  for (const [name, tensor] of Object.entries(outputs))
    if (tensor.graph !== graph) throw new GraphError(`output '${name}' belongs to another graph`);
  const schedule = device.schedule ?? {};
  const fused = fuse(graph.nodes, Object.values(outputs), options.fuse ?? true, schedule);
  const used = (tensor: Tensor) => fused.uses.isOutput(tensor) || fused.uses.of(tensor).length > 0;
  const calls = fused.steps.map((step) => callsOf(step, used, schedule));
  const plan = planMemory(fused, calls);

  const storeNames = new Set<string>();
  for (const node of fused.uses.live) {
    if (is(node, 'parameter')) store.get(node.attributes.name);
    if (!is(node, 'parameter') && !is(node, 'state')) continue;
    storeNames.add(node.attributes.name);
    store.obtain(node.attributes.name, node.attributes.type);
  }
  const arena = plan.arenaBytes > 0 ? device.allocate(plan.arenaBytes) : null;
  let io: DeviceBuffer | null = null;
  try {
    io = plan.ioBytes > 0 ? device.allocate(align(plan.ioBytes)) : null;
    const buffers: { readonly [R in Region['kind']]: (region: Region) => DeviceBuffer } = {
      arena: () => arena as DeviceBuffer,
      io: () => io as DeviceBuffer,
      store: (region) => store.get((region as Extract<Region, { kind: 'store' }>).name).buffer,
    };
    const bind = ({ region, offset }: Place): Binding => ({
      buffer: buffers[region.kind](region),
      byteOffset: offset,
    });
    const launchOf = ({ kernel, operands }: KernelCall): Launch => ({
      kernel,
      bindings: operands.map((operand) =>
        bind(operand instanceof Scratch ? plan.scratch(operand) : plan.place(operand)),
      ),
    });
    const inputs = new Map<string, { type: TensorType; offset: number | null }>();
    const live = new Set(fused.uses.live);
    for (const node of graph.nodes) {
      const [tensor] = node.outputs;
      if (is(node, 'input'))
        inputs.set(node.attributes.name, {
          type: tensor.type,
          offset: live.has(node) ? plan.place(tensor).offset : null,
        });
      const data = live.has(node) ? fixedData(tensor, fused.uses) : null;
      if (data !== null) device.write(io as DeviceBuffer, data, plan.place(tensor).offset);
    }
    // A step's arithmetic is that of its last kernel; what comes before prepares.
    const flops = fused.steps.flatMap((step, index) =>
      calls[index].map((_, part) => (part === calls[index].length - 1 ? flopsOf(step) : 0)),
    );
    const executable = await device.compile(
      calls.flat().map((call, index) => ({ ...launchOf(call), flops: flops[index] })),
    );
    return new Program({
      device,
      executable,
      arena,
      io,
      inputs,
      outputs: new Map(
        Object.entries(outputs).map(([name, tensor]) => [
          name,
          { type: tensor.type, binding: bind(plan.place(tensor)) },
        ]),
      ),
      memory: {
        arena: plan.arenaBytes,
        arenaUnshared: plan.unsharedBytes,
        io: plan.ioBytes,
        store: [...storeNames].reduce((total, name) => total + typeBytes(store.get(name).type), 0),
      },
      launches: calls.flat().map(({ kernel, operands }, index) => ({
        name: kernel.name,
        grid: kernel.grid,
        views: kernel.views.map((view) => `${view.name} ${view.dtype}[${view.shape.join(', ')}]`),
        bytes: operands.reduce((total, operand) => total + typeBytes(operand.type), 0),
        flops: flops[index],
      })),
    });
  } catch (error) {
    if (arena !== null) device.free(arena);
    if (io !== null) device.free(io);
    throw error;
  }
}
