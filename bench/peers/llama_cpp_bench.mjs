// Prefill and decoding in llama.cpp, through node-llama-cpp and its prebuilt library, on the CPU.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeGguf } from './make_gguf.mjs';
import { answer, median } from './peer.mjs';

const RUNS = 3;
/** The prebuilt library takes the best of its variants for the processor; nothing is compiled here. */
const LLAMA = { gpu: false, build: 'never', logLevel: 'error' };

async function open({ folder, quantization, threads, contextSize, batchSize, sequences = 1 }) {
  const path = join(folder, `qwen3-0.6b-${quantization}.gguf`);
  await makeGguf(path, quantization);
  const { getLlama } = await import('node-llama-cpp');
  const llama = await getLlama({ ...LLAMA, maxThreads: threads });
  const model = await llama.loadModel({ modelPath: path });
  return model.createContext({ contextSize, batchSize, sequences, threads });
}

const tokens = (count, first) => Array.from({ length: count }, (_, i) => (first + i * 7919) % 150000);

/** Tokens a second of one prompt, and the token after it. */
async function prefill(item) {
  const context = await open({ ...item, contextSize: item.prompt + 64, batchSize: item.prompt });
  const sequence = context.getSequence();
  const runs = [];
  for (let run = 0; run <= RUNS; run++) {
    await sequence.clearHistory();
    const start = performance.now();
    for await (const _ of sequence.evaluate(tokens(item.prompt, 1000 + run), { temperature: 0 })) break;
    runs.push((performance.now() - start) / 1000);
  }
  // The first one warms up.
  return item.prompt / median(runs.slice(1));
}

/** Generated tokens a second of all sequences together, from the first token of the last of them on. */
async function decode(item) {
  const { batch, prompt, generated } = item;
  const context = await open({ ...item, contextSize: prompt + generated + 64, batchSize: 512, sequences: batch });
  const sequences = Array.from({ length: batch }, () => context.getSequence());
  const runs = [];
  for (let run = 0; run <= RUNS; run++) {
    const times = sequences.map(() => []);
    for (const sequence of sequences) await sequence.clearHistory();
    await Promise.all(
      sequences.map(async (sequence, i) => {
        // Without an end token every sequence has its full length.
        const options = { temperature: 0, yieldEogToken: true };
        for await (const _ of sequence.evaluate(tokens(prompt, 1000 + 31 * i), options)) {
          times[i].push(performance.now());
          if (times[i].length > generated) break;
        }
      }),
    );
    const begin = Math.max(...times.map((all) => all[0]));
    const end = Math.max(...times.map((all) => all.at(-1)));
    const made = times.flat().filter((time) => time > begin).length;
    runs.push(made / ((end - begin) / 1000));
  }
  return median(runs.slice(1));
}

/** Seconds of a whole process from its start to the first token. */
async function start(item) {
  const script = fileURLToPath(import.meta.url);
  const once = () => {
    const begin = performance.now();
    const { status, stderr } = spawnSync(process.execPath, [script, '--first-token', JSON.stringify(item)]);
    if (status !== 0) throw new Error(`the first token failed: ${stderr}`);
    return (performance.now() - begin) / 1000;
  };
  once();
  return median(Array.from({ length: RUNS }, once));
}

if (process.argv[2] === '--first-token') {
  const item = JSON.parse(process.argv[3]);
  const context = await open({ ...item, contextSize: 256, batchSize: 64 });
  for await (const token of context.getSequence().evaluate(item.tokens, { temperature: 0 })) {
    console.log(token);
    break;
  }
  process.exit(0);
}
await answer('node-llama-cpp', { prefill, decode, start });
