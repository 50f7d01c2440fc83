/**
 * Reinforcement by hand, from the primitives: node --import tsx examples/primitives.ts
 *
 * sample → reward → forwardBackward → optimStep → new weights for the sampler, which may be on another accelerator:
 * give the learner's and the sampler's names as arguments. The reward counts the word 'yes'.
 */
import type { Objective } from 'tandem';
import {
  compareLogProbabilities,
  fromTargets,
  groupAdvantages,
  initialWeights,
  Learner,
  layOut,
  modelConfig,
  onTargets,
  openDevice,
  RolloutWorker,
  tokenWeights,
  wordTokenizer,
} from 'tandem';

const [learnerName = 'cpu', samplerName = 'wasm'] = process.argv.slice(2);
const tokenizer = wordTokenizer(['say', 'yes', 'no', 'maybe']);
const config = modelConfig(tokenizer, { hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2 });
await using learnerDevice = await openDevice(learnerName);
await using samplerDevice = await openDevice(samplerName);
await using learner = new Learner(learnerDevice, config, 'f32');
await using sampler = new RolloutWorker(samplerDevice, config, 'f32');
learner.setWeights(initialWeights(config, 0));

const LENGTH = 6;
const GROUP = 32;
const objective: Objective = {
  kind: 'policy',
  loss_type: 'dapo',
  epsilon: 0.2,
  epsilon_high: 0.28,
  beta: 0,
  sampling: { temperature: 1, topK: 0, topP: 1 },
};
const prompt = tokenizer.encode('say');
const yes = tokenizer.id('yes');

for (let step = 0; step < 20; step++) {
  await sampler.receive({ version: learner.step, weights: await learner.weights() });
  const rollouts = await sampler.sample(
    Array.from({ length: GROUP }, (_, id) => ({ tokens: prompt, id })),
    { maxTokens: LENGTH, temperature: 1, topP: 1, topK: 0, seed: step, forbidFirst: [] },
  );
  const rewards = rollouts.map(({ tokens }) => tokens.filter((token) => token === yes).length);
  const { advantages } = groupAdvantages(rewards, GROUP, 'group');

  // Completions are never tokenised again: their ids and log-probabilities go to the learner as they were sampled.
  const sequences = rollouts.map(({ tokens }) => ({ prompt, completion: tokens }));
  const shape = { sequences: GROUP, length: prompt.length + LENGTH };
  const lengths = sequences.map(({ completion }) => completion.length);
  const weights = tokenWeights('dapo', lengths, LENGTH);
  const { logprob } = await learner.forwardBackward(objective, shape, {
    ...layOut(sequences, shape),
    weight: onTargets(sequences, shape, (row) => weights[row]),
    advantage: onTargets(sequences, shape, (row) => advantages[row]),
    oldLogprob: onTargets(sequences, shape, (row, i) => rollouts[row].logprobs[i]),
    importance: onTargets(sequences, shape, () => 1),
  });
  await learner.optimStep({
    learning_rate: 0.01,
    weight_decay: 0,
    adam_beta1: 0.9,
    adam_beta2: 0.98,
    adam_epsilon: 1e-8,
    max_grad_norm: 1,
  });

  const sampled = rollouts.flatMap(({ logprobs }) => logprobs);
  const { maxAbs } = compareLogProbabilities(fromTargets(sequences, shape, logprob), sampled);
  const mean = rewards.reduce((sum, reward) => sum + reward, 0) / GROUP;
  console.log(`step ${step + 1}: reward ${mean.toFixed(2)} of ${LENGTH}, parity ${maxAbs.toExponential(1)}`);
}
const state = await learner.saveState();
console.log(`state of ${state.size} tensors after ${learner.step} steps`);
