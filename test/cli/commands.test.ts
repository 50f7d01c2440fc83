/** What the commands do: help, spelling of options, generation, conversation through a pipe, benchmarks as JSON. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type Command, CommanderError } from 'commander';
import { listDevices } from '../../src/accelerators/registry.ts';
import { createProgram } from '../../src/cli/program.ts';
import { tandem } from './harness.ts';

const model = fileURLToPath(new URL('../golden/qwen3-tied-gqa', import.meta.url));
const devices = (await listDevices()).filter(({ available }) => available);

const COMMANDS = [
  ['start'],
  ['train'],
  ['train', 'sft'],
  ['train', 'grpo'],
  ['generate'],
  ['chat'],
  ['score'],
  ['devices'],
  ['tune'],
  ['bench'],
] as const;

/** A command of a program of its own, and everything it and those around it print. */
async function commandAt(
  names: readonly string[],
): Promise<{ program: Command; command: Command; printed: () => string }> {
  const program = await createProgram(names);
  let text = '';
  const capture = (command: Command) =>
    command.configureOutput({ writeOut: (more) => (text += more), writeErr: (more) => (text += more) });
  let command = capture(program);
  for (const name of names) command = capture(command.commands.find((child) => child.name() === name)!);
  return { program, command, printed: () => text };
}

test('these are all commands', async () => {
  const paths = (command: Command, before: string[]): string[][] =>
    command.commands.flatMap((child) => [
      [...before, child.name()],
      ...paths(child, [...before, child.name()]),
    ]);
  for (const argv of [[], ['help'], ['--help'], ['constructor']])
    assert.deepEqual(
      paths(await createProgram(argv), []).sort(),
      COMMANDS.map((names) => [...names]).sort(),
      `for '${argv}'`,
    );
  // A command alone, where it is what is asked for.
  for (const [name] of COMMANDS)
    assert.deepEqual(
      (await createProgram([name, '--help'])).commands.map((command) => command.name()),
      [name],
    );
});

describe('help', () => {
  for (const names of [[], ...COMMANDS]) {
    const shown = ['tandem', ...names].join(' ');
    test(`${shown}: everything is explained, and there are examples`, async () => {
      const { command, printed } = await commandAt(names);
      command.outputHelp();
      assert.ok(printed().startsWith(`Usage: ${shown} `), printed());
      for (const { flags, description } of command.options) {
        const explanation = description.replace(/\(default: .*\)$/su, '').trim();
        assert.ok(explanation.length > 5, `${shown}: ${flags} has no explanation`);
      }
      for (const argument of command.registeredArguments)
        assert.ok(argument.description.length > 5, `${shown}: ${argument.name()} has no explanation`);
      const [, examples] = /\nExamples?:\n(.*)$/su.exec(printed()) ?? [];
      assert.ok(examples !== undefined, `${shown} has no examples`);
      const lines = examples.trim().split('\n');
      assert.ok(
        lines.every((line) => line.trim().startsWith('$ tandem')),
        examples,
      );
      assert.ok(examples.includes(shown), `no example of ${shown}`);
    });

    test(`${shown}: an unknown option is named in one line`, async () => {
      const { program, printed } = await commandAt(names);
      // What is required comes first in commander's eyes.
      const required = names[0] === 'score' ? ['--tokens', '1'] : [];
      await assert.rejects(
        program.parseAsync([...names, ...required, '--no-such-option'], { from: 'user' }),
        CommanderError,
      );
      assert.equal(printed(), "tandem: unknown option '--no-such-option'\n");
    });
  }

  test('training has the options that users of TRL know', async () => {
    const { command } = await commandAt(['train', 'grpo']);
    const flags = command.options.map(({ long }) => long);
    for (const option of ['loss-type', 'epsilon-high', 'num-generations', 'beta', 'rollout', 'seed'])
      assert.ok(flags.includes(`--${option}`), option);
  });

  test('tandem alone prints its help as an error', async () => {
    const { code, out, err } = await tandem([]);
    assert.deepEqual([code, out], [2, '']);
    assert.match(err, /^Usage: tandem/u);
    for (const [name] of COMMANDS) assert.ok(err.includes(`\n  ${name} `), name);
  });

  test('the version is the package’s', async () => {
    const { version } = JSON.parse(
      await readFile(new URL('../../package.json', import.meta.url), 'utf8'),
    ) as { version: string };
    assert.deepEqual(await tandem(['--version']), { code: 0, signal: null, out: `${version}\n`, err: '' });
  });
});

