/**
 * What runs in a worker, as plain JavaScript text: a worker is started from text so that it needs no file of its
 * own, neither a TypeScript loader in Node nor a second bundle in a browser.
 */
import { CONTROL } from './walk.ts';

/** To a worker. Memory messages go to the only worker, where the memory is its own. */
export type Command =
  | {
      readonly type: 'open';
      readonly thread: number;
      readonly threads: number;
      /** The shared memory, or null: the worker makes one of its own. */
      readonly memory: WebAssembly.Memory | null;
      readonly initial: number;
      readonly maximum: number;
    }
  | { readonly type: 'load'; readonly program: number; readonly module: WebAssembly.Module }
  | { readonly type: 'unload'; readonly program: number }
  | {
      readonly type: 'run';
      readonly program: number;
      readonly control: number;
      readonly repeat: number;
      readonly scratch: number;
      /** Report completion by Atomics.notify on the status rather than by a message. */
      readonly notify: boolean;
    }
  | { readonly type: 'ensure'; readonly pages: number }
  | { readonly type: 'write'; readonly address: number; readonly bytes: Uint8Array<ArrayBuffer> }
  | { readonly type: 'clear'; readonly address: number; readonly byteLength: number }
  | { readonly type: 'read'; readonly address: number; readonly byteLength: number };

/** From a worker. */
export type Report =
  | { readonly type: 'ready' }
  /** A run: launch `launch` stopped with an error. */
  | { readonly type: 'trapped'; readonly thread: number; readonly launch: number; readonly message: string }
  | { readonly type: 'finished'; readonly failed: boolean }
  /** Answer to a read, in the order of the reads. */
  | { readonly type: 'bytes'; readonly bytes: Uint8Array<ArrayBuffer> }
  /** Any command but a run failed; the worker is of no more use. */
  | { readonly type: 'broken'; readonly message: string };

export const STATUS_FAILED = 2;

const HANDLERS = `
const text = (error) => String((error && error.message) || error);
const serve = (send) => {
  let memory, thread, threads;
  const programs = new Map();
  const commands = {
    open(m) {
      thread = m.thread;
      threads = m.threads;
      memory = m.memory || new WebAssembly.Memory({ initial: m.initial, maximum: m.maximum });
      send({ type: 'ready' });
    },
    load(m) {
      programs.set(m.program, new WebAssembly.Instance(m.module, { env: { memory } }).exports.walk);
    },
    unload(m) {
      programs.delete(m.program);
    },
    run(m) {
      const words = new Int32Array(memory.buffer);
      const word = (offset) => (m.control + offset) / 4;
      try {
        programs.get(m.program)(m.control, thread, threads, m.repeat, m.scratch);
      } catch (error) {
        const launch = words[word(${CONTROL.progress} + thread * ${CONTROL.progressStride})];
        send({ type: 'trapped', thread, launch, message: text(error) });
        Atomics.store(words, word(${CONTROL.abort}), 1);
        Atomics.add(words, word(${CONTROL.generation}), 1);
        Atomics.notify(words, word(${CONTROL.generation}));
      }
      if (Atomics.add(words, word(${CONTROL.finished}), 1) !== threads - 1) return;
      const failed = Atomics.load(words, word(${CONTROL.abort})) !== 0;
      Atomics.store(words, word(${CONTROL.status}), failed ? ${STATUS_FAILED} : 1);
      if (m.notify) Atomics.notify(words, word(${CONTROL.status}));
      else send({ type: 'finished', failed });
    },
    ensure(m) {
      const missing = m.pages - memory.buffer.byteLength / 65536;
      if (missing > 0) memory.grow(missing);
    },
    write(m) {
      new Uint8Array(memory.buffer, m.address, m.bytes.length).set(m.bytes);
    },
    clear(m) {
      new Uint8Array(memory.buffer, m.address, m.byteLength).fill(0);
    },
    read(m) {
      const bytes = new Uint8Array(memory.buffer, m.address, m.byteLength).slice();
      send({ type: 'bytes', bytes }, [bytes.buffer]);
    },
  };
  return (m) => {
    try {
      commands[m.type](m);
    } catch (error) {
      send({ type: 'broken', message: m.type + ': ' + text(error) });
    }
  };
};
`;

export const NODE_WORKER_SOURCE = `${HANDLERS}
const { parentPort } = process.getBuiltinModule('node:worker_threads');
parentPort.on('message', serve((message, transfer) => parentPort.postMessage(message, transfer)));
`;

export const WEB_WORKER_SOURCE = `${HANDLERS}
const handle = serve((message, transfer) => postMessage(message, transfer || []));
onmessage = (event) => handle(event.data);
`;
