// What a benchmark says: on the terminal, and in a file to be committed.
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { dirname } from 'node:path';
import { spreadOf } from '#src/bench/statistics.js';

export function median(values: readonly number[]): number {
  return spreadOf(values).median;
}

/** The median, and of several values the least and the most. */
export function spread(values: readonly number[], digits: number): string {
  if (values.length === 0) return '-';
  const text = median(values).toFixed(digits);
  if (values.length === 1) return text;
  return `${text} (${Math.min(...values).toFixed(digits)}–${Math.max(...values).toFixed(digits)})`;
}

/** `value` and whether it is good enough. */
export function verdict(value: number, wanted: { atMost: number } | { atLeast: number }): string {
  const [sign, limit, reached] =
    'atMost' in wanted
      ? (['≤', wanted.atMost, value <= wanted.atMost] as const)
      : (['≥', wanted.atLeast, value >= wanted.atLeast] as const);
  return `${value.toFixed(2)} (wanted ${sign} ${limit}: ${reached ? 'reached' : 'NOT REACHED'})`;
}

export class Report {
  private readonly lines: string[] = [];

  /** `command`: as users type it, without options. */
  constructor(command: string) {
    const given = process.argv.slice(2).join(' ');
    this.say(
      `${new Date().toISOString().slice(0, 10)}, ${cpus()[0]?.model ?? '?'}, ${cpus().length} processors, ` +
        `Linux ${release()}, Node ${process.version}`,
    );
    this.say(`command: ${command}${given === '' ? '' : ` -- ${given}`}`);
  }

  say(line = ''): void {
    this.lines.push(line);
    console.log(line);
  }

  /** The first row is the heading; the first column stands left, the others right. */
  table(rows: readonly (readonly string[])[]): void {
    const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
    for (const row of rows) {
      const cells = row.map((cell, column) =>
        column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0),
      );
      this.say(cells.join('  ').trimEnd());
    }
  }

  writeTo(file: string | undefined): void {
    if (file === undefined) return;
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, `${this.lines.join('\n')}\n`);
  }
}
