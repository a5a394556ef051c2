/** The report as one page: no script, nothing from outside. */
import { LINKS } from '../../measuring/links.js';
import { bytes } from '../../telemetry/amounts.js';
import type { Kind } from '../variant.js';
import { plots, type Plot } from './plots.js';
import { type BenchReport, isMeasured, type Measured, type StreamReport, type VariantReport } from './schema.js';
import { COLOURS, DARK_COLOURS, escape, PICTURE_STYLE } from './svg.js';
import { caveats, describe, KINDS, number, winners } from './table.js';

const STYLE = `
  :root { color-scheme: light dark; ${COLOURS} }
  @media (prefers-color-scheme: dark) { :root { ${DARK_COLOURS} } }
  * { box-sizing: border-box; }
  body { margin: 0 auto; max-width: 1180px; padding: 16px; background: var(--paper); color: var(--ink);
    font: 16px/1.45 system-ui, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
  h1 { font-size: 1.6rem; margin: 0 0 .4rem; } h2 { font-size: 1.3rem; margin: 2rem 0 .3rem; }
  h3 { font-size: 1.1rem; margin: 1.6rem 0 .2rem; } p { margin: .3rem 0; }
  .faint, figcaption { color: var(--faint); font-size: .9rem; }
  .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 16px; }
  figure { margin: .6rem 0; min-width: 0; } figure h4 { font-size: 1rem; margin: 0; }
  svg.plot { display: block; width: 100%; max-width: 560px; height: auto; }
  .table { overflow-x: auto; margin-top: .6rem; }
  table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
  th, td { padding: .25rem .55rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
  th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
  ${PICTURE_STYLE}`;

export function html(report: BenchReport): string {
  const { machine, method, date } = report;
  const all = plots(report);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>pagewire bench</title>
<style>${STYLE}</style>
</head>
<body>
<h1>pagewire bench</h1>
<p>${escape(machine.processor)}, ${machine.cores} cores, ${bytes(machine.memoryBytes)} of memory, Linux ${escape(machine.kernel)},
Node ${escape(machine.node)}, pagewire ${escape(machine.pagewire)} (${escape(machine.tier)})</p>
<p class="faint">${escape(date)}. ${method.runs} runs of each variant, in turn, after one to warm up; medians. Speeds count MB
(10<sup>6</sup> bytes) of what goes in. Every result was decoded and compared.</p>
${caveats(report)
  .map((caveat) => `<p>${escape(caveat)}</p>`)
  .join('\n')}
${report.streams.map((stream) => section(report, stream, all)).join('\n')}
</body>
</html>
`;
}

function section(report: BenchReport, stream: StreamReport, all: readonly Plot[]): string {
  const variants = report.variants.filter((variant) => variant.stream === stream.name);
  const kinds = (Object.keys(KINDS) as Kind[]).filter((kind) => variants.some((variant) => variant.kind === kind));
  return `<section>
<h2>${escape(stream.name)}</h2>
<p class="faint">${escape(describe(stream))}</p>
${kinds
  .map((kind) => {
    const mine = all.filter((plot) => plot.stream === stream.name && plot.kind === kind);
    return `<h3>${KINDS[kind].title}</h3>
<p class="faint">${escape(KINDS[kind].about)}</p>
<div class="plots">
${mine.map(figure).join('\n')}
</div>
<p>${escape(best(variants.filter((variant) => variant.kind === kind)))}</p>
${table(variants.filter((variant) => variant.kind === kind))}`;
  })
  .join('\n')}
</section>`;
}

function best(variants: readonly VariantReport[]): string {
  const measured = variants.filter(isMeasured);
  return measured.length > 1 ? `${winners(measured)}.` : '';
}

function figure({ title, about, svg }: Plot): string {
  return `<figure><h4>${escape(title)}</h4>\n${svg}\n<figcaption>${escape(about)}</figcaption></figure>`;
}

const HEAD = ['', 'ratio', 'encode', '', 'decode', '', 'CPU s/GB', 'memory', ...LINKS.map(({ name }) => name)];

function table(variants: readonly VariantReport[]): string {
  const head = HEAD.map((name) => `<th scope="col">${name}</th>`).join('');
  const rows = variants.map((variant) => (isMeasured(variant) ? measuredRow(variant) : otherRow(variant)));
  return `<div class="table"><table>\n<thead><tr>${head}</tr></thead>\n<tbody>\n${rows.join('\n')}\n</tbody>\n</table></div>`;
}

function measuredRow(variant: Measured): string {
  const { name, ratio, encodeSpread, decodeSpread, memoryBytes, links } = variant;
  const cpu = (variant.encodeCpuSecondsPerGB ?? 0) + (variant.decodeCpuSecondsPerGB ?? 0);
  const range = (spread: Measured['encodeSpread']): string =>
    spread === null ? '' : `${number(spread.least)}–${number(spread.most)}`;
  return row([
    name,
    number(ratio),
    number(variant.encodeMBps),
    range(encodeSpread),
    number(variant.decodeMBps),
    range(decodeSpread),
    number(cpu),
    memoryBytes === undefined || memoryBytes === null ? '' : bytes(memoryBytes),
    ...links.map(({ MBps }) => number(MBps)),
  ]);
}

function otherRow({ name, status, reason = '' }: VariantReport): string {
  const why = escape(reason === '' ? status : `${status}: ${reason}`);
  return `<tr><td>${escape(name)}</td><td colspan="${HEAD.length - 1}" style="text-align: left">${why}</td></tr>`;
}

function row(cells: readonly string[]): string {
  return `<tr>${cells.map((cell) => `<td>${escape(cell)}</td>`).join('')}</tr>`;
}
