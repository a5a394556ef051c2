import { closeSync, constants, fstatSync, ftruncateSync, openSync, rmSync, statSync } from 'node:fs';
import { PagewireError } from '../errors.js';
import type { StreamEnd } from '../pipeline/lane.js';
import { Progress } from '../telemetry/progress.js';
import { failed, type Outcome, outcomeOf } from '../telemetry/stats.js';
import { descriptor, type Place, type Source, type Target, type TargetOptions } from './places.js';
import { EXIT } from '../control/exit.js';
import { plain, replaceStandardStreams, writeAll } from '../control/standard-streams.js';
import { say } from './run.js';

/** An operation between two descriptors, its progress, its report and its end. */
export interface Operation {
  /** The command; none for the filter. */
  name: string;
  done: Promise<StreamEnd>;
  /** Bytes of the stream so far, for the rate. */
  streamBytes: () => number;
  line: (perSecond: number) => string;
  stats: (outcome: Outcome, seconds: number) => object;
}

export interface TransferFlags {
  stats?: string | undefined;
  quiet: boolean;
}

/** What a command that reads and writes files takes beside it. */
export interface FileFlags {
  direct?: boolean;
  fsync?: boolean;
  quiet: boolean;
}

/** What the flags mean for the files of a command. */
export function fileOptions(name: string, { direct = false, fsync = false, quiet }: FileFlags): TargetOptions {
  const note = (text: string): void => {
    if (!quiet) say(name, text);
  };
  return { direct, fsync, note };
}

/** Sees an operation through, closes its source, and gives its exit code. */
export async function transfer(
  source: Source,
  target: Target,
  flags: TransferFlags,
  start: () => Operation,
): Promise<number> {
  try {
    return await carry(source, target, flags, start);
  } finally {
    source.close();
  }
}

async function carry(
  source: Source,
  target: Target,
  { stats, quiet }: TransferFlags,
  start: () => Operation,
): Promise<number> {
  replaceStandardStreams('stdout');
  const began = performance.now();
  let writeStats: ((stats: object) => void) | undefined;
  let operation: Operation;
  try {
    writeStats = stats === undefined ? undefined : openStats(stats, source, target);
    target.begin(source);
    operation = start();
  } catch (error) {
    target.abandon();
    throw error;
  }
  const progress = new Progress(quiet, operation.streamBytes, operation.line);
  const report = (outcome: Outcome): void => {
    progress.end();
    writeStats?.(operation.stats(outcome, (performance.now() - began) / 1000));
  };
  try {
    const end = await operation.done;
    await target.commit();
    report(outcomeOf(end));
    if (!end.truncated) return EXIT.ok;
    say(operation.name, truncation(source, end));
    return EXIT.truncated;
  } catch (error) {
    const failure = named(PagewireError.from(error), source, target);
    target.abandon();
    report(failed(failure));
    throw failure;
  }
}

function truncation({ name }: Place, { within }: StreamEnd): string {
  const where = within === undefined ? '' : ` (within ${within})`;
  return `${name}: the QEMU stream ended before its end${where}: all its bytes were carried, but no guest can be made of it`;
}

/** The core knows descriptors; the user knows names. Only at the start: behind it can stand what a sender said. */
function named(error: PagewireError, source: Place, target: Place): PagewireError {
  const { code, frame, offset } = error;
  const message = plain(error.message)
    .replace(/^cannot read the input/, () => `cannot read ${source.name}`)
    .replace(/^cannot write the output/, () => `cannot write ${target.name}`)
    .replace(/^the output was closed/, () => `${target.name} was closed`)
    .replace(/^frame (?=\d+ at byte)/, () => `${source.name}: frame `);
  return new PagewireError(code, message, { frame, offset, cause: error });
}

/** Not O_TRUNC: the file may be the stream's. */
const STATS_FLAGS = constants.O_WRONLY | constants.O_CREAT | constants.O_NONBLOCK;

/** Opens the file at once, so that a name that cannot be written is an error before the guest's bytes move. */
function openStats(spec: string, source: Place, target: Target): (stats: object) => void {
  const given = descriptor(spec);
  let fd: number;
  let isNew: boolean;
  try {
    isNew = given === undefined && statSync(spec, { throwIfNoEntry: false }) === undefined;
    // Without a reader, a FIFO is an error: waiting for one here would be deaf to signals.
    fd = given ?? openSync(spec, STATS_FLAGS, 0o666);
  } catch (error) {
    throw new PagewireError('OPEN_FAILED', `cannot open ${spec} for --stats: ${(error as Error).message}`);
  }
  const end = isSame(fd, source.fd) ? source : isSame(fd, target.fd, target.path) ? target : undefined;
  if (end) {
    if (given === undefined) closeSync(fd);
    if (isNew) rmSync(spec, { force: true });
    const other = end === source ? 'read from' : 'written to';
    throw new PagewireError('BAD_OPTION', `--stats ${spec}: the stream is ${other} the same place (${end.name})`);
  }
  if (given === undefined && fstatSync(fd).isFile()) ftruncateSync(fd);
  return (stats) => {
    try {
      writeAll(fd, Buffer.from(`${JSON.stringify(stats, null, 2)}\n`));
    } catch (error) {
      say('--stats', `cannot write ${spec}: ${(error as Error).message}`);
    } finally {
      if (given === undefined) closeSync(fd);
    }
  };
}

/** Whether what is written to one descriptor gets to where the other, or a path, leads. A device may be shared. */
function isSame(fd: number, other: number, path?: string): boolean {
  if (fd === other) return true;
  const mine = fstatSync(fd);
  if (!mine.isFile() && !mine.isFIFO() && !mine.isSocket()) return false;
  const others = [fstatSync(other), path === undefined ? undefined : statSync(path, { throwIfNoEntry: false })];
  return others.some((its) => its?.dev === mine.dev && its.ino === mine.ino);
}
