import { native } from '../native.js';
import type { Log } from '../telemetry/log.js';

/** Tells systemd, if it asked for that. That it does not listen any more is no reason to end a migration. */
export function notify(log: Log, state: string): void {
  try {
    native.notify(state);
  } catch (error) {
    log.debug(`cannot tell systemd: ${error instanceof Error ? error.message : String(error)}`);
  }
}
