/** Line charts as SVG text: one or more series over steps, with axes that a person can read. */

export interface Series {
  readonly label: string;
  /** CSS colour. */
  readonly color: string;
  readonly points: readonly (readonly [x: number, y: number])[];
}

export interface ChartOptions {
  readonly title: string;
  readonly series: readonly Series[];
  readonly unit?: string;
  /** Draw the y axis in powers of ten; values of 0 or less are left out. */
  readonly logarithmic?: boolean;
  /** Fixed bounds of the y axis. */
  readonly range?: readonly [number, number];
  /** Vertical marks, such as the border between two phases. */
  readonly marks?: readonly { readonly x: number; readonly label: string }[];
}

const WIDTH = 460;
const HEIGHT = 220;
const MARGIN = { left: 54, right: 12, top: 30, bottom: 26 };

export function escapeHtml(text: string): string {
  const names: Readonly<Record<string, string>> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&#39;',
  };
  return text.replace(/[&<>"']/gu, (character) => names[character]);
}

/** A short text of a number for an axis. */
export function formatNumber(value: number): string {
  const size = Math.abs(value);
  if (value === 0) return '0';
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
  if (size < 1e-3) return value.toExponential(1).replace('.0e', 'e');
  return String(Number(value.toPrecision(3)));
}

/** Round numbers that divide [low, high] in about four. */
function ticks(low: number, high: number): number[] {
  const raw = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw) ?? raw;
  const first = Math.ceil(low / step) * step;
  return Array.from({ length: Math.floor((high - first) / step + 1e-9) + 1 }, (_, i) => first + i * step);
}

/** Powers of ten within [low, high], at most about five. */
function powerTicks(low: number, high: number): number[] {
  const from = Math.ceil(Math.log10(low) - 1e-9);
  const to = Math.floor(Math.log10(high) + 1e-9);
  const stride = Math.max(1, Math.ceil((to - from) / 5));
  return Array.from(
    { length: Math.max(1, Math.floor((to - from) / stride) + 1) },
    (_, i) => 10 ** (from + i * stride),
  );
}

function bounds(values: readonly number[], options: ChartOptions): [number, number] {
  if (options.range) return [options.range[0], options.range[1]];
  const low = Math.min(...values);
  const high = Math.max(...values);
  if (options.logarithmic)
    return [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high) + 1e-9)];
  if (low === high)
    return [low - Math.max(1e-6, Math.abs(low) * 0.5), high + Math.max(1e-6, Math.abs(high) * 0.5)];
  const room = (high - low) * 0.06;
  return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
}

/** The chart as an SVG element. Series without any drawable point are named as empty rather than left out. */
export function lineChart(options: ChartOptions): string {
  const drawable = options.series.map((series) => ({
    ...series,
    points: series.points.filter(([, y]) => Number.isFinite(y) && (!options.logarithmic || y > 0)),
  }));
  const all = drawable.flatMap((series) => series.points);
  const title = `<text x="${MARGIN.left}" y="17" class="title">${escapeHtml(options.title)}${options.unit ? ` <tspan class="unit">${escapeHtml(options.unit)}</tspan>` : ''}</text>`;
  const open = `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escapeHtml(options.title)}">${title}`;
  if (all.length === 0)
    return `${open}<text x="${WIDTH / 2}" y="${HEIGHT / 2}" class="empty">no values</text></svg>`;

  const xs = all.map(([x]) => x);
  const [xLow, xHigh] = [Math.min(...xs), Math.max(...xs, Math.min(...xs) + 1)];
  const [yLow, yHigh] = bounds(
    all.map(([, y]) => y),
    options,
  );
  const scaleY = options.logarithmic ? Math.log10 : (value: number) => value;
  const px = (x: number) =>
    MARGIN.left + ((x - xLow) / (xHigh - xLow)) * (WIDTH - MARGIN.left - MARGIN.right);
  const py = (y: number) =>
    HEIGHT -
    MARGIN.bottom -
    ((scaleY(y) - scaleY(yLow)) / (scaleY(yHigh) - scaleY(yLow))) * (HEIGHT - MARGIN.top - MARGIN.bottom);

  const grid = (options.logarithmic ? powerTicks(yLow, yHigh) : ticks(yLow, yHigh)).map(
    (y) =>
      `<line x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${py(y).toFixed(1)}" y2="${py(y).toFixed(1)}" class="grid"/>` +
      `<text x="${MARGIN.left - 6}" y="${(py(y) + 3.5).toFixed(1)}" class="tick end">${formatNumber(y)}</text>`,
  );
  const steps = ticks(xLow, xHigh).map(
    (x) => `<text x="${px(x).toFixed(1)}" y="${HEIGHT - 9}" class="tick middle">${formatNumber(x)}</text>`,
  );
  const marks = (options.marks ?? []).map(
    ({ x, label }) =>
      `<line x1="${px(x).toFixed(1)}" x2="${px(x).toFixed(1)}" y1="${MARGIN.top}" y2="${HEIGHT - MARGIN.bottom}" class="mark"/>` +
      `<text x="${(px(x) + (px(x) > WIDTH / 2 ? -4 : 4)).toFixed(1)}" y="${MARGIN.top + 9}" class="tick${px(x) > WIDTH / 2 ? ' end' : ''}">${escapeHtml(label)}</text>`,
  );
  const lines = drawable.map(({ color, label, points }) => {
    const path = points.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(' ');
    const last = points.at(-1);
    const tooltip = `<title>${escapeHtml(label)}${last ? `: ${formatNumber(last[1])}` : ''}</title>`;
    if (points.length === 1)
      return `<circle cx="${px(points[0][0]).toFixed(1)}" cy="${py(points[0][1]).toFixed(1)}" r="3" fill="${color}">${tooltip}</circle>`;
    return `<polyline points="${path}" fill="none" stroke="${color}" stroke-width="1.6">${tooltip}</polyline>`;
  });
  const legend =
    options.series.length < 2
      ? ''
      : drawable
          .map(({ label, color }, i) => {
            const x = WIDTH - MARGIN.right - (drawable.length - i) * 92;
            return `<rect x="${x}" y="9" width="10" height="10" fill="${color}"/><text x="${x + 14}" y="18" class="tick">${escapeHtml(label)}</text>`;
          })
          .join('');
  return `${open}${legend}${grid.join('')}${steps.join('')}${marks.join('')}${lines.join('')}</svg>`;
}
