import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { hasCode, PagewireError } from '../errors.js';
import { native } from '../native.js';
import { KEY_FILE, keyFolder } from '../transport/identity.js';
import { EXIT } from '../control/exit.js';
import { say } from './run.js';

export interface KeygenFlags {
  /** The folder that gets the key. */
  dir?: string;
  /** The name in its certificate, for people. */
  name?: string;
}

/** Makes a key for this host, or shows the one that is there: its fingerprint is the only line on standard output. */
export function keygen(flags: KeygenFlags): number {
  const dir = flags.dir ?? keyFolder();
  const path = join(dir, KEY_FILE);
  const existing = readExisting(path);
  if (existing === undefined) {
    const { key, certificate, fingerprint } = make(flags.name ?? hostname());
    store(dir, path, key + certificate);
    say('keygen', `made ${path}: it is secret. The other host lets us in with --peer ${fingerprint}`);
    process.stdout.write(`${fingerprint}\n`);
  } else {
    const fingerprint = fingerprintOf(path, existing);
    say('keygen', `${path} is there already. To make a new key, remove it; the other host must be told then`);
    process.stdout.write(`${fingerprint}\n`);
  }
  return EXIT.ok;
}

function make(name: string): ReturnType<typeof native.keygen> {
  try {
    return native.keygen(name);
  } catch (error) {
    throw new PagewireError('BAD_OPTION', `--name ${name}: ${PagewireError.from(error).message}`, { cause: error });
  }
}

function readExisting(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw cannot('read', path, error);
  }
}

function fingerprintOf(path: string, pem: string): string {
  try {
    return native.fingerprintOf(pem);
  } catch (error) {
    throw new PagewireError('BAD_IDENTITY', `${path}: ${PagewireError.from(error).message}`, { cause: error });
  }
}

function store(dir: string, path: string, pem: string): void {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o755 });
    // Nobody else's from its first moment, and no other file's place.
    const fd = openSync(path, 'wx', 0o600);
    try {
      writeSync(fd, pem);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    throw cannot('make', path, error);
  }
}

function cannot(what: string, path: string, cause: unknown): PagewireError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new PagewireError('OPEN_FAILED', `cannot ${what} ${path}: ${reason} (give another folder with --dir)`, {
    cause,
  });
}
