/** Pictures of lines and points, written by hand: they need no library, and nothing from outside. */
import type { Scale } from './scale.js';

/** Narrow, with large letters: a phone shows it at three quarters of its size. */
export const WIDTH = 480;
export const HEIGHT = 340;
/** Where the axes leave room for the plot. */
export const PLOT = { left: 58, right: WIDTH - 14, top: 14, bottom: HEIGHT - 50 };
/** Of its letters, in units of the picture; a letter is about 0.56 of it wide. */
const FONT = 13;
const LETTER = 0.56 * FONT;
/** Digits are wider than most letters: so much in DejaVu Sans. */
const DIGIT = 0.64 * FONT;

/** The colours of both schemes; the page and the pictures share them. */
export const COLOURS = `
  --paper: #ffffff; --ink: #1b1f24; --faint: #5b6470; --rule: #d5d9de; --point: #3266a8;
  --c0: #3266a8; --c1: #b34700; --c2: #1d7a4c; --c3: #8b3fa0; --c4: #9c7a00; --c5: #b3304f; --c6: #30808a; --c7: #5b6470;`;
export const DARK_COLOURS = `
  --paper: #14181d; --ink: #e6e9ed; --faint: #a3acb8; --rule: #39424d; --point: #7fb0ee;
  --c0: #7fb0ee; --c1: #ff9d5c; --c2: #63cf9a; --c3: #d69bea; --c4: #e3c457; --c5: #ff8fa6; --c6: #74cfda; --c7: #a3acb8;`;
export const SERIES = 8;

export const PICTURE_STYLE = `
  svg.plot text { font: ${FONT}px system-ui, "DejaVu Sans", sans-serif; fill: var(--ink); paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
  svg.plot .tick { fill: var(--faint); }
  svg.plot .rule { stroke: var(--rule); stroke-width: 1; }
  svg.plot .point { fill: var(--point); stroke: var(--paper); stroke-width: 1; }
  svg.plot .hollow { fill: var(--paper); stroke: var(--point); stroke-width: 1.5; }
  svg.plot .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
  svg.plot .front { stroke: var(--c1); stroke-dasharray: 5 4; }`;

export function escape(text: string): string {
  const names: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
  return text.replace(/[&<>"']/g, (character) => names[character] ?? '');
}

export function picture(title: string, content: string[], height = HEIGHT): string {
  return [
    `<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${escape(title)}">`,
    ...content,
    '</svg>',
  ].join('\n');
}

/** The picture as a file of its own, with its colours. */
export function standalone(svg: string): string {
  const style =
    `<style>\n  svg.plot { ${COLOURS} }\n  @media (prefers-color-scheme: dark) { svg.plot { ${DARK_COLOURS} } }` +
    `${PICTURE_STYLE}\n</style>\n<rect width="100%" height="100%" fill="var(--paper)"/>`;
  return `${svg.replace('>\n', `>\n${style}\n`)}\n`;
}

/** Grid, ticks and names of both axes. */
export function axes(x: Scale, y: Scale, xName: string, yName: string, xUnit = '', yUnit = ''): string[] {
  const { left, right, top, bottom } = PLOT;
  return [
    ...x.ticks.flatMap((tick) => [
      `<line class="rule" x1="${at(x.place(tick))}" y1="${top}" x2="${at(x.place(tick))}" y2="${bottom}"/>`,
      label(withinPicture(x.place(tick), short(tick) + xUnit), bottom + 18, short(tick) + xUnit, 'middle', 'tick'),
    ]),
    ...y.ticks.flatMap((tick) => [
      `<line class="rule" x1="${left}" y1="${at(y.place(tick))}" x2="${right}" y2="${at(y.place(tick))}"/>`,
      label(left - 6, y.place(tick) + 4, short(tick) + yUnit, 'end', 'tick'),
    ]),
    label((left + right) / 2, HEIGHT - 10, xName, 'middle'),
    `<text x="${-(top + bottom) / 2}" y="14" text-anchor="middle" transform="rotate(-90)">${escape(yName)}</text>`,
  ];
}

export function label(x: number, y: number, text: string, anchor: 'start' | 'middle' | 'end', style = ''): string {
  return `<text${style && ` class="${style}"`} x="${at(x)}" y="${at(y)}" text-anchor="${anchor}">${escape(text)}</text>`;
}

/** The middle of a number that is to stand at `x`, as near as the picture's edge allows. */
function withinPicture(x: number, text: string): number {
  return Math.min(x, WIDTH - (text.length * DIGIT) / 2 - 2);
}

/** Which line is which, under the axes; the picture's height with it. */
export function legend(entries: readonly { name: string; colour: string }[]): { height: number; content: string[] } {
  const key = 26;
  const columns = entries.every(({ name }) => key + name.length * LETTER < WIDTH / 2) ? 2 : 1;
  const rows = Math.ceil(entries.length / columns);
  const content = entries.flatMap(({ name, colour }, n) => {
    const x = 8 + Math.floor(n / rows) * (WIDTH / 2);
    const y = HEIGHT + 8 + (n % rows) * 18;
    const stroke: [number, number][] = [
      [x, y - 4],
      [x + key - 8, y - 4],
    ];
    return [line(stroke, 'key', colour), label(x + key, y, name, 'start')];
  });
  return { height: HEIGHT + rows * 18 + 4, content };
}

/** A point that says what it is to whoever points at it. */
export function point(x: number, y: number, style: string, name: string, told: string): string {
  const title = `<title>${escape(`${name}: ${told}`)}</title>`;
  return `<circle class="${style}" data-name="${escape(name)}" cx="${at(x)}" cy="${at(y)}" r="5">${title}</circle>`;
}

export function line(points: readonly (readonly [x: number, y: number])[], style: string, colour?: string): string {
  const path = points.map(([x, y], n) => `${n === 0 ? 'M' : 'L'}${at(x)} ${at(y)}`).join('');
  return `<path class="line ${style}" d="${path}"${colour === undefined ? '' : ` stroke="${colour}"`}/>`;
}

/** Names beside points, as far as there is room: none stands over another or over the picture's edge. */
export class Labels {
  readonly #taken: { left: number; right: number; top: number; bottom: number }[] = [];

  /** Keeps names away from a point. */
  avoid(x: number, y: number): void {
    this.#taken.push({ left: x - 4, right: x + 4, top: y - 4, bottom: y + 4 });
  }

  beside(x: number, y: number, name: string): string | undefined {
    const width = name.length * LETTER;
    for (const [left, baseline] of [
      [x + 9, y + 4],
      [x - 9 - width, y + 4],
      [x - width / 2, y - 10],
      [x - width / 2, y + 20],
      [x + 6, y - 8],
      [x + 6, y + 18],
    ] as const) {
      const box = { left, right: left + width, top: baseline - FONT + 2, bottom: baseline + 3 };
      const isInside =
        box.left >= PLOT.left && box.right <= PLOT.right && box.top >= PLOT.top && box.bottom <= PLOT.bottom;
      const isFree = !this.#taken.some(
        (other) => box.left < other.right && other.left < box.right && box.top < other.bottom && other.top < box.bottom,
      );
      if (!isInside || !isFree) continue;
      this.#taken.push(box);
      return label(left, baseline, name, 'start');
    }
    return undefined;
  }
}

/** A tenth of a unit is more than an eye sees. */
function at(place: number): string {
  return String(Math.round(place * 10) / 10);
}

/** A tick's number, without the noise of computing with fractions. */
function short(tick: number): string {
  return String(Number(tick.toPrecision(6)));
}
