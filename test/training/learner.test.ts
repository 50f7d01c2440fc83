/**
 * The learner against Qwen3 in plain float64: gradients of whole models by central differences, AdamW, accumulation,
 * and the state from which training continues to the bit.
 */
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { listDevices, openDevice } from '../../src/accelerators/registry.ts';
import type { SamplingDistribution } from '../../src/inference/sampling.ts';
import type { Qwen3Config } from '../../src/models/config.ts';
import { parseConfig } from '../../src/models/config.ts';
import { weightSpecs } from '../../src/models/qwen3.ts';
import { Random } from '../../src/numerics/random.ts';
import type { Sequence } from '../../src/training/batches.ts';
import { fromTargets, layOut, onTargets } from '../../src/training/batches.ts';
import type { Batch, BatchShape, Objective, OptimizerSettings } from '../../src/training/learner.ts';
import { Learner } from '../../src/training/learner.ts';
import { initialWeights } from '../../src/training/new-model.ts';
import type { LossType } from '../../src/training/options.ts';
import { LOSS_TYPES } from '../../src/training/options.ts';
import type { Columns } from './plain-objectives.ts';
import { policyFormula } from './plain-objectives.ts';
import type { PlainWeights } from './plain-qwen3.ts';
import { plainLogits, plainLogProbability } from './plain-qwen3.ts';

const config = (overrides: object): Qwen3Config =>
  parseConfig({
    model_type: 'qwen3',
    vocab_size: 11,
    hidden_size: 6,
    intermediate_size: 10,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    head_dim: 4,
    max_position_embeddings: 32,
    rms_norm_eps: 1e-5,
    rope_theta: 100,
    tie_word_embeddings: true,
    ...overrides,
  });
const TIED = config({});
const UNTIED = config({ tie_word_embeddings: false, num_attention_heads: 3, num_key_value_heads: 3 });

const SEQUENCES: readonly Sequence[] = [
  { prompt: [3, 9], completion: [4, 1, 7, 2] },
  { prompt: [5, 0, 8], completion: [10, 6] },
  { prompt: [2], completion: [2, 3, 9] },
];
const SHAPE: BatchShape = { sequences: SEQUENCES.length, length: 7 };
/** Weights of the places, different in every sequence. */
const weightOf = (row: number) => [0.11, 0.23, 0.07][row];

/** Norms that are not all one, so that a weight that is left out shows. */
function weightsOf(model: Qwen3Config, seed: number): Map<string, Float32Array> {
  const random = new Random(seed, 'norms');
  return new Map(
    [...initialWeights(model, seed)].map(([name, values]) => [
      name,
      name.includes('norm') ? values.map(() => 0.6 + 0.8 * random.float()) : values,
    ]),
  );
}
const widened = (weights: ReadonlyMap<string, Float32Array>): Map<string, Float64Array> =>
  new Map([...weights].map(([name, values]) => [name, Float64Array.from(values)]));

/** Logits of the place before each completion token. */
type Rows = readonly Float64Array[];

function plainRows(model: Qwen3Config, weights: PlainWeights): Rows {
  return SEQUENCES.flatMap(({ prompt, completion }) =>
    plainLogits(model, weights, [...prompt, ...completion]).slice(prompt.length - 1, -1),
  );
}

const TARGETS = SEQUENCES.flatMap(({ completion }) => completion);
const logProbabilities = (rows: Rows, temperature: number, kept: readonly (number[] | undefined)[] = []) =>
  rows.map((row, t) => plainLogProbability(row, TARGETS[t], temperature, kept[t]));

/** The `k` likeliest tokens of each place, and its target. */
const likeliest = (rows: Rows, k: number) =>
  rows.map((row, t) => {
    const order = [...row.keys()].sort((a, b) => row[b] - row[a]);
    return [...new Set([...order.slice(0, k), TARGETS[t]])];
  });

const DIFFERENCE = 1e-5;

/** A model in float64, with what it says when one of its weights is a little larger or smaller. */
class PlainModel {
  readonly rows: Rows;
  readonly weights: PlainWeights;
  readonly #shifted: ReadonlyMap<string, readonly { readonly up: Rows; readonly down: Rows }[]>;

