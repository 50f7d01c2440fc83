/** Qwen3 in plain float64, one token after the other, as its paper describes it: what the learner is compared with. */
import type { Qwen3Config } from '../../src/models/config.ts';
import { ropeTheta } from '../../src/models/config.ts';

export type PlainWeights = ReadonlyMap<string, Float64Array>;

/** x [in] · matrix [in, out]. */
function multiply(x: Float64Array, matrix: Float64Array): Float64Array {
  const columns = matrix.length / x.length;
  const out = new Float64Array(columns);
  for (let i = 0; i < x.length; i++)
    for (let j = 0; j < columns; j++) out[j] += x[i] * matrix[i * columns + j];
  return out;
}

function normalise(x: Float64Array, weight: Float64Array, eps: number): Float64Array {
  const scale = 1 / Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length + eps);
  return x.map((value, i) => value * scale * weight[i]);
}

const add = (a: Float64Array, b: Float64Array) => a.map((value, i) => value + b[i]);

/** Turns dimension i with dimension i + half by position · theta^(-i / half). */
function rotate(x: Float64Array, position: number, theta: number): Float64Array {
  const half = x.length / 2;
  return x.map((value, i) => {
    const angle = position * theta ** (-(i % half) / half);
    return value * Math.cos(angle) + (i < half ? -x[i + half] : x[i - half]) * Math.sin(angle);
  });
}

/** The heads of x, each normalised and rotated. */
const heads = (x: Float64Array, size: number, each: (head: Float64Array) => Float64Array = (head) => head) =>
  Array.from({ length: x.length / size }, (_, h) => each(x.slice(h * size, (h + 1) * size)));

/** softmax(q · kᵀ / √d) · v over the keys given. */
function attend(
  q: Float64Array,
  keys: readonly Float64Array[],
  values: readonly Float64Array[],
): Float64Array {
  const scores = keys.map((k) => q.reduce((sum, value, i) => sum + value * k[i], 0) / Math.sqrt(q.length));
  const largest = Math.max(...scores);
  const shares = scores.map((score) => Math.exp(score - largest));
  const total = shares.reduce((sum, share) => sum + share, 0);
  const out = new Float64Array(q.length);
  for (const [t, share] of shares.entries())
    for (let i = 0; i < out.length; i++) out[i] += (share / total) * values[t][i];
  return out;
}

/** Logits [tokens][vocabulary] of one sequence. */
export function plainLogits(
  config: Qwen3Config,
  weights: PlainWeights,
  ids: ArrayLike<number>,
): Float64Array[] {
  const { hidden_size: hidden, head_dim: size, rms_norm_eps: eps } = config;
  const group = config.num_attention_heads / config.num_key_value_heads;
  const theta = ropeTheta(config);
  const table = weights.get('model.embed_tokens.weight')!;
  let x = Array.from(ids, (id) => table.slice(id * hidden, (id + 1) * hidden));
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const w = (part: string) => weights.get(`model.layers.${layer}.${part}.weight`)!;
    const normed = x.map((row) => normalise(row, w('input_layernorm'), eps));
    const turned = (part: 'q' | 'k') =>
      normed.map((row, position) =>
        heads(multiply(row, w(`self_attn.${part}_proj`)), size, (head) =>
          rotate(normalise(head, w(`self_attn.${part}_norm`), eps), position, theta),
        ),
      );
    const [q, k] = [turned('q'), turned('k')];
    const v = normed.map((row) => heads(multiply(row, w('self_attn.v_proj')), size));
    x = x.map((row, position) => {
      const past = (all: Float64Array[][], head: number) =>
        all.slice(0, position + 1).map((token) => token[Math.floor(head / group)]);
      const attended = q[position].map((head, h) => attend(head, past(k, h), past(v, h)));
      return add(
        row,
        multiply(Float64Array.from(attended.flatMap((head) => [...head])), w('self_attn.o_proj')),
      );
    });
    x = x.map((row) => {
      const m = normalise(row, w('post_attention_layernorm'), eps);
      const up = multiply(m, w('mlp.up_proj'));
      const inner = multiply(m, w('mlp.gate_proj')).map((gate, i) => (gate / (1 + Math.exp(-gate))) * up[i]);
      return add(row, multiply(inner, w('mlp.down_proj')));
    });
  }
  const head = weights.get('lm_head.weight');
  return x.map((row) => {
    const last = normalise(row, weights.get('model.norm.weight')!, eps);
    if (head !== undefined) return multiply(last, head);
    return Float64Array.from({ length: config.vocab_size }, (_, token) =>
      last.reduce((sum, value, i) => sum + value * table[token * hidden + i], 0),
    );
  });
}

/** log softmax(logits / temperature)[token], over the tokens in `kept` where it is given. */
export function plainLogProbability(
  logits: Float64Array,
  token: number,
  temperature: number,
  kept: readonly number[] = [...logits.keys()],
): number {
  const largest = Math.max(...logits);
  const mass = kept.reduce((sum, index) => sum + Math.exp((logits[index] - largest) / temperature), 0);
  return (logits[token] - largest) / temperature - Math.log(mass);
}
