/** `pagewire bench` */
import { isatty } from 'node:tty';
import { compare, describeComparison } from '../bench/compare.js';
import { Registry } from '../bench/registry.js';
import { type BenchReport, readReport } from '../bench/report/schema.js';
import { table } from '../bench/report/table.js';
import { DEFAULTS, QUICK, runBench } from '../bench/run.js';
import { PagewireError } from '../errors.js';
import { name as visible } from '../inspect/table.js';
import { type OutputFlags, Outputs } from './bench-outputs.js';
import { EXIT } from '../control/exit.js';
import { print, tell } from '../control/standard-streams.js';
import { say } from './run.js';

export interface BenchFlags extends OutputFlags {
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
  const inputs = [...streams, ...(flags.variants ?? []), ...(flags.compare === undefined ? [] : [flags.compare])];
  const outputs = await Outputs.open(flags, inputs, signal);
  const progress = new Progress(flags.quiet);
  let report: BenchReport;
  try {
    report = await runBench({
      ...{ streams, simulate: flags.simulate, variants, runs, seconds, sampleBytes, signal },
      note: (text) => {
        progress.note(text);
      },
    });
  } catch (error) {
    outputs.abandon();
    throw error;
  } finally {
    progress.clear();
  }
  const show = outputs.takesStandardOutput ? tell : print;
  // First of all: what was measured is told, whatever becomes of the files.
  show(table(report));
  if (before) show(`\n${describeComparison(compare(before, report), flags.compare ?? '')}`);
  const unwritten = await outputs.write(report);
  for (const { message } of unwritten) say('bench', message);
  const failed = report.variants.filter(({ status }) => status === 'failed');
  for (const { name, reason = '' } of failed) say('bench', `${name} failed: ${visible(reason, Infinity)}`);
  return failed.length + unwritten.length > 0 ? EXIT.failed : EXIT.ok;
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

  note(note: string): void {
    if (this.#quiet) return;
    const text = visible(note, Infinity);
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