describe('wrong usage', () => {
  const ONE_LINE = [
    [['train', 'grpo', '--max-step', '3'], "unknown option '--max-step'; did you mean --max-steps?"],
    [['scor'], "unknown command 'scor'; did you mean score?"],
    [['train', 'rl'], "there is no 'tandem train rl': use 'tandem train sft' or 'tandem train grpo'"],
    [['devices', 'cpu'], "too many arguments for 'devices'. Expected 0 arguments but got 1."],
    [['generate', model, '--tokens', '1', '--seed', '1.5'], '--seed: a whole number is needed'],
    [['generate', model, '--tokens', '1', '--max-tokens'], "option '--max-tokens <number>' argument missing"],
    [['chat'], "missing required argument 'model'"],
    [
      ['bench', '--device', 'interpreter'],
      'the interpreter defines results and is not made to be fast: choose another --device',
    ],
  ] as const;
  for (const [args, says] of ONE_LINE) {
    test(`tandem ${args.filter((arg) => arg !== model).join(' ')}`, async () => {
      const { code, out, err } = await tandem(args);
      assert.deepEqual([code, out, err], [2, '', `tandem: ${says}\n`]);
    });
  }
});

describe('generate', () => {
  const logprobsOf = ({ code, out, err }: Awaited<ReturnType<typeof tandem>>) => {
    assert.equal(code, 0, err);
    return (JSON.parse(out) as { tokens: number[]; logprobs: number[] }) ?? {};
  };
  const prompt = [5, 6, 7, 60];

  const generate = (device: string, seed: string) =>
    tandem([
      ...['generate', model, '--tokens', prompt.join(), '--max-tokens', '6', '--temperature', '1'],
      ...['--seed', seed, '--device', device, '--json'],
    ]);

  for (const { name } of devices) {
    test(`on ${name}: score says the same of what was generated, to the bit`, async () => {
      const { tokens, logprobs } = logprobsOf(await generate(name, '4'));
      assert.equal(tokens.length, 6);
      const scored = await tandem([
        ...['score', model, '--tokens', [...prompt, ...tokens].join(), '--device', name, '--json'],
      ]);
      assert.deepEqual(logprobsOf(scored).logprobs.slice(prompt.length), logprobs);
    });
  }

  test('the same seed gives the same text, another seed another; without a tokenizer there is no text', async () => {
    const [first, again, other] = await Promise.all(
      ['4', '4', '5'].map((seed) => generate(devices[0].name, seed)),
    );
    assert.equal(again.out, first.out);
    assert.notDeepEqual(logprobsOf(other).tokens, logprobsOf(first).tokens);
    const { text, finish_reason } = JSON.parse(first.out) as Record<string, unknown>;
    assert.deepEqual([text, finish_reason], [null, 'length']);
  });

  test('underscores in option names are dashes; those in values stay', async () => {
    const [dashes, underscores] = await Promise.all([
      tandem(['generate', model, '--tokens', '5,6', '--max-tokens', '3', '--top-k', '7', '--json']),
      tandem(['generate', model, '--tokens', '5,6', '--max_tokens=3', '--top_k', '7', '--json']),
    ]);
    assert.equal(dashes.code, 0, dashes.err);
    assert.deepEqual(underscores, dashes);
    assert.equal(logprobsOf(dashes).tokens.length, 3);
    const { code, err } = await tandem(['score', 'no_such_model', '--tokens', '1']);
    assert.equal(code, 1);
    assert.match(err, /no_such_model/u);
  });
});

