import { closeSync, constants, lstatSync, openSync, rmSync, type Stats, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { isatty } from 'node:tty';
import { verifyFile } from '../archive/index.js';
import { PagewireError } from '../errors.js';
import { native } from '../native.js';
import { Decoder } from '../pipeline/decoder.js';
import { Encoder } from '../pipeline/encoder.js';
import { type SaveLevel, saveProfile } from '../pipeline/save.js';
import { checkEncoder, checkThreads, type EncoderSettings } from '../pipeline/settings.js';
import { bytes, ratio } from '../telemetry/amounts.js';
import { decodeLine, encodeLine } from '../telemetry/progress.js';
import { decodeStats, encodeStats } from '../telemetry/stats.js';
import { checkNotBase, list, salvage } from './archive.js';
import { openSource, openTarget, type Place } from './places.js';
import { EXIT, exitCode } from '../control/exit.js';
import { plain } from '../control/standard-streams.js';
import { say } from './run.js';
import { type FileFlags, fileOptions, type Operation, transfer } from './transfer.js';

/** What saved files are named by. */
const SUFFIX = '.pw';

export interface FilterFlags extends FileFlags {
  stdout?: boolean;
  decompress?: boolean;
  test?: boolean;
  output?: string;
  level?: SaveLevel;
  threads?: number;
  memoryLimit?: number;
  /** What the file is based on; when restoring, files that may be the base. */
  base?: string[];
  list?: boolean;
  salvage?: boolean;
  rm?: boolean;
  force?: boolean;
  verbose?: boolean;
  stats?: string;
}

/** `pagewire [options] [FILE…]`: each file by itself; the exit code is that of the first that failed. */
export async function filter(files: readonly string[], flags: FilterFlags, signal: AbortSignal): Promise<number> {
  if (flags.list) return list(files);
  if (flags.salvage) return salvage(files, flags);
  const inputs = files.length > 0 ? files : ['-'];
  check(inputs, flags);
  let code: number = EXIT.ok;
  for (const input of inputs) {
    let ended: number;
    try {
      ended = await one(input, outputOf(input, flags), flags, signal);
    } catch (error) {
      if (signal.aborted || inputs.length === 1) throw error;
      const failure = PagewireError.from(error);
      say('', plain(failure.message));
      ended = exitCode(failure.code);
    }
    if (code === EXIT.ok) code = ended;
  }
  return code;
}

/** What can be refused before a file is touched. */
function check(inputs: readonly string[], flags: FilterFlags): void {
  const { stdout, output, test, rm, stats } = flags;
  if (output !== undefined && (stdout || test)) throw wrong(`-o does not go with ${test ? '-t' : '-c'}`);
  for (const [option, value] of Object.entries({ '-o': output, '--stats': stats })) {
    if (value !== undefined && inputs.length > 1) throw wrong(`${option} is for one FILE`);
  }
  if (rm && (test || inputs.some((input) => outputOf(input, flags) === '-'))) {
    throw wrong('--rm is for files that become files');
  }
  if (restores(flags)) checkThreads(flags.threads);
  else checkEncoder(encoderSettings(flags));
}

/** Saves, restores or tests one file. */
async function one(input: string, output: string, flags: FilterFlags, signal: AbortSignal): Promise<number> {
  checkTerminal(input, output, flags);
  if (flags.output === undefined && !flags.test && output !== '-') checkFile(input, output, flags);
  if (!restores(flags) && output !== '-') await checkNotBase(output, flags.base);
  const options = fileOptions('', { ...flags, fsync: flags.fsync === true && !flags.test });
  const source = openSource(input, options);
  const tested = flags.test && isFile(input) ? input : undefined;
  let run: Run | undefined;
  const began = performance.now();
  let code: number;
  try {
    const target = await openTarget(output, signal, { ...options, replace: flags.force === true, like: source });
    code = await transfer(source, target, flags, () => {
      run = restores(flags) ? restore(source, target, flags, signal, tested) : save(source, target, flags, signal);
      return run.operation;
    });
  } finally {
    source.close();
  }
  if (tested !== undefined && code === EXIT.ok) await testIndex(tested, flags, run?.indexLeft?.() === true);
  if (flags.verbose && run) {
    const { stream, file } = run.sizes();
    const seconds = (performance.now() - began) / 1000;
    const rate = `${seconds.toFixed(2)} s, ${bytes(stream / seconds)}/s`;
    const became = flags.test ? 'right' : output === '-' ? 'standard output' : output;
    say('', `${source.name}: ${bytes(stream)} in ${bytes(file)} (${ratio(stream, file)}), ${rate}: ${became}`);
  }
  if (flags.rm && code === EXIT.ok) rmSync(input);
  return code;
}

/** How often a file is taken out of the page cache that is not to stay there, in milliseconds. */
const UNCACHE_MS = 100;

/** Whether there is more to an input than a stream that is read from the front. */
function isFile(input: string): boolean {
  return input !== '-' && statSync(input, { throwIfNoEntry: false })?.isFile() === true;
}

/**
 * The end of a test: holds a file against its indexes in a second pass, where several streams stand in it and the first pass could
 * not. Indexes are read through the page cache, and do not stay there with `direct`.
 */
async function testIndex(input: string, { base, direct }: FilterFlags, isLeft: boolean): Promise<void> {
  if (!isLeft && !direct) return;
  const fd = openSync(input, constants.O_RDONLY);
  const uncache = (): void => {
    if (direct) native.uncache(fd);
  };
  const timer = setInterval(uncache, UNCACHE_MS);
  try {
    if (isLeft) await verifyFile(input, { bases: base });
  } finally {
    clearInterval(timer);
    uncache();
    closeSync(fd);
  }
}

/** What carries one file. */
interface Run {
  operation: Operation;
  /** Bytes of the original stream, and of the frames. */
  sizes: () => { stream: number; file: number };
  /** Whether an index is still to be looked at. */
  indexLeft?: () => boolean;
}

function save(source: Place, target: Place, flags: FilterFlags, signal: AbortSignal): Run {
  const options = { ...encoderSettings(flags), input: source.fd, output: target.fd, signal };
  const encoder = new Encoder(options);
  return {
    operation: {
      name: '',
      done: encoder.done,
      streamBytes: () => encoder.snapshot().totals.bytesIn,
      line: (perSecond) => encodeLine(encoder.snapshot(), perSecond),
      stats: (outcome, seconds) => encodeStats(encoder.snapshot(), outcome, seconds),
    },
    sizes: () => {
      const { bytesIn, bytesOut } = encoder.snapshot().totals;
      return { stream: bytesIn, file: bytesOut };
    },
  };
}

/** `file` is what is to be held against its index. */
function restore(source: Place, target: Place, flags: FilterFlags, signal: AbortSignal, file?: string): Run {
  const options = {
    bases: flags.base,
    baseFolder: dirname(source.name),
    file,
    threads: flags.threads,
    memoryLimit: flags.memoryLimit,
    input: source.fd,
    output: target.fd,
    signal,
  };
  const decoder = new Decoder(options);
  return {
    operation: {
      name: '',
      done: decoder.done,
      streamBytes: () => decoder.snapshot().totals.bytesIn,
      line: (perSecond) => decodeLine(decoder.snapshot().totals, perSecond),
      stats: (outcome, seconds) => decodeStats(decoder.snapshot(), outcome, seconds),
    },
    sizes: () => {
      const { bytesIn, bytesOut } = decoder.snapshot().totals;
      return { stream: bytesOut, file: bytesIn };
    },
    indexLeft: () => decoder.indexLeft,
  };
}

function restores({ decompress, test }: FilterFlags): boolean {
  return decompress === true || test === true;
}

function encoderSettings(flags: FilterFlags): EncoderSettings {
  const [base, ...bases] = flags.base ?? [];
  return { ...saveProfile(flags.level), base, bases, threads: flags.threads, memoryLimit: flags.memoryLimit };
}

/** Where a file goes, as `-o` would name it. */
function outputOf(input: string, { stdout, decompress, test, output }: FilterFlags): string {
  if (test) return '/dev/null';
  if (output !== undefined) return output;
  if (stdout || input === '-') return '-';
  if (!decompress) return input + SUFFIX;
  return input.endsWith(SUFFIX) ? input.slice(0, -SUFFIX.length) : input;
}

/** Refuses what is not likely to be meant, where a file is to become another one beside it. */
function checkFile(input: string, output: string, { decompress, force }: FilterFlags): void {
  const stat = lstatSync(input, { throwIfNoEntry: false });
  if (stat?.isSymbolicLink() && !force) throw wrong(`${input} is a symbolic link (-f follows it, -c reads it)`);
  if (isSpecial(statSync(input, { throwIfNoEntry: false }))) throw wrong(`${input} is no file: give -c or -o OUT`);
  if (decompress && output === input) throw wrong(`${input} does not end in ${SUFFIX}: give -c or -o OUT`);
  if (!decompress && input.endsWith(SUFFIX) && !force) throw wrong(`${input} ends in ${SUFFIX} already (-f goes on)`);
  if (isSpecial(statSync(output, { throwIfNoEntry: false }))) throw wrong(`${output} is there already, and is no file`);
}

function isSpecial(stat: Stats | undefined): boolean {
  return stat !== undefined && !stat.isFile() && !stat.isDirectory();
}

function checkTerminal(input: string, output: string, flags: FilterFlags): void {
  if (flags.force) return;
  if (restores(flags)) {
    if (input === '-' && isatty(0)) throw wrong('standard input is a terminal: give a FILE, or a pipe before it');
  } else if (output === '-' && isatty(1)) {
    throw wrong('standard output is a terminal: give -o FILE, or a pipe behind it (pagewire --help tells more)');
  }
}

function wrong(message: string): PagewireError {
  return new PagewireError('BAD_OPTION', message);
}
