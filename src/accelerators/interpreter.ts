/** The reference device: executes launches with the interpreter. Slow, everywhere available, right by definition. */

import { interpret } from '../tile/interpret.ts';
import { verify } from '../tile/verify.ts';
import { checkBindings, checkRepeat, viewBytes } from './bindings.ts';
import { formatBytes } from './bytes.ts';
import type { Device, DeviceBuffer, DeviceFactory, DeviceInfo, Executable, Launch } from './device.ts';
import { RunQueue } from './queue.ts';
import { SettingError } from './settings.ts';

class InterpreterBuffer implements DeviceBuffer {
  readonly device: Device;
  readonly byteLength: number;
  bytes: Uint8Array<ArrayBuffer> | null;

  constructor(device: Device, byteLength: number) {
    this.device = device;
    this.byteLength = byteLength;
    this.bytes = new Uint8Array(byteLength);
  }
}

const plain: DeviceInfo = {
  name: 'interpreter',
  description: 'the reference interpreter',
  features: [],
  threads: 1,
  // A JavaScript engine does not tell; this is the size of the largest array buffer that all of them grant.
  memory: 2 ** 31,
};

/** What may be asked for: sums of bf16 as matrix registers take them. */
const blockwise = 'bf16-blocks';

class InterpreterDevice implements Device {
  readonly info: DeviceInfo;
  readonly #queue = new RunQueue();
  readonly #buffers = new Set<InterpreterBuffer>();
  #allocatedBytes = 0;
  #closed = false;

  constructor(features: readonly string[]) {
    const unknown = features.find((name) => name !== blockwise);
    if (unknown !== undefined)
      throw new SettingError(`feature '${unknown}' is unknown to the interpreter: it has ${blockwise}`);
    this.info = { ...plain, features, bf16Sums: features.length > 0 ? 'blocks' : 'pairs' };
  }

  get allocatedBytes(): number {
    return this.#allocatedBytes;
  }

  unsupported(): string | null {
    return null;
  }

  allocate(byteLength: number): DeviceBuffer {
    this.#checkOpen();
    if (!Number.isSafeInteger(byteLength) || byteLength < 0) {
      throw new RangeError(`cannot allocate ${byteLength} bytes: the size must be a whole number, 0 or more`);
    }
    if (this.#allocatedBytes + byteLength > this.info.memory) {
      throw new RangeError(
        `out of memory on the interpreter: ${formatBytes(byteLength)} were asked for, and it holds ` +
          `${formatBytes(this.#allocatedBytes)} of ${formatBytes(this.info.memory)}`,
      );
    }
    const buffer = new InterpreterBuffer(this, byteLength);
    this.#buffers.add(buffer);
    this.#allocatedBytes += byteLength;
    return buffer;
  }

  free(buffer: DeviceBuffer): void {
    this.#bytes(buffer, 0, 0);
    this.#buffers.delete(buffer as InterpreterBuffer);
    (buffer as InterpreterBuffer).bytes = null;
    this.#allocatedBytes -= buffer.byteLength;
  }

  write(buffer: DeviceBuffer, data: ArrayBufferView, byteOffset = 0): void {
    const source = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    this.#bytes(buffer, byteOffset, source.length).set(source);
  }

  async read(
    buffer: DeviceBuffer,
    byteOffset = 0,
    byteLength = buffer.byteLength - byteOffset,
  ): Promise<Uint8Array<ArrayBuffer>> {
    await this.#queue.idle();
    return this.#bytes(buffer, byteOffset, byteLength).slice();
  }

  async compile(launches: readonly Launch[]): Promise<Executable> {
    this.#checkOpen();
    for (const launch of launches) {
      verify(launch.kernel);
      checkBindings(this, launch);
    }
    const list = [...launches];
    let disposed = false;
    return {
      run: (repeat = 1) => {
        checkRepeat(repeat);
        if (disposed) throw new Error('this executable is disposed');
        return this.#queue.add(async () => {
          for (let i = 0; i < repeat; i++) for (const launch of list) this.#execute(launch);
        });
      },
      dispose() {
        disposed = true;
      },
    };
  }

  async close(): Promise<void> {
    await this.#queue.idle();
    this.#closed = true;
    for (const buffer of [...this.#buffers]) this.free(buffer);
  }
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #execute({ kernel, bindings }: Launch): void {
    interpret(
      kernel,
      bindings.map(({ buffer, byteOffset }, i) => this.#bytes(buffer, byteOffset, viewBytes(kernel, i))),
      { bf16Sums: this.info.bf16Sums },
    );
  }

  #checkOpen(): void {
    if (this.#closed) throw new Error('the interpreter device is closed');
  }

  #bytes(buffer: DeviceBuffer, byteOffset: number, byteLength: number): Uint8Array<ArrayBuffer> {
    if (!(buffer instanceof InterpreterBuffer) || buffer.device !== this) {
      throw new Error('the buffer was not allocated by this interpreter device');
    }
    if (buffer.bytes === null) throw new Error('the buffer is already freed');
    if (!(byteOffset >= 0 && byteLength >= 0 && byteOffset + byteLength <= buffer.byteLength)) {
      throw new RangeError(
        `${byteLength} bytes at offset ${byteOffset} are not within the buffer's ${buffer.byteLength} bytes`,
      );
    }
    return buffer.bytes.subarray(byteOffset, byteOffset + byteLength);
  }
}

export const interpreterFactory: DeviceFactory = {
  name: 'interpreter',
  async probe() {
    return { name: 'interpreter', available: true, reason: '', info: plain };
  },
  async open({ features = [] } = {}) {
    return new InterpreterDevice(features);
  },
};
