// Matrix products in jax-js on its wasm backend.
import { resolveObjectURL } from 'node:buffer';
import { Worker as NodeWorker } from 'node:worker_threads';
import { answer, secondsEach } from './peer.mjs';

/** Makes what a browser's workers expect of what Node's have. */
const PRELUDE = `
const { parentPort } = require('node:worker_threads');
globalThis.self = globalThis;
globalThis.postMessage = (message) => parentPort.postMessage(message);
parentPort.on('message', (data) => self.onmessage({ data }));
`;

/** A browser's Worker, which jax-js needs for more than one thread, and Node lacks. */
class BrowserWorker {
  onmessage = null;
  onerror = null;
  #worker;
  constructor(url) {
    this.#worker = this.#start(url);
  }
  async #start(url) {
    const blob = resolveObjectURL(url);
    const worker = new NodeWorker(PRELUDE + (await blob.text()), { eval: true });
    worker.on('message', (data) => this.onmessage?.({ data }));
    worker.on('error', (error) => this.onerror?.(error));
    return worker;
  }
  async postMessage(message) {
    (await this.#worker).postMessage(message);
  }
}

async function matmul({ m, k, n, transA, threads }) {
  globalThis.Worker = BrowserWorker;
  Object.defineProperty(globalThis, 'navigator', { value: { hardwareConcurrency: threads }, configurable: true });
  const { init, numpy, random, defaultDevice } = await import('@jax-js/jax');
  await init();
  defaultDevice('wasm');
  const a = random.uniform(random.key(0), transA ? [k, m] : [m, k]);
  const b = random.uniform(random.key(1), [k, n]);
  await a.ref.blockUntilReady?.();
  const seconds = await secondsEach(async () => {
    const c = numpy.matmul(transA ? numpy.transpose(a.ref) : a.ref, b.ref);
    await c.blockUntilReady();
    c.dispose();
  });
  return (2 * m * k * n) / seconds / 1e9;
}

await answer('@jax-js/jax', { matmul });
