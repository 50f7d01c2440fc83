/**
 * A sampler whose work is done by browser tabs that come and go. What a sequence becomes depends on the seed, its id
 * and its position, not on who computes it, so work that a tab leaves behind is simply given to another.
 */
import type { GenerationRequest, SamplingSettings } from '../inference/engine.ts';
import type { WeightType } from '../inference/weights.ts';
import type { Qwen3Config } from '../models/config.ts';
import type { Assignment, Comeback, Completions, ReadTabMessage, RunMessage } from './protocol.ts';
import {
  CLOSE,
  checkCompletions,
  MAX_MESSAGE_BYTES,
  ProtocolError,
  parseTabMessage,
  RESULT_TOKEN_BYTES,
} from './protocol.ts';
import type { Rollout, Sampler, WeightUpdate } from './rollout.ts';
import { WeightOutlet } from './weight-outlet.ts';
import type { Snapshot } from './weight-transfer.ts';
import { takeSnapshot } from './weight-transfer.ts';

/** How a pool reaches a tab. */
export interface TabLink {
  /** `file`: bytes that follow the message. */
  send(message: RunMessage, file?: Uint8Array): void;
  close(code: number, reason: string): void;
}

/** How what comes from a tab reaches the pool. */
export interface TabEvents {
  message(text: string): void;
  /** `problem`: why the connection broke, where that is known. */
  closed(problem?: string): void;
}

export interface TabPoolOptions {
  readonly config: Qwen3Config;
  readonly dtype: WeightType;
  /** Name of the run, for the page. */
  readonly run: string;
  readonly learner: string;
  /** Seconds without any tab's joining or answering, after which `receive` and `sample` give up. */
  readonly wait: number;
  /** For tabs to keep, where the run can be resumed. */
  readonly comeback?: Comeback;
  /** For the person at the terminal. */
  readonly onNotice: (message: string) => void;
}

/** No tab did the work in time, or nobody wants it any more. Nothing was lost: it can be asked for again. */
export class NoRolloutsError extends Error {
  override name = 'NoRolloutsError';
}

interface Job extends Assignment {
  readonly id: number;
  /** Position of its first request in the batch. */
  readonly first: number;
  readonly tabs: Set<Tab>;
  /** When it was given to a tab last, in ms. */
  given: number;
  completions: Completions | null;
}

interface Tab {
  readonly number: number;
  readonly link: TabLink;
  /** Name of its accelerator, from when it joined. */
  accelerator: string | null;
  /** What it was sent and has not confirmed. */
  sent: Snapshot | null;
  /** What it has confirmed. */
  has: Snapshot | null;
  job: Job | null;
  gone: boolean;
}

/** Between two looks at the clock while waiting. */
const TICK_MS = 200;
/** Work is given to an idle tab as well when it has been out for this many times the longest of the batch so far. */
const PATIENCE = 3;
const LEAST_PATIENCE_MS = 2000;
/** Sequences of a job: a power of two, so that a tab compiles few programs. */
const JOB_SIZE = { least: 8, most: 256 } as const;

/** So many that each of the tabs gets about two of them. */
function jobSize(requests: number, tabs: number, maxTokens: number): number {
  const share = requests / (2 * Math.max(1, tabs));
  const fits = MAX_MESSAGE_BYTES / 2 / (RESULT_TOKEN_BYTES * maxTokens);
  let size: number = JOB_SIZE.least;
  while (2 * size <= Math.min(share, JOB_SIZE.most)) size *= 2;
  return Math.max(1, Math.min(size, Math.floor(fits)));
}

const LEFT = 'left';

/** What a tab says is shown at a terminal, which must not take orders from it. */
const printable = (text: string) => text.replace(/\p{C}+/gu, ' ').slice(0, 300);

const count = (number: number, noun: string) => `${number} ${noun}${number === 1 ? '' : 's'}`;

export class TabPool implements Sampler {
  readonly #options: TabPoolOptions;
  readonly #tabs = new Set<Tab>();
  #numbers = 0;
  #jobs: readonly Job[] = [];
  #jobNumbers = 0;
  #slowest = 0;
  readonly #weights = new WeightOutlet();
  /** Accelerators that the last batch was sampled on. */
  #sampledOn = new Set<string>();
  #progressed = 0;
  #lastLoss = '';
  #wake: () => void = () => {};
  #interrupted = false;
  /** What went wrong while weights were prepared, for whoever waits. */
  #failure: unknown = null;

  constructor(options: TabPoolOptions) {
    this.#options = options;
  }

  /** 'browser (wasm)': with the accelerators that the last batch was sampled on. Never the name of a device. */
  get name(): string {
    return this.#sampledOn.size === 0 ? 'browser' : `browser (${[...this.#sampledOn].sort().join(', ')})`;
  }