  constructor(model: Qwen3Config, weights: PlainWeights) {
    this.weights = weights;
    this.rows = plainRows(model, weights);
    this.#shifted = new Map(
      [...weights].map(([name, values]) => {
        const pairs = Array.from(values, (value, i) => {
          const at = (shift: number) => {
            values[i] = value + shift;
            return plainRows(model, weights);
          };
          const pair = { up: at(DIFFERENCE), down: at(-DIFFERENCE) };
          values[i] = value;
          return pair;
        });
        return [name, pairs];
      }),
    );
  }

  /** Gradients of a loss by central differences. */
  gradients(loss: (rows: Rows) => number): Map<string, number[]> {
    return new Map(
      [...this.#shifted].map(([name, pairs]) => [
        name,
        pairs.map(({ up, down }) => (loss(up) - loss(down)) / (2 * DIFFERENCE)),
      ]),
    );
  }
}

/** Made when it is first needed, and once for all accelerators. */
function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | null = null;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}
const plainTied = once(() => new PlainModel(TIED, widened(weightsOf(TIED, 1))));
const plainUntied = once(() => new PlainModel(UNTIED, widened(weightsOf(UNTIED, 1))));

const likelihood = (rows: Rows) =>
  -logProbabilities(rows, 1).reduce((sum, value, t) => sum + value * perToken(weightOf)[t], 0);

/** One value a sequence, spread over the completion tokens in order. */
const perToken = (value: (row: number) => number) =>
  SEQUENCES.flatMap(({ completion }, row) => completion.map(() => value(row)));
/** The numbers of each sequence's completion tokens. */
const PLACES = SEQUENCES.map(({ completion }, row) => {
  const first = SEQUENCES.slice(0, row).reduce((sum, before) => sum + before.completion.length, 0);
  return completion.map((_, i) => first + i);
});

const LIKELIHOOD: Objective = { kind: 'likelihood' };
const likelihoodBatch: Batch = { ...layOut(SEQUENCES, SHAPE), weight: onTargets(SEQUENCES, SHAPE, weightOf) };

/** For cispo epsilon_high is the largest ratio itself: some are below it, where a factor that is no constant would show. */
const policySettings = (loss_type: LossType) => ({
  loss_type,
  epsilon: 0.2,
  epsilon_high: loss_type === 'cispo' ? 1.1 : 0.3,
  beta: 0.05,
});
const WHOLE: SamplingDistribution = { temperature: 0.8, topK: 0, topP: 1 };
const CUT: SamplingDistribution = { temperature: 1.3, topK: 4, topP: 1 };

/** Old probabilities on both sides of the clipping bounds, around those of the model. */
function policyColumns(logprob: number[]): Columns {
  const random = new Random(6, 'old');
  const old = logprob.map((value) => value + 0.9 * (random.float() - 0.5));
  return {
    logprob,
    old,
    ref: logprob.map((value) => value + 0.5 * (random.float() - 0.5)),
    advantage: perToken((row) => [1.3, -0.7, 0.4][row]),
    weight: perToken(weightOf),
    importance: logprob.map((_, t) => (t % 3 === 0 ? 0.8 : 1)),
    sequenceMean: perToken((row) => 1 / SEQUENCES[row].completion.length),
  };
}

function policyBatch({ old, ref, advantage, weight, importance, sequenceMean }: Columns): Batch {
  const column = (values: number[]) => onTargets(SEQUENCES, SHAPE, (row, i) => values[PLACES[row][i]]);
  return {
    ...layOut(SEQUENCES, SHAPE),
    weight: column(weight),
    oldLogprob: column(old),
    refLogprob: column(ref),
    advantage: column(advantage),
    importance: column(importance),
    sequenceMean: column(sequenceMean),
  };
}

const STEP: OptimizerSettings = {
  learning_rate: 0.1,
  weight_decay: 0.2,
  adam_beta1: 0.9,
  adam_beta2: 0.98,
  // Large, so that a small gradient's rounding does not decide the direction of a step.
  adam_epsilon: 0.1,
  max_grad_norm: 0.05,
};
/** Leaves the weights alone and makes the first moment the gradient. */
const LOOK: OptimizerSettings = {
  ...STEP,
  learning_rate: 0,
  weight_decay: 0,
  adam_beta1: 0,
  max_grad_norm: 0,
};

async function gradientsOf(learner: Learner): Promise<Map<string, Float32Array>> {
  await learner.optimStep(LOOK);
  const state = await learner.saveState();
  return new Map(weightSpecs(learner.config).map(({ name }) => [name, state.get(`adam.m.${name}`)!.values]));
}

