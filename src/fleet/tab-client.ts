/** The rollout role in a browser tab: answers what the run asks for, with a `RolloutWorker` of this tab's accelerator. */
import type { Device } from '../accelerators/device.ts';
import { parseConfig } from '../models/config.ts';
import type { Comeback, RunMessage, TabMessage } from './protocol.ts';
import { PROTOCOL_VERSION, ProtocolError, parseRunMessage } from './protocol.ts';
import { RolloutWorker } from './rollout.ts';
import { WeightReceiver } from './weight-transfer.ts';

/** What a page shows. */
export interface TabStatus {
  readonly doing: 'joining' | 'waiting' | 'loading' | 'sampling' | 'ended' | 'failed';
  readonly run: string;
  readonly learner: string;
  /** Version of the weights; -1 before there are any. */
  readonly version: number;
  readonly completions: number;
  readonly tokens: number;
  /** Seconds spent sampling. */
  readonly seconds: number;
  /** Bytes of weights that arrived, and of those that came as a difference. */
  readonly bytes: { readonly full: number; readonly delta: number };
  /** Why it ended or failed. */
  readonly reason: string;
}

const FRESH: TabStatus = {
  doing: 'joining',
  run: '',
  learner: '',
  version: -1,
  completions: 0,
  tokens: 0,
  seconds: 0,
  bytes: { full: 0, delta: 0 },
  reason: '',
};

type Weights = Extract<RunMessage, { type: 'weights' }>;

export class TabClient {
  readonly #device: Device;
  readonly #send: (message: TabMessage) => void;
  readonly #onChange: (status: TabStatus) => void;
  #status = FRESH;
  #comeback: Comeback | null = null;
  #worker: RolloutWorker | null = null;
  #receiver: WeightReceiver | null = null;
  /** The file of weights that is arriving. */
  #arriving: { readonly message: Weights; readonly file: Uint8Array; filled: number } | null = null;
  /** Messages are carried out one after the other. */
  #turn: Promise<void> = Promise.resolve();

  /** Joins at once; the device stays the caller's. `onChange` is called whenever there is something new to show. */
  constructor(
    device: Device,
    send: (message: TabMessage) => void,
    onChange: (status: TabStatus) => void = () => {},
  ) {
    this.#device = device;
    this.#send = send;
    this.#onChange = onChange;
    const { name, description } = device.info;
    send({
      type: 'join',
      protocol: PROTOCOL_VERSION,
      accelerator: name,
      description: description.slice(0, 200),
    });
  }

  get status(): TabStatus {
    return this.#status;
  }

  /** For coming back to the run after it was interrupted; null before it said so, and where that is not possible. */
  get comeback(): Comeback | null {
    return this.#comeback;
  }

  /** Takes a message of the run: text, or bytes of a file of weights. */
  receive(data: string | ArrayBuffer): void {
    this.#turn = this.#turn.then(async () => {
      if (this.#over) return;
      try {
        await (typeof data === 'string'
          ? this.#obey(parseRunMessage(data))
          : this.#part(new Uint8Array(data)));
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        this.#show({ doing: 'failed', reason });
        this.#send({ type: 'failed', reason: reason.slice(0, 2000) });
      }
    });
  }

  get #over(): boolean {
    return this.#status.doing === 'ended' || this.#status.doing === 'failed';
  }

  #show(change: Partial<TabStatus>): void {
    this.#status = { ...this.#status, ...change };
    this.#onChange(this.#status);
  }

  async #obey(message: RunMessage): Promise<void> {
    switch (message.type) {
      case 'welcome': {
        if (this.#worker !== null) throw new ProtocolError('the run welcomed this tab twice');
        const config = parseConfig(message.config, 'the model of the run');
        this.#worker = new RolloutWorker(this.#device, config, message.dtype);
        this.#receiver = new WeightReceiver(config, message.dtype);
        this.#comeback = message.comeback;
        return this.#show({ doing: 'waiting', run: message.run, learner: message.learner });
      }
      case 'weights': {
        if (this.#arriving !== null)
          throw new ProtocolError('weights began before the last ones were complete');
        this.#arriving = { message, file: new Uint8Array(message.bytes), filled: 0 };
        return this.#show({ doing: 'loading' });
      }
      case 'work':
        return this.#sample(message);
      case 'end':
        return this.#show({ doing: 'ended', reason: message.reason });
    }
  }

  async #part(bytes: Uint8Array): Promise<void> {
    const arriving = this.#arriving;
    if (arriving === null || this.#worker === null || this.#receiver === null)
      throw new ProtocolError('bytes arrived that were not announced');
    const { message, file } = arriving;
    if (arriving.filled + bytes.length > file.length)
      throw new ProtocolError(`more bytes of weights arrived than the ${file.length} announced`);
    file.set(bytes, arriving.filled);
    arriving.filled += bytes.length;
    if (arriving.filled < file.length) return;
    this.#arriving = null;
    const update = await this.#receiver.apply(file);
    if (update.version !== message.version)
      throw new ProtocolError(
        `weights of version ${update.version} arrived, announced as ${message.version}`,
      );
    const checksum = await this.#worker.receive(update);
    this.#send({ type: 'loaded', version: update.version, checksum });
    const { bytes: before } = this.#status;
    this.#show({
      doing: 'waiting',
      version: update.version,
      bytes: { ...before, [message.kind]: before[message.kind] + file.length },
    });
  }

  async #sample({ job, requests, settings }: Extract<RunMessage, { type: 'work' }>): Promise<void> {
    if (this.#worker === null || this.#worker.weightVersion < 0)
      throw new ProtocolError('work arrived before any weights');
    this.#show({ doing: 'sampling' });
    const started = performance.now();
    const rollouts = await this.#worker.sample(requests, settings);
    this.#send({
      type: 'result',
      job,
      completions: rollouts.map(({ tokens, logprobs, weightVersions, finishReason }) => ({
        tokens: [...tokens],
        logprobs: [...logprobs],
        weightVersions: [...weightVersions],
        finishReason,
      })),
    });
    const { completions, tokens, seconds } = this.#status;
    this.#show({
      doing: 'waiting',
      completions: completions + rollouts.length,
      tokens: tokens + rollouts.reduce((sum, rollout) => sum + rollout.tokens.length, 0),
      seconds: seconds + (performance.now() - started) / 1000,
    });
  }

  /** Frees the model, once what is under way is done. */
  async dispose(): Promise<void> {
    await this.#turn;
    await this.#worker?.dispose();
  }
}
