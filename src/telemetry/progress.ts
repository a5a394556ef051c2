import { isatty, type WriteStream } from 'node:tty';
import type { EncoderSnapshot } from '../pipeline/encoder.js';
import type { NativeTotals } from '../native.js';
import { bytes, ratio } from './amounts.js';

/** How often the line is written anew, in milliseconds. */
const EVERY_MS = 500;

/** A line on the terminal that tells how far it has come; nothing where stderr is no terminal. */
export class Progress {
  readonly #terminal: WriteStream | undefined;
  readonly #line: (perSecond: number) => string;
  readonly #timer: NodeJS.Timeout | undefined;
  readonly #total: () => number;
  #last = { at: performance.now(), total: 0 };
  #shown = false;

  /** `total` gives the bytes so far, `line` the text for a rate in bytes a second. */
  constructor(quiet: boolean, total: () => number, line: (perSecond: number) => string) {
    this.#total = total;
    this.#line = line;
    // Only a terminal becomes a stream of Node's: a pipe would become non-blocking for all who share it.
    if (quiet || !isatty(2)) return;
    this.#terminal = process.stderr.on('error', () => undefined);
    this.#timer = setInterval(() => {
      this.#write();
    }, EVERY_MS);
    this.#timer.unref();
  }

  /** Clears the line, so that what is printed next stands on a line of its own. */
  end(): void {
    clearInterval(this.#timer);
    this.clear();
  }

  /** Clears the line until it is written again. */
  clear(): void {
    if (this.#shown) this.#terminal?.write('\r\x1b[K');
    this.#shown = false;
  }

  #write(): void {
    const now = { at: performance.now(), total: this.#total() };
    const perSecond = ((now.total - this.#last.total) / (now.at - this.#last.at)) * 1000;
    this.#last = now;
    // A terminal that does not know its width says 0.
    const columns = this.#terminal?.columns ?? 0;
    this.#terminal?.write(`\r${this.#line(perSecond).slice(0, columns > 0 ? columns - 1 : 79)}\x1b[K`);
    this.#shown = true;
  }
}

export function encodeLine({ totals, delta }: EncoderSnapshot, perSecond: number): string {
  const parts = [flow(totals.bytesIn, totals.bytesOut, perSecond), ratio(totals.bytesIn, totals.bytesOut)];
  if (delta?.qemu) {
    const { raw, delta: deltas, skipped, fill } = delta.pages;
    parts.push(`pass ${delta.passes.length}`, `pages ${raw} raw ${deltas} delta ${skipped} skipped ${fill} zero`);
  }
  return parts.join(' · ');
}

export function decodeLine(totals: NativeTotals, perSecond: number): string {
  return [flow(totals.bytesIn, totals.bytesOut, perSecond), ratio(totals.bytesOut, totals.bytesIn)].join(' · ');
}

function flow(bytesIn: number, bytesOut: number, perSecond: number): string {
  return `${bytes(bytesIn)} → ${bytes(bytesOut)} · ${bytes(perSecond)}/s in`;
}
