/** Files that are written: under another name until all is well. */
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  fsync,
  fsyncSync,
  ftruncateSync,
  lstatSync,
  openSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  type Stats,
} from 'node:fs';
import { dirname, resolve } from 'node:path';
import { promisify } from 'node:util';
import { partialName } from '../control/replace.js';
import { hasCode, PagewireError } from '../errors.js';
import { native } from '../native.js';
import type { FileOptions, Place, Target, TargetOptions } from './places.js';

/** Makes what was written to a descriptor durable. */
export const sync = promisify(fsync);

/** A descriptor for direct I/O beside a given one, where that was asked for and can be had; else the given one itself. */
export class Carrier {
  readonly fd: number;
  readonly #given: number;
  readonly #refused: () => void;
  #isOpen: boolean;

  constructor(given: number, name: string, { direct = false, note }: FileOptions) {
    const stat = direct ? fstatSync(given) : undefined;
    // What is no file is in no page cache either.
    const asks = stat?.isFile() === true || stat?.isBlockDevice() === true;
    const own = asks ? native.openDirect(given) : null;
    this.fd = own ?? given;
    this.#given = given;
    this.#isOpen = own !== null;
    this.#refused = () => note?.(`${name} goes by the page cache: direct I/O (--direct) was refused`);
    if (asks && own === null) this.#refused();
  }

  /** All has gone by it. Others may share the given descriptor: they go on where we ended. */
  end(): void {
    if (!this.#isOpen) return;
    if (!native.isDirect(this.fd)) this.#refused();
    native.copyPosition(this.fd, this.#given);
    this.close();
  }

  close(): void {
    if (this.#isOpen) closeSync(this.fd);
    this.#isOpen = false;
  }
}

/** A regular file, written under another name in the same folder; `existing` is the one that it is to replace. */
export function openFile(
  path: string,
  existing: Stats | undefined,
  signal: AbortSignal,
  options: TargetOptions,
): Target {
  const { replace = true, fsync: isDurable = false, like } = options;
  if (existing && !replace) throw exists(path);
  const final = existing ? realpathSync(path) : linked(path);
  const partial = partialName(final);
  const model = like && fstatSync(like.fd).isFile() ? like : undefined;
  let fd: number;
  try {
    // What few may read is not shown to more meanwhile.
    fd = openSync(partial, 'wx', model ? 0o600 : 0o666);
  } catch (error) {
    if (existing && hasCode(error, 'EACCES', 'EPERM')) return openInPlace(path, final, options);
    throw error;
  }
  const carrier = new Carrier(fd, path, options);
  let isOpen = true;
  const close = (): void => {
    carrier.close();
    if (isOpen) closeSync(fd);
    isOpen = false;
  };
  let isSettled = false;
  const settle = (): void => {
    isSettled = true;
    process.off('exit', abandon);
  };
  const abandon = (): void => {
    if (isSettled) return;
    settle();
    rmSync(partial, { force: true });
    close();
  };
  // A second signal, or one that takes too long to be heard, ends us wherever we are.
  process.on('exit', abandon);
  return {
    fd: carrier.fd,
    name: path,
    path: final,
    begin: () => undefined,
    commit: async () => {
      try {
        carrier.end();
        if (model) resemble(fd, path, model, options);
        // The mode of openSync would be cut by the umask.
        else if (existing) fchmodSync(fd, existing.mode & 0o7777);
        if (isDurable) await sync(fd);
        // On a network file system this is where the last bytes may be refused.
        close();
        if (signal.aborted) throw new PagewireError('STOPPED', 'stopped');
        if (!replace && lstatSync(final, { throwIfNoEntry: false })) throw exists(path);
        renameSync(partial, final);
        settle();
        if (isDurable) syncFolder(dirname(final));
      } catch (error) {
        abandon();
        throw notCommitted(path, error);
      }
    },
    abandon,
  };
}

/** For a file that may be written, in a folder where none may be made. */
export function openInPlace(name: string, path: string, options: TargetOptions): Target {
  const fd = openSync(path, constants.O_WRONLY);
  const carrier = new Carrier(fd, name, options);
  let hasBegun = false;
  let isSettled = false;
  const settle = (): void => {
    isSettled = true;
    process.off('exit', abandon);
    carrier.close();
    closeSync(fd);
  };
  const abandon = (): void => {
    if (isSettled) return;
    // Half of a stream must not be taken for a whole one.
    if (hasBegun) ftruncateSync(fd, 0);
    settle();
  };
  process.on('exit', abandon);
  return {
    fd: carrier.fd,
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
        carrier.end();
        if (options.fsync) await sync(fd);
        settle();
      } catch (error) {
        abandon();
        throw notCommitted(name, error);
      }
    },
    abandon,
  };
}

/** Gives a new file mode, times and owner of the one that it was made of, as far as we may. */
function resemble(fd: number, name: string, { fd: model }: Place, { note }: TargetOptions): void {
  const its = fstatSync(model);
  let mode = its.mode & 0o777;
  try {
    fchownSync(fd, process.geteuid?.() === 0 ? its.uid : -1, its.gid);
  } catch {
    // What the old group may do is nothing to the new one.
    if (fstatSync(fd).gid !== its.gid) mode &= ~0o070;
  }
  try {
    fchmodSync(fd, mode);
    native.copyTimes(model, fd);
  } catch (error) {
    note?.(`${name}: mode or times could not be kept: ${(error as Error).message}`);
  }
}

/** A name is durable only when its folder is. */
function syncFolder(path: string): void {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function exists(path: string): PagewireError {
  return new PagewireError('OPEN_FAILED', `${path} exists already (-f replaces it)`);
}

function notCommitted(path: string, cause: unknown): PagewireError {
  if (cause instanceof PagewireError) return cause;
  return new PagewireError('WRITE_FAILED', `cannot give ${path} its name: ${(cause as Error).message}`, { cause });
}

/** The path behind symbolic links, the last of which may lead to what is not there yet. */
function linked(path: string): string {
  // statSync has seen that they do not go round.
  while (lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink()) {
    path = resolve(realpathSync(dirname(path)), readlinkSync(path));
  }
  return path;
}
