/** Numbers and columns for a terminal. */

export type Alignment = 'left' | 'right';

/** Columns as wide as their widest cell; without alignments the first is to the left, the others to the right. */
export function columns(rows: readonly (readonly string[])[], ...alignments: Alignment[]): string[] {
  const count = Math.max(...rows.map((row) => row.length));
  const widths = Array.from({ length: count }, (_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, column) => {
        const alignment = alignments[column] ?? (column === 0 ? 'left' : 'right');
        const width = widths[column] ?? 0;
        return alignment === 'left' ? cell.padEnd(width) : cell.padStart(width);
      })
      .join('  ')
      .trimEnd(),
  );
}

/**
 * A name from a stream or of a file, which may be anything, cut to a width; nothing in it gets to the terminal as a
 * command.
 */
export function name(text: string, width = Infinity): string {
  const visible = text.replaceAll(/\p{C}/gu, '?');
  return visible.length > width ? `…${visible.slice(1 - width)}` : visible;
}

/** `1,234,567` */
export function number(n: number): string {
  return n.toLocaleString('en-US');
}

export function percent(part: number, whole: number): string {
  return whole === 0 ? '0 %' : `${((part / whole) * 100).toFixed(1)} %`;
}

/** Where lines of text are broken. */
const WIDTH = 80;

/** Text in lines that begin with two blanks; a word that is longer than a line stands by itself. */
export function wrapped(text: string): string[] {
  const lines: string[] = [];
  let line = ' ';
  for (const word of text.split(' ')) {
    if (line.trim() !== '' && line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = ' ';
    }
    line += ` ${word}`;
  }
  return [...lines, line];
}
