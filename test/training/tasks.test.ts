import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Random } from '../../src/numerics/random.ts';
import { grpoOptions, modelOptions, sftOptions } from '../../src/training/options.ts';
import { chainTask } from '../../src/training/tasks/chain.ts';
import { completionText, parseCompletion } from '../../src/training/tasks/completion.ts';
import { countdownTask, evaluate } from '../../src/training/tasks/countdown.ts';
import { deductionTask } from '../../src/training/tasks/deduction.ts';
import { TASKS } from '../../src/training/tasks/index.ts';
import { multiplicationTask } from '../../src/training/tasks/multiplication.ts';
import {
  coldStartExample,
  drawProblem,
  encodeExample,
  encodePrompt,
  keyOf,
  scoreCompletion,
  splitOf,
  taskTokenizer,
  testProblems,
} from '../../src/training/tasks/problems.ts';
import type { Problem, Solution, Task } from '../../src/training/tasks/task.ts';
import { defineTask, TaskError } from '../../src/training/tasks/task.ts';

const EXAMPLES = 400;

/** The registered tasks, and each in other sizes. */
const tasks: Task[] = [
  ...TASKS.values(),
  chainTask(3),
  multiplicationTask(1),
  multiplicationTask(3),
  deductionTask({ symbols: 5, steps: 3 }),
  countdownTask({ numbers: 2 }),
  countdownTask({ numbers: 4, trials: 2 }),
] as Task[];

/** The reward of a text as a model would have sampled it: through token ids. */
async function rewardOf(task: Task, problem: Problem, text: string): Promise<number> {
  const tokenizer = taskTokenizer(task);
  const tokens = encodeExample(task, tokenizer, { prompt: problem.prompt, completion: text }).completion;
  return (await scoreCompletion(task, problem, parseCompletion(tokens, tokenizer, task.format))).total;
}

test('the registered tasks are those the documentation names', () => {
  assert.deepEqual([...TASKS.keys()], ['chain', 'multiplication', 'countdown', 'deduction']);
  assert.equal(new Set(tasks.map((task) => task.name)).size, tasks.length, 'sizes differ, so names must');
});

for (const task of tasks) {
  test(`${task.name}: right solutions get 1, direct answers too, the teacher's mistakes 0`, async () => {
    let different = 0;
    for (let index = 0; index < EXAMPLES; index++) {
      const problem = drawProblem(
        task,
        index % 8 === 0 && task.name !== 'multiplication-1' ? 'test' : 'train',
        5,
        index,
      );
      const solution = problem.solution!;
      assert.equal(await rewardOf(task, problem, completionText(solution)), 1, problem.prompt);
      assert.equal(await rewardOf(task, problem, completionText({ think: '', answer: solution.answer })), 1);
      const mistake: Solution = task.teacher!.mistake!(problem, new Random(1, 'mistake', index));
      assert.equal(
        await rewardOf(task, problem, completionText(mistake)),
        0,
        `${problem.prompt} ${mistake.answer}`,
      );
      if (mistake.think !== solution.think) different++;
    }
    assert.equal(different, EXAMPLES, 'a mistake must show in the thinking');
  });

  test(`${task.name}: thinking fits the length limit and its defaults are valid options`, () => {
    const tokenizer = taskTokenizer(task);
    const { model, sft, grpo } = task.defaults!;
    modelOptions.parse(model);
    sftOptions.parse(sft);
    grpoOptions.parse(grpo);
    const limit = grpo?.max_completion_length;
    let longest = 0;
    for (let index = 0; index < EXAMPLES; index++) {
      const example = coldStartExample(task, 2, index, { think_fraction: 1 });
      longest = Math.max(longest, encodeExample(task, tokenizer, example).completion.length);
    }
    assert.equal(longest, limit, 'the limit must be what the longest solution needs');
  });

  test(`${task.name}: problems and examples follow from seed and index alone`, () => {
    const some = Array.from({ length: 30 }, (_, index) => drawProblem(task, 'train', 9, index));
    for (const index of [29, 3, 17]) assert.deepEqual(drawProblem(task, 'train', 9, index), some[index]);
    assert.ok(new Set(some.map(({ prompt }) => prompt)).size > 15);
    assert.notDeepEqual(drawProblem(task, 'train', 10, 0), some[0]);
    assert.notDeepEqual(drawProblem(task, 'train', 9, 0, 'rl'), some[0]);
    assert.deepEqual(coldStartExample(task, 9, 4), coldStartExample(task, 9, 4));
  });
}

