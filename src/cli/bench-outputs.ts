/** Where the reports of `pagewire bench` go. */
import { accessSync, constants, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { csv } from '../bench/report/csv.js';
import type { BenchReport } from '../bench/report/schema.js';
import { PagewireError } from '../errors.js';
import { isSameFile, openTarget, type Target } from './places.js';
import { writeAll } from '../control/standard-streams.js';

export interface OutputFlags {
  json?: string;
  csv?: string;
  html?: string;
  svg?: string;
}

/** What is in a file, by its option. */
const FORMATS: Record<'json' | 'csv' | 'html', (report: BenchReport) => string | Promise<string>> = {
  json: (report) => `${JSON.stringify(report, null, 2)}\n`,
  csv,
  html: async (report) => (await import('../bench/report/html.js')).html(report),
};

const OPTIONS = Object.keys(FORMATS) as (keyof typeof FORMATS)[];

/** Open before anything is measured: a name that cannot be written is wrong usage, and costs no measurement. */
export class Outputs {
  readonly #files: { option: keyof typeof FORMATS; target: Target }[] = [];
  readonly #folder: string | undefined;
  readonly #signal: AbortSignal;

  private constructor(folder: string | undefined, signal: AbortSignal) {
    this.#folder = folder;
    this.#signal = signal;
  }

  /** @throws PagewireError with the code BAD_OPTION where one is a file of `inputs`, or the other's, or OPEN_FAILED. */
  static async open(flags: OutputFlags, inputs: readonly string[], signal: AbortSignal): Promise<Outputs> {
    refuse(flags, inputs);
    if (flags.svg !== undefined) makeFolder(flags.svg);
    const outputs = new Outputs(flags.svg, signal);
    try {
      for (const option of OPTIONS) {
        const spec = flags[option];
        if (spec !== undefined) outputs.#files.push({ option, target: await openTarget(spec, signal) });
      }
    } catch (error) {
      outputs.abandon();
      throw error;
    }
    return outputs;
  }

  /** Whether standard output is taken. */
  get takesStandardOutput(): boolean {
    return this.#files.some(({ target }) => target.fd === 1);
  }

  /** Writes what can be written; why not, where it cannot. */
  async write(report: BenchReport): Promise<PagewireError[]> {
    const failures: PagewireError[] = [];
    const attempt = async (work: () => Promise<void>): Promise<void> => {
      await work().catch((error: unknown) => failures.push(PagewireError.from(error)));
    };
    for (const { option, target } of this.#files) {
      await attempt(async () => {
        await fill(target, await FORMATS[option](report));
      });
    }
    const folder = this.#folder;
    if (folder === undefined) return failures;
    const [{ plots }, { standalone }] = await Promise.all([
      import('../bench/report/plots.js'),
      import('../bench/report/svg.js'),
    ]);
    for (const { file, svg } of plots(report)) {
      await attempt(async () => {
        await fill(await openTarget(join(folder, file), this.#signal), standalone(svg));
      });
    }
    return failures;
  }

  /** Nothing is left, nor changed. */
  abandon(): void {
    for (const { target } of this.#files) target.abandon();
  }
}

function refuse(flags: OutputFlags, inputs: readonly string[]): void {
  const { svg } = flags;
  const named = OPTIONS.flatMap((option) => flags[option] ?? []).map((path, index) => ({ index, path }));
  for (const { index, path } of named) {
    if (named.some((other) => other.index < index && (other.path === path || isSameFile(other.path, path)))) {
      throw new PagewireError('BAD_OPTION', `${path} would be written twice: give each output a name of its own`);
    }
  }
  const plots = svg === undefined ? [] : pictures(svg);
  for (const path of [...named.map(({ path }) => path), ...plots]) {
    const input = inputs.find((input) => isSameFile(input, path));
    if (input === undefined) continue;
    const same = input === path ? '' : ` (${input})`;
    throw new PagewireError('BAD_OPTION', `${path} is read${same}, and must not be written over: give another name`);
  }
}

/** What a plot may be written over. */
function pictures(folder: string): string[] {
  try {
    const names = readdirSync(folder).filter((name) => name.endsWith('.svg'));
    return names.map((name) => join(folder, name));
  } catch {
    return [];
  }
}

function makeFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
    accessSync(path, constants.W_OK | constants.X_OK);
  } catch (error) {
    const why = error instanceof Error ? error.message : '?';
    throw new PagewireError('OPEN_FAILED', `cannot write into ${path}: ${why}`, { cause: error });
  }
}

async function fill(target: Target, text: string): Promise<void> {
  try {
    writeAll(target.fd, Buffer.from(text));
  } catch (error) {
    target.abandon();
    const why = error instanceof Error ? error.message : '?';
    throw new PagewireError('WRITE_FAILED', `cannot write ${target.name}: ${why}`, { cause: error });
  }
  await target.commit();
}
