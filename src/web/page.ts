/**
 * The page of `tandem chat --web`: the model that was trained elsewhere runs in this browser, shows its thinking, and
 * shows the gate: its log-probabilities of recorded tokens against those that the learner computed.
 */
import { openDevice } from '../accelerators/registry.ts';
import { END_THINK, THINK } from '../checkpoint/tokenizer.ts';
import { compareLogProbabilities } from '../fleet/parity.ts';
import { LanguageModel } from '../inference/language-model.ts';
import type { Backends } from './backends.ts';
import { explain, findBackends, offer } from './backends.ts';
import type { FetchedModel } from './load.ts';
import { fetchModel } from './load.ts';

function element<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}
const view = {
  title: element('title'),
  about: element('about'),
  device: element<HTMLSelectElement>('device'),
  why: element('why'),
  gate: element('gate'),
  speed: element('speed'),
  conversation: element('conversation'),
  form: element<HTMLFormElement>('ask'),
  prompt: element<HTMLInputElement>('prompt'),
  send: element<HTMLButtonElement>('send'),
  error: element('error'),
};

/** What a test or a curious person can read: the state of the page as data. */
interface PageState {
  device: string | null;
  maxAbs: number | null;
  ready: boolean;
  answer: string;
  error: string | null;
}
const state: PageState = { device: null, maxAbs: null, ready: false, answer: '', error: null };
(globalThis as { tandem?: PageState }).tandem = state;

function fail(error: unknown): void {
  state.error = error instanceof Error ? error.message : String(error);
  view.error.textContent = state.error;
  view.error.hidden = false;
}

function enable(ready: boolean): void {
  state.ready = ready;
  view.prompt.disabled = view.send.disabled = !ready;
  if (ready) view.prompt.focus();
}

/** Largest difference between this accelerator and the learner on the recorded tokens. */
async function measureGate(model: LanguageModel, { parity }: FetchedModel): Promise<void> {
  if (parity === null) {
    view.gate.textContent = 'no record (parity.json)';
    return;
  }
  const here: number[] = [];
  for (const { prompt, completion } of parity.sequences) {
    const logprobs = await model.score([...prompt, ...completion]);
    here.push(...(logprobs.slice(prompt.length) as number[]));
  }
  const learned = parity.sequences.flatMap(({ logprobs }) => logprobs);
  const { maxAbs, tokens } = compareLogProbabilities(learned, here);
  const passed = maxAbs <= parity.bound;
  state.maxAbs = maxAbs;
  view.gate.textContent = `${passed ? 'yes' : 'NO'}: max |Δ log p| ${maxAbs === 0 ? '0, to the bit,' : maxAbs.toExponential(1)} to ${parity.learner}, ${tokens} tokens`;
  view.gate.className = passed ? 'good' : 'bad';
}

function bubble(prompt: string): { write(text: string, thinking: boolean): void } {
  const box = document.createElement('div');
  const question = document.createElement('code');
  question.className = 'prompt';
  question.textContent = `${prompt} `;
  box.append(question);
  view.conversation.append(box);
  return {
    write(text, thinking) {
      const piece = document.createElement('code');
      piece.textContent = `${text} `;
      if (thinking) piece.className = 'soft';
      box.append(piece);
    },
  };
}

async function answer(model: LanguageModel, prompt: string): Promise<void> {
  const tokens = model.encode(prompt);
  const { write } = bubble(prompt);
  let thinking = false;
  state.answer = '';
  const started = performance.now();
  const generation = await model.generate(tokens, {
    onToken(token) {
      const text = model.tokenizer!.decode([token], { skipSpecial: true });
      if (text === '') return;
      if (text === THINK) thinking = true;
      write(text, thinking);
      state.answer += `${text} `;
      if (text === END_THINK) thinking = false;
    },
  });
  const seconds = (performance.now() - started) / 1000;
  view.speed.textContent = `${Math.round(generation.tokens.length / seconds)} tokens/s`;
}

let model: LanguageModel | null = null;

async function use(fetched: FetchedModel, backends: Backends, name: string, failure?: string): Promise<void> {
  enable(false);
  view.error.hidden = true;
  state.error = state.device = state.maxAbs = null;
  view.device.value = name;
  view.device.disabled = true;
  view.why.textContent = explain(backends, name, failure);
  view.gate.textContent = 'measuring …';
  view.gate.className = '';
  try {
    await model?.close();
    model = null;
    const device = await openDevice(name);
    model = new LanguageModel({ device, ...fetched, ownsDevice: true });
    state.device = name;
    await measureGate(model, fetched);
    enable(fetched.tokenizer !== null);
  } catch (error) {
    view.gate.textContent = '–';
    throw error;
  } finally {
    view.device.disabled = false;
  }
}

/** What the person did not choose may be given up for what works everywhere. */
async function begin(fetched: FetchedModel, backends: Backends, chosen: boolean): Promise<void> {
  try {
    await use(fetched, backends, backends.first);
  } catch (error) {
    if (chosen || backends.first === 'wasm') throw error;
    await use(fetched, backends, 'wasm', (error as Error).message);
  }
}

async function main(): Promise<void> {
  const query = new URLSearchParams(location.search);
  const base = new URL(query.get('model') ?? 'model/', location.href);
  const fetched = await fetchModel(base);
  view.title.textContent = fetched.about.name ?? 'Tandem';
  view.about.textContent =
    fetched.about.description ??
    `${fetched.config.num_hidden_layers} layers of ${fetched.config.hidden_size}`;
  if (fetched.about.example) view.prompt.value = fetched.about.example;
  const wanted = query.get('device');
  const backends = await findBackends(wanted);
  offer(view.device, backends);
  view.device.addEventListener('change', () => void use(fetched, backends, view.device.value).catch(fail));
  view.form.addEventListener('submit', (event) => {
    event.preventDefault();
    const prompt = view.prompt.value.trim();
    if (model === null || prompt === '' || !state.ready) return;
    view.error.hidden = true;
    enable(false);
    view.device.disabled = true;
    answer(model, prompt)
      .catch(fail)
      .finally(() => {
        enable(true);
        view.device.disabled = false;
      });
  });
  await begin(fetched, backends, wanted !== null);
}

main().catch(fail);
