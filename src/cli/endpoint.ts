import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  fsync,
  ftruncateSync,
  lstatSync,
  openSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  type Stats,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { PagewireError } from '../errors.js';
import { checkOpen } from '../transport/endpoint.js';

const FD = /^fd:(\d{1,9})$/;

/** The folder of a process's descriptors, as realpath gives it. */
const FD_FOLDER = /^\/proc\/(\d+)(?:\/task\/\d+)?\/fd$/;

/** How often a FIFO that nobody reads yet is tried again, in milliseconds. */
const FIFO_RETRY_MS = 20;

/** Where a stream is read from. */
export interface Source {
  readonly fd: number;
  /** As the user named it. */
  readonly name: string;
}

/** Where a stream is written to. */
export interface Target extends Source {
  /** The file that gets the stream, which may not be there yet. */
  readonly path?: string;
  /** To be called before the first byte is written, and not before all that can be refused was. */
  begin(source: Source): void;
  /** All is well: the file gets its name. */
  commit(): Promise<void>;
  /** It is not: nothing is left under the name, nor beside it. */
  abandon(): void;
}

/** Opens `-`, `fd:N` or a path for reading. */
export function openSource(spec: string): Source {
  const given = spec === '-' ? 0 : descriptor(spec);
  const name = spec === '-' ? 'standard input' : spec;
  try {
    // A FIFO without a writer must not hold us here, where no signal is heard: the core waits for its first byte.
    const fd = given ?? openSync(spec, constants.O_RDONLY | constants.O_NONBLOCK);
    if (fstatSync(fd).isDirectory()) throw Object.assign(new Error('folder'), { code: 'EISDIR' });
    return { fd, name };
  } catch (error) {
    throw cannotOpen(name, error);
  }
}

/**
 * Opens `-`, `fd:N` or a path for writing. A regular file is written under another name in the same folder, and gets
 * its own only when all is well.
 */
export async function openTarget(spec: string, signal: AbortSignal): Promise<Target> {
  if (spec === '-') return asItIs(1, 'standard output');
  const given = descriptor(spec);
  if (given !== undefined) return asItIs(given, spec);
  try {
    const existing = statSync(spec, { throwIfNoEntry: false });
    if (existing && !existing.isFile()) {
      return asItIs(existing.isFIFO() ? await openFifo(spec, signal) : openSync(spec, constants.O_WRONLY), spec);
    }
    // Another process's descriptor: what it has open must stay the file that it is.
    if (existing && FD_FOLDER.test(folderOf(spec) ?? '')) return openInPlace(spec, spec);
    return openFile(spec, existing, signal);
  } catch (error) {
    throw error instanceof PagewireError ? error : cannotOpen(spec, error);
  }
}

function asItIs(fd: number, name: string): Target {
  const nothing = (): void => undefined;
  return { fd, name, begin: nothing, commit: () => Promise.resolve(), abandon: nothing };
}

function openFile(path: string, existing: Stats | undefined, signal: AbortSignal): Target {
  const final = existing ? realpathSync(path) : linked(path);
  // Not the process's number: in a container that is the same every time, and what a killed one left is in the way.
  const partial = `${final}.${randomBytes(4).toString('hex')}.part`;
  let fd: number;
  try {
    fd = openSync(partial, 'wx', 0o666);
  } catch (error) {
    if (existing && (hasCode(error, 'EACCES') || hasCode(error, 'EPERM'))) return openInPlace(path, final);
    throw error;
  }
  let isDone = false;
  const abandon = (): void => {
    if (isDone) return;
    isDone = true;
    closeSync(fd);
    rmSync(partial, { force: true });
  };
  // A second signal, or one that takes too long to be heard, ends us wherever we are.
  process.on('exit', abandon);
  return {
    fd,
    name: path,
    path: final,
    begin: () => undefined,
    commit: async () => {
      try {
        // The mode of openSync would be cut by the umask.
        if (existing) fchmodSync(fd, existing.mode & 0o7777);
        // Without it, a crash of the machine could leave the name with nothing behind it.
        await promisify(fsync)(fd);
        if (signal.aborted) throw new PagewireError('STOPPED', 'stopped');
        renameSync(partial, final);
        isDone = true;
        closeSync(fd);
      } catch (error) {
        abandon();
        throw notCommitted(path, error);
      }
    },
    abandon,
  };
}

/** For a file that may be written, in a folder where none may be made. */
function openInPlace(name: string, path: string): Target {
  const fd = openSync(path, constants.O_WRONLY);
  let hasBegun = false;
  let isDone = false;
  const abandon = (): void => {
    if (isDone) return;
    isDone = true;
    // Half of a stream must not be taken for a whole one.
    if (hasBegun) ftruncateSync(fd, 0);
    closeSync(fd);
  };
  process.on('exit', abandon);
  return {
    fd,
    name,
    path,
    begin: (source) => {
      const [from, to] = [fstatSync(source.fd), fstatSync(fd)];
      if (from.dev === to.dev && from.ino === to.ino) {
        const why = 'no file can be made in its folder to take its place';
        throw new PagewireError('BAD_OPTION', `${name} is the input and the output: ${why}`);
      }
      ftruncateSync(fd, 0);
      hasBegun = true;
    },
    commit: async () => {
      try {
        await promisify(fsync)(fd);
        isDone = true;
        closeSync(fd);
      } catch (error) {
        abandon();
        throw notCommitted(name, error);
      }
    },
    abandon,
  };
}

function notCommitted(name: string, cause: unknown): PagewireError {
  if (cause instanceof PagewireError) return cause;
  return new PagewireError('WRITE_FAILED', `cannot give ${name} its name: ${(cause as Error).message}`, { cause });
}

/** The path behind symbolic links, the last of which may lead to what is not there yet. */
function linked(path: string): string {
  // statSync has seen that they do not go round.
  while (lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink()) {
    path = resolve(realpathSync(dirname(path)), readlinkSync(path));
  }
  return path;
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

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
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
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
  const reason = REMEDIES[code] ?? (cause instanceof Error ? cause.message : String(cause));
  return new PagewireError('OPEN_FAILED', `cannot open ${spec}: ${reason}`, { cause });
}
