// The report's page, opened in a real browser, which tells what it has drawn.
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { pathToFileURL } from 'node:url';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { html } from '#src/bench/report/html.js';
import { plots } from '#src/bench/report/plots.js';
import { isMeasured } from '#src/bench/report/schema.js';
import { standalone } from '#src/bench/report/svg.js';
import type { BenchReport, BlockVariant } from '#src/index.js';
import { folder } from '../cli/command.js';
import { open, type Scheme, skip } from './browser.js';
import { measuredIn } from './measured.js';

/** What the browser says of the page. */
interface Seen {
  width: number;
  scrollWidth: number;
  isDark: boolean;
  background: string;
  ink: string;
  /** What was loaded besides the page. */
  resources: string[];
  plots: {
    title: string;
    /** By the names of their variants. */
    points: string[];
    /** Points that are under the point of the window where they stand, or under another one. */
    shown: number;
    lines: number;
    letters: number;
    /** Texts and points that reach beyond the picture or the window. */
    outside: string[];
    /** Texts that stand on each other. */
    overlapping: string[];
  }[];
  rows: number;
}

/** Runs in the page. */
const LOOK = `
  const inside = (box, frame) => box.left >= frame.left - 1 && box.right <= frame.right + 1 &&
    box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1 && box.left >= -1 && box.right <= innerWidth + 1;
  const plots = [...document.querySelectorAll('figure')].map((figure) => {
    const svg = figure.querySelector('svg');
    const texts = [...svg.querySelectorAll('text')];
    const points = [...svg.querySelectorAll('circle')];
    const shown = points.filter((point) => {
      point.scrollIntoView({ block: 'center' });
      const box = point.getBoundingClientRect();
      const top = document.elementFromPoint((box.left + box.right) / 2, (box.top + box.bottom) / 2);
      return top !== null && top.tagName === 'circle';
    });
    const frame = svg.getBoundingClientRect();
    const named = texts.map((text) => [text.textContent, text.getBoundingClientRect()]);
    return {
      title: figure.querySelector('h4').textContent,
      points: points.map((point) => point.dataset.name),
      shown: shown.length,
      lines: svg.querySelectorAll('path').length,
      letters: Math.min(...texts.map((text) => parseFloat(getComputedStyle(text).fontSize) * frame.width / svg.viewBox.baseVal.width)),
      outside: [...named, ...points.map((point) => [point.dataset.name, point.getBoundingClientRect()])]
        .filter(([, box]) => !inside(box, frame)).map(([name]) => name),
      overlapping: named.flatMap(([name, a], n) => named.slice(n + 1)
        .filter(([, b]) => a.left < b.right - 2 && b.left < a.right - 2 && a.top < b.bottom - 5 && b.top < a.bottom - 5)
        .map(([other]) => name + ' / ' + other)),
    };
  });
  const style = getComputedStyle(document.body);
  const seen = {
    width: innerWidth, scrollWidth: document.documentElement.scrollWidth,
    isDark: matchMedia('(prefers-color-scheme: dark)').matches,
    background: style.backgroundColor, ink: style.color,
    resources: performance.getEntriesByType('resource').map(({ name }) => name),
    plots, rows: document.querySelectorAll('tbody tr').length,
  };
  const told = document.createElement('script');
  told.type = 'application/json';
  told.id = 'seen';
  told.textContent = JSON.stringify(seen).replaceAll('<', '\\\\u003c');
  document.body.append(told);`;

function look(page: string, path: string, width: number, scheme: Scheme): Seen {
  writeFileSync(path, page.replace('</body>', `<script>${LOOK}</script></body>`));
  const dom = open(pathToFileURL(path).href, { width, height: 844, scheme });
  const told = /<script type="application\/json" id="seen">(.*?)<\/script>/s.exec(dom)?.[1];
  assert.ok(told !== undefined, dom.slice(-2000));
  return JSON.parse(told) as Seen;
}

