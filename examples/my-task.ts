/**
 * A task of one's own for the command line:
 *
 *     tandem train grpo --task ./examples/my-task.ts
 *
 * A robot faces north (N), east (E), south (S) or west (W), and turns left (l), right (r) or about (u) eight times.
 * Where does it face then?
 *
 *     N r r l u r l l r = <think> E S E W N W S W </think> W
 *
 * Copy this file and change it. It needs no package and no build: 'tandem' is provided by the command that loads it.
 */
import { defineTask } from 'tandem';

const HEADINGS = ['N', 'E', 'S', 'W'];
/** Quarter turns to the right. */
const TURNS: Readonly<Record<string, number>> = { l: 3, r: 1, u: 2 };
const LENGTH = 8;

/** The heading after each turn. */
function walk(start: string, turns: readonly string[]): string[] {
  let at = HEADINGS.indexOf(start);
  return turns.map((turn) => {
    at = (at + TURNS[turn]) % HEADINGS.length;
    return HEADINGS[at];
  });
}

export default defineTask({
  // Lower-case letters, digits, - and _. Runs are named after it.
  name: 'turns',
  description: `a robot turns ${LENGTH} times: where does it face?`,

  // A model that is trained from nothing has one token a word. Words are set off by spaces, and every word that can
  // occur in prompts, thinking and answers stands here. <think>, </think> and the like are added by themselves.
  vocabulary: [...HEADINGS, ...Object.keys(TURNS), '='],

  // Makes a problem. All randomness must come from `random`, so that a seed always gives the same problems. Which of
  // them are held out for testing is decided by their prompts: there must be many different ones.
  problem(random) {
    const start = random.pick(HEADINGS);
    const turns = Array.from({ length: LENGTH }, () => random.pick(Object.keys(TURNS)));
    const headings = walk(start, turns);
    return {
      prompt: [start, ...turns, '='].join(' '),
      // A right solution, for the cold start. A task that only reinforces an existing model can do without.
      solution: { think: headings.join(' '), answer: headings[LENGTH - 1] },
      // Whatever the reward needs; its type is inferred.
      data: { headings },
    };
  },

  // Judges a completion `<think> thinking </think> answer`. One number, or several by name: their sum counts, and each
  // is logged as rewards/<name>/mean. An evaluation counts an answer as right when the sum is above 0.5. A completion
  // of another form gets 0 and is not shown to this function. May be async.
  reward({ problem, completion }) {
    const steps = completion.think.split(' ');
    const rightSteps = problem.data.headings.filter((heading, i) => steps[i] === heading).length;
    return {
      answer: completion.answer === problem.data.headings[LENGTH - 1] ? 1 : 0,
      steps: (0.2 * rightSteps) / LENGTH,
    };
  },

  // The cold start learns from a teacher who need not be perfect: one who seldom thinks leaves it to reinforcement to
  // find out that thinking pays; one who errs leaves it to reinforcement to be right.
  teacher: {
    think_fraction: 0.2,
    error_rate: 0.1,
    // A plausible mistake: one turn is misread, and the rest goes on from there.
    mistake(problem, random) {
      const [start, ...turns] = problem.prompt.split(' ').slice(0, -1);
      turns[random.below(LENGTH)] = random.pick(Object.keys(TURNS));
      const headings = walk(start, turns);
      return { think: headings.join(' '), answer: headings[LENGTH - 1] };
    },
  },

  // Options by their names on the command line, with _ for -; what is given there wins.
  defaults: {
    model: {
      hidden_size: 64,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      head_dim: 16,
    },
    sft: { max_steps: 300, per_device_train_batch_size: 128, learning_rate: 5e-3 },
    grpo: { max_steps: 40, prompts_per_step: 32, num_generations: 16, max_completion_length: LENGTH + 4 },
  },
});
