import { native } from '../native.js';
import type { Log } from '../telemetry/log.js';

/** Where systemd listens, if it asked to be told. It listens to the service alone, so what we start does not get it. */
const socket = process.env['NOTIFY_SOCKET'] ?? '';
delete process.env['NOTIFY_SOCKET'];

/** Tells systemd, if it asked for that. That it does not listen any more is no reason to end a migration. */
export function notify(log: Log, state: string): void {
  if (socket === '') return;
  try {
    native.notify(socket, state);
  } catch (error) {
    log.debug(`cannot tell systemd: ${error instanceof Error ? error.message : String(error)}`);
  }
}