for (const task of TASKS.values()) {
  test(`${task.name}: training and test problems never overlap`, () => {
    const tests = testProblems(task, 0, 400);
    const held = new Set(tests.map(keyOf));
    assert.equal(held.size, tests.length, 'every test problem is there once');
    assert.ok(held.size >= 200, `only ${held.size} test problems`);
    for (const seed of [0, 1]) {
      for (let index = 0; index < 1500; index++) {
        const problem = drawProblem(task, 'train', seed, index);
        const example = drawProblem(task, 'train', seed, index, 'cold-start');
        assert.equal(coldStartExample(task, seed, index).prompt, example.prompt);
        for (const trained of [problem, example]) {
          assert.ok(!held.has(keyOf(trained)), `${trained.prompt} is in both`);
          assert.equal(splitOf(trained), 'train');
        }
      }
    }
    for (const problem of tests) assert.equal(splitOf(problem), 'test');
  });

  test(`${task.name}: the teacher thinks and errs as often as it is told`, async () => {
    const count = 2000;
    let thinks = 0;
    let mistaken = 0;
    for (let index = 0; index < count; index++) {
      const example = coldStartExample(task, 3, index, { think_fraction: 0.25, error_rate: 0.4 });
      if (example.thinks) thinks++;
      if (example.mistaken) mistaken++;
      assert.equal(example.completion.startsWith('<think> </think> '), !example.thinks);
    }
    assert.ok(Math.abs(thinks / count - 0.25) < 0.04, `${thinks} of ${count} think`);
    assert.ok(Math.abs(mistaken / count - 0.4) < 0.05, `${mistaken} of ${count} are wrong`);
    // An option that was left open must not switch the teacher's own off.
    const open = Array.from({ length: 300 }, (_, i) =>
      coldStartExample(task, 3, i, { think_fraction: undefined }),
    );
    const share = open.filter((example) => example.thinks).length / open.length;
    assert.ok(Math.abs(share - task.teacher!.think_fraction!) < 0.1);
  });
}

test('one problem in sixteen is for testing, and white space does not matter', () => {
  let held = 0;
  for (let i = 0; i < 16_000; i++) if (splitOf({ prompt: `problem ${i} =` }) === 'test') held++;
  assert.ok(Math.abs(held - 1000) < 120, `${held} of 16000`);
  for (let i = 0; i < 200; i++)
    assert.equal(splitOf({ prompt: `  problem\t${i}  = ` }), splitOf({ prompt: `problem ${i} =` }));
});

test('the same problem put in another way is on the same side', () => {
  const others: [Task, (prompt: string) => string][] = [
    [TASKS.get('multiplication')!, (prompt) => prompt.replace(/^(. .) \* (. .) =$/, '$2 * $1 =')],
    [TASKS.get('countdown')!, (prompt) => prompt.replace(/^(\d+) (\d+) (\d+) ->/, '$3 $1 $2 ->')],
  ];
  for (const [task, otherwise] of others) {
    const keys = new Map<string, string>();
    let found = 0;
    for (let index = 0; index < 4000; index++) {
      const problem = drawProblem(task, 'train', 0, index);
      keys.set(problem.prompt, keyOf(problem));
      const other = otherwise(problem.prompt);
      if (other === problem.prompt || !keys.has(other)) continue;
      assert.equal(keys.get(other), keyOf(problem), `${other} and ${problem.prompt}`);
      found++;
    }
    assert.ok(found > 50, `${task.name}: only ${found} came both ways`);
  }
});

test('chain: the prompt means what it says', () => {
  for (let index = 0; index < 300; index++) {
    const { prompt, solution } = drawProblem(TASKS.get('chain')!, 'train', 1, index);
    const words = prompt.split(' ');
    assert.equal(words.length, 12);
    // All operations at once on a large whole number, reduced at the end.
    let value = BigInt(words[0]!);
    for (const word of words.slice(1, -1)) {
      const operand = BigInt(word.slice(1));
      value = word[0] === '+' ? value + operand : value * operand;
    }
    assert.equal(solution!.answer, String(value % 7n));
    assert.equal(solution!.think.split(' ').length, 10, 'one token of thinking an operation');
  }
});

