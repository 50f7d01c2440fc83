/**
 * Chained modular arithmetic: start at a digit, apply ten additions and multiplications modulo 7 from left to
 * right. One operation is one token, and one step of thinking is one token too, so that the distance from a
 * step to the operation it applies is constant: small models learn this in a minute, and cannot do it at all
 * without thinking, because each step needs the one before.
 *
 *     3 +4 *2 … = <think> 0 0 … </think> 5
 */
import type { Task } from './task.ts';
import { defineTask } from './task.ts';

export interface ChainData {
  /** The result, 0 to 6. */
  readonly result: number;
}

const MODULUS = 7;
const digits = Array.from({ length: MODULUS }, (_, digit) => String(digit));
const additions = [1, 2, 3, 4, 5, 6].map((n) => `+${n}`);
const multiplications = [2, 3, 4, 5, 6].map((n) => `*${n}`);
const operators = [...additions, ...multiplications];

function apply(value: number, operation: string): number {
  const operand = Number(operation.slice(1));
  return (operation[0] === '+' ? value + operand : value * operand) % MODULUS;
}

/** The task with another number of operations. */
export function chainTask(operations = 10): Task<ChainData> {
  return defineTask({
    name: operations === 10 ? 'chain' : `chain-${operations}`,
    description: `${operations} additions and multiplications modulo ${MODULUS}, from left to right`,
    vocabulary: [...digits, ...operators, '='],

    problem(random) {
      const start = random.below(MODULUS);
      const steps = Array.from({ length: operations }, () => random.pick(operators));
      const values: number[] = [];
      for (const step of steps) values.push(apply(values.at(-1) ?? start, step));
      const result = values.at(-1)!;
      return {
        prompt: [start, ...steps, '='].join(' '),
        solution: { think: values.join(' '), answer: String(result) },
        data: { result },
      };
    },

    reward: ({ problem, completion }) => (completion.answer === String(problem.data.result) ? 1 : 0),

    teacher: {
      think_fraction: 0.2,
      error_rate: 0,
      // A slip at one step; the steps after it go on from there. Every operation is one-to-one, so it stays wrong.
      mistake(problem, random) {
        const [start, ...steps] = problem.prompt.split(' ').slice(0, -1) as [string, ...string[]];
        const slip = random.below(steps.length);
        let value = Number(start);
        const values = steps.map((step, i) => {
          value = (apply(value, step) + (i === slip ? random.integer(1, MODULUS - 1) : 0)) % MODULUS;
          return value;
        });
        return { think: values.join(' '), answer: String(value) };
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
      sft: {
        max_steps: 320,
        per_device_train_batch_size: 64,
        gradient_accumulation_steps: 4,
        learning_rate: 3e-3,
        warmup_steps: 50,
      },
      // A fifth of the rate that would do: slow enough to see thinking take over.
      grpo: {
        max_steps: 140,
        prompts_per_step: 32,
        num_generations: 16,
        learning_rate: 6e-5,
        warmup_steps: 10,
        max_completion_length: operations + 4,
      },
    },
  });
}

export default chainTask();
