import { isatty } from 'node:tty';
import { writeSync } from 'node:fs';
import { isErrorCode, PagewireError } from '../errors.js';
import { forecast } from '../inspect/forecast.js';
import type { InputOptions } from '../measuring/input.js';
import { look } from '../inspect/inspect.js';
import { report } from '../inspect/report.js';
import type { Inspection } from '../inspect/schema.js';
import { isSameFile, openTarget, type Target } from './places.js';
import { EXIT, exitCode } from '../control/exit.js';
import { plain, print, writeAll } from '../control/standard-streams.js';
import { say } from './run.js';

export interface InspectFlags {
  json?: string;
  forecast: boolean;
  base?: string[];
  memoryLimit?: number;
}

/** `pagewire inspect FILE` */
export async function inspect(file: string, flags: InspectFlags, signal: AbortSignal): Promise<number> {
  if (file === '-' && isatty(0)) throw new PagewireError('BAD_OPTION', 'standard input is a terminal: name a FILE');
  if (flags.json !== undefined) refuseInputs(flags.json, file, flags.base ?? []);
  // Before a long look: what cannot be written is wrong usage.
  const target = flags.json === undefined ? undefined : await openTarget(flags.json, signal);
  try {
    if (target) checkWritable(target);
    const options = { bases: flags.base, memoryLimit: flags.memoryLimit, signal };
    const inspection = await inspected(file, options, flags.forecast);
    const { error } = inspection;
    // Of what was not read at all there is nothing to report.
    if (error !== null && inspection.stream.bytes === 0) {
      target?.abandon();
      return tell(error);
    }
    if (flags.json !== '-') print(report(inspection));
    if (target) await write(target, inspection);
    return error === null ? EXIT.ok : tell(error);
  } catch (error) {
    target?.abandon();
    throw error;
  }
}

/** Beside the errors that every command has there are those of a stream that is no more than looked at. */
function tell({ code, message }: NonNullable<Inspection['error']>): number {
  say('inspect', plain(message));
  if (code === 'STREAM_TRUNCATED') return EXIT.truncated;
  return isErrorCode(code) ? exitCode(code) : EXIT.frames;
}

/** The report must not stand in the place of what it is about, nor of what that needs. */
function refuseInputs(json: string, file: string, bases: readonly string[]): void {
  const refuse = (what: string): never => {
    throw new PagewireError('BAD_OPTION', `--json ${json} is ${what}: give another one`);
  };
  if (isSameFile(file, json)) refuse('the file to inspect');
  if (bases.some((base) => isSameFile(base, json))) refuse('a base of what to inspect');
}

function checkWritable({ fd, name }: Target): void {
  try {
    writeSync(fd, Buffer.alloc(0));
  } catch (cause) {
    throw new PagewireError('BAD_OPTION', `--json ${name} is not open for writing`, { cause });
  }
}

async function inspected(file: string, options: InputOptions, forecasts: boolean): Promise<Inspection> {
  const { inspection, sample } = await look(file, options);
  // Of what is damaged, what is there is told, not what would become of it.
  if (!forecasts || inspection.error !== null) return inspection;
  return { ...inspection, forecast: await forecast(inspection, sample, options) };
}

async function write(target: Target, inspection: Inspection): Promise<void> {
  try {
    writeAll(target.fd, Buffer.from(`${JSON.stringify(inspection, null, 2)}\n`));
  } catch (error) {
    const why = (error as Error).message;
    throw new PagewireError('WRITE_FAILED', `cannot write ${target.name}: ${why}`, { cause: error });
  }
  await target.commit();
}
