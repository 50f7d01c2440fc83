/**
 * Multiplication of two numbers with the scratchpad that people use: for each digit of the second number the
 * product with the first, and the sum so far. Numbers are written with their lowest digit first, one token a
 * digit, because carries move that way.
 *
 *     4 2 * 3 1 = <think> + 2 7 0 = 2 7 0 0 + 4 2 0 = 2 1 3 0 </think> 2 1 3 0        (24 · 13 = 312)
 */
import type { Solution, Task } from './task.ts';
import { defineTask } from './task.ts';

export interface MultiplicationData {
  readonly a: number;
  readonly b: number;
}

/** `count` decimal digits of a whole number, lowest first. */
function digitsOf(value: number, count: number): string {
  return [...String(value).padStart(count, '0')].reverse().join(' ');
}

/** Adds up the partial products, the lowest place first. */
function addUp(products: readonly number[]): Solution {
  const length = products.length;
  let sum = 0;
  const lines = products.map((product, place) => {
    sum += product * 10 ** place;
    return `+ ${digitsOf(product, length + 1)} = ${digitsOf(sum, 2 * length)}`;
  });
  return { think: lines.join(' '), answer: digitsOf(sum, 2 * length) };
}

/** The first number times each digit of the second. */
const partialProducts = (a: number, b: number) => [...String(b)].reverse().map((digit) => a * Number(digit));

/** The task with numbers of another length, 1 to 7 digits. */
export function multiplicationTask(length = 2): Task<MultiplicationData> {
  if (!Number.isInteger(length) || length < 1 || length > 7) {
    throw new RangeError(`multiplication: numbers must have 1 to 7 digits, not ${length}`);
  }
  return defineTask({
    name: length === 2 ? 'multiplication' : `multiplication-${length}`,
    description: `the product of two numbers of ${length} digits, lowest digit first`,
    vocabulary: ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '*', '=', '+'],

    problem(random) {
      const a = random.integer(10 ** (length - 1), 10 ** length - 1);
      const b = random.integer(10 ** (length - 1), 10 ** length - 1);
      return {
        prompt: `${digitsOf(a, length)} * ${digitsOf(b, length)} =`,
        key: `${Math.min(a, b)} * ${Math.max(a, b)}`,
        solution: addUp(partialProducts(a, b)),
        data: { a, b },
      };
    },

    reward: ({ problem: { data }, completion }) =>
      completion.answer === digitsOf(data.a * data.b, 2 * length) ? 1 : 0,

    teacher: {
      think_fraction: 0.5,
      error_rate: 0,
      // One wrong partial product, added up rightly.
      mistake({ data: { a, b } }, random) {
        const products = partialProducts(a, b);
        const slip = random.below(length);
        const wrong = random.below(9 * (10 ** length - 1));
        products[slip] = wrong < products[slip]! ? wrong : wrong + 1;
        return addUp(products);
      },
    },

    defaults: {
      model: {
        hidden_size: 128,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        head_dim: 32,
        intermediate_size: 336,
        rope_theta: 1000,
      },
      sft: { max_steps: 400, per_device_train_batch_size: 256, learning_rate: 3e-3, warmup_steps: 100 },
      grpo: {
        max_steps: 60,
        prompts_per_step: 32,
        num_generations: 16,
        learning_rate: 3e-4,
        warmup_steps: 10,
        max_completion_length: length * (3 * length + 3) + 2 * length + 3,
      },
    },
  });
}

export default multiplicationTask();
