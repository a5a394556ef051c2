import { bytes, ratio } from '../telemetry/amounts.js';
import type { PageCounts } from '../native.js';

/** What a demo has seen. */
export interface DemoReport {
  /** What was migrated, for people. */
  guest: string;
  runs: DemoRun[];
}

/** One migration. */
export interface DemoRun {
  name: string;
  /** What stands behind the name: the options. */
  options: string;
  /** Bytes that the guest's QEMU, or the simulator, wrote. */
  streamBytes: number;
  /** Bytes that crossed the link. */
  wireBytes: number;
  seconds: number;
  /** Whether the destination's RAM is that of the source, block by block. */
  sameRam: boolean;
  /** What became of the pages; undefined without delta. */
  pages: PageCounts | undefined;
}

/** Link speeds that the report computes times for, in Mbit/s. */
const LINKS = [200, 1000, 10_000];

export function render({ guest, runs }: DemoReport): string {
  const head = ['', 'stream', 'on the wire', 'smaller', ...LINKS.map(link), 'RAM'];
  const rows = runs.map((run) => [
    run.name,
    bytes(run.streamBytes),
    bytes(run.wireBytes),
    ratio(run.streamBytes, run.wireBytes),
    ...LINKS.map((mbit) => `${((run.wireBytes * 8) / mbit / 1e6).toFixed(2)} s`),
    run.sameRam ? 'same' : 'DIFFERENT',
  ]);
  const best = runs.at(-1);
  return [
    '',
    guest,
    '',
    ...table([head, ...rows]),
    '',
    ...(best?.pages ? [`${best.name}: ${counts(best.pages)}`] : []),
    `Times are what the wire's bytes alone take on a link of that speed. Each run was decoded and compared.`,
    '',
  ].join('\n');
}

function link(mbit: number): string {
  return `at ${mbit >= 1000 ? `${mbit / 1000} Gbit/s` : `${mbit} Mbit/s`}`;
}

function counts({ raw, delta, skipped, fill }: PageCounts): string {
  return `${raw} pages whole, ${delta} as differences, ${skipped} unchanged and left out, ${fill} of one byte`;
}

/** Columns as wide as their widest cell, the first to the left, the others to the right. */
function table(rows: string[][]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join('  ')
      .trimEnd(),
  );
}
