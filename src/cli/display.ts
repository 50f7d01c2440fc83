/** A run as a person sees it: a live display on a terminal, plain lines elsewhere. */
import { createLogUpdate } from 'log-update';
import pc from 'picocolors';
import type {
  EvaluationMode,
  Metrics,
  ParityReport,
  PhaseName,
  RunEvent,
  SampleTrace,
  Summary,
} from '../training/events.ts';
import { deviceLines } from './devices.ts';
import { clip, count, duration, percent, progressBar, short, sparkline } from './text.ts';

const PHASE_TITLE: { readonly [P in PhaseName]: string } = {
  cold_start: 'Cold start',
  reinforcement: 'Reinforcement',
};
const MODE_TITLE: { readonly [M in EvaluationMode]: string } = {
  free: 'as it likes',
  thinking: 'thinking forced',
  no_thinking: 'thinking suppressed',
};

/** The metrics that a phase shows while it runs. */
function highlights(phase: PhaseName, metrics: Metrics): string {
  const parts =
    phase === 'cold_start'
      ? [['loss', metrics.loss, short] as const, ['tok/s', metrics['perf/throughput'], count] as const]
      : ([
          ['reward', metrics.reward, short],
          ['thinks', metrics.think_fraction, percent],
          ['length', metrics['completions/mean_length'], short],
          ['rollout tok/s', metrics['perf/rollout_tokens_per_second'], count],
          ['learn tok/s', metrics['perf/learn_tokens_per_second'], count],
        ] as const);
  return parts
    .flatMap(([label, value, format]) => (value === undefined ? [] : [`${label} ${format(value)}`]))
    .join('   ');
}

export function parityLine(report: ParityReport): string {
  const pair =
    report.learner === report.rollout
      ? `${report.learner} with itself`
      : `${report.learner} → ${report.rollout}`;
  const weights = report.checksum.learner === report.checksum.rollout ? 'weights equal' : 'WEIGHTS DIFFER';
  return `${pair}: ${weights}, max |Δ log p| ${short(report.maxAbs)}, mean ${short(report.meanAbs)}, KL ${short(report.kl)} over ${report.tokens} tokens`;
}

function traceLine({ prompt, completion, reward }: SampleTrace): string {
  return `${prompt} ${completion}  (reward ${short(reward)})`;
}

/** What both displays say once and for all, as complete lines; null for events that only move the live part. */
function announcement(event: RunEvent): string | null {
  switch (event.type) {
    case 'devices':
      return [
        ...event.found.flatMap(deviceLines),
        `Learner ${event.learner}, rollouts ${event.rollout}; the finished model is handed to ${event.parity}`,
      ].join('\n');
    case 'model':
      return `Task ${event.task}: Qwen3 model of ${count(event.parameters)} parameters (${event.layers} layers of ${event.hidden}), ${event.vocabulary} tokens`;
    case 'phase':
      return `${PHASE_TITLE[event.phase]}: ${event.steps} steps${event.firstStep > 0 ? `, continued at step ${event.firstStep + 1}` : ''}`;
    case 'evaluation':
      return `Held-out problems ${event.stage === 'cold_start' ? 'before' : 'after'} reinforcement, ${MODE_TITLE[event.mode]}: ${percent(event.result.accuracy)} right of ${event.result.problems} (thinks in ${percent(event.result.thinkFraction)}, ${short(event.result.meanLength)} tokens)`;
    case 'traces':
      return event.traces.map(({ title, trace }) => `  ${title}: ${traceLine(trace)}`).join('\n');
    case 'warning':
      return `Warning: ${event.message}`;
    case 'memory':
      return memoryText(event);
    case 'notice':
      return event.message;
    case 'rollout_link':
      return `Rollouts in a browser: open this link, in one tab or several\n  ${event.link}`;
    case 'done':
      return doneText(event.folder, event.summary.accuracy);
    case 'step':
    case 'sample':
    case 'parity':
    case 'checkpoint':
      return null;
  }
}

function memoryText({ device, planned, before, peak }: Extract<RunEvent, { type: 'memory' }>): string {
  const megabytes = (bytes: number) => `${count(bytes / 1e6)} MB`;
  const plan = `${megabytes(planned)} planned on ${device}, beside ${megabytes(before)} of the process`;
  return peak === undefined ? `Memory: ${plan}` : `Memory: ${megabytes(peak)} at the peak (${plan})`;
}

