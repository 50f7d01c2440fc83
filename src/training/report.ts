/** `report.html`: everything a run measured, as one file that needs nothing else. */

import { escapeHtml, formatNumber, lineChart } from './chart.ts';
import type {
  Accuracy,
  EvaluationMode,
  Metrics,
  ParityReport,
  PhaseName,
  SampleTrace,
  Summary,
} from './events.ts';

export interface ReportStep {
  readonly phase: PhaseName;
  readonly step: number;
  readonly metrics: Metrics;
}

export interface ReportData {
  readonly name: string;
  readonly summary: Summary;
  readonly learner: string;
  readonly rollout: string;
  readonly steps: readonly ReportStep[];
  readonly evaluations: readonly {
    readonly stage: 'cold_start' | 'after_rl';
    readonly mode: EvaluationMode;
    readonly result: Accuracy;
  }[];
  readonly parity: readonly { readonly step: number; readonly report: ParityReport }[];
  readonly traces: readonly { readonly title: string; readonly trace: SampleTrace }[];
}

const COLORS = ['#2f6fde', '#d9822b', '#2e9e6b', '#b0409a'] as const;

const STYLE = `
:root{color-scheme:light dark;--fg:#1c2430;--bg:#fbfbfc;--soft:#5c6877;--line:#d9dee6;--card:#fff;--good:#1d7f50}
@media(prefers-color-scheme:dark){:root{--fg:#e4e8ee;--bg:#14181f;--soft:#98a3b3;--line:#2c3440;--card:#1b212a;--good:#57c48f}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);margin:0 auto;padding:2rem 1.2rem 4rem;max-width:1020px}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:2.2rem 0 .7rem}p.lead{color:var(--soft);margin:.1rem 0 1.2rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.8rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.7rem .9rem}.card b{display:block;font-size:1.5rem;font-variant-numeric:tabular-nums}.card span{color:var(--soft);font-size:.85rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(330px,1fr));gap:.9rem}.charts>div{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.4rem}
svg{display:block;width:100%;height:auto;font:11px system-ui,sans-serif}svg .title{font-weight:600;font-size:12.5px;fill:var(--fg)}svg .unit,svg .tick,svg .empty{fill:var(--soft)}svg .unit{font-weight:400}
svg .grid{stroke:var(--line);stroke-width:.7}svg .mark{stroke:var(--soft);stroke-dasharray:3 3;stroke-width:.8}svg .end{text-anchor:end}svg .middle,svg .empty{text-anchor:middle}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th,td{text-align:left;padding:.35rem .7rem .35rem 0;border-bottom:1px solid var(--line)}th{color:var(--soft);font-weight:500;font-size:.85rem}
.trace{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.7rem .9rem;margin:.6rem 0}.trace code{display:block;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem}.trace .prompt{color:var(--soft)}.ok{color:var(--good)}`;

const percent = (share: number) => `${(100 * share).toFixed(1)} %`;

function card(value: string, label: string): string {
  return `<div class="card"><b>${escapeHtml(value)}</b><span>${escapeHtml(label)}</span></div>`;
}

/** What the run measured: one without reinforcement has nothing after it. */
function accuracyCards({ cold_start, after_rl, thinking, no_thinking }: Summary['accuracy']): string {
  return (
    [
      [cold_start, 'right before reinforcement'],
      [after_rl, 'right after reinforcement'],
      [thinking, 'with thinking'],
      [no_thinking, 'without thinking'],
    ] as const
  )
    .filter(([share]) => Number.isFinite(share))
    .map(([share, label]) => card(percent(share), label))
    .join('\n');
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = (tag: string, row: readonly string[]) =>
    `<tr>${row.map((cell) => `<${tag}>${escapeHtml(cell)}</${tag}>`).join('')}</tr>`;
  return `<table><thead>${cells('th', head)}</thead><tbody>${rows.map((row) => cells('td', row)).join('')}</tbody></table>`;
}

