/** What the command says and how it ends when it is used rightly and wrongly. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { cp, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { listDevices } from '../../src/accelerators/registry.ts';
import { tandem } from './harness.ts';

const golden = fileURLToPath(new URL('../golden/', import.meta.url));
const model = join(golden, 'qwen3-tied-gqa');

interface Wrong {
  readonly args: readonly string[];
  readonly code: 1 | 2;
  readonly says: RegExp;
}

const WRONG: readonly Wrong[] = [
  { args: ['nonsense'], code: 2, says: /unknown command 'nonsense'/u },
  { args: ['train'], code: 2, says: /train sft.*train grpo.*--resume/u },
  { args: ['train', 'grpo', '--nonsense', '3'], code: 2, says: /unknown option '--nonsense'/u },
  { args: ['train', 'grpo', '--max-steps', 'abc'], code: 2, says: /--max-steps needs a number, not 'abc'/u },
  { args: ['train', 'grpo', '--max_steps', '0'], code: 2, says: /--max-steps: /u },
  { args: ['train', 'grpo', '--loss-type', 'ppo'], code: 2, says: /--loss-type.*dr_grpo/u },
  { args: ['train', 'grpo', '--num-generations', '1'], code: 2, says: /--num-generations: /u },
  { args: ['train', 'grpo', '--name', '../x'], code: 2, says: /--name: /u },
  { args: ['train', 'grpo', '--task', 'nowhere.ts'], code: 1, says: /there is no file .*nowhere\.ts/u },
  { args: ['train', 'grpo', '--model', 'nowhere'], code: 1, says: /nowhere is no model's folder/u },
  { args: ['train', 'sft', 'countdown'], code: 2, says: /too many arguments for 'sft'/u },
  { args: ['train', '--resume', 'r', 'grpo'], code: 2, says: /continued as it was begun/u },
  { args: ['train', 'sft', '--profile', 'nowhere/trace.json'], code: 2, says: /--profile: .*nowhere/u },
  { args: ['train', 'grpo', '--temperature', '1e-40'], code: 2, says: /--temperature: /u },
  { args: ['train', 'sft', '--num-hidden-layers', '1000000000'], code: 1, says: /num_hidden_layers/u },
  { args: ['train', 'grpo', '--task', 'open.ts'], code: 1, says: /can never come.*reward/u },
  { args: ['train', '--resume', 'nowhere'], code: 1, says: /nowhere.*state\.safetensors/u },
  { args: ['start', '--task', 'nonsense'], code: 1, says: /no such task.*chain/u },
  { args: ['start', '--device', 'abacus', '--name', 'abacus'], code: 1, says: /no device 'abacus'.*cpu/u },
  { args: ['score'], code: 2, says: /missing required argument 'model'|required option/u },
  { args: ['score', model], code: 2, says: /--tokens/u },
  { args: ['score', model, '--tokens', '1,x'], code: 2, says: /'x' is none/u },
  { args: ['score', model, '--tokens', '1,999'], code: 1, says: /no token 999/u },
  { args: ['score', model, '--tokens', Array(200).fill(1).join()], code: 1, says: /128 positions/u },
  {
    args: ['score', model, '--tokens', '1', '--dtype', 'f64'],
    code: 2,
    says: /choices are f32, bf16, int8, int4/u,
  },
  { args: ['score', model, '--tokens', '1', '--device', 'abacus'], code: 1, says: /no device 'abacus'/u },
  { args: ['score', 'nowhere', '--tokens', '1'], code: 1, says: /nowhere.*no such file/u },
  { args: ['tune', '--no-recipe'], code: 2, says: /nothing to tune.*--model/u },
  { args: ['generate', model], code: 2, says: /--prompt or --tokens/u },
  { args: ['generate', model, '--tokens', '1', '--top-p', '3'], code: 2, says: /--top-p: /u },
  { args: ['generate', model, '--prompt', 'hi'], code: 1, says: /no tokenizer/u },
  { args: ['chat', model], code: 1, says: /no tokenizer\.json/u },
  { args: ['chat', model, '--web', '--port', 'x'], code: 2, says: /--port/u },
];

/** A task whose reward is waited for in vain. */
const OPEN_TASK = `
import { TASKS } from 'tandem';
export default { ...TASKS.get('chain'), reward: () => new Promise(() => {}) };
`;

const LOUD_TASK = `
import { TASKS } from 'tandem';
const reward = () => { console.log('judged'); return 0; };
export default { ...TASKS.get('chain'), reward };
`;

/** Runs of the command, a few at a time. */
async function inGroups<T, R>(items: readonly T[], run: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (let first = 0; first < items.length; first += 3)
    results.push(...(await Promise.all(items.slice(first, first + 3).map(run))));
  return results;
}

