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
export type Failed = Pick<SessionSnapshot, 'role' | 'name' | 'peer' | 'tunnel'>;

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

export function lastErrorOf({ role, name, peer, tunnel }: Failed, error: PagewireError, exit?: number): LastError {
  const { code, message } = error;
  return {
    time: new Date().toISOString(),
    role,
    guest: tunnel?.guest ?? name,
    session: name,
    connection: peer,
    code,
    exitCode: exit ?? exitCode(code),
    message: plain(message),
    remedy: REMEDIES[code],
  };
}

/** Whoever logs the end of a session calls this: so each failure is told once. `file`: that of `--last-error`. */
export function tellFailure(log: Log, failure: LastError, file: string | undefined): void {
  const { guest, session, connection, code, message, remedy } = failure;
  log.error({ code, connection, remedy, ...(guest !== session && { tunnelled: guest }) }, message);
  if (file === undefined) return;
  try {
    replaceFile(file.replaceAll('{name}', isGuestName(guest) ? guest : session), (partial) => {
      writeFileSync(partial, `${JSON.stringify(failure, null, 2)}\n`, { mode: MODE, flag: 'wx' });
      chmodSync(partial, MODE);
    });
  } catch (error) {
    log.warn(`--last-error: ${(error as Error).message}`);
  }
}
