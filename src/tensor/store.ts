/** Parameters and states on one device: persistent, named, shared by the programs compiled against the store. */
import type { Device, DeviceBuffer } from '../accelerators/device.ts';
import type { DType } from '../numerics/dtype.ts';
import { elementCount } from '../tile/ir.ts';
import { sameType, typeText } from '../tile/types.ts';
import { decode, encode, type HostArray } from './host.ts';
import type { TensorType } from './types.ts';
import { GraphError, typeBytes } from './types.ts';

export interface StoreEntry {
  readonly name: string;
  readonly type: TensorType;
  readonly buffer: DeviceBuffer;
}

export class ParameterStore {
  readonly device: Device;
  readonly #entries = new Map<string, StoreEntry>();

  constructor(device: Device) {
    this.device = device;
  }

  /** Allocates `name`, filled with `data` (row-major, converted to `dtype`) or zeros. Throws when the name exists. */
  create(name: string, dtype: DType, shape: readonly number[], data?: HostArray): StoreEntry {
    const type: TensorType = { dtype, shape: [...shape] };
    if (this.#entries.has(name)) throw new GraphError(`the store already has '${name}'`);
    const bytes = data === undefined ? null : encode(name, type, data);
    const entry: StoreEntry = { name, type, buffer: this.device.allocate(typeBytes(type)) };
    this.#entries.set(name, entry);
    if (bytes !== null) this.device.write(entry.buffer, bytes);
    return entry;
  }
  has(name: string): boolean {
    return this.#entries.has(name);
  }
  /** Throws `GraphError` when there is none of this name. */
  get(name: string): StoreEntry {
    const entry = this.#entries.get(name);
    if (entry === undefined) throw new GraphError(`the store has no '${name}'; create it first`);
    return entry;
  }
  /** The entry `name`, whose type must be this one; created with zeros when absent. */
  obtain(name: string, type: TensorType): StoreEntry {
    const entry = this.#entries.get(name) ?? this.create(name, type.dtype, type.shape);
    if (!sameType(entry.type, type))
      throw new GraphError(
        `'${name}' is ${typeText(entry.type)} in the store, but the graph has ${typeText(type)}`,
      );
    return entry;
  }
  /** All entries sorted by name (by code unit), so that a walk over them is the same everywhere. */
  list(): readonly StoreEntry[] {
    return [...this.#entries.values()].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  }
  /** Overwrites `name` with row-major `data`, converted to the entry's element type. */
  write(name: string, data: HostArray): void {
    const entry = this.get(name);
    this.device.write(entry.buffer, encode(name, entry.type, data));
  }
  /** Overwrites `name` with bytes in device form (little-endian, the entry's element type). */
  writeBytes(name: string, bytes: Uint8Array): void {
    const entry = this.get(name);
    if (bytes.byteLength !== typeBytes(entry.type))
      throw new GraphError(
        `'${name}' is ${typeText(entry.type)}, ${typeBytes(entry.type)} bytes, not ${bytes.byteLength}`,
      );
    this.device.write(entry.buffer, bytes);
  }
  /** The values of `name` after all earlier runs: floats of any width as Float32Array, integers as Int32Array, bool as 0 and 1. */
  async read(name: string): Promise<HostArray> {
    const entry = this.get(name);
    return decode(entry.type.dtype, elementCount(entry.type.shape), await this.readBytes(name));
  }
  /** The bytes of `name` in device form, for checkpoints and checksums. */
  readBytes(name: string): Promise<Uint8Array<ArrayBuffer>> {
    const entry = this.get(name);
    return this.device.read(entry.buffer, 0, typeBytes(entry.type));
  }
  /** Frees `name`; programs that use it must not run any more. */
  delete(name: string): void {
    this.device.free(this.get(name).buffer);
    this.#entries.delete(name);
  }
  /** Bytes of all entries. */
  get bytes(): number {
    return this.list().reduce((total, entry) => total + typeBytes(entry.type), 0);
  }
  dispose(): void {
    for (const entry of this.#entries.values()) this.device.free(entry.buffer);
    this.#entries.clear();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
