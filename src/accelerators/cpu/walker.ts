/**
 * The walker: machine code that every thread runs to execute a list of launches with no JavaScript in between.
 *
 * One 64-bit word holds the sequence number of the current launch (high half) and how many of its chunks are
 * unclaimed (low half, plus a bias so that late claims cannot borrow from the sequence number). A thread claims a
 * chunk by an atomic decrement. A claim that finds nothing touches nothing else, so a thread that was descheduled
 * for any time can come back to any state; a claim that finds a chunk keeps the launch open until that chunk is
 * done. Whoever completes the last chunk of a launch moves on to the next one and publishes it. There is no barrier
 * that all threads must reach: a thread that is not running delays nothing but the chunk that it holds.
 *
 * Launches of one chunk are executed by the thread that gets to them, unpublished: a row of them costs no
 * communication.
 */
import { Assembler } from './assembler.ts';
import { dword, type Label, mem, qword } from './operands.ts';
import {
  eax,
  ecx,
  edx,
  type Gpr64,
  r8q,
  r9,
  r12,
  r13,
  r14,
  r15,
  r32,
  rax,
  rbp,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
  rsp,
} from './registers.ts';

/** Byte offsets. Lines of 64 bytes that different threads write at different times are kept apart. */
export const control = {
  /** Low half: bias + unclaimed chunks. High half: sequence number. */
  word: 0,
  /** Chunks of the current launch that are not complete. */
  pending: 64,
  /** The current launch; then the list's begin and end, and how many more times to walk it. */
  record: 128,
  begin: 136,
  end: 144,
  repeat: 152,
  /** Not 0: leave as soon as possible. */
  stop: 192,
  /** Threads in, or about to enter, the kernel's wait. */
  sleepers: 196,
  /** Ticks of the time stamp counter to wait for work before sleeping. */
  spin: 200,
  bytes: 256,
} as const;

export const thread = {
  control: 0,
  scratch: 8,
  role: 16,
  /** Of the caller: time stamps at which its last walk began and ended. */
  began: 24,
  ended: 32,
  /** Where a tracing walker writes its next event. */
  trace: 40,
  bytes: 64,
} as const;

/** What a tracing walker writes of every chunk: the launch, time stamps, and which programs they were. */
export const event = { record: 0, began: 8, ended: 16, from: 24, to: 32, bytes: 40 } as const;

export const record = {
  entry: 0,
  arguments: 8,
  programs: 16,
  /** Programs in a chunk; the last chunk may have fewer. */
  chunk: 24,
  chunks: 32,
  bytes: 64,
} as const;

/** Roles are bits by which the futex wakes only some. */
export const role = { worker: 1, caller: 2 } as const;

/** The low half of a published launch with n unclaimed chunks is bias + n; of the end of a walk, bias / 2. */
const bias = 0x10000;
export const idle = bias / 2;
/** More threads than this could lower an idle word below what tells it from an exhausted launch. */
export const maximumWalkers = bias / 4;
export const maximumChunks = 2 ** 30;

/** What a walk returns. */
export const finished = 0;
export const stopped = 1;

const futexSystemCall = 202;
const futexPrivate = 128;
const futexWaitBitset = 9 | futexPrivate;
const futexWakeBitset = 10 | futexPrivate;
const everybody = 0x7fffffff;

const saved = [rbx, rbp, r12, r13, r14, r15] as const;
const r8d = r32(8);
const r9d = r32(9);
const r10d = r32(10);
const r12d = r32(12);
const r15d = r32(15);

const sequence = (base: Gpr64) => mem(base, control.word + 4);

function enter(a: Assembler): void {
  for (const register of saved) a.emit('push', register);
  // Six pushes and the return address leave rsp 8 short of the 16-byte alignment that calls need.
  a.emit('sub', rsp, 8);
  a.emit('mov', rbx, rdi).emit('mov', rbp, mem(rbx, thread.control));
}

function leave(a: Assembler): void {
  a.emit('add', rsp, 8);
  for (const register of [...saved].reverse()) a.emit('pop', register);
  a.emit('vzeroupper').emit('ret');
}

function jumpIfStopped(a: Assembler, to: Label): void {
  a.emit('cmp', dword(mem(rbp, control.stop)), 0).emit('jne', to);
}

/** rax = the time stamp; clobbers rdx. */
function timestamp(a: Assembler): void {
  a.emit('rdtsc').emit('shl', rdx, 32).emit('or', rax, rdx);
}

