import { closeSync, constants, fstatSync, openSync, readlinkSync, realpathSync, type Stats, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf, hasCode, PagewireError } from '../errors.js';
import { checkOpen } from '../transport/endpoint.js';
import { Carrier, openFile, openInPlace, sync } from './file.js';

const FD = /^fd:(\d{1,9})$/;

/** The folder of a process's descriptors, as realpath gives it. */
const FD_FOLDER = /^\/proc\/(\d+)(?:\/task\/\d+)?\/fd$/;

/** How often a FIFO that nobody reads yet is tried again, in milliseconds. */
const FIFO_RETRY_MS = 20;

/** How what is named is read or written. */
export interface FileOptions {
  /** Past the page cache, where that can be had. */
  direct?: boolean;
  /** Hears of what could not be had and is no error. */
  note?: (text: string) => void;
}

export interface TargetOptions extends FileOptions {
  /** All is well only when it is durable. */
  fsync?: boolean;
  /** Whether a file that is there already may be replaced; default: it may. */
  replace?: boolean;
  /** The file that a new one is made of: it gets its mode, times and owner. */
  like?: Place;
}

/** Where a stream comes from or goes to. */
export interface Place {
  readonly fd: number;
  /** As the user named it. */
  readonly name: string;
}

/** Where a stream is read from. */
export interface Source extends Place {
  /** Nothing more is read; may be called again. */
  close(): void;
}

/** Where a stream is written to. */
export interface Target extends Place {
  /** The file that gets the stream, which may not be there yet. */
  readonly path?: string;
  /** To be called before the first byte is written, and not before all that can be refused was. */
  begin(source: Place): void;
  /** All is well: the file gets its name. */
  commit(): Promise<void>;
  /** It is not: nothing is left under the name, nor beside it. */
  abandon(): void;
}

/** Opens `-`, `fd:N` or a path for reading. */
export function openSource(spec: string, options: FileOptions = {}): Source {
  const given = spec === '-' ? 0 : descriptor(spec);
  const name = spec === '-' ? 'standard input' : spec;
  try {
    // A FIFO without a writer must not hold us here, where no signal is heard: the core waits for its first byte.
    const fd = given ?? openSync(spec, constants.O_RDONLY | constants.O_NONBLOCK);
    if (fstatSync(fd).isDirectory()) throw Object.assign(new Error('folder'), { code: 'EISDIR' });
    const carrier = new Carrier(fd, name, options);
    let isOpen = true;
    const close = (): void => {
      carrier.end();
      if (isOpen && given === undefined) closeSync(fd);
      isOpen = false;
    };
    return { fd: carrier.fd, name, close };
  } catch (error) {
    throw cannotOpen(name, error);
  }
}

/**
 * Opens `-`, `fd:N` or a path for writing. A regular file is written under another name in the same folder, and gets
 * its own only when all is well.
 */
export async function openTarget(spec: string, signal: AbortSignal, options: TargetOptions = {}): Promise<Target> {
  if (spec === '-') return openGiven(1, 'standard output', options);
  const given = descriptor(spec);
  if (given !== undefined) return openGiven(given, spec, options);
  try {
    const existing = statSync(spec, { throwIfNoEntry: false });
    if (existing && !existing.isFile()) {
      const fd = existing.isFIFO() ? await openFifo(spec, signal) : openSync(spec, constants.O_WRONLY);
      return openGiven(fd, spec, options, () => {
        closeSync(fd);
      });
    }
    // Another process's descriptor: what it has open must stay the file that it is.
    if (existing && FD_FOLDER.test(folderOf(spec) ?? '')) return openInPlace(spec, spec, options);
    return openFile(spec, existing, signal, options);
  } catch (error) {
    throw error instanceof PagewireError ? error : cannotOpen(spec, error);
  }
}

/** What is open already, or is no file that could get a name. */
function openGiven(fd: number, name: string, options: TargetOptions, close = (): void => undefined): Target {
  const stat = fstatSync(fd);
  if (options.fsync && !stat.isFile() && !stat.isBlockDevice()) {
    throw new PagewireError('BAD_OPTION', `${name} is no file, and cannot be made durable: leave out --fsync`);
  }
  const carrier = new Carrier(fd, name, options);
  return {
    fd: carrier.fd,
    name,
    begin: () => undefined,
    commit: async () => {
      carrier.end();
      if (options.fsync) await sync(fd);
      close();
    },
    abandon: () => {
      carrier.end();
      close();
    },
  };
}

async function openFifo(path: string, signal: AbortSignal): Promise<number> {
  for (;;) {
    if (signal.aborted) throw new PagewireError('STOPPED', `stopped while waiting for a reader of ${path}`);
    try {
      return openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
    } catch (error) {
      if (!hasCode(error, 'ENXIO')) throw error;
      await sleep(FIFO_RETRY_MS);
    }
  }
}

/** Whether what would be written is the file that would be read, by whatever name; `-`, `fd:N` or a path, both. */
export function isSameFile(source: string, target: string): boolean {
  try {
    const its = statOf(source, 0);
    const others = statOf(target, 1);
    return its.isFile() && its.dev === others.dev && its.ino === others.ino;
  } catch {
    // What is wrong with either is told where it is opened.
    return false;
  }
}

/** `standard`: the descriptor that `-` stands for. */
function statOf(spec: string, standard: 0 | 1): Stats {
  const given = spec === '-' ? standard : descriptor(spec);
  return given === undefined ? statSync(spec) : fstatSync(given);
}

/** N of `fd:N`, of `/dev/fd/N` and of what leads there, such as `/dev/stdout`, if it is open. */
export function descriptor(spec: string): number | undefined {
  const number = FD.exec(spec)?.[1] ?? ownDescriptor(spec);
  if (number === undefined) return undefined;
  const fd = Number(number);
  checkOpen(fd, spec);
  return fd;
}

/** To open such a path again would be another place in the file; to replace it would lose what stands in it. */
function ownDescriptor(path: string): string | undefined {
  for (let links = 0; links < 40; links++) {
    const folder = folderOf(path);
    if (folder === undefined) return undefined;
    const name = basename(path);
    const owner = FD_FOLDER.exec(folder)?.[1];
    if (owner !== undefined) return owner === String(process.pid) && /^\d{1,9}$/.test(name) ? name : undefined;
    try {
      path = resolve(folder, readlinkSync(join(folder, name)));
    } catch {
      return undefined;
    }
  }
  return undefined;
}

function folderOf(path: string): string | undefined {
  try {
    return realpathSync(dirname(path));
  } catch {
    return undefined;
  }
}

const REMEDIES: Record<string, string> = {
  ENOENT: 'no such file or folder',
  EACCES: 'permission denied',
  EISDIR: 'it is a folder',
  ENOTDIR: 'a part of the path is not a folder',
  EROFS: 'the file system is read-only',
  ENOSPC: 'no space left on the device',
};

function cannotOpen(spec: string, cause: unknown): PagewireError {
  const code = codeOf(cause);
  const reason = REMEDIES[code] ?? (cause instanceof Error ? cause.message : String(cause));
  return new PagewireError('OPEN_FAILED', `cannot open ${spec}: ${reason}`, { cause });
}
