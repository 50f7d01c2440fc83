/** Charts and the report page: what a person would notice if it were wrong. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatNumber, lineChart } from '../../src/training/chart.ts';
import { renderReport } from '../../src/training/report.ts';

test('numbers on axes are short', () => {
  const cases: [number, string][] = [
    [0, '0'],
    [12345, '12.3k'],
    [2_500_000, '2.5M'],
    [0.25, '0.25'],
    [0.0000012, '1.2e-6'],
    [-3, '-3'],
  ];
  for (const [value, text] of cases) assert.equal(formatNumber(value), text);
});

function pointsOf(svg: string): number[][] {
  const match = /points="([^"]*)"/u.exec(svg);
  return (match?.[1] ?? '').split(' ').map((pair) => pair.split(',').map(Number));
}

test('a rising series rises, within the picture', () => {
  const svg = lineChart({
    title: 'x',
    series: [
      {
        label: 'a',
        color: 'red',
        points: [
          [1, 0],
          [2, 5],
          [3, 10],
        ],
      },
    ],
  });
  const points = pointsOf(svg);
  assert.equal(points.length, 3);
  for (const [x, y] of points) assert.ok(x >= 0 && x <= 460 && y >= 0 && y <= 220, `${x}, ${y}`);
  assert.ok(points[0][1] > points[1][1] && points[1][1] > points[2][1], 'y grows downwards in SVG');
});

test('what cannot be drawn is left out: NaN, zeros on a logarithmic axis, no values at all', () => {
  const series = (points: [number, number][]) => [{ label: 'a', color: 'red', points }];
  assert.equal(
    pointsOf(
      lineChart({
        title: 'x',
        series: series([
          [1, 1],
          [2, Number.NaN],
          [3, 2],
        ]),
      }),
    ).length,
    2,
  );
  const logarithmic = lineChart({
    title: 'x',
    logarithmic: true,
    series: series([
      [1, 0],
      [2, 1e-6],
      [3, 1e-5],
    ]),
  });
  assert.equal(pointsOf(logarithmic).length, 2);
  assert.match(lineChart({ title: 'x', series: series([]) }), /no values/u);
  assert.doesNotMatch(
    lineChart({
      title: 'x',
      series: series([
        [1, 3],
        [2, 3],
      ]),
    }),
    /NaN|Infinity/u,
  );
});

test('what a run did not measure is not shown', () => {
  const html = (after: number) =>
    renderReport({
      name: 'short',
      summary: {
        task: 'chain',
        seed: 0,
        parameters: 1,
        seconds: 1,
        accuracy: { cold_start: 0.25, after_rl: after, thinking: 0.5, no_thinking: 0.125 },
        parity: {
          same_accelerator_max_abs: 0,
          cross_accelerator_max_abs: 0,
          cross_accelerator: ['cpu', 'cpu'],
        },
        tokens_per_second: { sft: 1, rollout: 1, learn: 1 },
      },
      learner: 'cpu',
      rollout: 'cpu',
      steps: [],
      evaluations: [],
      parity: [],
      traces: [],
    });
  assert.match(html(0.75), /75\.0 %<\/b><span>right after reinforcement/u);
  assert.doesNotMatch(html(Number.NaN), /NaN|right after reinforcement/u);
  for (const share of ['25.0 %', '50.0 %', '12.5 %']) assert.ok(html(Number.NaN).includes(share), share);
});

test('text from tasks and models cannot break out of the page', () => {
  const hostile = '<script>alert("x")</script>';
  const html = renderReport({
    name: hostile,
    summary: {
      task: hostile,
      seed: 0,
      parameters: 1,
      seconds: 1,
      accuracy: { cold_start: 0, after_rl: 1, thinking: 1, no_thinking: 0 },
      parity: {
        same_accelerator_max_abs: 0,
        cross_accelerator_max_abs: 0,
        cross_accelerator: ['cpu', 'wasm'],
      },
      tokens_per_second: { sft: 1, rollout: 1, learn: 1 },
    },
    learner: hostile,
    rollout: hostile,
    steps: [{ phase: 'reinforcement', step: 1, metrics: { reward: 0.5 } }],
    evaluations: [],
    parity: [],
    traces: [
      { title: hostile, trace: { prompt: hostile, completion: `<think> 1 </think> ${hostile}`, reward: 1 } },
    ],
  });
  assert.ok(!html.includes('<script'), 'no script element');
  assert.ok(html.includes('&lt;think&gt; 1 &lt;/think&gt;'), 'the completion is shown');
  assert.doesNotMatch(html, /https?:/u, 'nothing is fetched');
});
