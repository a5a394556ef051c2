/** The report for people, in lines of up to 80 columns. */
import { bytes } from '../telemetry/amounts.js';
import { forecastLines } from './forecast-report.js';
import type { Inspection, Section, Tally } from './schema.js';
import { columns, name as shown, number, percent, wrapped } from './table.js';

/** Commands and devices' sections that are shown one by one; JSON has all. */
const MOST_COMMANDS = 20;

/** Passes that are shown one by one. */
const MOST_PASSES = 12;

/** The widest bar of a histogram. */
const BAR = 30;

export function report(inspection: Inspection): string {
  const { pages, forecast } = inspection;
  const parts = [
    head(inspection),
    blocks(inspection),
    sections(inspection.sections),
    commands(inspection.commands),
    ...(pages ? [passes(pages), again(pages), deltas(pages)] : []),
    ...(forecast ? [forecastLines(forecast)] : []),
  ];
  return parts
    .filter((lines) => lines.length > 0)
    .map((lines) => `${lines.join('\n')}\n`)
    .join('\n');
}

function head({ file, container, stream, machine, uuid, pageSize, pagesElsewhere }: Inspection): string[] {
  const { libvirt, pagewire, fileBytes } = container;
  const around = [
    ...(pagewire ? [`a file of pagewire, ${fileBytes === null ? 'of unknown size' : bytes(fileBytes)}`] : []),
    ...(libvirt ? [`saved by libvirt as ${libvirt.format}, from byte ${libvirt.payload} on`] : []),
  ];
  const rows: [string, string][] = [
    ...(around.length > 0 ? [['container', around.join(', ')] as [string, string]] : []),
    ['stream', `${number(stream.bytes)} bytes (${bytes(stream.bytes)}), ${STATES[stream.state]}`],
    ['machine', machine === '' ? 'not told' : machine],
    ...(uuid === null ? [] : [['uuid', uuid.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')] as [string, string]]),
    ...(pageSize === null ? [] : [['page size', bytes(pageSize)] as [string, string]]),
    ...(pagesElsewhere ? [['note', 'pages travel over other channels too (multifd, RDMA)'] as [string, string]] : []),
  ];
  return [
    file === '-' ? 'standard input' : shown(file),
    ...rows.map(([what, value]) => `  ${what.padEnd(11)}${value}`),
  ];
}

const STATES = {
  complete: 'complete',
  unsure: 'perhaps complete: nothing in it tells',
  truncated: 'cut off',
  unknown: 'not understood to its end',
  failed: 'not read to its end',
} as const;

function blocks({ blocks }: Inspection): string[] {
  if (blocks.length === 0) return [];
  const rows = blocks.map(({ name, bytes: size, pages }) => [`  ${shown(name, 24)}`, bytes(size), ...kinds(pages)]);
  return ['Blocks, and the page records for each', ...columns([['  name', 'size', ...KINDS], ...rows])];
}

const KINDS = ['whole', 'zero', 'fill', 'xbzrle', 'zlib'];

function kinds({ raw, zero, fill, xbzrle, compressed }: Tally): string[] {
  return [raw, zero, fill, xbzrle, compressed].map((count) => number(count));
}

/** Parts of the RAM's section that follow one another are one line. */
function sections(all: readonly Section[]): string[] {
  if (all.length === 0) return [];
  const merged: Section[] = [];
  for (const section of all) {
    const last = merged.at(-1);
    if (last?.type === 'ram' && section.type === 'ram' && last.kind === 'part' && section.kind === 'part') {
      last.bytes = section.offset + section.bytes - last.offset;
      last.count += section.count;
      last.pages = (last.pages ?? 0) + (section.pages ?? 0);
    } else {
      merged.push({ ...section });
    }
  }
  const rows = merged.map((section) => [`  ${number(section.offset)}`, number(section.bytes), what(section)]);
  return ['Sections', ...columns([['  offset', 'bytes', 'what'], ...rows], 'right', 'right', 'left')];
}

function what({ type, kind, name, id, instance, version, count, pages }: Section): string {
  switch (type) {
    case 'configuration':
      return 'configuration';
    case 'description':
      return "QEMU's description of the device states";
    case 'opaque':
      return 'not taken apart';
    case 'device':
      return `${shown(name ?? '', 34)}, instance ${instance ?? 0}, version ${version ?? 0}`;
    case 'ram': {
      const named = count > 1 ? `${number(count)} parts` : kind;
      return `ram (${id ?? 0}), ${named}: ${number(pages ?? 0)} page records`;
    }
  }
}

function commands({ count, first }: Inspection['commands']): string[] {
  if (count === 0) return [];
  const rows = first
    .slice(0, MOST_COMMANDS)
    .map(({ offset, name, code, payload }) => [`  ${number(offset)}`, name ?? `command ${code}`, payload]);
  const more = count - rows.length;
  return [
    'Commands',
    ...columns([['  offset', 'name', 'data'], ...rows], 'right', 'left', 'left'),
    ...(more > 0 ? [`  and ${number(more)} more`] : []),
  ];
}

type Pages = NonNullable<Inspection['pages']>;

function passes({ total, passes: all, passesMerged }: Pages): string[] {
  const rows = all.slice(0, MOST_PASSES).map(({ pages }, at) => [`  ${at + 1}`, bytes(pages.bytes), ...kinds(pages)]);
  const rest = all.slice(MOST_PASSES).map(({ pages }) => pages);
  if (rest.length > 0) {
    const sum = rest.reduce((a, b) => add(a, b));
    rows.push([`  ${MOST_PASSES + 1} to ${all.length}${passesMerged ? '…' : ''}`, bytes(sum.bytes), ...kinds(sum)]);
  }
  rows.push(['  all', bytes(total.bytes), ...kinds(total)]);
  return ['Page records by pass over the guest', ...columns([['  pass', 'size', ...KINDS], ...rows])];
}

function add(a: Tally, b: Tally): Tally {
  return {
    raw: a.raw + b.raw,
    zero: a.zero + b.zero,
    fill: a.fill + b.fill,
    xbzrle: a.xbzrle + b.xbzrle,
    compressed: a.compressed + b.compressed,
    bytes: a.bytes + b.bytes,
  };
}

function again({ resent, contents }: Pages): string[] {
  const { lookedAt, equal, oneIn } = contents;
  const how = oneIn === 1 ? '' : `, estimated from one in ${number(oneIn)}`;
  const whole = `${number(equal)} of ${number(lookedAt)} whole pages (${percent(equal, lookedAt)})`;
  return ['The same again', ...sentAgain(resent), ...wrapped(`${whole} hold what another page held${how}`)];
}

function sentAgain(resent: Pages['resent']): string[] {
  if (resent === null) return ['  the guest is too large to count how often each page was sent'];
  const { sent, moreThanOnce, records, most } = resent;
  if (moreThanOnce === 0) return [`  ${number(sent)} pages were sent, each of them once`];
  const busiest = most === 255 ? '255 times or more' : `${most} times`;
  return wrapped(
    `${number(sent)} pages were sent, ${number(moreThanOnce)} of them more than once: ${number(records)} records ` +
      `beyond the first of each; the busiest page ${busiest}`,
  );
}

function deltas({ deltas: { sizes, tooLarge, bytes: sum, withoutBase } }: Pages): string[] {
  const compared = sizes.reduce((all, { pages }) => all + pages, tooLarge);
  if (compared + withoutBase === 0) return [];
  const rows = sizes.map(({ upTo, pages }, at) => {
    const from = (sizes[at - 1]?.upTo ?? -1) + 1;
    return { name: upTo === 0 ? 'nothing changed' : `${number(from)} to ${number(upTo)} bytes`, pages };
  });
  rows.push({ name: 'no smaller', pages: tooLarge });
  const largest = Math.max(...rows.map(({ pages }) => pages), 1);
  const bar = (pages: number): string => '█'.repeat(Math.ceil((pages / largest) * BAR));
  return [
    `Differences of whole pages to their last version: ${number(compared)}, ${bytes(sum)} as XBZRLE`,
    ...columns(
      rows.map(({ name, pages }) => [`  ${name}`, number(pages), bar(pages)]),
      'left',
      'right',
      'left',
    ),
    ...(withoutBase > 0 ? [`  ${number(withoutBase)} more whose last version is not known`] : []),
  ];
}