  get weightVersion(): number {
    return this.#weights.current?.version ?? -1;
  }

  /** Tabs that have joined. */
  get size(): number {
    return this.#joined().length;
  }

  /** Waits until a tab has the weights. Throws NoRolloutsError where none has them in time. */
  async receive(update: WeightUpdate): Promise<string> {
    const next = takeSnapshot(this.#options.config, this.#options.dtype, update);
    this.#weights.advance(next);
    for (const tab of this.#joined()) this.#feed(tab);
    await this.#until(() => this.#joined().some(({ has }) => has === next));
    return next.checksum;
  }

  /** Throws NoRolloutsError where no tab joins or answers in time. */
  async sample(requests: readonly GenerationRequest[], settings: SamplingSettings): Promise<Rollout[]> {
    const { current } = this.#weights;
    if (current === null) throw new Error('weights must be received before anything can be sampled');
    const { version } = current;
    const size = jobSize(requests.length, this.size, settings.maxTokens);
    const jobs: Job[] = [];
    for (let first = 0; first < requests.length; first += size)
      jobs.push({
        id: this.#jobNumbers++,
        first,
        requests: requests.slice(first, first + size),
        settings,
        version,
        tabs: new Set(),
        given: 0,
        completions: null,
      });
    this.#jobs = jobs;
    this.#slowest = 0;
    this.#sampledOn = new Set();
    try {
      await this.#until(() => jobs.every(({ completions }) => completions !== null));
    } finally {
      this.#jobs = [];
    }
    return jobs.flatMap((job) =>
      job.completions!.map((completion, i) => ({ ...completion, prompt: job.requests[i].tokens })),
    );
  }

  /** What waits for tabs, now or later, gives up. */
  interrupt(): void {
    this.#interrupted = true;
    this.#wake();
  }

  /** Takes leave of the tabs, for good or so that they try to come back. */
  async dispose(how: 'ended' | 'interrupted' = 'ended'): Promise<void> {
    for (const tab of [...this.#tabs]) {
      if (how === 'ended') {
        tab.link.send({ type: 'end', reason: 'the run has ended' });
        tab.link.close(CLOSE.done, 'the run has ended');
      } else tab.link.close(CLOSE.interrupted, 'the run was interrupted');
      this.#forget(tab);
    }
  }

  /** A connection whose token was right. */
  attach(link: TabLink): TabEvents {
    const tab: Tab = {
      number: ++this.#numbers,
      link,
      accelerator: null,
      sent: null,
      has: null,
      job: null,
      gone: false,
    };
    this.#tabs.add(tab);
    return {
      message: (text) => {
        if (tab.gone) return;
        try {
          this.#obey(tab, parseTabMessage(text));
        } catch (error) {
          if (!(error instanceof ProtocolError)) throw error;
          this.#drop(tab, CLOSE.refused, error.message);
        }
        this.#wake();
      },
      closed: (problem) => {
        this.#leave(tab, problem === undefined ? LEFT : `was cut off: ${problem}`);
        this.#wake();
      },
    };
  }

  #joined(): Tab[] {
    return [...this.#tabs].filter(({ accelerator }) => accelerator !== null);
  }

  #obey(tab: Tab, message: ReadTabMessage): void {
    if (tab.accelerator === null && message.type !== 'join')
      throw new ProtocolError(`'${message.type}' arrived before 'join'`);
    switch (message.type) {
      case 'join': {
        if (tab.accelerator !== null) throw new ProtocolError("'join' arrived twice");
        tab.accelerator = message.accelerator;
        const { run, learner, config, dtype, comeback = null, onNotice } = this.#options;
        tab.link.send({ type: 'welcome', run, learner, dtype, config, comeback });
        onNotice(
          `Browser tab ${tab.number} joined: ${printable(message.description)} (${count(this.size, 'tab')})`,
        );
        this.#progressed = performance.now();
        this.#feed(tab);
        return;
      }
      case 'loaded': {
        const { sent } = tab;
        if (sent === null || sent.version !== message.version)
          throw new ProtocolError(`confirms weights of version ${message.version} that it was not sent`);
        if (sent.checksum !== message.checksum)
          throw new ProtocolError(
            `its accelerator holds weights with checksum ${message.checksum}, not ${sent.checksum}`,
          );
        tab.sent = null;
        tab.has = sent;
        this.#progressed = performance.now();
        this.#feed(tab);
        return;
      }
      case 'result':
        this.#take(tab, message.job, message.completions);
        return;
      case 'failed':
        this.#drop(tab, CLOSE.failed, message.reason);
        return;
    }
  }

  #take(tab: Tab, id: number, completions: Completions): void {
    const { job } = tab;
    if (job === null || job.id !== id)
      throw new ProtocolError(`a result for job ${id}, which it was not given`);
    checkCompletions(completions, job, this.#options.config);
    tab.job = null;
    job.tabs.delete(tab);
    this.#progressed = performance.now();
    // Another tab may have been faster, or the batch may have been given up.
    if (job.completions !== null || !this.#jobs.includes(job)) return;
    job.completions = completions;
    this.#slowest = Math.max(this.#slowest, performance.now() - job.given);
    this.#sampledOn.add(tab.accelerator!);
  }

  /** Sends the present weights to a tab that has others, unless weights are under way to it already. */
  #feed(tab: Tab): void {
    this.#sendWeights(tab).catch((error: unknown) => {
      this.#failure ??= error;
      this.#wake();
    });
  }

