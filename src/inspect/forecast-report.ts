/** The forecast for people. */
import { LINKS } from '../measuring/links.js';
import { bytes } from '../telemetry/amounts.js';
import type { Forecast } from './schema.js';
import { columns, wrapped } from './table.js';

export function forecastLines({ threads, sample, variants, best, notes }: Forecast): string[] {
  const head = ['  ', 'ratio', 'pack', 'unpack', ...LINKS.map(({ name }) => name.replace(' Gbit/s', ' G'))];
  const rows = variants.map((each) => [
    `  ${each.name}`,
    `${each.ratio.toFixed(2)}x`,
    speed(each.encodeBytesPerSecond),
    each.decodeBytesPerSecond === null ? 'QEMU' : speed(each.decodeBytesPerSecond),
    ...each.links.map(({ name, seconds: s }) => `${seconds(s)}${isBest(name, each.name) ? '*' : ' '}`),
  ]);
  function isBest(link: string, variant: string): boolean {
    return best.some((its) => its.link === link && its.variant === variant);
  }
  const of = sample.oneIn > 1 ? `, one frame in ${sample.oneIn}` : '';
  return [
    'Forecast: MB/s of one thread on this machine, and seconds over links of Gbit/s',
    ...columns([head, ...rows]),
    ...best.map(({ link, variant }) => `  ${`${link}:`.padEnd(12)} ${variant}`),
    ...[
      `Seconds are with ${threads} ${threads === 1 ? 'thread' : 'threads'}.`,
      `Codecs were measured on ${bytes(sample.bytes)} of the stream${of}.`,
      ...notes,
    ].flatMap(wrapped),
  ];
}

function speed(bytesPerSecond: number): string {
  return Math.round(bytesPerSecond / 1e6).toString();
}

function seconds(n: number): string {
  return n < 10 ? n.toFixed(2) : n < 100 ? n.toFixed(1) : Math.round(n).toString();
}
