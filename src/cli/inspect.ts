import { isatty } from 'node:tty';
import { statSync, writeSync } from 'node:fs';
import { isErrorCode, PagewireError } from '../errors.js';
import { forecast } from '../inspect/forecast.js';
import type { InputOptions } from '../inspect/input.js';
import { look } from '../inspect/inspect.js';
import { report } from '../inspect/report.js';
import type { Inspection } from '../inspect/schema.js';
import { openTarget, type Target } from './endpoint.js';
import { EXIT, exitCode } from './exit.js';
import { plain, print, say } from './run.js';

export interface InspectFlags {
  json?: string;
  forecast: boolean;
  base?: string[];
  memoryLimit?: number;
}

/** `pagewire inspect FILE` */
export async function inspect(file: string, flags: InspectFlags, signal: AbortSignal): Promise<number> {
  if (file === '-' && isatty(0)) throw new PagewireError('BAD_OPTION', 'standard input is a terminal: name a FILE');
  if (flags.json !== undefined && isSame(file, flags.json)) {
    throw new PagewireError('BAD_OPTION', `--json ${flags.json} is the file to inspect: give another one`);
  }
  // Before a long look: a name that cannot be written is wrong usage.
  const target = flags.json === undefined ? undefined : await openTarget(flags.json, signal);
  try {
    const options = { bases: flags.base, memoryLimit: flags.memoryLimit, signal };
    const inspection = await inspected(file, options, flags.forecast);
    if (flags.json !== '-') print(report(inspection));
    if (target) await write(target, inspection);
    if (inspection.error === null) return EXIT.ok;
    say('inspect', plain(inspection.error.message));
    return exitCodeOf(inspection.error.code);
  } catch (error) {
    target?.abandon();
    throw error;
  }
}

/** Beside the errors that every command has there are those of a stream that is no more than looked at. */
function exitCodeOf(code: string): number {
  if (code === 'STREAM_TRUNCATED') return EXIT.truncated;
  return isErrorCode(code) ? exitCode(code) : EXIT.frames;
}

function isSame(file: string, other: string): boolean {
  const [its, others] = [file, other].map((path) => statSync(path, { throwIfNoEntry: false }));
  return its?.isFile() === true && its.dev === others?.dev && its.ino === others.ino;
}

async function inspected(file: string, options: InputOptions, forecasts: boolean): Promise<Inspection> {
  const { inspection, sample } = await look(file, options);
  // Of what is damaged, what is there is told, not what would become of it.
  if (!forecasts || inspection.error !== null) return inspection;
  return { ...inspection, forecast: await forecast(inspection, sample, options) };
}

async function write(target: Target, inspection: Inspection): Promise<void> {
  const text = Buffer.from(`${JSON.stringify(inspection, null, 2)}\n`);
  try {
    for (let at = 0; at < text.length;) at += writeSync(target.fd, text, at);
  } catch (error) {
    const why = (error as Error).message;
    throw new PagewireError('WRITE_FAILED', `cannot write ${target.name}: ${why}`, { cause: error });
  }
  await target.commit();
}