describe('a trained model', () => {
  let root: string;
  let folder: string;
  before(async () => {
    root = await mkdtemp(join(tmpdir(), 'tandem-commands-'));
    folder = join(root, 'runs', 'small');
    const { code, err } = await tandem(
      [
        ...['train', 'sft', '--task', 'chain', '--name', 'small', '--json', '--max_steps', '3'],
        ...['--per_device_train_batch_size', '8', '--eval-problems', '4', '--hidden_size', '16'],
        ...['--num-hidden-layers', '1', '--num-attention-heads', '2', '--num-key-value-heads', '1'],
        ...['--head-dim', '8', '--intermediate-size', '16', '--threads', '1'],
      ],
      { cwd: root },
    );
    assert.equal(code, 0, err);
  });
  after(() => rm(root, { recursive: true, force: true }));

  const PROBLEMS = ['3 +4 *2 +1 *5 +6 *3 +2 +2 *4 +1 =', '1 +4 *2 +1 *5 +6 *3 +2 +2 *4 +6 ='];
  const SHORT = ['--max-tokens', '5'];

  test('has as many steps as --max_steps says', async () => {
    const metrics = (await readFile(join(folder, 'metrics.jsonl'), 'utf8')).trim().split('\n');
    const steps = metrics.map((line) => JSON.parse(line) as { phase?: string; loss?: number });
    assert.equal(steps.filter(({ loss }) => loss !== undefined).length, 3);
  });

  test('answers each line of a pipe with what generate says', async () => {
    const { code, out, err } = await tandem(['chat', folder, ...SHORT], {
      input: `${PROBLEMS.join('\n')}\n`,
    });
    assert.deepEqual([code, err], [0, '']);
    const answers = out.trimEnd().split('\n');
    assert.equal(answers.length, 2);
    for (const [i, problem] of PROBLEMS.entries()) {
      const { out: text } = await tandem(['generate', folder, '--prompt', problem, ...SHORT]);
      const words = (line: string) =>
        line
          .replace(/… \(cut off.*/u, '')
          .trim()
          .split(/\s+/u);
      // A conversation leaves special tokens out, apart from those of thinking.
      assert.deepEqual(
        words(answers[i]),
        words(text).filter((word) => !/^<(pad|bos|eos)>$/u.test(word)),
      );
    }
  });

  test('leaves special tokens out of a conversation, though the model makes some', async () => {
    const wild = ['--temperature', '5', '--seed', '10', '--max-tokens', '60'];
    const [chat, generated] = await Promise.all([
      tandem(['chat', folder, ...wild], { input: `${PROBLEMS[0]}\n` }),
      tandem(['generate', folder, '--prompt', PROBLEMS[0], ...wild]),
    ]);
    assert.equal(chat.code, 0, chat.err);
    assert.match(generated.out, /<(pad|bos)>/u);
    assert.doesNotMatch(chat.out, /<(pad|bos|eos)>/u);
  });

  test('says which word it does not know, answers the next line, and fails in the end', async () => {
    const { code, out, err } = await tandem(['chat', folder, ...SHORT], {
      input: `what is this\n${PROBLEMS[0]}\n\n${PROBLEMS[1]}\n`,
    });
    assert.equal(code, 1);
    assert.match(err, /^[^\n]*what[^\n]*\n$/u);
    assert.equal(out.trimEnd().split('\n').length, 1, 'an empty line ends the conversation');
  });

  test('a prompt with a word it does not know is a failure in one line', async () => {
    const { code, out, err } = await tandem(['generate', folder, '--prompt', 'what is this']);
    assert.deepEqual([code, out], [1, '']);
    assert.match(err, /^tandem: [^\n]*what[^\n]*\n$/u);
  });
});

test('bench --json: an array of rows', async () => {
  const { name } = devices[0];
  const { code, out, err } = await tandem(['bench', 'compile', '--device', name, '--json']);
  assert.equal(code, 0, err);
  const rows = JSON.parse(out) as Record<string, unknown>[];
  assert.equal(rows.length, 2);
  const { value, shape, threads, ...rest } = rows[0];
  assert.deepEqual(rest, {
    name: 'compile',
    dtype: 'f32',
    device: name,
    unit: 's',
    limit: null,
    fraction: null,
    peers: {},
  });
  assert.ok(Number(value) > 0 && Number(threads) >= 1 && typeof shape === 'string');
});