test('multiplication: digits are lowest first', () => {
  const task = multiplicationTask(3);
  for (let index = 0; index < 300; index++) {
    const { prompt, solution } = drawProblem(task, 'train', 1, index);
    const [a, b] = prompt
      .replace(' =', '')
      .split(' * ')
      .map((digits) => Number([...digits.split(' ')].reverse().join('')));
    assert.equal(Number(solution!.answer.split(' ').reverse().join('')), a! * b!);
    assert.ok(a! >= 100 && a! <= 999 && b! >= 100 && b! <= 999);
  }
});

test('deduction: the order of the facts does not make another problem', () => {
  const problem = drawProblem(TASKS.get('deduction')!, 'train', 0, 0);
  const [facts, question] = problem.prompt.split(' ? ') as [string, string];
  const successor = new Map(facts.split(' ').map((fact) => fact.split('>') as [string, string]));
  const [first] = [...successor.keys()].filter((name) => ![...successor.values()].includes(name));
  const chain = [first!];
  while (successor.has(chain.at(-1)!)) chain.push(successor.get(chain.at(-1)!)!);
  assert.equal(problem.key, `${chain.join(' ')} ? ${question[0]}`);
});

test('deduction: the answer follows from the facts', () => {
  for (let index = 0; index < 300; index++) {
    const { prompt, solution } = drawProblem(TASKS.get('deduction')!, 'train', 1, index);
    const [facts, question] = prompt.split(' ? ') as [string, string];
    let symbol = question.replace(' =', '');
    for (let step = 0; step < 5; step++) {
      const matching = facts.split(' ').filter((fact) => fact.startsWith(`${symbol}>`));
      assert.equal(matching.length, 1);
      symbol = matching[0]!.slice(2);
    }
    assert.equal(solution!.answer, symbol);
  }
});

test('countdown: every worked line is true and any right expression is accepted', async () => {
  const task = countdownTask();
  for (let index = 0; index < 300; index++) {
    const { think } = drawProblem(task, 'train', 1, index).solution!;
    const lines = think
      .split(/[,;]/)
      .map((line) => line.trim())
      .filter((line) => line !== '');
    for (const line of lines) {
      const [left, right] = line.split(' = ') as [string, string];
      assert.equal(evaluate(left)!.value, Number(right), line);
    }
    assert.ok(lines.length >= 2 && lines.length <= 8);
  }
  const problem = { prompt: '2 3 4 -> 14 =', data: { numbers: [2, 3, 4], target: 14 } };
  const cases: [string, number][] = [
    ['2 + 3 * 4', 1],
    ['4 * 3 + 2', 1],
    ['( 3 * 4 ) + 2', 1],
    ['( ( 4 ) * 3 ) + 2', 1],
    ['3 * 2 * 4 - 10', 0],
    ['2 + 3 + 4 + 5', 0],
    ['( 2 + 3 ) * 4', 0],
    ['14', 0],
    ['2 + 3 * 4 =', 0],
    ['2 + 3 * 4 )', 0],
    ['( 2 + 3 * 4', 0],
    ['2 + * 3 4', 0],
    ['', 0],
  ];
  for (const [answer, reward] of cases) {
    assert.equal(await rewardOf(task as Task, problem, `<think> </think> ${answer}`.trim()), reward, answer);
  }
});

test('expressions follow the usual precedence', () => {
  assert.deepEqual(evaluate('9 - 2 - 3'), { value: 4, numbers: [9, 2, 3] });
  assert.deepEqual(evaluate('9 - ( 2 - 3 )'), { value: 10, numbers: [9, 2, 3] });
  assert.deepEqual(evaluate('1 + 2 * 3 - 4'), { value: 3, numbers: [1, 2, 3, 4] });
  for (const wrong of ['- 3', '3 4', '( )', '3 +', '1e3', '99999', 'x', ') 3 ('])
    assert.equal(evaluate(wrong), undefined, wrong);
});

const chain = TASKS.get('chain')!;
const tokenizer = taskTokenizer(chain);
const parse = (text: string, format?: 'think' | 'free') =>
  parseCompletion(tokenizer.encode(text, { special: false }), tokenizer, format);

