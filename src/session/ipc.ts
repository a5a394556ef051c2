/** What the listener and the processes of its sessions say to each other. Connections go beside it, by a socket. */
import type { LogFormat } from '../telemetry/log.js';
import type { SessionOutcome } from '../telemetry/session.js';
import type { Refuse } from './hello.js';
import type { HostSettings } from './host.js';
import type { InDoubt } from './outcome.js';
import type { SessionSnapshot } from './snapshot.js';

/** From the listener. */
export type ToSession =
  | {
      type: 'settings';
      settings: HostSettings;
      log: { format: LogFormat; quiet: boolean; verbose: boolean };
      /** The file that tells of the last session that failed. */
      lastError?: string | undefined;
    }
  | { type: 'change'; inDoubt: InDoubt; reconnectMs: number }
  | { type: 'claimed'; refuse?: Refuse }
  /** How often the listener has been asked to end. */
  | { type: 'stop'; requests: number }
  /** A newer session of the same guest has come. */
  | { type: 'superseded' };

/** From a session. */
export type ToListener =
  /** The handshake with this number is over; `why` where it was in vain. Without a session another may come here. */
  | { type: 'shaken'; handshake: number; peer: string; hasSession: boolean; why?: string }
  | { type: 'claim'; name: string; who: string }
  | { type: 'snapshot'; snapshot: SessionSnapshot; linked: boolean }
  | { type: 'ended'; snapshot: SessionSnapshot; outcome: SessionOutcome };

/** What goes with a connection. */
export interface Handover {
  handshake: number;
  /** In hex. */
  preamble: string;
  peer: string;
  /** Sessions that the listener carries now, and the most that it would. */
  sessions: { now: number; most: number };
}
