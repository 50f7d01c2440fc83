// Matrix products in onnxruntime-node, the engine of transformers.js in Node.
import { answer, randomValues, secondsEach } from './peer.mjs';

// An ONNX file is a protocol buffer: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
const varint = (value) => {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return [...bytes, value];
};
const number = (field, value) => [...varint(field * 8), ...varint(value)];
const bytes = (field, content) => [...varint(field * 8 + 2), ...varint(content.length), ...content];
const text = (field, value) => bytes(field, [...new TextEncoder().encode(value)]);

const FLOAT = 1;
const tensor = (field, name, shape) =>
  bytes(field, [
    ...text(1, name),
    ...bytes(2, bytes(1, [...number(1, FLOAT), ...bytes(2, shape.flatMap((size) => bytes(1, number(1, size))))])),
  ]);
const node = (operator, inputs, output) =>
  bytes(1, [...inputs.flatMap((name) => text(1, name)), ...text(2, output), ...text(4, operator)]);

/** c = a · b, or transpose(a) · b. */
function product({ m, k, n, transA }) {
  const graph = [
    ...(transA ? node('Transpose', ['a'], 'at') : []),
    ...node('MatMul', [transA ? 'at' : 'a', 'b'], 'c'),
    ...text(2, 'product'),
    ...tensor(11, 'a', transA ? [k, m] : [m, k]),
    ...tensor(11, 'b', [k, n]),
    ...tensor(12, 'c', [m, n]),
  ];
  return Uint8Array.from([...number(1, 8), ...bytes(7, graph), ...bytes(8, number(2, 17))]);
}

async function matmul(item) {
  const { InferenceSession, Tensor } = await import('onnxruntime-node');
  const { m, k, n, transA, threads } = item;
  const session = await InferenceSession.create(product(item), {
    executionProviders: ['cpu'],
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
  });
  const feeds = {
    a: new Tensor('float32', randomValues(m * k), transA ? [k, m] : [m, k]),
    b: new Tensor('float32', randomValues(k * n), [k, n]),
  };
  // The result goes to memory that is there already, as everywhere.
  const fetches = { c: new Tensor('float32', new Float32Array(m * n), [m, n]) };
  const seconds = await secondsEach(() => session.run(feeds, fetches));
  return (2 * m * k * n) / seconds / 1e9;
}

await answer('onnxruntime-node', { matmul });
