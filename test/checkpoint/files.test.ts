import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import {
  openCheckpoint,
  openSafetensors,
  writeFileAtomic,
  writeSafetensors,
} from '../../src/checkpoint/files.ts';
import { fromFloat32, serializeSafetensors, toFloat32 } from '../../src/checkpoint/safetensors.ts';

const root = await mkdtemp(join(tmpdir(), 'tandem-files-'));
after(() => rm(root, { recursive: true }));

let folders = 0;
const newFolder = () => mkdtemp(join(root, `${folders++}-`));

const tensor = (name: string, ...values: number[]) =>
  fromFloat32(name, [values.length], Float32Array.from(values));

test('a written file is what serializeSafetensors gives, and tensors are read one by one', async () => {
  const path = join(await newFolder(), 'new', 'folder', 'model.safetensors');
  const tensors = [tensor('a', 1, 2), tensor('b', 3), tensor('empty')];
  await writeSafetensors(path, tensors, { format: 'pt' });
  assert.deepEqual(new Uint8Array(await readFile(path)), serializeSafetensors(tensors, { format: 'pt' }));
  await using reader = await openSafetensors(path);
  assert.deepEqual([...reader.tensors.keys()].sort(), ['a', 'b', 'empty']);
  assert.deepEqual(reader.metadata, { format: 'pt' });
  assert.deepEqual([...toFloat32(await reader.read('a'))], [1, 2]);
  assert.equal((await reader.read('empty')).data.length, 0);
  await assert.rejects(reader.read('c'), { name: 'CheckpointError', message: `${path}: has no tensor "c"` });
});

test('errors name the file', async () => {
  const folder = await newFolder();
  const path = join(folder, 'x.safetensors');
  await assert.rejects(openSafetensors(path), { message: `${path}: there is no such file or folder` });
  await assert.rejects(openSafetensors(folder), {
    name: 'CheckpointError',
    message: `${folder}: is not a file`,
  });
  await writeFile(path, 'abc');
  await assert.rejects(openSafetensors(path), (error: Error) =>
    error.message.startsWith(`${path}: the file has 3`),
  );
  await assert.rejects(openCheckpoint(folder), /holds neither model.safetensors nor/);
});

test('a file cut off before or after it is opened is noticed', async () => {
  const path = join(await newFolder(), 'model.safetensors');
  await writeSafetensors(path, [tensor('a', 1, 2), tensor('b', 3, 4)]);
  const size = (await readFile(path)).length;
  await using reader = await openSafetensors(path);
  await truncate(path, size - 4);
  assert.deepEqual([...toFloat32(await reader.read('a'))], [1, 2]);
  await assert.rejects(reader.read('b'), /tensor "b": the file ends at byte/);
  await assert.rejects(openSafetensors(path), /cut off or damaged/);
});

test('an atomic write replaces the old content and leaves no other file', async () => {
  const folder = await newFolder();
  const path = join(folder, 'state.json');
  await writeFileAtomic(path, 'old');
  await writeFileAtomic(path, [new Uint8Array([0x6e]), new Uint8Array([0x65, 0x77])]);
  assert.equal(await readFile(path, 'utf8'), 'new');
  assert.deepEqual(await readdir(folder), ['state.json']);
});

test('a write that fails half way leaves the old content and no other file', async () => {
  const folder = await newFolder();
  const path = join(folder, 'state.json');
  await writeFileAtomic(path, 'old');
  function* parts() {
    yield new Uint8Array(100_000);
    throw new Error('no more');
  }
  await assert.rejects(writeFileAtomic(path, parts()), { message: `${path}: no more` });
  assert.equal(await readFile(path, 'utf8'), 'old');
  assert.deepEqual(await readdir(folder), ['state.json']);
});

async function shards(index: unknown): Promise<string> {
  const folder = await newFolder();
  await writeSafetensors(join(folder, 'one.safetensors'), [tensor('a', 1), tensor('b', 2)], { format: 'pt' });
  await writeSafetensors(join(folder, 'two.safetensors'), [tensor('b', 20), tensor('c', 3)]);
  const text = typeof index === 'string' ? index : JSON.stringify(index);
  await writeFile(join(folder, 'model.safetensors.index.json'), text);
  return folder;
}

test('a checkpoint in shards is read through its index', async () => {
  const weight_map = { a: 'one.safetensors', b: 'two.safetensors', c: 'two.safetensors' };
  await using reader = await openCheckpoint(await shards({ metadata: { total_size: 12 }, weight_map }));
  assert.deepEqual([...reader.tensors.keys()], ['a', 'b', 'c']);
  assert.deepEqual(reader.metadata, { format: 'pt' });
  for (const [name, value] of [
    ['a', 1],
    ['b', 20],
    ['c', 3],
  ] as const) {
    assert.deepEqual([...toFloat32(await reader.read(name))], [value]);
  }
  await assert.rejects(reader.read('d'), /has no tensor "d"/);
});

test('an index that lies is refused', async () => {
  const refused = async (index: unknown, message: RegExp) =>
    assert.rejects(openCheckpoint(await shards(index)), { name: 'CheckpointError', message });
  await refused('{', /index.json: is not valid JSON/);
  await refused('{"weight_map":{"a":"one.safetensors","a":"two.safetensors"}}', /has the key "a" twice/);
  await refused({}, /index.json: at weight_map/);
  await refused({ weight_map: { a: 5 } }, /index.json: at weight_map.a: /);
  await refused(
    { weight_map: { c: 'one.safetensors' } },
    /says that one.safetensors has a tensor "c", but it has not/,
  );
  await refused({ weight_map: { a: 'three.safetensors' } }, /three.safetensors: there is no such file/);
  for (const path of ['../one.safetensors', '/etc/passwd', 'x\\one.safetensors', '..', '.', '']) {
    await refused({ weight_map: { a: path } }, /is not a plain file name|is not a file/);
  }
});

test('a link to a file is followed', async () => {
  const folder = await newFolder();
  await writeSafetensors(join(folder, 'real.safetensors'), [tensor('a', 1)]);
  await symlink(join(folder, 'real.safetensors'), join(folder, 'model.safetensors'));
  await using reader = await openCheckpoint(folder);
  assert.deepEqual([...toFloat32(await reader.read('a'))], [1]);
});
