/**
 * Deduction: a chain of implications, shuffled, and the question what follows from a symbol after a number of
 * steps. One implication is one token: the model finds the one that begins with the symbol it has just
 * written by its content, in one look, and needs no second look to find what stands beside it. Thinking
 * begins with the symbol that is asked for, so that every step is the same.
 *
 *     c>f a>c f>b d>a … ? a = <think> a c f b … g </think> g
 *
 * The chain goes on before and after the part that is asked for, so the answer is not simply its end.
 */
import type { Task } from './task.ts';
import { defineTask } from './task.ts';

export interface DeductionData {
  /** The symbol that follows. */
  readonly result: string;
}

export interface DeductionOptions {
  /** How many symbols there are, all of which are in the chain: 3 to 26, default 10. */
  readonly symbols?: number;
  /** Steps from the given symbol to the answer: 1 to `symbols` - 1, default 5. */
  readonly steps?: number;
}

/** The task with another size. */
export function deductionTask(options: DeductionOptions = {}): Task<DeductionData> {
  const { symbols = 10, steps = 5 } = options;
  if (!Number.isInteger(symbols) || symbols < 3 || symbols > 26) {
    throw new RangeError(`deduction: there must be 3 to 26 symbols, not ${symbols}`);
  }
  if (!Number.isInteger(steps) || steps < 1 || steps >= symbols) {
    throw new RangeError(
      `deduction: a chain of ${symbols} symbols has 1 to ${symbols - 1} steps, not ${steps}`,
    );
  }
  const names = [...'abcdefghijklmnopqrstuvwxyz'.slice(0, symbols)];
  const implications = names.flatMap((from) =>
    names.filter((to) => to !== from).map((to) => `${from}>${to}`),
  );

  return defineTask({
    name: symbols === 10 && steps === 5 ? 'deduction' : `deduction-${symbols}-${steps}`,
    description: `what follows from a symbol in ${steps} steps, from ${symbols - 1} shuffled implications`,
    vocabulary: [...names, ...implications, '?', '='],

    problem(random) {
      const chain = random.shuffle(names);
      const start = random.below(symbols - steps);
      const facts = random.shuffle(chain.slice(1).map((to, i) => `${chain[i]}>${to}`));
      const result = chain[start + steps]!;
      return {
        prompt: [...facts, '?', chain[start], '='].join(' '),
        // Without the order in which the facts are told.
        key: `${chain.join(' ')} ? ${chain[start]}`,
        solution: { think: chain.slice(start, start + steps + 1).join(' '), answer: result },
        data: { result },
      };
    },

    reward: ({ problem, completion }) => (completion.answer === problem.data.result ? 1 : 0),

    teacher: {
      think_fraction: 0.3,
      error_rate: 0,
      // Takes a wrong implication at one step and goes on from there.
      mistake(problem, random) {
        const words = problem.prompt.split(' ');
        const next = new Map(words.slice(0, symbols - 1).map((fact) => fact.split('>') as [string, string]));
        for (;;) {
          const slip = random.below(steps);
          const path = [words[symbols]!];
          for (let step = 0; step < steps; step++) {
            const right = next.get(path.at(-1)!);
            path.push(step === slip || right === undefined ? random.pick(names) : right);
          }
          const answer = path.at(-1)!;
          if (answer !== problem.data.result) return { think: path.join(' '), answer };
        }
      },
    },

    defaults: {
      model: {
        hidden_size: 96,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        intermediate_size: 256,
        rope_theta: 1000,
      },
      sft: {
        max_steps: 300,
        per_device_train_batch_size: 64,
        gradient_accumulation_steps: 4,
        learning_rate: 3e-3,
        warmup_steps: 100,
      },
      grpo: {
        max_steps: 60,
        prompts_per_step: 32,
        num_generations: 16,
        learning_rate: 3e-4,
        warmup_steps: 10,
        max_completion_length: steps + 5,
      },
    },
  });
}

export default deductionTask();