/** Every value of every weight within `relative` of the largest there. */
function assertClose(
  got: ReadonlyMap<string, ArrayLike<number>>,
  wanted: ReadonlyMap<string, ArrayLike<number>>,
  relative: number,
): void {
  assert.deepEqual([...got.keys()].sort(), [...wanted.keys()].sort());
  for (const [name, values] of wanted) {
    const found = got.get(name)!;
    assert.equal(found.length, values.length, name);
    const largest = Math.max(...Array.from(values, Math.abs));
    assert.ok(largest > 1e-4, `${name} has a gradient that can be judged`);
    for (let i = 0; i < values.length; i++)
      assert.ok(
        Math.abs(found[i] - values[i]) <= relative * largest,
        `${name}[${i}] is ${found[i]}, in float64 ${values[i]} (largest ${largest})`,
      );
  }
}

/** Two steps of AdamW in float64: the gradients' norm before clipping, and the weights after each. */
const plainSteps = once(() => {
  const { learning_rate: rate, weight_decay: decay, adam_beta1: b1, adam_beta2: b2 } = STEP;
  const zeros = () =>
    new Map([...plainTied().weights].map(([name, { length }]) => [name, new Float64Array(length)]));
  const [m, v] = [zeros(), zeros()];
  const steps: { norm: number; weights: PlainWeights }[] = [];
  let model = plainTied();
  for (let step = 1; step <= 2; step++) {
    const gradients = model.gradients(likelihood);
    const norm = Math.sqrt([...gradients.values()].flat().reduce((sum, g) => sum + g * g, 0));
    assert.ok(norm > 2 * STEP.max_grad_norm, 'clipping matters');
    const weights = new Map(
      weightSpecs(TIED).map(({ name, kind }) => {
        const shrink = kind === 'norm' ? 1 : 1 - rate * decay;
        const [mean, square] = [m.get(name)!, v.get(name)!];
        const next = model.weights.get(name)!.map((weight, i) => {
          const g = (gradients.get(name)![i] * STEP.max_grad_norm) / norm;
          mean[i] = b1 * mean[i] + (1 - b1) * g;
          square[i] = b2 * square[i] + (1 - b2) * g * g;
          const root = Math.sqrt(square[i] / (1 - b2 ** step));
          return weight * shrink - (rate * mean[i]) / (1 - b1 ** step) / (root + STEP.adam_epsilon);
        });
        return [name, next];
      }),
    );
    steps.push({ norm, weights });
    model = step < 2 ? new PlainModel(TIED, weights) : model;
  }
  return steps;
});

const bits = (values: Float32Array) => [...new Uint32Array(values.slice().buffer)];
const stateBits = (state: Awaited<ReturnType<Learner['saveState']>>) =>
  new Map([...state].map(([name, { values }]) => [name, bits(values)]));

const TOLERANCE = 1e-5;

