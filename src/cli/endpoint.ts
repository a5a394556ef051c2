import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  type Stats,
} from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { PagewireError } from '../errors.js';

const FD = /^fd:(\d{1,9})$/;

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
  /** All is well: the file gets its name. */
  commit(): void;
  /** It is not: nothing is left under the name, nor beside it. */
  abandon(): void;
}

/** Opens `-`, `fd:N` or a path for reading. */
export function openSource(spec: string): Source {
  if (spec === '-') return { fd: 0, name: 'standard input' };
  const given = descriptor(spec);
  if (given !== undefined) return { fd: given, name: spec };
  try {
    // A FIFO without a writer must not hold us here, where no signal is heard: the core waits for its first byte.
    return { fd: openSync(spec, constants.O_RDONLY | constants.O_NONBLOCK), name: spec };
  } catch (error) {
    throw cannotOpen(spec, error);
  }
}

/**
 * Opens `-`, `fd:N` or a path for writing. A regular file is written under another name in the same folder, and gets
 * its own only when all is well.
 */
export async function openTarget(spec: string, signal: AbortSignal): Promise<Target> {
  const nothing = (): void => undefined;
  if (spec === '-') return { fd: 1, name: 'standard output', commit: nothing, abandon: nothing };
  const given = descriptor(spec);
  if (given !== undefined) return { fd: given, name: spec, commit: nothing, abandon: nothing };
  try {
    const existing = statSync(spec, { throwIfNoEntry: false });
    if (existing && !existing.isFile()) {
      const fd = existing.isFIFO() ? await openFifo(spec, signal) : openSync(spec, constants.O_WRONLY);
      return { fd, name: spec, commit: nothing, abandon: nothing };
    }
    return openFile(spec, existing);
  } catch (error) {
    throw error instanceof PagewireError ? error : cannotOpen(spec, error);
  }
}

function openFile(path: string, existing: Stats | undefined): Target {
  const final = existing ? realpathSync(path) : path;
  // Not the process's number: in a container that is the same every time, and what a killed one left is in the way.
  const partial = `${final}.${randomBytes(4).toString('hex')}.part`;
  const fd = openSync(partial, 'wx', 0o666);
  let isOpen = true;
  const close = (): void => {
    if (isOpen) closeSync(fd);
    isOpen = false;
  };
  const abandon = (): void => {
    close();
    rmSync(partial, { force: true });
  };
  return {
    fd,
    name: path,
    commit: () => {
      try {
        // The mode of openSync would be cut by the umask.
        if (existing) fchmodSync(fd, existing.mode & 0o7777);
        close();
        renameSync(partial, final);
      } catch (error) {
        abandon();
        const { message } = error as Error;
        throw new PagewireError('WRITE_FAILED', `cannot give ${path} its name: ${message}`, { cause: error });
      }
    },
    abandon,
  };
}

async function openFifo(path: string, signal: AbortSignal): Promise<number> {
  for (;;) {
    if (signal.aborted) throw new PagewireError('STOPPED', `stopped while waiting for a reader of ${path}`);
    try {
      return openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'ENXIO')) throw error;
      await sleep(FIFO_RETRY_MS);
    }
  }
}

/** N of `fd:N`, if it is open. */
export function descriptor(spec: string): number | undefined {
  const match = FD.exec(spec);
  if (!match) return undefined;
  const fd = Number(match[1]);
  try {
    fstatSync(fd);
  } catch (error) {
    throw new PagewireError('BAD_OPTION', `${spec}: no such descriptor is open (was it passed on to pagewire?)`, {
      cause: error,
    });
  }
  return fd;
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
