/** A session's process at the source: what its listener and it say to each other. */
import type { Config } from '../control/config.js';
import { native, type NativeReceiver } from '../native.js';
import type { SessionOutcome } from '../telemetry/session.js';
import { CONTROL_FD } from './carrier.js';
import type { SessionSnapshot } from './snapshot.js';

/** Whose a connection is: the session's; that of the next one, once this one has ended; that of another. */
export type Belongs = 'here' | 'next' | 'another';

/** From the listener. */
export interface ToSource {
  readonly type: 'change';
  readonly config: Required<Config>;
}

/** From a session. */
export type FromSource =
  | { type: 'news'; snapshot: SessionSnapshot; outcome?: SessionOutcome; line?: string }
  | { type: 'connection'; number: number; belongs: Belongs };

/** What goes with a connection. */
export interface Given {
  readonly number: number;
  /** With the first. */
  readonly session?: {
    readonly name: string;
    readonly connect: readonly string[];
    readonly port?: number | undefined;
    readonly config: Required<Config>;
  };
}

export type Session = NonNullable<Given['session']>;

interface Events {
  /** The session's first connection. */
  readonly begin: (fd: number, session: Session) => void;
  /** A further one, if it is the session's. */
  readonly further: (fd: number) => Belongs;
  readonly change: (config: Required<Config>) => void;
  /** The listener has ended. */
  readonly gone: () => void;
}

/** The listener, as a session's process sees it. */
export class SourceListener {
  /** Kept: a receiver that nobody holds takes nothing. */
  readonly #receiver: NativeReceiver;

  constructor({ begin, further, change, gone }: Events) {
    this.#receiver = new native.NativeReceiver(CONTROL_FD, (fd, bytes) => {
      if (fd < 0) {
        this.#receiver.close();
        gone();
        return;
      }
      const { number, session } = JSON.parse(bytes.toString()) as Given;
      if (session) begin(fd, session);
      else void this.#say({ type: 'connection', number, belongs: further(fd) });
    });
    process.on('message', ({ config }: ToSource) => {
      change(config);
    });
  }

  /** How the session stands, and in the end its outcome; `line` is what `--stats` gets of it. */
  tell(snapshot: SessionSnapshot, outcome: SessionOutcome | undefined, line: string | undefined): Promise<void> {
    return this.#say({ type: 'news', snapshot, ...(outcome && { outcome }), ...(line !== undefined && { line }) });
  }

  /** Resolves when it is on its way. A listener that has gone takes nothing more: the session goes on without it. */
  #say(message: FromSource): Promise<void> {
    return new Promise((resolve) => {
      if (!process.connected) resolve();
      else {
        process.send?.(message, () => {
          resolve();
        });
      }
    });
  }
}