test('wrong usage ends with 2, failure with 1; one clear line each', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tandem-usage-'));
  try {
    await writeFile(join(folder, 'open.ts'), OPEN_TASK);
    const outcomes = await inGroups(WRONG, ({ args }) => tandem(args, { cwd: folder }));
    for (const [i, { args, code, says }] of WRONG.entries()) {
      const shown = `tandem ${args.join(' ').slice(0, 80)}`;
      assert.equal(outcomes[i].code, code, `${shown}: exit code; it said: ${outcomes[i].err}`);
      assert.match(outcomes[i].err, says, shown);
      assert.match(outcomes[i].err, /^tandem: [^\n]*\n$/u, `${shown}: one line`);
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test('a wrong environment variable is an error, not a reason to take a slower accelerator', async () => {
  for (const [name, value] of Object.entries({ TANDEM_THREADS: 'many', TANDEM_CPU_ISA: 'neon' })) {
    if (name === 'TANDEM_CPU_ISA' && (process.platform !== 'linux' || process.arch !== 'x64')) continue;
    const { code, err } = await tandem(['score', model, '--tokens', '1,2'], { env: { [name]: value } });
    assert.equal(code, 1, err);
    assert.match(err, new RegExp(`^tandem: ${name}.*'${value}'`, 'u'));
  }
  const { code, out } = await tandem(['devices'], { env: { TANDEM_THREADS: '2000' } });
  assert.equal(code, 0);
  assert.match(out, /wasm +TANDEM_THREADS is 2000: it must be a whole number from 1 to 1024/u);
});

test('output that cannot be written is a failure in one line', {
  skip: !existsSync('/dev/full'),
}, async () => {
  const { code, err } = await tandem(['devices'], { stdout: '/dev/full' });
  assert.deepEqual([code, err.split('\n').length], [1, 2], err);
  assert.match(err, /^tandem: what was printed could not be written: ENOSPC/u);
});

test('--json: what a task prints is not among the events', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tandem-json-'));
  try {
    await writeFile(join(folder, 'loud.ts'), LOUD_TASK);
    const args = ['train', 'sft', '--task', 'loud.ts', '--json', '--max-steps', '1', '--eval-problems', '2'];
    const tiny = ['--hidden-size', '8', '--num-hidden-layers', '1', '--per-device-train-batch-size', '2'];
    const { code, out, err } = await tandem([...args, ...tiny], { cwd: folder });
    assert.equal(code, 0, err);
    assert.match(err, /^judged$/mu);
    const events = out.trim().split('\n');
    assert.ok(events.length > 5);
    for (const line of events) assert.equal(typeof JSON.parse(line).type, 'string');
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test('devices: one object per accelerator', async () => {
  const { code, out } = await tandem(['devices', '--json']);
  assert.equal(code, 0);
  const devices = JSON.parse(out) as Record<string, unknown>[];
  for (const device of devices) {
    assert.deepEqual(Object.keys(device).sort(), [
      'available',
      'description',
      'features',
      'memory',
      'name',
      'reason',
      'schedules',
      'threads',
    ]);
    assert.ok(
      device.available === true || (device.reason as string).length > 0,
      `${device.name} says why it is absent`,
    );
  }
  assert.ok(devices.some(({ name, available }) => name === 'wasm' && available));
});

describe('score', async () => {
  const devices = (await listDevices()).filter(({ available }) => available);
  for (const name of ['qwen3-tied-gqa', 'qwen3-untied-odd']) {
    test(`${name}: the log-probabilities of transformers, on every accelerator`, async () => {
      const { tokens, logprobs } = JSON.parse(await readFile(join(golden, name, 'golden.json'), 'utf8')) as {
        tokens: number[];
        logprobs: (number | null)[];
      };
      for (const device of devices) {
        const { code, out, err } = await tandem([
          'score',
          join(golden, name),
          '--tokens',
          tokens.join(),
          '--device',
          device.name,
          '--json',
        ]);
        assert.equal(code, 0, err);
        const got = (JSON.parse(out) as { logprobs: (number | null)[] }).logprobs;
        assert.equal(got.length, tokens.length);
        assert.equal(got[0], null);
        for (let i = 1; i < got.length; i++) {
          assert.ok(
            Math.abs(got[i]! - logprobs[i]!) < 2e-5,
            `${device.name}, token ${i}: ${got[i]} instead of ${logprobs[i]}`,
          );
        }
      }
    });
  }
});

describe('damaged models', () => {
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tandem-damaged-'));
  });
  after(() => rm(folder, { recursive: true, force: true }));

  async function damaged(name: string, damage: (path: string) => Promise<void>): Promise<string> {
    const path = join(folder, name);
    await cp(model, path, { recursive: true });
    await damage(path);
    const { code, err } = await tandem(['score', path, '--tokens', '1,2']);
    assert.equal(code, 1, err);
    assert.match(err, /^tandem: [^\n]*\n$/u, 'one line');
    return err;
  }
  const edit = (change: (config: Record<string, unknown>) => void) => async (path: string) => {
    const file = join(path, 'config.json');
    const config = JSON.parse(await readFile(file, 'utf8')) as Record<string, unknown>;
    change(config);
    await writeFile(file, JSON.stringify(config));
  };

  test('a truncated file, a hostile header, a wrong or missing size are named', async () => {
    assert.match(
      await damaged('truncated', (path) => truncate(join(path, 'model.safetensors'), 40_000)),
      /model\.safetensors/u,
    );
    const hostile = Buffer.alloc(64);
    hostile.writeBigUInt64LE(0xffffffffffffn);
    assert.match(
      await damaged('hostile', (path) => writeFile(join(path, 'model.safetensors'), hostile)),
      /header/u,
    );
    assert.match(
      await damaged('empty', (path) => writeFile(join(path, 'model.safetensors'), '')),
      /model\.safetensors/u,
    );
    assert.match(
      await damaged('missing', (path) => rm(join(path, 'model.safetensors'))),
      /model\.safetensors/u,
    );
    assert.match(
      await damaged(
        'shape',
        edit((config) => {
          config.hidden_size = 64;
        }),
      ),
      /shape/u,
    );
    assert.match(
      await damaged(
        'layers',
        edit((config) => {
          config.num_hidden_layers = 3;
        }),
      ),
      /model\.layers\.2/u,
    );
    assert.match(
      await damaged(
        'kind',
        edit((config) => {
          config.model_type = 'llama';
        }),
      ),
      /model_type/u,
    );
    assert.match(await damaged('json', (path) => writeFile(join(path, 'config.json'), '{')), /JSON/u);
  });
});
