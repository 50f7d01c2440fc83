/**
 * Countdown: combine all the given numbers, each once, with + - * so that the result is the target. Thinking is
 * a search: trials, each worked out step by step, until one reaches the target.
 *
 *     2 3 9 -> 21 = <think> 2 + 3 = 5 , 5 + 9 = 14 ; 9 - 2 = 7 , 7 * 3 = 21 ; </think> ( 9 - 2 ) * 3
 *
 * Numbers from 1 to 15 are given, targets are from 10 to 50, and all numbers in a trial are from 0 to 99, one
 * token each. Any right expression is accepted, not only those that the teacher writes.
 */
import type { Random } from '../../numerics/random.ts';
import type { Solution, Task } from './task.ts';
import { defineTask } from './task.ts';

export interface CountdownData {
  readonly numbers: readonly number[];
  readonly target: number;
}

export interface CountdownOptions {
  /** How many numbers are given: 2 to 4, default 3. */
  readonly numbers?: number;
  /** How many trials the teacher makes at most, default 4. */
  readonly trials?: number;
}

type Operator = '+' | '-' | '*';
const OPERATORS: { readonly [O in Operator]: (a: number, b: number) => number } = {
  '+': (a, b) => a + b,
  '-': (a, b) => a - b,
  '*': (a, b) => a * b,
};
const operators = Object.keys(OPERATORS) as Operator[];
const LARGEST = 99;
const LARGEST_GIVEN = 15;
const SMALLEST_TARGET = 10;
const LARGEST_TARGET = 50;

/** Numbers and operators, applied from left to right. */
interface Candidate {
  readonly numbers: readonly number[];
  readonly operators: readonly Operator[];
  /** The result of each operation. */
  readonly results: readonly number[];
}

function permutations(items: readonly number[]): number[][] {
  if (items.length <= 1) return [[...items]];
  return items.flatMap((item, i) => permutations(items.toSpliced(i, 1)).map((rest) => [item, ...rest]));
}

/** Everything that the teacher can try, with results from 0 to 99. */
function candidatesFor(given: readonly number[]): Candidate[] {
  const found = new Map<string, Candidate>();
  const extend = (numbers: readonly number[], used: readonly Operator[], results: readonly number[]) => {
    const place = used.length + 1;
    if (place === numbers.length) {
      const candidate = { numbers, operators: used, results };
      found.set(expression(candidate), candidate);
      return;
    }
    for (const operator of operators) {
      const result = OPERATORS[operator](results.at(-1) ?? numbers[0]!, numbers[place]!);
      if (result >= 0 && result <= LARGEST) extend(numbers, [...used, operator], [...results, result]);
    }
  };
  for (const numbers of permutations(given)) extend(numbers, [], []);
  return [...found.values()];
}

/** `( 9 - 2 ) * 3` */
function expression({ numbers, operators: used }: Candidate): string {
  return used.reduce(
    (text, operator, i) => `${i === 0 ? text : `( ${text} )`} ${operator} ${numbers[i + 1]}`,
    String(numbers[0]),
  );
}

/** `9 - 2 = 7 , 7 * 3 = 21` */
function workedOut({ numbers, operators: used, results }: Candidate): string {
  return used
    .map(
      (operator, i) =>
        `${i === 0 ? numbers[0] : results[i - 1]} ${operator} ${numbers[i + 1]} = ${results[i]}`,
    )
    .join(' , ');
}

function search(tried: readonly Candidate[]): Solution {
  return {
    think: tried.map((trial) => `${workedOut(trial)} ;`).join(' '),
    answer: expression(tried.at(-1)!),
  };
}

/** Trials that miss the target, all different, as many as asked for if there are so many. */
function failures(all: readonly Candidate[], target: number, count: number, random: Random): Candidate[] {
  return random.shuffle(all.filter(({ results }) => results.at(-1) !== target)).slice(0, count);
}

/**
 * The value of an expression of whole numbers with + - * and parentheses, multiplication first, and the
 * numbers in it; undefined where it is not one.
 */
