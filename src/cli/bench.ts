/** `pagewire bench` */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isatty } from 'node:tty';
import { compare, describeComparison } from '../bench/compare.js';
import { Registry } from '../bench/registry.js';
import { csv } from '../bench/report/csv.js';
import { type BenchReport, readReport } from '../bench/report/schema.js';
import { table } from '../bench/report/table.js';
import { DEFAULTS, QUICK, runBench } from '../bench/run.js';
import { PagewireError } from '../errors.js';
import { EXIT } from './exit.js';
import { say, tell } from './run.js';

export interface BenchFlags {
  json?: string;
  csv?: string;
  html?: string;
  svg?: string;
  compare?: string;
  variants?: string[];
  filter?: string[];
  runs?: number;
  seconds?: number;
  sample?: number;
  allLevels: boolean;
  list: boolean;
  quick: boolean;
  simulate: boolean;
  quiet: boolean;
}

export async function bench(streams: string[], flags: BenchFlags, signal: AbortSignal): Promise<number> {
  const registry = await Registry.builtIn({ everyLevel: flags.allLevels });
  for (const path of flags.variants ?? []) await registry.load(path);
  const variants = registry.variants(flags.filter);
  if (variants.length === 0) {
    throw new PagewireError(
      'BAD_OPTION',
      `no variant has ${(flags.filter ?? []).join(' or ')} in its name (see --list)`,
    );
  }
  if (flags.list) {
    print(variants.map((v) => `${v.kind.padEnd(7)}${v.name}${'missing' in v ? ' (not installed)' : ''}\n`).join(''));
    return EXIT.ok;
  }
  const preset = flags.quick ? QUICK : DEFAULTS;
  const { runs = preset.runs, seconds = preset.seconds, sample: sampleBytes = preset.sampleBytes } = flags;
  // Read first: a report that is none is told before anything is measured.
  const before = flags.compare === undefined ? undefined : readReport(flags.compare);
  const progress = new Progress(flags.quiet);
  let report: BenchReport;
  try {
    report = await runBench({
      ...{ streams, simulate: flags.simulate, variants, runs, seconds, sampleBytes, signal },
      note: (text) => {
        progress.note(text);
      },
    });
  } finally {
    progress.clear();
  }
  await write(report, flags);
  print(table(report));
  if (before) print(`\n${describeComparison(compare(before, report), flags.compare ?? '')}`);
  const failed = report.variants.filter(({ status }) => status === 'failed');
  for (const { name, reason = '' } of failed) say('bench', `${name} failed: ${reason}`);
  return failed.length > 0 ? EXIT.failed : EXIT.ok;
}

async function write(report: BenchReport, flags: BenchFlags): Promise<void> {
  if (flags.json !== undefined) save(flags.json, `${JSON.stringify(report, null, 2)}\n`);
  if (flags.csv !== undefined) save(flags.csv, csv(report));
  if (flags.html !== undefined) save(flags.html, (await import('../bench/report/html.js')).html(report));
  if (flags.svg !== undefined) {
    const { plots } = await import('../bench/report/plots.js');
    const { standalone } = await import('../bench/report/svg.js');
    mkdirSync(flags.svg, { recursive: true });
    for (const { file, svg } of plots(report)) save(join(flags.svg, file), standalone(svg));
  }
}

function save(path: string, text: string): void {
  try {
    writeFileSync(path, text);
  } catch (error) {
    throw new PagewireError('WRITE_FAILED', `cannot write ${path}: ${error instanceof Error ? error.message : '?'}`);
  }
}

function print(text: string): void {
  // A reader such as `head` may have gone.
  process.stdout.on('error', () => undefined);
  process.stdout.write(text);
}

/** What is being done: one line that changes on a terminal, else a line now and then. */
class Progress {
  readonly #quiet: boolean;
  readonly #terminal = isatty(2);
  #last = -Infinity;
  #phase = '';

  constructor(quiet: boolean) {
    this.#quiet = quiet;
  }

  note(text: string): void {
    if (this.#quiet) return;
    const now = performance.now();
    // What comes before the count: each phase is told at once.
    const phase = text.replace(/\d+ of .*/, '');
    if (phase === this.#phase && now - this.#last < (this.#terminal ? 100 : 5000)) return;
    this.#last = now;
    this.#phase = phase;
    tell(this.#terminal ? `\r\x1b[K${text.slice(0, 78)}` : `${text}\n`);
  }

  clear(): void {
    if (this.#terminal && !this.#quiet) tell('\r\x1b[K');
  }
}