  async #sendWeights(tab: Tab): Promise<void> {
    for (;;) {
      const next = this.#weights.current;
      if (next === null || tab.gone || tab.sent !== null || tab.has === next) return;
      const base = tab.has;
      const file = await this.#weights.fileFor(base);
      // Meanwhile there may be newer ones, or another call may have sent these.
      if (file === null || tab.sent !== null || tab.gone || tab.has !== base) continue;
      const { kind, bytes } = file;
      tab.sent = next;
      tab.link.send({ type: 'weights', kind, version: next.version, bytes: bytes.length }, bytes);
      return;
    }
  }

  /** Gives work to tabs that have the present weights and nothing to do. */
  #giveWork(): void {
    for (const tab of this.#joined()) {
      if (tab.job !== null || tab.has !== this.#weights.current) continue;
      const job = this.#next(tab);
      if (job === null) continue;
      tab.job = job;
      job.tabs.add(tab);
      job.given = performance.now();
      tab.link.send({
        type: 'work',
        job: job.id,
        settings: { ...job.settings, forbidFirst: [...job.settings.forbidFirst] },
        requests: job.requests.map(({ tokens, id }) => ({ tokens: [...tokens], id })),
      });
    }
  }

  /** Work that nobody does, or else that another tab has been at for suspiciously long. */
  #next(tab: Tab): Job | null {
    const open = this.#jobs.filter(({ completions, tabs }) => completions === null && !tabs.has(tab));
    const free = open.find(({ tabs }) => tabs.size === 0);
    if (free !== undefined) return free;
    const patience = Math.max(LEAST_PATIENCE_MS, PATIENCE * this.#slowest);
    const late = open.find(({ given }) => performance.now() - given > patience);
    return late ?? null;
  }

  #drop(tab: Tab, code: number, reason: string): void {
    this.#leave(tab, `was sent away: ${printable(reason)}`);
    tab.link.close(code, reason);
  }

  #forget(tab: Tab): void {
    tab.gone = true;
    this.#tabs.delete(tab);
    tab.job?.tabs.delete(tab);
    tab.job = null;
  }

  #leave(tab: Tab, how: string): void {
    if (tab.gone) return;
    const { job, accelerator } = tab;
    this.#forget(tab);
    // Whoever never joined was never announced, unless there is something to say.
    if (accelerator === null && how === LEFT) return;
    const outstanding = job !== null && job.completions === null && this.#jobs.includes(job);
    const left = outstanding ? `; its ${count(job.requests.length, 'completion')} will be sampled again` : '';
    this.#lastLoss = `browser tab ${tab.number} ${how}`;
    this.#options.onNotice(`Browser tab ${tab.number} ${how}${left} (${count(this.size, 'tab')})`);
  }

  /** Hands out work until `done`; says once when it waits for a tab. */
  async #until(done: () => boolean): Promise<void> {
    const { wait, onNotice } = this.#options;
    this.#progressed = performance.now();
    let told = false;
    for (;;) {
      if (this.#failure !== null) throw this.#failure;
      if (this.#interrupted) throw new NoRolloutsError('sampling in the browser was interrupted');
      if (done()) return;
      this.#giveWork();
      if (this.size > 0) told = false;
      else if (!told) {
        told = true;
        onNotice(
          `Waiting for a browser tab to open the link (${wait} seconds; then the run stops, and can be resumed)`,
        );
      }
      if (performance.now() - this.#progressed > 1000 * wait) throw new NoRolloutsError(this.#explain());
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, TICK_MS);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  #explain(): string {
    const { wait } = this.#options;
    const last = this.#lastLoss === '' ? '' : `; the last thing that happened: ${this.#lastLoss}`;
    return this.size === 0
      ? `no browser tab joined for ${wait} seconds${last}`
      : `none of ${count(this.size, 'browser tab')} answered for ${wait} seconds${last}`;
  }
}