test('well-formed completions come apart', () => {
  const thought = parse('<think> 1 2 3 </think> 4 <eos>');
  assert.equal(thought.text, '<think> 1 2 3 </think> 4');
  assert.equal(thought.think, '1 2 3');
  assert.equal(thought.answer, '4');
  assert.equal(thought.finished, true);
  assert.equal(thought.malformed, undefined);
  const direct = parse('<think> </think> 4 <eos>');
  assert.deepEqual([direct.think, direct.answer, direct.malformed], ['', '4', undefined]);
  const after = parse('<think> 1 </think> 4 <eos> 5 <pad> <pad> <think>');
  assert.deepEqual([after.answer, after.tokens.length, after.malformed], ['4', 5, undefined]);
  assert.deepEqual([parse('<think> </think> <eos>').answer, parse('5 <eos>', 'free').answer], ['', '5']);
  assert.equal(parse('<think> 1 </think> 4 <eos>', 'free').answer, '4');
});

test('malformed completions are recognised, keep their thinking for the record, and get no reward', async () => {
  const cases: [string, RegExp, string | null][] = [
    ['', /did not end/, null],
    ['<think> 1 2', /did not end/, '1 2'],
    ['<think> 1 </think> 4', /did not end/, '1'],
    ['4 <eos>', /does not begin with <think>/, null],
    ['<eos>', /does not begin with <think>/, null],
    ['1 <think> 2 </think> 4 <eos>', /does not begin with <think>/, null],
    ['</think> 4 <eos>', /does not begin with <think>/, null],
    ['<think> 1 2 4 <eos>', /has no <\/think>/, '1 2 4'],
    ['<think> 1 </think> 4 </think> 4 <eos>', /has <\/think> 2 times/, '1'],
    ['<think> <think> 1 </think> 4 <eos>', /has <think> 2 times/, '<think> 1'],
    ['<think> 1 </think> <think> 4 <eos>', /has <think> 2 times/, '1'],
    ['<think> 1 <pad> </think> 4 <eos>', /<pad> occurs in it/, '1 <pad>'],
    ['<think> 1 </think> 4 <bos> <eos>', /<bos> occurs in it/, '1'],
  ];
  const always = defineTask({ ...chain, reward: () => 1 });
  const problem = drawProblem(always, 'train', 0, 0);
  for (const [text, malformed, think] of cases) {
    for (const format of ['think', 'free'] as const) {
      if (format === 'free' && !text.includes('think>')) continue;
      const completion = parse(text, format);
      assert.match(completion.malformed!, malformed, text);
      assert.equal(completion.answer, null, text);
      assert.equal(completion.think, think, text);
      assert.deepEqual(await scoreCompletion(always, problem, completion), { total: 0, parts: {} });
    }
  }
  assert.equal((await scoreCompletion(always, problem, parse('<think> </think> 1 <eos>'))).total, 1);
});

test('random token sequences never break the parser, and right form is exactly what it accepts', () => {
  let accepted = 0;
  for (let seed = 0; seed < 20_000; seed++) {
    const random = new Random(seed, 'sequence');
    const tokens = Array.from({ length: random.below(7) }, () =>
      random.below(random.pick([5, tokenizer.size])),
    );
    const completion = parseCompletion(tokens, tokenizer);
    const letters = completion.tokens.map((id) => 'pbetc'[id] ?? 'w').join('');
    assert.equal(completion.malformed === undefined, /^tw*cw*e$/.test(letters), letters);
    if (completion.malformed === undefined) accepted++;
  }
  assert.ok(accepted > 20, `only ${accepted} were accepted`);
});

test('rewards with several parts are added up; wrong ones are errors that name task and problem', async () => {
  const problem = drawProblem(chain, 'train', 0, 0);
  const completion = parse('<think> </think> 1 <eos>');
  const reward = (value: unknown) =>
    scoreCompletion({ ...chain, reward: () => value as number }, problem, completion);
  assert.deepEqual(await reward({ right: 1, short: 0.25 }), {
    total: 1.25,
    parts: { right: 1, short: 0.25 },
  });
  assert.deepEqual(await reward(Promise.resolve(-2)), { total: -2, parts: { chain: -2 } });
  const named = `task "chain", problem ${JSON.stringify(problem.prompt)}: reward() `;
  const refused = async (value: unknown, message: string) =>
    assert.rejects(reward(value), (error: Error) => {
      assert.ok(error instanceof TaskError);
      assert.ok(error.message.startsWith(named + message), error.message);
      return true;
    });
  await refused(NaN, 'returned NaN, but must return a finite number');
  await refused(Infinity, 'returned Infinity');
  await refused('1', 'returned "1"');
  await refused(undefined, 'returned undefined');
  await refused(null, 'returned null');
  await refused(true, 'returned true');
  await refused({ right: 1, short: NaN }, 'returned NaN for "short"');
  await refused({ right: 1e308, short: 1e308 }, 'returned parts that add up to Infinity');
  await refused([1], 'returned an array');
  await refused(Promise.reject(new Error('no network')), 'threw: no network');
});