for (const { name: deviceName, available, reason } of await listDevices()) {
  describe(`the learner on ${deviceName}`, { skip: available ? false : reason }, async () => {
    if (!available) return;
    const device = await openDevice(deviceName);
    after(async () => {
      assert.equal(device.allocatedBytes, 0, 'bytes that were not freed');
      await device.close();
    });
    function learnerOf(model: Qwen3Config, weights: ReadonlyMap<string, Float32Array>): Learner {
      const learner = new Learner(device, model, 'f32');
      learner.setWeights(weights);
      learner.resetOptimizer();
      return learner;
    }

    for (const [title, model, plainModel] of [
      ['tied, grouped queries', TIED, plainTied],
      ['untied', UNTIED, plainUntied],
    ] as const) {
      test(`likelihood, ${title}: loss and gradients`, async () => {
        await using learner = learnerOf(model, weightsOf(model, 1));
        const { loss, logprob } = await learner.forwardBackward(LIKELIHOOD, SHAPE, likelihoodBatch);
        const plain = plainModel();
        const wanted = likelihood(plain.rows);
        assert.ok(Math.abs(loss - wanted) < TOLERANCE, `loss ${loss}, in float64 ${wanted}`);
        const got = fromTargets(SEQUENCES, SHAPE, logprob);
        for (const [t, value] of logProbabilities(plain.rows, 1).entries())
          assert.ok(Math.abs(got[t] - value) < TOLERANCE, `token ${t}: ${got[t]}, in float64 ${value}`);
        assertClose(await gradientsOf(learner), plain.gradients(likelihood), TOLERANCE);
      });
    }

    test('gradient checkpointing changes memory, and no bit of a gradient', async () => {
      const model = { ...TIED, num_hidden_layers: 4 };
      const step = async (gradientCheckpointing: boolean) => {
        const learner = new Learner(device, model, 'f32', { gradientCheckpointing });
        learner.setWeights(weightsOf(model, 1));
        learner.resetOptimizer();
        const before = device.allocatedBytes;
        const { loss } = await learner.forwardBackward(LIKELIHOOD, SHAPE, likelihoodBatch);
        const memory = device.allocatedBytes - before;
        const grads = new Map(
          [...(await gradientsOf(learner))].map(([name, values]) => [name, bits(values)]),
        );
        await learner.dispose();
        return { loss, memory, grads };
      };
      const [kept, again] = [await step(false), await step(true)];
      assert.equal(again.loss, kept.loss);
      assert.deepEqual(again.grads, kept.grads);
      assert.ok(again.memory < 0.6 * kept.memory, `${again.memory} bytes instead of ${kept.memory}`);
    });

    for (const loss_type of LOSS_TYPES) {
      // Truncation is the same code for every objective: one of them is enough.
      for (const distribution of loss_type === 'grpo' ? [WHOLE, CUT] : [WHOLE]) {
        const { temperature, topK } = distribution;
        test(`${loss_type}${topK > 0 ? ', top-k' : ''}: loss and gradients`, async () => {
          const plain = plainTied();
          const kept = topK > 0 ? likeliest(plain.rows, topK) : [];
          const settings = policySettings(loss_type);
          const columns = policyColumns(logProbabilities(plain.rows, temperature, kept));
          const ratios = columns.logprob.map((value, t) => Math.exp(value - columns.old[t]));
          assert.ok(Math.min(...ratios) < 0.8 && Math.max(...ratios) > 1.3, 'ratios beyond both bounds');
          const formula = (rows: Rows) =>
            policyFormula(
              settings,
              PLACES,
              { ...columns, logprob: logProbabilities(rows, temperature, kept) },
              columns,
            );

          await using learner = learnerOf(TIED, weightsOf(TIED, 1));
          const { loss } = await learner.forwardBackward(
            { kind: 'policy', ...settings, sampling: distribution },
            SHAPE,
            policyBatch(columns),
          );
          const wanted = formula(plain.rows);
          assert.ok(Math.abs(loss - wanted) < TOLERANCE, `loss ${loss}, by the formula ${wanted}`);
          assertClose(await gradientsOf(learner), plain.gradients(formula), TOLERANCE);
        });
      }
    }

    test('optimizer steps are those of AdamW with clipping, in float64', async () => {
      await using learner = learnerOf(TIED, weightsOf(TIED, 1));
      for (const { norm, weights } of plainSteps()) {
        const before = await learner.weights();
        await learner.forwardBackward(LIKELIHOOD, SHAPE, likelihoodBatch);
        const { grad_norm } = await learner.optimStep(STEP);
        assert.ok(Math.abs(grad_norm - norm) < TOLERANCE * norm, `norm ${grad_norm}, in float64 ${norm}`);
        // What is clipped moves weights by 1e-3 or so: the tolerance is for the change.
        const changes = (after: ReadonlyMap<string, ArrayLike<number>>) =>
          new Map(
            [...after].map(([name, values]) => [
              name,
              Array.from(values, (value, i) => value - before.get(name)![i]),
            ]),
          );
        assertClose(changes(await learner.weights()), changes(weights), 1e-3);
      }
      assert.equal(learner.step, 2);
    });

    test('micro-batches add up to the batch; a step clears them', async () => {
      const weights = weightsOf(TIED, 4);
      await using learner = learnerOf(TIED, weights);
      const whole = await learner.forwardBackward(LIKELIHOOD, SHAPE, likelihoodBatch);
      const wanted = await gradientsOf(learner);

      let loss = 0;
      for (const [first, end] of [
        [0, 2],
        [2, 3],
      ]) {
        const [from, to] = [first * SHAPE.length, end * SHAPE.length];
        const { ids, targets, weight } = likelihoodBatch;
        const part = {
          ids: ids.slice(from, to),
          targets: targets.slice(from, to),
          weight: weight.slice(from, to),
        };
        const shape = { sequences: end - first, length: SHAPE.length };
        loss += (await learner.forwardBackward(LIKELIHOOD, shape, part)).loss;
      }
      assert.ok(Math.abs(loss - whole.loss) < 1e-6, `${loss} instead of ${whole.loss}`);
      assertClose(await gradientsOf(learner), wanted, 2e-6);

      for (let i = 0; i < 2; i++) await learner.forwardBackward(LIKELIHOOD, SHAPE, likelihoodBatch);
      for (const [name, values] of await gradientsOf(learner))
        assert.deepEqual(
          bits(values),
          bits(wanted.get(name)!.map((g) => 2 * g)),
          `${name}: twice the gradient`,
        );
    });

    test('what was saved continues with the same bits, whatever the learner did before', async () => {
      const objective: Objective = { kind: 'policy', ...policySettings('dapo'), sampling: WHOLE };
      const columns = policyColumns(logProbabilities(plainRows(TIED, widened(weightsOf(TIED, 5))), 0.8));
      const train = async (learner: Learner, steps: number) => {
        const losses: number[] = [];
        for (let i = 0; i < steps; i++) {
          const refLogprob = await learner.logProbabilities(likelihoodBatch, SHAPE, WHOLE, 'reference');
          const batch = { ...policyBatch(columns), refLogprob };
          losses.push((await learner.forwardBackward(objective, SHAPE, batch)).loss);
          await learner.optimStep({ ...STEP, adam_epsilon: 1e-8 });
        }
        return losses;
      };
      await using first = learnerOf(TIED, weightsOf(TIED, 5));
      first.setReference(weightsOf(TIED, 6));
      await train(first, 3);
      const saved = await first.saveState();
      const { step } = first;
      const wanted = await train(first, 3);

      await using second = learnerOf(TIED, weightsOf(TIED, 7));
      second.setReference(weightsOf(TIED, 8));
      await train(second, 2);
      // Gradients that wait for a step that never comes.
      await second.forwardBackward(LIKELIHOOD, SHAPE, likelihoodBatch);
      second.loadState(saved, step);
      assert.equal(second.step, 3);
      assert.deepEqual(stateBits(await second.saveState()), stateBits(saved));
      assert.deepEqual(await train(second, 3), wanted);
      assert.deepEqual(stateBits(await second.saveState()), stateBits(await first.saveState()));

      const key = 'adam.v.model.norm.weight';
      const incomplete = new Map([...saved].filter(([name]) => name !== key));
      assert.throws(() => second.loadState(incomplete, step), /adam\.v\.model\.norm\.weight/u);
    });

    test('prepared, a step takes no more memory, and gives the same bits', async () => {
      const step = async (learner: Learner) => {
        const { loss } = await learner.forwardBackward(LIKELIHOOD, SHAPE, likelihoodBatch);
        await learner.optimStep(STEP);
        return { loss, state: stateBits(await learner.saveState()) };
      };
      await using plain = learnerOf(TIED, weightsOf(TIED, 5));
      const wanted = await step(plain);
      await using learner = learnerOf(TIED, weightsOf(TIED, 5));
      const before = learner.device.allocatedBytes;
      await learner.prepare(LIKELIHOOD, SHAPE);
      const after = learner.device.allocatedBytes;
      assert.ok(after > before, 'the programs have memory');
      assert.deepEqual(await step(learner), wanted);
      assert.equal(learner.device.allocatedBytes, after);
    });

    test('a sequence beyond the last position is refused; padding may lie there', async () => {
      await using learner = learnerOf(TIED, weightsOf(TIED, 1));
      const positions = TIED.max_position_embeddings;
      const shape = { sequences: 2, length: positions + 4 };
      const step = (completion: number) => {
        const sequences = [3, completion].map(
          (count): Sequence => ({
            prompt: [1, 2],
            completion: Array.from({ length: count }, () => 3),
          }),
        );
        const weight = onTargets(sequences, shape, () => 1);
        return learner.forwardBackward(LIKELIHOOD, shape, { ...layOut(sequences, shape), weight });
      };
      assert.ok(Number.isFinite((await step(positions - 2)).loss));
      await assert.rejects(step(positions - 1), {
        name: 'SequenceLengthError',
        message: /has 33 tokens, but the model has only 32 positions .*--max-position-embeddings/u,
      });
    });

    test('weights that are no numbers end in an error that says so', async () => {
      await using learner = learnerOf(TIED, weightsOf(TIED, 1));
      await learner.forwardBackward(LIKELIHOOD, SHAPE, likelihoodBatch);
      await learner.optimStep({ ...STEP, learning_rate: 1e30 });
      await learner.forwardBackward(LIKELIHOOD, SHAPE, likelihoodBatch);
      await assert.rejects(learner.optimStep(STEP), {
        name: 'DivergedError',
        message: /optimizer step 2 is NaN.*--learning-rate/u,
      });
    });

    test('without a reference there are no probabilities of it', async () => {
      await using learner = learnerOf(TIED, weightsOf(TIED, 1));
      await assert.rejects(
        learner.logProbabilities(likelihoodBatch, SHAPE, WHOLE, 'reference'),
        /reference/u,
      );
    });
  });
}
