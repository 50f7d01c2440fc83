/**
 * Files as memory. A page that its file does not have, because the file was cut off or the disk fails, raises SIGBUS
 * where it is read, which ends a process; while files are mapped a handler puts zeros in its place and makes a note.
 */
import { closeSync, fstatSync, openSync } from 'node:fs';
import { Assembler } from './assembler.ts';
import { CodeBlock, isFailure, Mapping, pageBytes, unmap } from './memory.ts';
import type { Native } from './native.ts';
import { dword, mem } from './operands.ts';
import { eax, edi, edx, esi, r8q, r32, rax, rdi, rsi } from './registers.ts';

const READ = 1;
const SHARED = 1;
const PRIVATE_ANONYMOUS_FIXED = 0x32;
const ADVISE_SEQUENTIAL = 2;
const SIGBUS = 7;
const systemCalls = { mmap: 9, rt_sigaction: 13, getpid: 39, kill: 62 } as const;

/** Of `siginfo_t`: the address that could not be read. */
const faultAddress = 16;
/** Of the C library's `struct sigaction`. */
const action = { handler: 0, flags: 136, bytes: 152 } as const;
/** The handler gets a `siginfo_t`; it runs on the stack for signals, where a thread has one. */
const ACTION_FLAGS = 0x4 | 0x0800_0000;
/** What the kernel takes for a signal's mask, in bytes. */
const maskBytes = 8;

/** Of each mapped file: where it lies, and whether zeros stand for some of its bytes. Begin equals end: none. */
const slot = { begin: 0, end: 8, damaged: 16, bytes: 24 } as const;
const slots = 128;
/** Behind the table: an action of zeros, which is the default one, as the kernel takes it. */
const table = { default: slot.bytes * slots, bytes: slot.bytes * slots + 64 } as const;

const r9d = r32(9);
const r10d = r32(10);

/** void handler(int signal, siginfo_t* info, void* context) */
function assembleHandler(address: bigint): Uint8Array {
  const a = new Assembler();
  const next = a.label('next');
  const foreign = a.label('foreign');
  a.emit('mov', rax, mem(rsi, faultAddress)).emit('mov', r8q, address);
  const loop = a.here('slot');
  a.emit('cmp', rax, mem(r8q, slot.begin)).emit('jb', next);
  a.emit('cmp', rax, mem(r8q, slot.end)).emit('jae', next);
  a.emit('mov', dword(mem(r8q, slot.damaged)), 1);
  // All from this page on, as what follows will be missing too: reading ends soon, and somebody looks at the note.
  a.emit('mov', rdi, rax).emit('and', rdi, -pageBytes);
  a.emit('mov', rsi, mem(r8q, slot.end)).emit('sub', rsi, rdi);
  a.emit('mov', edx, READ).emit('mov', r10d, PRIVATE_ANONYMOUS_FIXED);
  a.emit('mov', r8q, -1).emit('xor', r9d, r9d);
  a.emit('mov', eax, systemCalls.mmap).emit('syscall');
  a.emit('test', rax, rax).emit('js', foreign).emit('ret');
  a.bind(next);
  a.emit('add', r8q, slot.bytes).emit('mov', rdi, address + BigInt(table.default));
  a.emit('cmp', r8q, rdi).emit('jb', loop);
  // Not ours: again, with the default action.
  a.bind(foreign);
  a.emit('mov', rsi, address + BigInt(table.default))
    .emit('mov', edi, SIGBUS)
    .emit('xor', edx, edx);
  a.emit('mov', r10d, maskBytes).emit('mov', eax, systemCalls.rt_sigaction).emit('syscall');
  a.emit('mov', eax, systemCalls.getpid).emit('syscall');
  a.emit('mov', edi, eax).emit('mov', esi, SIGBUS).emit('mov', eax, systemCalls.kill).emit('syscall');
  a.emit('ret');
  return a.finish().bytes;
}

/** The process's handler, which is in force while it guards anything. */
class Guard {
  readonly #native: Native;
  readonly #table: Mapping;
  readonly #view: DataView<ArrayBuffer>;
  readonly #action = new Uint8Array(action.bytes);
  readonly #before = new Uint8Array(action.bytes);
  #used = 0;

  constructor(native: Native) {
    this.#native = native;
    this.#table = new Mapping(native, table.bytes);
    this.#view = this.#table.view();
    const code = new CodeBlock(native, [assembleHandler(this.#table.address)]);
    const view = new DataView(this.#action.buffer);
    view.setBigUint64(action.handler, code.addresses[0], true);
    view.setInt32(action.flags, ACTION_FLAGS, true);
  }

  /** The slot in which a mapping is guarded from now on. */
  add(begin: bigint, byteLength: number): number {
    let at = 0;
    while (at < table.default && this.#view.getBigUint64(at + slot.end, true) !== 0n) at += slot.bytes;
    if (at === table.default) throw new Error(`more than ${slots} files are mapped at once`);
    if (this.#used++ === 0) this.#install(this.#action, this.#before);
    this.#view.setUint32(at + slot.damaged, 0, true);
    this.#view.setBigUint64(at + slot.begin, begin, true);
    this.#view.setBigUint64(at + slot.end, begin + BigInt(byteLength), true);
    return at;
  }

  damaged(at: number): boolean {
    return this.#view.getUint32(at + slot.damaged, true) !== 0;
  }

  remove(at: number): void {
    this.#view.setBigUint64(at + slot.begin, 0n, true);
    this.#view.setBigUint64(at + slot.end, 0n, true);
    if (--this.#used === 0) this.#install(this.#before, null);
  }

  #install(wanted: Uint8Array, before: Uint8Array | null): void {
    if (this.#native.sigaction(SIGBUS, wanted, before) !== 0)
      throw new Error(`cannot handle SIGBUS: ${this.#native.lastError()}`);
  }
}

let guard: Guard | undefined;

/** A file's bytes at an address, shared with the system's cache of files; read-only. */
export class FileMapping {
  readonly address: bigint;
  readonly byteLength: number;
  readonly #native: Native;
  readonly #file: number;
  readonly #mapped: number;
  readonly #slot: number;
  readonly #guard: Guard;

  /** Throws, naming the path, where the file cannot be opened or mapped. */
  constructor(native: Native, path: string) {
    this.#native = native;
    guard ??= new Guard(native);
    this.#guard = guard;
    this.#file = openSync(path, 'r');
    try {
      this.byteLength = fstatSync(this.#file).size;
      this.#mapped = Math.max(1, Math.ceil(this.byteLength / pageBytes)) * pageBytes;
      this.address = native.mmap(null, this.#mapped, READ, SHARED, this.#file, 0);
      if (isFailure(this.address)) throw new Error(`${path}: cannot be mapped: ${native.lastError()}`);
      this.#slot = guard.add(this.address, this.#mapped);
    } catch (error) {
      closeSync(this.#file);
      throw error;
    }
    native.madvise(this.address, this.#mapped, ADVISE_SEQUENTIAL);
  }

  /** Whether bytes were missing, or will be. The rest of a file's last page is zeros, without a signal. */
  get damaged(): boolean {
    return this.#guard.damaged(this.#slot) || fstatSync(this.#file).size < this.byteLength;
  }

  free(): void {
    this.#guard.remove(this.#slot);
    closeSync(this.#file);
    unmap(this.#native, this.address, this.#mapped);
  }
}
