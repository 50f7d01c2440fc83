/** Kernels assembled by hand, for tests of what runs kernels. */
import { Assembler } from '../../src/accelerators/cpu/assembler.ts';
import { byte, mem, qword } from '../../src/accelerators/cpu/operands.ts';
import { r8q, r9, r10, rax, rcx, rdi, rdx, rsi } from '../../src/accelerators/cpu/registers.ts';

/** for (id = from; id < to; id++) body, with the id in rdx and pointers 0 and 1 in r8 and r9. */
function perProgram(pointers: number, body: (a: Assembler) => void): Uint8Array {
  const a = new Assembler();
  const end = a.label('end');
  [r8q, r9].slice(0, pointers).forEach((register, i) => {
    a.emit('mov', register, mem(rdi, 8 * i));
  });
  const top = a.here('program');
  a.emit('cmp', rdx, rcx).emit('jge', end);
  body(a);
  a.emit('inc', rdx).emit('jmp', top);
  return a.bind(end).emit('ret').finish().bytes;
}

/** data[id] += 1, in 64-bit integers. */
export const increment = perProgram(1, (a) => {
  a.emit('mov', rax, mem(r8q, rdx, 8))
    .emit('inc', rax)
    .emit('mov', mem(r8q, rdx, 8), rax);
});

/** to[id] = id + the sum of all `count` elements of from: wrong if any of them is not there yet. */
export const sumAndAdd = (count: number): Uint8Array =>
  perProgram(2, (a) => {
    a.emit('mov', rax, rdx).emit('xor', r10, r10);
    const next = a.here('element');
    a.emit('add', rax, mem(r8q, r10, 8))
      .emit('inc', r10)
      .emit('cmp', r10, count)
      .emit('jl', next);
    a.emit('mov', mem(r9, rdx, 8), rax);
  });

/** Adds 1 to the first cell of pointer 0; `then` is reached only if it becomes `threads` within some seconds. */
function waitForOthers(a: Assembler, threads: number, then: () => void): void {
  const met = a.label('met');
  const out = a.label('out');
  a.emit('lock inc', qword(mem(r8q))).emit('mov', r10, 200_000_000);
  const wait = a.here('wait');
  a.emit('cmp', qword(mem(r8q)), threads).emit('jge', met);
  a.emit('pause').emit('dec', r10).emit('jne', wait).emit('jmp', out);
  a.bind(met);
  then();
  a.bind(out);
}

/** data[id] = 1, once as many programs as there are `threads` are being executed at the same time. */
export const rendezvous = (threads: number): Uint8Array =>
  perProgram(2, (a) => {
    waitForOthers(a, threads, () => a.emit('mov', qword(mem(r9, rdx, 8)), 1));
  });

/** As `rendezvous`, but data[id] = the address of the thread's scratch; writes the last of its `scratchBytes`, too. */
export const reportScratch = (threads: number, scratchBytes: number): Uint8Array =>
  perProgram(2, (a) => {
    a.emit('mov', byte(mem(rsi, scratchBytes - 1)), 1);
    waitForOthers(a, threads, () => a.emit('mov', mem(r9, rdx, 8), rsi));
  });