/** Relative luminance, as WCAG has it. */
function luminance(colour: string): number {
  const [r = 0, g = 0, b = 0] = [...colour.matchAll(/\d+/g)].map(([value]) => {
    const part = Number(value) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** The same with speeds that are not this machine's: where points stand is to be the same everywhere. */
function steady(report: BenchReport): BenchReport {
  const speed = (n: number, measured: number | null | undefined): number | null =>
    typeof measured === 'number' ? 10_000 / 1.3 ** (n % 20) : null;
  const variants = report.variants.map((variant, n) => ({
    ...variant,
    encodeMBps: speed(n, variant.encodeMBps),
    decodeMBps: speed(n / 2, variant.decodeMBps),
  }));
  return { ...report, variants };
}

describe("the report's page in a browser", { skip }, () => {
  let report: BenchReport;
  const path = mkdtempSync(join(tmpdir(), 'pagewire-'));
  after(() => {
    rmSync(path, { recursive: true, force: true });
  });
  before(async () => {
    const names = ['stored', 'lz4 -8', 'lz4 1', 'lz4 3', 'zstd -', 'zstd 2', 'zstd 3', 'zlib 1', 'zlib 3', 'zlib-sync'];
    const filter = [...names, 'xbzrle', 'raw page', 'xor', 'pass through', 'delta', 'cache'];
    // A name is text, whatever it holds.
    const mine: BlockVariant = {
      kind: 'block',
      name: `<img src="x"> & 'mine' </svg>`,
      pack: (block) => deflateRawSync(block, { level: 1 }),
      unpack: (packed) => inflateRawSync(packed),
    };
    report = steady(await measuredIn(path, { variants: [mine], filter: [...filter, mine.name] }));
  });

  for (const [width, scheme] of [
    [1200, 'light'],
    [1200, 'dark'],
    [390, 'light'],
    [390, 'dark'],
  ] as const) {
    it(`is drawn whole, ${width} pixels wide, ${scheme}`, (t) => {
      const seen = look(html(report), folder(t)('report.html'), width, scheme);
      assert.equal(seen.width, width);
      assert.ok(seen.scrollWidth <= width, `the body is ${seen.scrollWidth} pixels wide`);
      assert.deepEqual(seen.resources, []);
      assert.equal(seen.isDark, scheme === 'dark');
      const [paper, ink] = [luminance(seen.background), luminance(seen.ink)];
      assert.equal(paper < ink, scheme === 'dark', `${seen.ink} on ${seen.background}`);
      assert.ok((Math.max(paper, ink) + 0.05) / (Math.min(paper, ink) + 0.05) > 7, `${seen.ink} on ${seen.background}`);
      assert.equal(seen.rows, report.variants.length);

      const measuredOnes = report.variants.filter(isMeasured);
      assert.equal(measuredOnes.length, report.variants.length);
      const scatters = seen.plots.filter(({ title }) => title.includes('ratio against speed'));
      assert.deepEqual(
        scatters.flatMap(({ points }) => points),
        ['block', 'delta', 'chain'].flatMap((kind) =>
          measuredOnes.filter((variant) => variant.kind === kind).map(({ name }) => name),
        ),
      );
      assert.equal(scatters.length, 3);
      assert.equal(seen.plots.filter(({ title }) => title.includes('effective rate')).length, 3);
      const [cache] = seen.plots.filter(({ title }) => title.includes('Page cache'));
      assert.equal(cache?.points.length, 5);
      for (const { title, points, shown, lines, letters, outside, overlapping } of seen.plots) {
        assert.equal(shown, points.length, title);
        assert.ok(lines >= 1, title);
        assert.ok(letters >= 9, `${title}: letters of ${letters} pixels`);
        assert.deepEqual({ outside, overlapping }, { outside: [], overlapping: [] }, title);
      }
    });
  }

  it('has pictures that are files of their own', (t) => {
    const path = folder(t);
    mkdirSync(path('svg'));
    for (const { file, svg } of plots(report)) writeFileSync(path(`svg/${file}`), standalone(svg));
    const files = readdirSync(path('svg'));
    assert.equal(files.length, 7);
    const images = files.map((file) => `<img src="svg/${file}" onload="this.dataset.seen = this.naturalWidth">`);
    writeFileSync(path('all.html'), `<!doctype html>${images.join('\n')}`);
    const dom = open(pathToFileURL(path('all.html')).href, { width: 1200, height: 844, scheme: 'light' });
    assert.equal([...dom.matchAll(/data-seen="[1-9]\d*"/g)].length, files.length, dom);
  });
});
