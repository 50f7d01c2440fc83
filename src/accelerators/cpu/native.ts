/**
 * The C library, and calls into our own machine code, through the foreign function interface. koffi is imported
 * when it is first needed, so that its absence on a platform is a reason to report and not a failure to load.
 */

/** Arguments that C receives as a pointer: an address, or the memory of a typed array. */
export type Pointer = bigint | ArrayBufferView | null;

/** Machine code as a function of one pointer. */
export interface Routine {
  (argument: Pointer): number;
  /** Calls it on a thread of Node's pool. The event loop is kept alive until it returns. */
  async(argument: Pointer, done: (error: Error | null, result: number) => void): void;
}

export interface Native {
  mmap(address: Pointer, length: number, protection: number, flags: number, file: number, at: number): bigint;
  munmap(address: bigint, length: number): number;
  mprotect(address: bigint, length: number, protection: number): number;
  madvise(address: bigint, length: number, advice: number): number;
  memcpy(to: Pointer, from: Pointer, length: number): void;
  pthread_create(thread: BigUint64Array, attributes: null, start: bigint, argument: bigint): number;
  pthread_join(thread: bigint, result: null): number;
  sched_getaffinity(process: number, length: number, mask: Uint8Array): number;
  /** The C library's `struct sigaction` each; the second receives what was in force. */
  sigaction(signal: number, action: Uint8Array, before: Uint8Array | null): number;
  /** The error number of the last call that failed, and its text. */
  lastError(): string;
  /** The function at `address`, which takes a pointer and returns a 32-bit integer. */
  routine(address: bigint): Routine;
  /** The memory at `address` as an ArrayBuffer, below 4 GiB; valid until it is unmapped. */
  view(address: bigint, length: number): ArrayBuffer;
}

let loading: Promise<Native> | undefined;

/** The C library. Rejects, saying why, where there is none that this accelerator can use. */
export function loadNative(): Promise<Native> {
  loading ??= load();
  return loading;
}

async function load(): Promise<Native> {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new Error(
      `the cpu device needs Linux on x86-64, and this is ${process.platform} on ${process.arch}: use the wasm device`,
    );
  }
  const koffi = (await importKoffi()).default;
  // What Node itself is linked with: the C library and, where they are apart, its threads, by any name.
  const libc = koffi.load(null);
  const proto = koffi.proto('int', ['void *']);
  const strerror = libc.func('const char *strerror(int error)');
  return {
    mmap: libc.func('void *mmap(void *a, size_t length, int protection, int flags, int file, int64_t at)'),
    munmap: libc.func('int munmap(void *a, size_t length)'),
    mprotect: libc.func('int mprotect(void *a, size_t length, int protection)'),
    madvise: libc.func('int madvise(void *a, size_t length, int advice)'),
    memcpy: libc.func('void *memcpy(void *to, void *from, size_t length)'),
    pthread_create: libc.func('int pthread_create(void *thread, void *attributes, void *start, void *arg)'),
    pthread_join: libc.func('int pthread_join(uint64_t thread, void *result)'),
    sched_getaffinity: libc.func('int sched_getaffinity(int process, size_t length, void *mask)'),
    sigaction: libc.func('int sigaction(int signal, void *action, _Out_ void *before)'),
    lastError() {
      const error = koffi.errno();
      return `${strerror(error)} (errno ${error})`;
    },
    routine: (address) => koffi.decode(address, proto) as Routine,
    view: (address, length) => koffi.view(address, length),
  };
}

async function importKoffi() {
  try {
    return await import('koffi');
  } catch (error) {
    throw new Error(
      `the cpu device needs the package koffi, which cannot be loaded: ${error instanceof Error ? error.message : error}`,
      { cause: error },
    );
  }
}
