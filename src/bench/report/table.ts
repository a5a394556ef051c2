/** The report for a terminal: up to 100 columns. */
import { LINKS } from '../../measuring/links.js';
import { name as visible } from '../../inspect/table.js';
import { bytes } from '../../telemetry/amounts.js';
import type { Kind } from '../variant.js';
import { type BenchReport, isMeasured, type Measured, type StreamReport } from './schema.js';

/** What each kind of variant works on. */
export const KINDS: Record<Kind, { title: string; about: string }> = {
  block: { title: 'Block codecs', about: 'blocks of the stream, each by itself, on one thread' },
  delta: { title: 'Deltas', about: 'a page that came before, from its old version to its new one, on one thread' },
  chain: {
    title: 'Chains',
    about: "pagewire's own encoder and decoder, on all threads unless the name says otherwise",
  },
};

const WIDTH = 100;
const HEAD = ['', 'ratio', 'encode', '±%', 'decode', '±%', 'CPU', 'memory', '0.2', '1', '10', '25'];

export function table(report: BenchReport): string {
  const { machine, method, streams } = report;
  const lines = [
    `${machine.processor}, ${machine.cores} cores, Linux ${machine.kernel}, Node ${machine.node}, pagewire ` +
      `${machine.pagewire} (${machine.tier}); ${method.runs} runs after a warm-up`,
    'encode, decode, 0.2 to 25 Gbit/s: MB/s of what goes in; CPU: seconds a GB, both ends',
    ...caveats(report),
  ];
  for (const stream of streams) {
    lines.push('', describe(stream));
    for (const kind of Object.keys(KINDS) as Kind[]) lines.push(...section(report, stream, kind));
  }
  return `${lines.flatMap(wrap).join('\n')}\n`;
}

/** Between words, at 100 columns; a line that is shorter stays as it is. */
function wrap(line: string): string[] {
  return line.length <= WIDTH ? [line] : (line.match(/\S.{0,99}(?=\s|$)/g) ?? [line]);
}

/** What takes from the figures' worth. */
export function caveats({ machine: { load, cores } }: BenchReport): string[] {
  if (load <= cores / 4) return [];
  return [
    `The machine was busy before this began (load ${load.toFixed(1)} on ${cores} cores): speeds are too low, and noisy.`,
  ];
}

export function describe(stream: StreamReport): string {
  const { name, bytes: all, sampleBytes, ramBytes, pages, pagesAgain, notUnderstood } = stream;
  const part = sampleBytes === all ? '' : `, measured on a sample of ${bytes(sampleBytes)}`;
  const guest =
    ramBytes > 0 ? `: ${bytes(ramBytes)} of RAM, ${pages} page records, ${pagesAgain} of pages sent again` : '';
  const fault = notUnderstood === undefined ? '' : `; not understood from ${notUnderstood}`;
  return `${visible(name, Infinity)}, ${bytes(all)}${part}${guest}${fault}`;
}

function section(report: BenchReport, stream: StreamReport, kind: Kind): string[] {
  const all = report.variants.filter((variant) => variant.stream === stream.name && variant.kind === kind);
  if (all.length === 0) return [];
  const measured = all.filter(isMeasured);
  const others = all.filter((variant) => !isMeasured(variant));
  const { title, about } = KINDS[kind];
  return [
    '',
    `${title}: ${about}`,
    ...columns([HEAD, ...measured.map(row)]),
    ...cacheLine(measured),
    ...partLine(measured, stream),
    ...(measured.length > 1 ? [winners(measured)] : []),
    ...others.map(
      ({ name, status, reason = '' }) => `${name}: ${status}${reason && ` (${visible(reason, Infinity)})`}`,
    ),
  ];
}

/** Who is best on which link. What leaves encoding to another is no rival. */
export function winners(variants: readonly Measured[]): string {
  const rivals = variants.filter(({ encodeMBps }) => encodeMBps !== null);
  const best = LINKS.map(({ name: link }) => {
    const rate = ({ links }: Measured): number => links.find(({ name }) => name === link)?.MBps ?? 0;
    const [first] = [...rivals].sort((a, b) => rate(b) - rate(a));
    return `${link}: ${first?.name ?? '-'}`;
  });
  return `Best at ${best.join('; ')}`;
}

/** Whose ratio is not of all that the others' are of, because they are slow. */
function partLine(variants: readonly Measured[], { blockBytes, deltaBytes }: StreamReport): string[] {
  const all = { block: blockBytes, delta: deltaBytes, chain: 0 };
  const told = variants.flatMap(({ kind, name, rawBytes }) =>
    rawBytes < all[kind] ? `${name} (${bytes(rawBytes)} of ${bytes(all[kind])})` : [],
  );
  return told.length === 0 ? [] : [`Slow, so the ratio is of a part: ${told.join(', ')}`];
}

/** The share of pages that caches of some sizes had. */
function cacheLine(variants: readonly Measured[]): string[] {
  const told = variants.flatMap(({ name, hitRate, cacheBytes = 0 }) =>
    hitRate === undefined || !name.includes('cache') ? [] : `${(hitRate * 100).toFixed(0)}% in ${bytes(cacheBytes)}`,
  );
  return told.length === 0 ? [] : [`Pages that the cache had: ${told.join(', ')}`];
}

function row(variant: Measured): string[] {
  const { name, ratio, encodeSpread, decodeSpread, memoryBytes, links } = variant;
  return [
    name,
    number(ratio),
    number(variant.encodeMBps),
    noise(encodeSpread),
    number(variant.decodeMBps),
    noise(decodeSpread),
    number((variant.encodeCpuSecondsPerGB ?? 0) + (variant.decodeCpuSecondsPerGB ?? 0)),
    memoryBytes === undefined || memoryBytes === null ? '-' : `${(memoryBytes / 2 ** 20).toFixed(0)}M`,
    ...links.map(({ MBps }) => number(MBps)),
  ];
}

/** Three digits. */
export function number(value: number | null): string {
  if (value === null) return '-';
  return value.toFixed(value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2);
}

/** Half of the way from the least to the most, in percent of the median. */
function noise(spread: Measured['encodeSpread']): string {
  return spread === null ? '-' : (((spread.most - spread.least) / 2 / spread.median) * 100).toFixed(0);
}

/** Columns as wide as their widest cell, the first to the left, the others to the right. */
function columns(rows: string[][]): string[] {
  const widths = HEAD.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join('  ')
      .trimEnd(),
  );
}