/** Calls the kernel of record r13 on programs [rdx, rcx). */
function callKernel(a: Assembler, traces: boolean): void {
  if (traces) beginEvent(a);
  a.emit('mov', rdi, mem(r13, record.arguments));
  a.emit('mov', rsi, mem(rbx, thread.scratch));
  a.emit('call', qword(mem(r13, record.entry)));
  if (traces) endEvent(a);
}

/** Keeps rdx and rcx. */
function beginEvent(a: Assembler): void {
  a.emit('mov', r9, mem(rbx, thread.trace)).emit('mov', mem(r9, event.record), r13);
  a.emit('mov', mem(r9, event.from), rdx).emit('mov', mem(r9, event.to), rcx);
  a.emit('mov', r8q, rdx);
  timestamp(a);
  a.emit('mov', mem(r9, event.began), rax).emit('mov', rdx, r8q);
}

function endEvent(a: Assembler): void {
  timestamp(a);
  a.emit('mov', r9, mem(rbx, thread.trace)).emit('mov', mem(r9, event.ended), rax);
  a.emit('add', r9, event.bytes).emit('mov', mem(rbx, thread.trace), r9);
}

/** Wakes up to edx sleepers whose role is in `roles`. */
function wake(a: Assembler, base: Gpr64, roles: number): void {
  a.emit('lea', rdi, sequence(base));
  a.emit('mov', r32(6), futexWakeBitset);
  a.emit('xor', r10d, r10d).emit('xor', r8d, r8d).emit('mov', r9d, roles);
  a.emit('mov', eax, futexSystemCall).emit('syscall');
}

/** Publishes sequence r12 + 1 with the low half in rax. The exchange is a full fence: `sleepers` is read after it. */
function publish(a: Assembler): void {
  a.emit('inc', r12d);
  a.emit('mov', rcx, r12).emit('shl', rcx, 32).emit('or', rcx, rax);
  a.emit('xchg', mem(rbp, control.word), rcx);
}

/** The offsets of two routines of one argument, the thread's block: `caller` begins a walk, `worker` joins walks. */
export interface WalkerCode {
  readonly bytes: Uint8Array;
  readonly caller: number;
  readonly worker: number;
}

