import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Assembler } from '../../src/accelerators/cpu/assembler.ts';
import { selectForm } from '../../src/accelerators/cpu/encoder.ts';
import { expandRow, type Form } from '../../src/accelerators/cpu/forms.ts';
import { instructionForms, instructionTable } from '../../src/accelerators/cpu/instructions.ts';
import {
  broadcast,
  byte,
  dword,
  Label,
  masked,
  mem,
  type Operand,
  qword,
  rip,
  vectorMem,
  zeroed,
} from '../../src/accelerators/cpu/operands.ts';
import {
  cl,
  eax,
  k,
  r8,
  r12,
  r13,
  r32,
  r64,
  rax,
  rbp,
  rcx,
  rdx,
  rsp,
  xmm,
  ymm,
  zmm,
} from '../../src/accelerators/cpu/registers.ts';
import { casesOf, expectedText, normalized } from './disassembly.ts';

const probe = spawnSync('objdump', ['--version'], { encoding: 'utf8' });
const withObjdump = { skip: probe.status === 0 ? false : 'GNU objdump (binutils) is not installed' };

/** Text by address. */
function disassemble(code: Uint8Array): Map<number, string> {
  const folder = mkdtempSync(join(tmpdir(), 'assembler-'));
  try {
    const file = join(folder, 'code.bin');
    writeFileSync(file, code);
    const options = [
      '-D',
      '-w',
      '-b',
      'binary',
      '-m',
      'i386:x86-64',
      '-M',
      'intel',
      '--no-show-raw-insn',
      file,
    ];
    const { stdout, status, stderr } = spawnSync('objdump', options, {
      encoding: 'utf8',
      maxBuffer: 2 ** 28,
    });
    assert.equal(status, 0, stderr);
    const lines = [...stdout.matchAll(/^\s*([0-9a-f]+):\t(.*)$/gm)];
    return new Map(lines.map(([, address, text]) => [Number.parseInt(address, 16), text]));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** `emit` for operands that a test computed and the compiler cannot know. */
function emit(assembler: Assembler, mnemonic: string, operands: readonly Operand[]): void {
  (assembler.emit as (name: string, ...list: readonly Operand[]) => unknown).call(
    assembler,
    mnemonic,
    ...operands,
  );
}

/** A form by its row, encoding and operand length. */
const formName = (mnemonic: string, { row, encoding, length, w }: Form) =>
  `${mnemonic} row ${row}, ${encoding}, ${128 << length} bits, W ${w}`;

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

test('every row of the table disassembles to what was asked for', withObjdump, () => {
  const assembler = new Assembler();
  const start = assembler.here('start');
  const end = assembler.label('end');
  for (let i = 0; i < 200; i++) assembler.emit('ud2');
  const cases: { offset: number; mnemonic: string; signature: string; operands: Operand[] }[] = [];
  const covered = new Set<string>();
  for (const [mnemonic, rows] of Object.entries(instructionTable)) {
    for (const row of rows) {
      const here = assembler.here();
      for (const drawn of casesOf(row, { start, here, end })) {
        // A short jump reaches only what is near, so each gets a label of its own.
        const operands = drawn.map((operand) => (operand === here ? assembler.here() : operand));
        const form = selectForm(instructionForms.get(mnemonic)!, operands, assembler.offset);
        assert.ok(typeof form === 'object', `${mnemonic} ${row[0]}: ${String(form)}`);
        covered.add(formName(mnemonic, form));
        cases.push({ offset: assembler.offset, mnemonic, signature: form.signature, operands });
        emit(assembler, mnemonic, operands);
      }
    }
  }
  assembler.bind(end).emit('ret');
  const lines = disassemble(assembler.finish().bytes);

  const missing = Object.entries(instructionTable).flatMap(([mnemonic, rows]) =>
    rows
      .flatMap((row, i) => expandRow(row, i))
      .map((form) => formName(mnemonic, form))
      .filter((name) => !covered.has(name)),
  );
  assert.deepEqual([...new Set(missing)], [], 'rows of the table that no case reaches');

  const wrong: string[] = [];
  for (const { offset, mnemonic, signature, operands } of cases) {
    const expected = expectedText(mnemonic, signature, operands);
    const line = lines.get(offset);
    const actual =
      line === undefined ? '(inside another instruction)' : normalized(line, / PTR /.test(expected));
    if (actual !== expected) wrong.push(`at 0x${offset.toString(16)}: ${expected} became ${actual}`);
  }
  assert.deepEqual(wrong.slice(0, 20), [], `${wrong.length} of ${cases.length} instructions are wrong`);
  assert.ok(cases.length > 10_000, `only ${cases.length} cases`);
});

test('the shortest encoding is chosen', () => {
  // Bytes by hand from the SDM's tables.
  const bytesOf = (build: (assembler: Assembler) => void) => {
    const assembler = new Assembler();
    build(assembler);
    return hex(assembler.finish().bytes);
  };
  assert.equal(
    bytesOf((a) => a.emit('add', rax, 1)),
    '4883c001',
  );
  assert.equal(
    bytesOf((a) => a.emit('mov', eax, mem(rax))),
    '8b00',
  );
  assert.equal(
    bytesOf((a) => a.emit('vaddps', ymm(1), ymm(2), ymm(3))),
    'c5ec58cb',
  );
  assert.equal(
    bytesOf((a) => a.emit('vaddps', zmm(1), zmm(2), mem(rax, 64 * 127))),
    '62f16c4858487f',
  );
  assert.equal(
    bytesOf((a) => a.emit('vaddps', zmm(1), zmm(2), mem(rax, 64 * 128))),
    '62f16c48588800200000',
  );
  assert.equal(
    bytesOf((a) => a.emit('vaddps', zmm(1), zmm(2), broadcast(mem(rax, 4 * 127)))),
    '62f16c5858487f',
  );
});

test('jumps reach labels behind and ahead, and the short form is used behind', () => {
  const assembler = new Assembler();
  const ahead = assembler.label('ahead');
  const behind = assembler.here('behind');
  assembler.emit('jmp', behind).emit('jne', ahead).emit('call', behind);
  assembler.bind(ahead).emit('ret');
  // eb fe | 0f 85 rel32 = 5 (over the call) | e8 rel32 = 0 - 13
  assert.equal(hex(assembler.finish().bytes), 'ebfe0f8505000000e8f3ffffffc3');
});

test('a short jump ends where one byte does', () => {
  for (const [gap, length] of [
    [126, 2],
    [127, 6],
  ]) {
    const assembler = new Assembler();
    const head = assembler.here();
    for (let i = 0; i < gap; i++) assembler.emit('ret');
    assembler.emit('je', head);
    assert.equal(assembler.offset - gap, length);
    const { bytes } = assembler.finish();
    const view = new DataView(bytes.buffer);
    assert.equal(length === 2 ? view.getInt8(gap + 1) : view.getInt32(gap + 2, true), -gap - length);
  }
});

test('the address of a label counts from the end of the instruction, immediates included', () => {
  const assembler = new Assembler();
  const data = assembler.label('data');
  assembler.emit('add', dword(rip(data, 8)), 0x1234);
  assembler.bind(data);
  // 81 05 disp32 imm32: the label lies at the end, so the displacement is the addend.
  assert.equal(hex(assembler.finish().bytes), '81050800000034120000');
});

test('constants are shared, aligned to their size and read through their address', () => {
  const assembler = new Assembler();
  const one = Float32Array.of(1);
  const wide = new Float32Array(16).fill(2);
  const operands = [
    assembler.constant(one),
    assembler.constant(wide),
    assembler.constant(Float32Array.of(1)),
  ];
  assert.equal(operands[0].label, operands[2].label);
  assembler.emit('vbroadcastss', zmm(0), operands[0]);
  assembler.emit('vmovups', zmm(1), operands[1]);
  one[0] = 7;
  const { bytes, codeBytes } = assembler.finish();
  assert.equal(codeBytes, 20);
  assert.equal(bytes.length, 64 + 64 + 4);
  const view = new DataView(bytes.buffer);
  for (const [end, value, alignment] of [
    [10, 1, 4],
    [20, 2, 64],
  ]) {
    const target = end + view.getInt32(end - 4, true);
    assert.equal(target % alignment, 0);
    assert.equal(view.getFloat32(target, true), value);
  }
  assert.throws(() => new Assembler().constant(new Uint8Array(5)), /constant of 5 bytes/);
});

test('alignment pads with instructions that do nothing', withObjdump, () => {
  const assembler = new Assembler();
  for (let i = 0; i < 9; i++) assembler.emit('ret').align(16);
  for (let i = 0; i < 7; i++) assembler.emit('ret');
  assembler.align(32);
  assert.equal(assembler.offset % 32, 0);
  assembler.align(32);
  const lines = [...disassemble(assembler.finish().bytes).values()];
  assert.ok(
    lines.every((line) => /^(ret|nop|xchg\s+ax,ax)/.test(line)),
    lines.join('\n'),
  );
  assert.throws(() => assembler.align(24), /not a power of two/);
});

test('operands out of range are refused with the reason', () => {
  const emitted = (build: (assembler: Assembler) => unknown) => () => build(new Assembler());
  assert.throws(() => xmm(32), /xmm 32 does not exist: use 0 to 31/);
  assert.throws(() => k(8), /0 to 7/);
  assert.throws(() => r64(-1), /0 to 15/);
  assert.throws(() => mem(rax, rsp), /rsp cannot be an index/);
  assert.throws(() => mem(rax, 2 ** 31), /signed 32-bit/);
  assert.throws(() => mem(rax, 1.5), /signed 32-bit/);
  assert.throws(() => mem(rax, rcx, 3 as 4), /scale 3/);
  assert.throws(() => masked(zmm(0), k(0)), /k0 cannot predicate/);
  assert.throws(
    emitted((a) => a.emit('vblendvps', ymm(16), ymm(1), ymm(2), ymm(3))),
    /vblendvps ymm16, .*need an EVEX form/,
  );
  assert.throws(
    emitted((a) => a.emit('add', rax, 2 ** 40)),
    /add rax, 1099511627776: immediate .* is outside/,
  );
  assert.throws(
    emitted((a) => a.emit('mov', rax, 2n ** 64n)),
    /immediate .* is outside/,
  );
  assert.throws(
    emitted((a) => a.emit('mov', rax, 2 ** 60)),
    /pass a bigint/,
  );
  assert.throws(
    emitted((a) => a.emit('vpslld', ymm(0), ymm(1), 256)),
    /outside 0 to 255/,
  );
  assert.throws(
    emitted((a) => a.emit('shl', rax, r8(2))),
    /takes cl only/,
  );
  assert.throws(
    emitted((a) => a.emit('vgatherdps', masked(zmm(1), k(1)), vectorMem(rax, zmm(1)))),
    /distinct registers/,
  );
  assert.throws(
    emitted((a) => a.emit('jmp', new Label('elsewhere'))),
    /elsewhere belongs to another assembler/,
  );
  const unbound = new Assembler();
  unbound.emit('jmp', unbound.label('nowhere'));
  assert.throws(() => unbound.finish(), /nowhere is used at offset 1 and never bound/);
  const twice = new Assembler();
  const head = twice.here('head');
  assert.throws(() => twice.bind(head), /head is bound twice/);
  twice.finish();
  assert.throws(() => twice.emit('ret'), /finished/);
});

test('operands of the wrong kind are compile errors, and errors for callers without types', () => {
  const wrong = (build: (assembler: Assembler) => unknown) =>
    assert.throws(() => build(new Assembler()), /no form takes these operands/);
  // @ts-expect-error lengths differ
  wrong((a) => a.emit('vaddps', zmm(1), ymm(2), zmm(3)));
  // @ts-expect-error a general register among vectors
  wrong((a) => a.emit('vaddps', zmm(1), rax, zmm(3)));
  // @ts-expect-error an operand is missing
  wrong((a) => a.emit('vaddps', zmm(1), zmm(2)));
  // @ts-expect-error there is no 512-bit form
  wrong((a) => a.emit('vblendvps', zmm(1), zmm(2), zmm(3), zmm(4)));
  // @ts-expect-error a store cannot zero
  wrong((a) => a.emit('vmovups', zeroed(mem(rax), k(1)), zmm(1)));
  // @ts-expect-error a comparison into a mask cannot zero
  wrong((a) => a.emit('vpcmpd', zeroed(k(1), k(2)), zmm(1), zmm(2), 0));
  // @ts-expect-error the size of the memory is not known
  wrong((a) => a.emit('add', mem(rax), 1));
  // @ts-expect-error a source cannot be masked
  wrong((a) => a.emit('vaddps', zmm(1), masked(zmm(2), k(1)), zmm(3)));
  // @ts-expect-error a whole-vector move has no broadcast
  wrong((a) => a.emit('vmovups', zmm(1), broadcast(mem(rax))));
  // @ts-expect-error 32 and 64 bits mixed
  wrong((a) => a.emit('add', rax, eax));
  // @ts-expect-error a gather needs vector addresses
  wrong((a) => a.emit('vgatherdps', masked(zmm(1), k(1)), mem(rax)));
  const right = new Assembler();
  const add: 'vaddps' | 'vsubps' = right.offset === 0 ? 'vaddps' : 'vsubps';
  right.emit(add, zeroed(zmm(31), k(7)), zmm(1), broadcast(mem(r13, r12, 8, 4)));
  right
    .emit('shl', r32(9), cl)
    .emit('mov', byte(mem(rbp)), 1)
    .emit('inc', qword(mem(rdx)));
  assert.ok(right.finish().codeBytes > 0);
});
