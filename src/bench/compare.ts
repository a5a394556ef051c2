import { name as visible } from '../inspect/table.js';
import { type BenchReport, isMeasured, type Measured } from './report/schema.js';
import type { Spread } from './statistics.js';

/** A figure that is not what it was. */
export interface Change {
  stream: string;
  name: string;
  what: 'ratio' | 'encode' | 'decode';
  before: number;
  after: number;
}

export interface Comparison {
  changes: Change[];
  /** Figures that both reports have. */
  compared: number;
  /** Why the two are not quite to be compared. */
  caveats: string[];
}

/** Runs of a machine at rest lie closer together than the runs of two days; below this nothing is called a change. */
const LEAST = 0.02;
/** A ratio has hardly any noise. */
const LEAST_RATIO = 0.001;

/** Fewer runs do not show how noisy speeds are. */
const LEAST_RUNS = 3;

/** What changed beyond the noise; see {@link isChange}. */
export function compare(before: BenchReport, after: BenchReport): Comparison {
  const changes: Change[] = [];
  const speeds = enoughRuns(before, after);
  let compared = 0;
  for (const now of after.variants.filter(isMeasured)) {
    const old = before.variants
      .filter(isMeasured)
      .find(({ stream, name }) => stream === now.stream && name === now.name);
    if (!old) continue;
    for (const [what, one, other, least] of pairsOf(old, now, speeds)) {
      if (!one || !other) continue;
      compared++;
      if (isChange(one, other, least)) {
        changes.push({ stream: now.stream, name: now.name, what, before: one.median, after: other.median });
      }
    }
  }
  return { changes, compared, caveats: caveats(before, after) };
}

function enoughRuns(...reports: BenchReport[]): boolean {
  return reports.every(({ method }) => method.runs >= LEAST_RUNS);
}

type Pair = [what: Change['what'], before: Spread | null, after: Spread | null, least: number];

function pairsOf(old: Measured, now: Measured, speeds: boolean): Pair[] {
  const ratio: Pair = ['ratio', old.ratioSpread, now.ratioSpread, LEAST_RATIO];
  const timed: Pair[] = [
    ['encode', old.encodeSpread, now.encodeSpread, LEAST],
    ['decode', old.decodeSpread, now.decodeSpread, LEAST],
  ];
  // Slow variants get through less of a sample at one time than at another.
  return [...(old.rawBytes === now.rawBytes ? [ratio] : []), ...(speeds ? timed : [])];
}

/**
 * Whether the two lie apart, by more than the share `least` of what it was. A few runs do not show all of the noise, so
 * each report's runs are thought to reach half as far again as they do, on either side.
 */
export function isChange(before: Spread, after: Spread, least: number): boolean {
  const slack = (before.most - before.least + after.most - after.least) / 2;
  const apart = after.least > before.most + slack || after.most < before.least - slack;
  return apart && Math.abs(after.median / before.median - 1) > least;
}

function caveats(before: BenchReport, after: BenchReport): string[] {
  const told: string[] = [];
  for (const field of ['processor', 'cores', 'kernel', 'node', 'pagewire', 'tier'] as const) {
    const [one, other] = [before.machine[field], after.machine[field]];
    if (one !== other) told.push(`${field}: ${one} before, ${other} now`);
  }
  for (const field of ['runs', 'seconds'] as const) {
    const [one, other] = [before.method[field], after.method[field]];
    if (one !== other) told.push(`${field}: ${one} before, ${other} now`);
  }
  if (!enoughRuns(before, after)) told.push(`fewer than ${LEAST_RUNS} runs: speeds are not compared`);
  for (const stream of after.streams) {
    const old = before.streams.find(({ name }) => name === stream.name);
    if (!old) {
      told.push(`${stream.name}: was not measured before`);
      continue;
    }
    if (old.sampleDigest !== stream.sampleDigest) told.push(`${stream.name}: not the same bytes as before`);
    for (const field of ['blockBytes', 'deltaBytes'] as const) {
      if (old[field] !== stream[field])
        told.push(`${stream.name}, ${field}: ${old[field]} before, ${stream[field]} now`);
    }
  }
  return told;
}

/** For a terminal. */
export function describeComparison({ changes, compared, caveats }: Comparison, report: string): string {
  const lines = [`Compared with ${report}: ${changes.length} of ${compared} figures changed beyond the noise.`];
  for (const caveat of caveats) lines.push(`  (${caveat})`);
  for (const { stream, name, what, before, after } of changes) {
    const percent = (after / before - 1) * 100;
    const unit = what === 'ratio' ? 'x' : ' MB/s';
    const digits = what === 'ratio' ? 2 : 0;
    lines.push(
      `  ${percent > 0 ? '+' : ''}${percent.toFixed(1)}%  ${name}, ${what}: ` +
        `${before.toFixed(digits)} → ${after.toFixed(digits)}${unit} (${stream})`,
    );
  }
  return `${lines.map((line) => visible(line, Infinity)).join('\n')}\n`;
}