test('a task that makes no proper problems is told so', () => {
  const broken = (problem: () => unknown) =>
    drawProblem(defineTask({ ...chain, name: 'mine', problem: problem as Task['problem'] }), 'train', 0, 0);
  assert.throws(
    () =>
      broken(() => {
        throw new Error('oops');
      }),
    /task "mine": problem\(\) threw with random state .*oops/,
  );
  assert.throws(() => broken(() => undefined), /must return an object with a prompt, but returned undefined/);
  assert.throws(() => broken(() => ({ prompt: ' ' })), /must return an object with a prompt/);
  assert.throws(
    () => broken(() => ({ prompt: 'x', key: 5 })),
    /problem "x": its key must be a text, but is 5/,
  );
  assert.throws(() => broken(async () => ({ prompt: 'x' })), /returned a promise/);
  assert.throws(
    () => broken(() => ({ prompt: 'x y', solution: { think: '' } })),
    /must have texts think and answer/,
  );
  const same = splitOf({ prompt: 'always' }) === 'train' ? 'test' : 'train';
  const constant = defineTask({ ...chain, problem: () => ({ prompt: 'always', data: { result: 1 } }) });
  assert.throws(
    () => drawProblem(constant, same, 0, 0),
    /none of 2000 problems fell to the (test|train) set/,
  );
  assert.throws(() => taskTokenizer({ ...chain, vocabulary: undefined }), /has no vocabulary/);
  assert.throws(
    () => taskTokenizer({ ...chain, vocabulary: ['a', 'a'] }),
    /task "chain": vocabulary: has "a" twice/,
  );
  assert.throws(
    () => encodePrompt(chain, tokenizer, '3 +9 ='),
    /task "chain", problem "3 \+9 =": "\+9" is not in/,
  );
});

test('without a mistake of its own, the teacher errs with the answer of another problem', async () => {
  const plain = { ...chain, teacher: {} };
  for (let index = 0; index < 200; index++) {
    const example = coldStartExample(plain, 0, index, { error_rate: 1 });
    const problem = drawProblem(plain, 'train', 0, index, 'cold-start');
    assert.equal(example.prompt, problem.prompt);
    assert.equal(await rewardOf(plain, problem, example.completion), 0);
  }
  const unsolved = { ...chain, problem: () => ({ prompt: 'x', data: {} }) };
  const split = splitOf({ prompt: 'x' });
  assert.throws(
    () => coldStartExample(unsolved, 0, 0),
    split === 'train' ? /has no solution/ : /fell to the train set/,
  );
});

test('a teacher whose mistakes are none is told so', () => {
  const example = (mistake: () => unknown) =>
    coldStartExample({ ...chain, teacher: { mistake: mistake as () => Solution } }, 0, 0, { error_rate: 1 });
  const named = (message: RegExp) => (error: Error) =>
    error instanceof TaskError &&
    /^task "chain", problem ".*": /u.test(error.message) &&
    message.test(error.message);
  assert.throws(() => example(() => null), named(/teacher\.mistake\(\) must return .*returned null/u));
  assert.throws(() => example(async () => ({ think: '', answer: '' })), named(/returned a promise/u));
  assert.throws(
    () =>
      example(() => {
        throw new Error('oops');
      }),
    named(/teacher\.mistake\(\) threw: oops/u),
  );
});

test("the type of a problem's data is inferred", async () => {
  const task = defineTask({
    name: 'sum',
    problem: (random) => ({ prompt: `${random.below(1000)} + 1`, data: { sum: 3 } }),
    reward: ({ problem, completion }) => problem.data.sum.toFixed(0).length + completion.answer.length,
  });
  const problem = drawProblem(task, 'train', 0, 0);
  assert.equal((await scoreCompletion(task, problem, parse('<think> </think> 1 <eos>'))).total, 2);
});