export function evaluate(text: string): { value: number; numbers: number[] } | undefined {
  const words = text.split(/\s+/u).filter((word) => word !== '');
  const numbers: number[] = [];
  let place = 0;

  const factor = (): number => {
    const word = words[place++];
    if (word === '(') {
      const value = sum();
      return words[place++] === ')' ? value : NaN;
    }
    if (word === undefined || !/^\d{1,4}$/.test(word)) return NaN;
    numbers.push(Number(word));
    return Number(word);
  };
  const product = (): number => {
    let value = factor();
    while (words[place] === '*') {
      place++;
      value *= factor();
    }
    return value;
  };
  const sum = (): number => {
    let value = product();
    while (words[place] === '+' || words[place] === '-') {
      const sign = words[place++] === '+' ? 1 : -1;
      value += sign * product();
    }
    return value;
  };

  const value = sum();
  return Number.isFinite(value) && place === words.length ? { value, numbers } : undefined;
}

const sameNumbers = (a: readonly number[], b: readonly number[]) =>
  a.toSorted((x, y) => x - y).join() === b.toSorted((x, y) => x - y).join();

/** The task with another size. */
export function countdownTask(options: CountdownOptions = {}): Task<CountdownData> {
  const { numbers: count = 3, trials = 4 } = options;
  if (!Number.isInteger(count) || count < 2 || count > 4) {
    throw new RangeError(`countdown: 2 to 4 numbers must be given, not ${count}`);
  }
  if (!Number.isInteger(trials) || trials < 1) {
    throw new RangeError(`countdown: the teacher needs at least one trial, not ${trials}`);
  }
  const tokensOfTrial = 6 * (count - 1);
  const tokensOfAnswer = 2 * count - 1 + 2 * (count - 2);

  return defineTask({
    name: count === 3 && trials === 4 ? 'countdown' : `countdown-${count}-${trials}`,
    description: `reach a target from ${count} numbers with + - *`,
    vocabulary: [
      ...Array.from({ length: LARGEST + 1 }, (_, n) => String(n)),
      ...operators,
      ...['=', ',', ';', '->', '(', ')'],
    ],

    problem(random) {
      for (;;) {
        const numbers = Array.from({ length: count }, () => random.integer(1, LARGEST_GIVEN));
        const all = candidatesFor(numbers);
        const targets = all.filter(
          ({ results }) => results.at(-1)! >= SMALLEST_TARGET && results.at(-1)! <= LARGEST_TARGET,
        );
        if (targets.length === 0) continue;
        const hit = random.pick(targets);
        const target = hit.results.at(-1)!;
        const tried = failures(all, target, random.below(trials), random);
        return {
          prompt: `${numbers.join(' ')} -> ${target} =`,
          key: `${numbers.toSorted((a, b) => a - b).join(' ')} -> ${target}`,
          solution: search([...tried, hit]),
          data: { numbers, target },
        };
      }
    },

    reward({ problem: { data }, completion }) {
      const result = evaluate(completion.answer);
      return result?.value === data.target && sameNumbers(result.numbers, data.numbers) ? 1 : 0;
    },

    teacher: {
      think_fraction: 0.8,
      error_rate: 0.3,
      // Gives up after the last trial and answers with it.
      mistake({ data: { numbers, target } }, random) {
        return search(failures(candidatesFor(numbers), target, trials, random));
      },
    },

    defaults: {
      model: {
        hidden_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        intermediate_size: 256,
        rope_theta: 1000,
      },
      sft: { max_steps: 600, per_device_train_batch_size: 128, learning_rate: 3e-3, warmup_steps: 100 },
      grpo: {
        max_steps: 100,
        prompts_per_step: 32,
        num_generations: 16,
        learning_rate: 3e-4,
        warmup_steps: 10,
        max_completion_length: trials * tokensOfTrial + tokensOfAnswer + 3,
      },
    },
  });
}

export default countdownTask();
