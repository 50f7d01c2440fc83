/**
 * A task of one's own, from nothing to a model that answers: node --import tsx examples/train-and-talk.ts
 *
 * Sums of digits modulo 5. In the cold start only one example in five thinks before it answers, so the model mostly
 * answers at once, and wrongly. Reinforcement knows nothing but the reward below, and finds out that thinking pays.
 */
import { defineTask, newRun, openModel } from 'tandem';

const task = defineTask({
  name: 'sum-modulo-5',
  vocabulary: ['0', '1', '2', '3', '4', '='],
  problem(random) {
    const terms = Array.from({ length: 6 }, () => random.below(5));
    const sums = terms.map((_, i) => terms.slice(0, i + 1).reduce((a, b) => a + b) % 5);
    const answer = String(sums.at(-1));
    return { prompt: `${terms.join(' ')} =`, solution: { think: sums.join(' '), answer }, data: answer };
  },
  reward: ({ problem, completion }) => (completion.answer === problem.data ? 1 : 0),
  teacher: { think_fraction: 0.2 },
});

const run = await newRun({
  task,
  phases: ['cold_start', 'reinforcement'],
  run: { seed: 1, eval_problems: 100 },
  modelOptions: { hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, head_dim: 16 },
  sft: { max_steps: 300, per_device_train_batch_size: 64, learning_rate: 1e-2 },
  grpo: {
    max_steps: 30,
    prompts_per_step: 16,
    num_generations: 16,
    learning_rate: 1e-3,
    max_completion_length: 10,
  },
  runs: process.argv[2],
  onEvent(event) {
    if (event.type !== 'step' || event.step % 10 !== 0) return;
    const { loss, reward, think_fraction } = event.metrics;
    console.log(event.phase, event.step, reward === undefined ? { loss } : { reward, think_fraction });
  },
});
const { accuracy } = await run.run();
console.log('right on held-out problems:', accuracy);

await using model = await openModel(run.folder);
const { tokens, logprobs } = await model.generate(model.encode('3 4 1 4 0 2 ='));
for (const [i, token] of tokens.entries()) console.log(model.tokenizer?.decode([token]), logprobs[i]);
