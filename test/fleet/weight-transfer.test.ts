/** Weights as they travel: whole and as differences, to the bit, and what is damaged is found. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { deflateRawSync } from 'node:zlib';
import { parseSafetensors, serializeSafetensors } from '../../src/checkpoint/safetensors.ts';
import type { WeightUpdate } from '../../src/fleet/rollout.ts';
import { encodeDelta, encodeFull, takeSnapshot, WeightReceiver } from '../../src/fleet/weight-transfer.ts';
import type { Weights, WeightType } from '../../src/inference/weights.ts';
import { roundWeights } from '../../src/inference/weights.ts';
import { newConfig } from '../../src/models/config.ts';
import { initialWeights } from '../../src/training/new-model.ts';

const config = newConfig({
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 16,
  max_position_embeddings: 16,
  rope_theta: 1000,
  bos_token_id: 1,
  eos_token_id: 2,
  pad_token_id: 0,
});
const NORM = 'model.norm.weight';
const EMBEDDING = 'model.embed_tokens.weight';

const bits = ({ weights }: WeightUpdate | { weights: Weights }) =>
  Object.fromEntries(
    [...weights].map(([name, values]) => [name, Buffer.from(values.slice().buffer).toString('hex')]),
  );

/** Every weight moves by about a thousandth, as an optimizer step moves them. */
const moved = (weights: Weights): Weights =>
  new Map(
    [...weights].map(([name, values], k) => [
      name,
      values.map((value, i) => value * (1 + 1e-3 * Math.sin(i + k))),
    ]),
  );

function updates(dtype: WeightType): WeightUpdate[] {
  const first = initialWeights(config, 1);
  const second = moved(first);
  const third = new Map(second);
  const strange = second.get(NORM)!.slice();
  strange.set([-0, Number.POSITIVE_INFINITY, Number.NaN, 1e-42, -3.4e38]);
  third.set(NORM, strange);
  return [first, second, third, third, first].map((weights, version) => ({
    version,
    weights: roundWeights(config, weights, dtype),
  }));
}

describe('weights that travel', () => {
  for (const dtype of ['f32', 'bf16'] as const) {
    test(`arrive to the bit as ${dtype}, whole and as differences`, async () => {
      const snapshots = updates(dtype).map((update) => takeSnapshot(config, dtype, update));
      const receiver = new WeightReceiver(config, dtype);
      const files = [encodeFull(snapshots[0])];
      for (let i = 1; i < snapshots.length; i++)
        files.push(await encodeDelta(snapshots[i - 1], snapshots[i]));
      for (const [version, file] of files.entries()) {
        const arrived = await receiver.apply(file);
        assert.equal(arrived.version, version);
        assert.deepEqual(bits(arrived), bits(updates(dtype)[version]), `version ${version}`);
      }
      const [full, all, one, none] = files;
      assert.ok(all.length < 0.75 * full.length, `${all.length} of ${full.length} bytes`);
      assert.deepEqual([...parseSafetensors(one).tensors.keys()], [NORM]);
      assert.equal(parseSafetensors(none).tensors.size, 0);
    });
  }

  test('that are damaged, or not meant for what is there, are refused, and what is there stays', async () => {
    const [first, second, third] = updates('f32').map((update) => takeSnapshot(config, 'f32', update));
    const full = encodeFull(first);
    const receiver = new WeightReceiver(config, 'f32');
    const refused = (file: Uint8Array, message: RegExp) =>
      assert.rejects(receiver.apply(file), { name: 'TransferError', message });
    const delta = await encodeDelta(first, second);
    await refused(delta, /difference from weights with checksum [0-9a-f]{16} arrived, but none are here/u);
    await receiver.apply(full);
    await refused(await encodeDelta(second, third), /arrived, but [0-9a-f]{16} are here/u);

    const flipped = full.slice();
    flipped[flipped.length - 3] ^= 1;
    await refused(flipped, /version 0 arrived with checksum .* they are damaged/u);
    await refused(full.subarray(0, full.length - 4), /^weights: /u);
    await refused(new Uint8Array(7), /^weights: /u);

    const { tensors, metadata } = parseSafetensors(delta);
    const altered = (name: string, data: Uint8Array) =>
      serializeSafetensors(
        [...tensors.values()].map((tensor) =>
          tensor.name === name ? { ...tensor, shape: [data.length], data } : tensor,
        ),
        metadata,
      );
    const size = 4 * config.vocab_size * config.hidden_size;
    await refused(altered(EMBEDDING, deflateRawSync(Buffer.alloc(1 << 24))), /more than the 8192 bytes/u);
    await refused(
      altered(EMBEDDING, deflateRawSync(Buffer.alloc(size - 1))),
      /has 8191 bytes, not the 8192/u,
    );
    await refused(altered(EMBEDDING, new Uint8Array(20).fill(255)), /cannot be unpacked/u);
    // Nothing wrong with its form, but it leads elsewhere.
    await refused(altered(EMBEDDING, deflateRawSync(Buffer.alloc(size, 1))), /they are damaged/u);
    await refused(
      serializeSafetensors(
        [{ name: 'model.other', dtype: 'U8', shape: [0], data: new Uint8Array() }],
        metadata,
      ),
      /'model\.other' of type U8 is no difference/u,
    );
    await refused(serializeSafetensors([]), /its metadata does not say so/u);

    assert.deepEqual(bits(await receiver.apply(delta)), bits(updates('f32')[1]));
  });

  test('of another model are refused', async () => {
    const file = encodeFull(takeSnapshot(config, 'f32', updates('f32')[0]));
    const other = { ...config, vocab_size: 65 };
    await assert.rejects(
      new WeightReceiver(other, 'f32').apply(file),
      /is F32 \[64,32\], not F32 \[65,32\]/u,
    );
    await assert.rejects(new WeightReceiver(config, 'bf16').apply(file), /is F32 .* not BF16/u);
    const deeper = { ...config, num_hidden_layers: 2 };
    await assert.rejects(new WeightReceiver(deeper, 'f32').apply(file), /\d+ weights arrived, not \d+/u);
  });
});
