/** The report's pictures: who is small and fast, who is best on which link, and what a page cache finds. */
import { effectiveMBps } from '../measure.js';
import type { Kind } from '../variant.js';
import { linear, logarithmic } from './scale.js';
import { type BenchReport, isMeasured, type Measured } from './schema.js';
import { axes, Labels, legend, line, picture, PLOT, point, SERIES } from './svg.js';
import { KINDS, number } from './table.js';

export interface Plot {
  stream: string;
  kind: Kind;
  /** The name of a file of its own. */
  file: string;
  title: string;
  /** What is to be seen, in a sentence. */
  about: string;
  svg: string;
}

/** Every picture, in the order of streams and kinds. */
export function plots(report: BenchReport): Plot[] {
  return report.streams.flatMap(({ name: stream }, index) =>
    (Object.keys(KINDS) as Kind[]).flatMap((kind) => {
      const measured = report.variants
        .filter(isMeasured)
        .filter((variant) => variant.stream === stream && variant.kind === kind);
      if (measured.length === 0) return [];
      const prefix = report.streams.length > 1 ? `${index + 1}-${kind}` : kind;
      const of = { stream, kind };
      const links = rateAgainstLink(measured, KINDS[kind].title);
      const cached = measured.filter(({ name, hitRate }) => hitRate !== undefined && name.includes('cache'));
      return [
        { ...of, file: `${prefix}-ratio-speed.svg`, ...ratioAgainstSpeed(measured, KINDS[kind].title) },
        ...(links ? [{ ...of, file: `${prefix}-links.svg`, ...links }] : []),
        ...(cached.length > 1 ? [{ ...of, file: `${prefix}-cache.svg`, ...hitsAgainstCache(cached) }] : []),
      ];
    }),
  );
}

type Drawn = Pick<Plot, 'title' | 'about' | 'svg'>;

/** Those that no other beats in both. */
export function paretoFront<T>(items: readonly T[], speed: (item: T) => number, ratio: (item: T) => number): T[] {
  const fastest = [...items].sort((a, b) => speed(b) - speed(a) || ratio(b) - ratio(a));
  let best = -Infinity;
  return fastest.filter((item) => {
    if (ratio(item) <= best) return false;
    best = ratio(item);
    return true;
  });
}

function ratioAgainstSpeed(variants: readonly Measured[], kind: string): Drawn {
  // What only decodes stands at its decoding speed, as a ring.
  const speed = ({ encodeMBps, decodeMBps }: Measured): number => encodeMBps ?? decodeMBps ?? 1;
  const x = logarithmic(variants.map(speed), PLOT.left, PLOT.right);
  const y = logarithmic(
    variants.map(({ ratio }) => ratio),
    PLOT.bottom,
    PLOT.top,
  );
  const place = (variant: Measured): [number, number] => [x.place(speed(variant)), y.place(variant.ratio)];
  const encoders = variants.filter(({ encodeMBps }) => encodeMBps !== null);
  const front = paretoFront(encoders, speed, ({ ratio }) => ratio);
  const labels = new Labels();
  for (const variant of variants) labels.avoid(...place(variant));
  const title = `${kind}: ratio against speed`;
  return {
    title,
    about: 'Up is smaller, right is faster. No variant beats those on the dashed line in both. A ring only decodes.',
    svg: picture(title, [
      ...axes(x, y, 'encoding speed, MB/s', 'ratio'),
      line(front.map(place), 'front'),
      ...variants.map((variant) =>
        point(
          ...place(variant),
          variant.encodeMBps === null ? 'point hollow' : 'point',
          variant.name,
          `${number(variant.ratio)} times smaller at ${number(speed(variant))} MB/s`,
        ),
      ),
      ...front.flatMap((variant) => labels.beside(...place(variant), variant.name) ?? []),
    ]),
  };
}

/** Links that are drawn, in bytes a second: 0.1 to 40 Gbit/s. */
const DRAWN_LINKS = Array.from({ length: 53 }, (_, n) => 12.5e6 * 10 ** ((n * Math.log10(400)) / 52));

function rateAgainstLink(variants: readonly Measured[], kind: string): Drawn | undefined {
  const rate = ({ ratio, encodeMBps, decodeMBps }: Measured, link: number): number =>
    effectiveMBps(link, ratio, encodeMBps ?? undefined, decodeMBps ?? undefined);
  // What leaves encoding to another is no rival.
  const whole = variants.filter(({ encodeMBps }) => encodeMBps !== null);
  if (whole.length === 0) return undefined;
  const best = (link: number): Measured =>
    whole.reduce((one, other) => (rate(other, link) > rate(one, link) ? other : one));
  // Those that win somewhere, from slow links to fast ones.
  const winners = [...new Set(DRAWN_LINKS.map(best))].slice(0, SERIES - 1);
  const plain = whole.find(({ name }) => ['stored', 'raw page', 'pass through'].includes(name));
  const drawn = plain && !winners.includes(plain) ? [...winners, plain] : winners;
  const x = logarithmic(
    DRAWN_LINKS.map((link) => link / 125e6),
    PLOT.left,
    PLOT.right,
  );
  const y = logarithmic(
    drawn.flatMap((variant) => DRAWN_LINKS.map((link) => rate(variant, link))),
    PLOT.bottom,
    PLOT.top,
  );
  const key = legend(drawn.map(({ name }, n) => ({ name, colour: `var(--c${n})` })));
  const title = `${kind}: effective rate against link speed`;
  return {
    title,
    about: 'MB of what goes in that arrive each second: the variants that win on some link, and what packs nothing.',
    svg: picture(
      title,
      [
        ...axes(x, y, 'link, Gbit/s', 'effective rate, MB/s'),
        ...drawn.map((variant, n) =>
          line(
            DRAWN_LINKS.map((link) => [x.place(link / 125e6), y.place(rate(variant, link))]),
            'rate',
            `var(--c${n})`,
          ),
        ),
        ...key.content,
      ],
      key.height,
    ),
  };
}

function hitsAgainstCache(variants: readonly Measured[]): Drawn {
  const sorted = variants
    .map(({ name, cacheBytes = 0, hitRate = 0 }) => ({ name, mib: cacheBytes / 2 ** 20, percent: hitRate * 100 }))
    .sort((a, b) => a.mib - b.mib);
  const x = linear(Math.max(...sorted.map(({ mib }) => mib)), PLOT.left, PLOT.right - 12);
  const y = linear(100, PLOT.bottom, PLOT.top);
  const places = sorted.map(({ mib, percent }): [number, number] => [x.place(mib), y.place(percent)]);
  const title = 'Page cache: size against hit rate';
  return {
    title,
    about: 'The share of pages whose last version was in the cache. What was never sent before cannot be in it.',
    svg: picture(title, [
      ...axes(x, y, 'page cache, MiB', 'pages found', '', '%'),
      line(places, '', 'var(--c0)'),
      ...sorted.map(({ name, mib, percent }, n) =>
        point(...places[n]!, 'point', name, `${number(percent)} % of pages found with ${number(mib)} MiB`),
      ),
    ]),
  };
}