function charts({ steps, parity, evaluations }: ReportData): string {
  // The gates of the finished model have the number of the last step, too.
  const ofRun = parity.filter(({ step }, i) => step !== parity[i - 1]?.step);
  const coldSteps = Math.max(
    0,
    ...steps.filter(({ phase }) => phase === 'cold_start').map(({ step }) => step),
  );
  const position = (phase: PhaseName, step: number) => (phase === 'cold_start' ? step : coldSteps + step);
  const marks =
    coldSteps > 0 && steps.some(({ phase }) => phase === 'reinforcement')
      ? [{ x: coldSteps, label: 'reinforcement' }]
      : [];
  const points = (metric: keyof Metrics, phase?: PhaseName) =>
    steps
      .filter((step) => (phase === undefined || step.phase === phase) && step.metrics[metric] !== undefined)
      .map((step) => {
        // A chart of one phase counts that phase's steps.
        const x = phase === undefined ? position(step.phase, step.step) : step.step;
        return [x, step.metrics[metric] as number] as const;
      });
  const one = (
    title: string,
    metric: keyof Metrics,
    more: { unit?: string; range?: readonly [number, number]; logarithmic?: boolean; phase?: PhaseName } = {},
  ) =>
    lineChart({
      title,
      marks: more.phase ? [] : marks,
      series: [{ label: title, color: COLORS[0], points: points(metric, more.phase) }],
      ...more,
    });
  const learned = evaluations.length > 0;
  const pictures = [
    one('Loss of the cold start', 'loss', { phase: 'cold_start', unit: 'nats a token' }),
    one('Reward', 'reward', { phase: 'reinforcement', unit: 'mean of the completions' }),
    one('Completions that think', 'think_fraction', { phase: 'reinforcement', range: [0, 1] }),
    one('Completion length', 'completions/mean_length', { phase: 'reinforcement', unit: 'tokens' }),
    one('Entropy', 'entropy', { phase: 'reinforcement', unit: 'nats a token' }),
    one('Gradient norm', 'grad_norm', { logarithmic: true }),
    lineChart({
      title: 'Tokens per second',
      marks,
      series: [
        { label: 'learn', color: COLORS[0], points: points('perf/learn_tokens_per_second') },
        { label: 'rollout', color: COLORS[1], points: points('perf/rollout_tokens_per_second') },
      ],
    }),
    lineChart({
      title: 'Parity of learner and rollouts',
      unit: 'largest |Δ log p|; 0 is not drawn',
      logarithmic: true,
      series: [
        {
          label: 'max |Δ log p|',
          color: COLORS[3],
          points: ofRun.map(({ step, report }) => [step, report.maxAbs] as const),
        },
      ],
    }),
  ];
  return `<h2>${learned ? 'How it learned' : 'So far'}</h2><div class="charts">${pictures.map((picture) => `<div>${picture}</div>`).join('')}</div>`;
}

/** The report as an HTML document. */
export function renderReport(data: ReportData): string {
  const { summary } = data;
  const { accuracy, parity } = summary;
  const evaluationRows = data.evaluations.map(({ stage, mode, result }) => [
    stage === 'cold_start' ? 'before reinforcement' : 'after reinforcement',
    { free: 'as it likes', thinking: 'thinking forced', no_thinking: 'thinking suppressed' }[mode],
    percent(result.accuracy),
    percent(result.thinkFraction),
    result.meanLength.toFixed(1),
    String(result.problems),
  ]);
  const parityRows = data.parity.map(({ step, report }) => [
    String(step),
    `${report.learner} → ${report.rollout}`,
    report.checksum.learner === report.checksum.rollout ? `equal (${report.checksum.learner})` : 'DIFFERENT',
    String(report.tokens),
    formatNumber(report.maxAbs),
    formatNumber(report.meanAbs),
    formatNumber(report.kl),
    report.passed ? 'passed' : 'FAILED',
  ]);
  // A long run has a gate at every step; the table keeps the first, the last and some between.
  const stride = Math.max(1, Math.ceil(parityRows.length / 20));
  const shownParity = parityRows.filter((_, i) => i % stride === 0 || i === parityRows.length - 1);
  const traces = data.traces.map(
    ({ title, trace }) =>
      `<div class="trace"><b>${escapeHtml(title)}</b> <span class="${trace.reward > 0 ? 'ok' : ''}">reward ${formatNumber(trace.reward)}</span>` +
      `<code class="prompt">${escapeHtml(trace.prompt)}</code><code>${escapeHtml(trace.completion)}</code></div>`,
  );
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Tandem: ${escapeHtml(data.name)}</title><style>${STYLE}</style></head><body>
<h1>${escapeHtml(data.name)}</h1>
<p class="lead">Task ${escapeHtml(summary.task)}, seed ${summary.seed}, ${formatNumber(summary.parameters)} parameters, learner ${escapeHtml(data.learner)}, rollouts ${escapeHtml(data.rollout)}, ${formatNumber(summary.seconds)} seconds.</p>
<div class="cards">
${accuracyCards(accuracy)}
${card(formatNumber(parity.same_accelerator_max_abs), 'largest |Δ log p| on the same accelerator')}
${card(formatNumber(parity.cross_accelerator_max_abs), `largest |Δ log p| ${parity.cross_accelerator.join(' → ')}`)}
</div>
${charts(data)}
<h2>Held-out problems</h2>
${table(['Model', 'Thinking', 'Right', 'Thinks', 'Tokens', 'Problems'], evaluationRows)}
<h2>Parity gate</h2>
${table(['Weights after step', 'Accelerators', 'Checksum', 'Tokens', 'max |Δ log p|', 'mean', 'KL', 'Gate'], shownParity)}
<h2>Traces</h2>
${traces.join('\n')}
<h2>Speed</h2>
${table(
  ['Phase', 'Tokens per second'],
  [
    ['Cold start', formatNumber(summary.tokens_per_second.sft)],
    ['Rollouts (sampled tokens)', formatNumber(summary.tokens_per_second.rollout)],
    ['Learning from rollouts', formatNumber(summary.tokens_per_second.learn)],
  ],
)}
</body></html>
`;
}