/** `traces`: it records every chunk, so threads' `trace` must point at room for as many as a walk has. */
export function assembleWalker(traces = false): WalkerCode {
  const a = new Assembler();
  const claim = a.label('claim');
  const execute = a.label('execute');
  const advance = a.label('advance');
  const next = a.label('next');
  const open = a.label('open');
  const ended = a.label('ended');
  const changed = a.label('changed');
  const wait = a.label('wait');
  const spinStart = a.label('spin start');
  const spin = a.label('spin');
  const sleep = a.label('sleep');
  const isFinished = a.label('finished');
  const isStopped = a.label('stopped');
  const exit = a.label('exit');
  const isCaller = dword(mem(rbx, thread.role));

  const caller = a.offset;
  enter(a);
  timestamp(a);
  a.emit('mov', mem(rbx, thread.began), rax);
  a.emit('mov', r12d, sequence(rbp)).emit('mov', r13, mem(rbp, control.begin)).emit('jmp', next);

  a.align(64);
  const worker = a.offset;
  enter(a);

  a.bind(claim);
  jumpIfStopped(a, isStopped);
  a.emit('mov', rax, -1).emit('lock xadd', mem(rbp, control.word), rax);
  a.emit('mov', r12, rax).emit('shr', r12, 32);
  a.emit('sub', eax, bias).emit('jle', wait);
  a.emit('mov', r13, mem(rbp, control.record));
  a.emit('mov', r15d, mem(r13, record.chunks)).emit('sub', r15d, eax);

  a.bind(execute);
  a.emit('mov', rdx, r15).emit('imul', rdx, mem(r13, record.chunk));
  a.emit('mov', rcx, rdx).emit('add', rcx, mem(r13, record.chunk));
  a.emit('mov', rax, mem(r13, record.programs)).emit('cmp', rcx, rax).emit('cmovg', rcx, rax);
  callKernel(a, traces);
  a.emit('mov', eax, -1).emit('lock xadd', mem(rbp, control.pending), eax);
  a.emit('cmp', eax, 1).emit('jne', claim);

  a.bind(advance);
  a.emit('add', r13, record.bytes).emit('cmp', r13, mem(rbp, control.end)).emit('je', ended);
  a.bind(next);
  jumpIfStopped(a, isStopped);
  a.emit('mov', eax, mem(r13, record.chunks)).emit('cmp', eax, 1).emit('jne', open);
  a.emit('xor', edx, edx).emit('mov', rcx, mem(r13, record.programs));
  callKernel(a, traces);
  a.emit('jmp', advance);

  // The publisher keeps chunk 0 for itself.
  a.bind(open);
  a.emit('mov', mem(rbp, control.record), r13).emit('mov', mem(rbp, control.pending), eax);
  a.emit('add', eax, bias - 1);
  publish(a);
  a.emit('xor', r15d, r15d);
  a.emit('cmp', dword(mem(rbp, control.sleepers)), 0).emit('je', execute);
  a.emit('mov', edx, mem(r13, record.chunks)).emit('dec', edx);
  wake(a, rbp, role.worker | role.caller);
  a.emit('jmp', execute);

  a.bind(ended);
  a.emit('mov', r13, mem(rbp, control.begin));
  a.emit('dec', qword(mem(rbp, control.repeat))).emit('jne', next);
  a.emit('mov', eax, idle);
  publish(a);
  a.emit('cmp', isCaller, role.caller).emit('je', isFinished);
  a.emit('cmp', dword(mem(rbp, control.sleepers)), 0).emit('je', spinStart);
  a.emit('mov', edx, 1);
  wake(a, rbp, role.caller);
  a.emit('jmp', spinStart);

  // rax: the word, whose sequence is new.
  a.bind(changed);
  a.emit('mov', r12, rax).emit('shr', r12, 32);
  a.emit('sub', eax, bias).emit('jg', claim);

  // r12: a sequence with nothing to claim; eax: its low half less the bias.
  a.bind(wait);
  a.emit('cmp', isCaller, role.caller).emit('jne', spinStart);
  a.emit('cmp', eax, idle / 2 - idle).emit('jl', isFinished);
  a.bind(spinStart);
  timestamp(a);
  a.emit('add', rax, mem(rbp, control.spin)).emit('mov', r14, rax);
  a.bind(spin);
  a.emit('pause');
  a.emit('mov', rax, mem(rbp, control.word)).emit('mov', rcx, rax).emit('shr', rcx, 32);
  a.emit('cmp', ecx, r12d).emit('jne', changed);
  jumpIfStopped(a, isStopped);
  timestamp(a);
  a.emit('cmp', rax, r14).emit('jb', spin);

  // The kernel compares the sequence again before it sleeps, so a publication after the increment is never missed.
  a.bind(sleep);
  a.emit('lock inc', dword(mem(rbp, control.sleepers)));
  a.emit('lea', rdi, sequence(rbp)).emit('mov', r32(6), futexWaitBitset).emit('mov', edx, r12d);
  a.emit('xor', r10d, r10d).emit('xor', r8d, r8d).emit('mov', r9d, mem(rbx, thread.role));
  a.emit('mov', eax, futexSystemCall).emit('syscall');
  a.emit('lock dec', dword(mem(rbp, control.sleepers)));
  a.emit('mov', rax, mem(rbp, control.word)).emit('mov', rcx, rax).emit('shr', rcx, 32);
  a.emit('cmp', ecx, r12d).emit('jne', changed);
  jumpIfStopped(a, isStopped);
  a.emit('jmp', sleep);

  a.bind(isStopped);
  a.emit('mov', r15d, stopped).emit('jmp', exit);
  a.bind(isFinished);
  a.emit('mov', r15d, finished);
  a.bind(exit);
  timestamp(a);
  a.emit('mov', mem(rbx, thread.ended), rax).emit('mov', eax, r15d);
  leave(a);
  return { bytes: a.finish().bytes, caller, worker };
}

/** A routine of one argument, the control block: makes all threads leave, after the chunk that they are in. */
export function assembleHalt(): Uint8Array {
  const a = new Assembler();
  a.emit('push', rbx).emit('mov', rbx, rdi);
  a.emit('mov', dword(mem(rbx, control.stop)), 1);
  // A changed sequence turns back a thread that is on its way to sleep.
  a.emit('mov', rax, 2 ** 32).emit('lock add', mem(rbx, control.word), rax);
  a.emit('mov', edx, everybody);
  wake(a, rbx, role.worker | role.caller);
  a.emit('xor', eax, eax).emit('pop', rbx).emit('ret');
  return a.finish().bytes;
}

/** A routine that writes the time stamp counter to the 64-bit integer at its argument. */
export function assembleTimestamp(): Uint8Array {
  const a = new Assembler();
  timestamp(a);
  return a.emit('mov', mem(rdi), rax).emit('ret').finish().bytes;
}