function doneText(folder: string, accuracy: Summary['accuracy']): string {
  const { cold_start, after_rl, thinking, no_thinking } = accuracy;
  // A run without reinforcement has nothing after it.
  const progress = Number.isFinite(after_rl)
    ? `${percent(cold_start)} before reinforcement, ${percent(after_rl)} after`
    : percent(cold_start);
  return [
    '',
    `Right on held-out problems: ${progress}; with thinking ${percent(thinking)}, without ${percent(no_thinking)}`,
    `Report: ${folder}/report.html`,
    `Talk to it:   npx tandem chat ${folder}`,
    `Go on:        npx tandem train grpo --model ${folder} --max-steps 100`,
  ].join('\n');
}

export interface Display {
  show(event: RunEvent): void;
  /** Removes the live part, so that other output can follow. */
  stop(): void;
}

/** Plain lines: every announcement, and the steps at a bearable rate. */
export function plainDisplay(write: (line: string) => void, secondsBetween = 5): Display {
  let last = 0;
  return {
    show(event) {
      const text = announcement(event);
      if (text !== null) return write(text);
      const now = performance.now();
      if (event.type === 'parity' && (!event.report.passed || event.step === 0))
        return write(`Parity, ${parityLine(event.report)}`);
      if (event.type !== 'step') return;
      const final = event.step === event.steps;
      if (!final && now - last < secondsBetween * 1000) return;
      last = now;
      write(
        `${PHASE_TITLE[event.phase]} ${event.step}/${event.steps}   ${highlights(event.phase, event.metrics)}`,
      );
    },
    stop() {},
  };
}

interface LiveState {
  phase: PhaseName;
  steps: number;
  step: number;
  metrics: Metrics;
  curve: number[];
  started: number;
  firstStep: number;
  trace: SampleTrace | null;
  parity: ParityReport | null;
}

/** The line that stays of a phase when it is complete. */
function completed(state: LiveState): string {
  const seconds = (performance.now() - state.started) / 1000;
  return `${pc.green('✓')} ${PHASE_TITLE[state.phase]} in ${duration(seconds)}   ${highlights(state.phase, state.metrics)}`;
}

/** A block at the bottom of the terminal that is drawn anew several times a second, announcements above it. */
export function liveDisplay(stream: NodeJS.WriteStream): Display {
  const update = createLogUpdate(stream, { showCursor: true });
  let live: LiveState | null = null;
  let drawn = 0;

  function draw(state: LiveState): void {
    const width = stream.columns ?? 80;
    const done = state.step - state.firstStep;
    const elapsed = (performance.now() - state.started) / 1000;
    const left = done > 0 ? `${duration((elapsed / done) * (state.steps - state.step))} left` : '';
    const curve = sparkline(state.curve, Math.max(10, width - 60));
    const lines = [
      `${pc.bold(PHASE_TITLE[state.phase])} ${pc.cyan(progressBar(state.step, state.steps, 28))} ${state.step}/${state.steps}  ${pc.dim(left)}`,
      `  ${highlights(state.phase, state.metrics)}`,
      `  ${state.phase === 'cold_start' ? 'loss' : 'reward'} ${pc.cyan(curve)}`,
      ...(state.parity
        ? [
            `  ${state.parity.passed ? pc.green('parity') : pc.red('parity')} ${clip(parityLine(state.parity), width - 10)}`,
          ]
        : []),
      ...(state.trace ? [pc.dim(`  ${clip(traceLine(state.trace), width - 3)}`)] : []),
    ];
    update(lines.join('\n'));
  }

  function announce(text: string): void {
    update.clear();
    stream.write(`${text}\n`);
  }

  return {
    show(event) {
      if (event.type === 'phase') {
        live = {
          ...event,
          step: event.firstStep,
          metrics: {},
          curve: [],
          started: performance.now(),
          trace: null,
          parity: null,
        };
      }
      if (event.type === 'evaluation' || event.type === 'done') live = null;
      const text = announcement(event);
      if (text !== null)
        announce(
          event.type === 'warning' ? pc.yellow(text) : event.type === 'evaluation' ? pc.bold(text) : text,
        );
      if (live === null) return;
      if (event.type === 'step') {
        live.step = event.step;
        live.metrics = event.metrics;
        const value = event.phase === 'cold_start' ? event.metrics.loss : event.metrics.reward;
        if (value !== undefined) live.curve.push(value);
      } else if (event.type === 'sample') live.trace = event.trace;
      else if (event.type === 'parity') live.parity = event.report;
      const now = performance.now();
      if (now - drawn < 80 && event.type === 'step' && event.step < event.steps) return;
      drawn = now;
      if (event.type === 'step' && event.step === event.steps) return announce(completed(live));
      draw(live);
    },
    stop() {
      live = null;
      update.clear();
      update.done();
    },
  };
}

/** The display that suits the stream. */
export function createDisplay(stream: NodeJS.WriteStream): Display {
  return stream.isTTY ? liveDisplay(stream) : plainDisplay((line) => stream.write(`${line}\n`));
}
