/** A session that failed, told to the operator: by a line in the log, and by the file of `--last-error`. */
import { chmodSync, writeFileSync } from 'node:fs';
import { exitCode } from '../control/exit.js';
import { plain } from '../control/standard-streams.js';
import { replaceFile } from '../control/replace.js';
import type { PagewireError } from '../errors.js';
import type { Log } from '../telemetry/log.js';
import { isGuestName } from '../transport/endpoint.js';
import { REMEDIES } from './remedy.js';
import type { SessionSnapshot } from './snapshot.js';

/** Of a session, what its failure is told with. */
export type Failed = Pick<SessionSnapshot, 'role' | 'name' | 'peer' | 'tunnel'> &
  Partial<Pick<SessionSnapshot, 'doubt'>>;

/** What to do where it ended in doubt. */
const IN_DOUBT = 'see where the guest runs; if it does at both ends, end it at one before it does more harm';

/** What stands in the file. */
export interface LastError {
  readonly time: string;
  readonly role: SessionSnapshot['role'];
  /** In libvirt's tunnel the session's name, until a migration has begun. */
  readonly guest: string;
  /** The session's name: the guest's, or that of a connection of libvirt's. */
  readonly session: string;
  /** The other end, as far as one was known. */
  readonly connection: string | null;
  readonly code: string;
  readonly exitCode: number;
  readonly message: string;
  readonly remedy: string | null;
}

/** The mode of the file, whatever the umask. */
const MODE = 0o640;

/** Where no guest is known, or its name can be no part of a file's: one file for all of these. */
const NAMELESS = 'session';

/** The guest's name, as far as it is known. */
function guestOf({ name, tunnel }: Failed): string | null {
  return tunnel ? tunnel.guest : name;
}

function lastErrorOf(of: Failed, { code, message }: PagewireError, exit: number | undefined): LastError {
  const { role, name, peer, doubt = false } = of;
  return {
    time: new Date().toISOString(),
    role,
    guest: guestOf(of) ?? name,
    session: name,
    connection: peer,
    code,
    exitCode: exit ?? exitCode(code),
    message: plain(message),
    remedy: doubt ? IN_DOUBT : REMEDIES[code],
  };
}

/**
 * Whoever logs the end of a session calls this: so each failure is told once. `file`: that of `--last-error`; `exit`: the
 * exit code, where it is not the error's. Returns what was told.
 */
export function tellFailure(
  log: Log,
  of: Failed,
  error: PagewireError,
  file: string | undefined,
  exit?: number,
): LastError {
  const failure = lastErrorOf(of, error, exit);
  const { guest, session, connection, code, message, remedy } = failure;
  log.error({ code, connection, remedy, ...(guest !== session && { tunnelled: guest }) }, message);
  if (file === undefined) return failure;
  const known = guestOf(of);
  try {
    replaceFile(file.replaceAll('{name}', known !== null && isGuestName(known) ? known : NAMELESS), (partial) => {
      writeFileSync(partial, `${JSON.stringify(failure, null, 2)}\n`, { mode: MODE, flag: 'wx' });
      chmodSync(partial, MODE);
    });
  } catch (problem) {
    log.warn(`--last-error: ${(problem as Error).message}`);
  }
  return failure;
}
