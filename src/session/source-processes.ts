/**
 * The processes of a source's listener: each runs the listener's own command for one session, with connections that it
 * is given. `source-process.ts` is the other end.
 */
import type { Config } from '../control/config.js';
import { PagewireError } from '../errors.js';
import type { Log } from '../telemetry/log.js';
import { failedSession, type SessionOutcome } from '../telemetry/session.js';
import { Carrier, processGone, Spare, tellSpareGone } from './carrier.js';
import { type Failed, tellFailure } from './failure.js';
import { NO_MIGRATION, type SessionSnapshot } from './snapshot.js';
import type { Belongs, FromSource, Given, Session, ToSource } from './source-process.js';

export interface SourceProcessesOptions {
  readonly log: Log;
  /** What may be changed while it runs, as it is at first. */
  readonly config: Required<Config>;
  /** What the sessions carry is libvirt's tunnel. */
  readonly libvirt: boolean;
  /** The file that tells of the last session that failed. */
  readonly lastError: string | undefined;
  /** A session has told how it stands, and in the end how it ended; `line` is what `--stats` gets of it. */
  readonly onNews: (snapshot: SessionSnapshot, outcome: SessionOutcome | undefined, line: string | undefined) => void;
}

/** A session's process, or one to be. */
export class SourceProcess {
  readonly #carrier: Carrier<ToSource, FromSource>;
  /** Answers that are waited for, by the numbers of the connections. */
  readonly #offers = new Map<number, (belongs: Belongs) => void>();
  readonly #libvirt: boolean;
  #count = 0;
  #isGone = false;
  /** Its session has said how it ended. */
  #hasEnded = false;
  #isStopped = false;
  /** What a failure that it cannot tell of itself is told with; undefined before it has a session. */
  #last: Failed | undefined;
  /** How its session stood when it told so last, unless that has ended. */
  #snapshot: SessionSnapshot | undefined;

  constructor(options: SourceProcessesOptions, ended: (process: SourceProcess) => void) {
    const { log, libvirt, lastError, onNews } = options;
    this.#libvirt = libvirt;
    this.#carrier = new Carrier<ToSource, FromSource>(
      { module: '../cli/main.js', words: [...process.argv.slice(2), '--of-listener'], detached: true },
      {
        hear: (message) => {
          if (message.type === 'connection') {
            this.#offers.get(message.number)?.(message.belongs);
            this.#offers.delete(message.number);
            return;
          }
          const { snapshot, outcome, line } = message;
          this.#last = { ...snapshot, peer: snapshot.peer ?? this.#last?.peer ?? null };
          this.#snapshot = outcome ? undefined : snapshot;
          this.#hasEnded = outcome !== undefined;
          onNews(snapshot, outcome, line);
        },
        failed: (error) => {
          log.error(`a session's process: ${error.message}`);
        },
        gone: (code, signal) => {
          this.#isGone = true;
          if (this.#last === undefined) {
            // One that was stopped before it could listen to signals leaves nobody behind.
            if (!this.#isStopped) tellSpareGone(log, code, signal);
          } else if (signal !== null && !this.#hasEnded) {
            // It could not tell so itself.
            const failure = new PagewireError('INTERNAL', processGone(code, signal, libvirt));
            tellFailure(log.child({ guest: this.#last.name }), this.#last, failure, lastError);
            if (this.#snapshot) onNews(this.#snapshot, failedSession(failure), undefined);
          }
          ended(this);
          for (const answer of this.#offers.values()) answer('another');
        },
      },
    );
  }

  /** Resolves when it has ended. */
  get gone(): Promise<void> {
    return this.#carrier.gone;
  }

  /** The session begins, with a connection that stays the caller's too. */
  begin(fd: number, session: Session): void {
    this.#last = failedOf(session, this.#libvirt);
    this.#carrier.hand(fd, { number: this.#count++, session } satisfies Given);
  }

  /** A further connection, which stays the caller's too: whether it is the session's. */
  offer(fd: number): Promise<Belongs> {
    if (this.#isGone) return Promise.resolve('another');
    const number = this.#count++;
    try {
      this.#carrier.hand(fd, { number } satisfies Given);
    } catch {
      // It is about to be gone.
      return Promise.resolve('another');
    }
    return new Promise((resolve) => this.#offers.set(number, resolve));
  }

  change(config: Required<Config>): void {
    this.#carrier.tell({ type: 'change', config });
  }

  stop(): void {
    this.#isStopped = true;
    this.#carrier.kill('SIGTERM');
  }
}

export class SourceProcesses {
  /** Settled when it was told to stop and all have ended. */
  readonly done: Promise<void>;
  readonly #options: SourceProcessesOptions;
  readonly #all = new Set<SourceProcess>();
  readonly #spare: Spare<SourceProcess>;
  #config: Required<Config>;
  #isStopping = false;
  #settle!: () => void;

  constructor(options: SourceProcessesOptions) {
    this.#options = options;
    this.#config = options.config;
    this.done = new Promise((resolve) => (this.#settle = resolve));
    this.#spare = new Spare(
      () => this.#start(),
      (process) => {
        process.stop();
      },
    );
  }

  /** Sessions that are open. */
  get sessions(): number {
    return this.#spare.inUse;
  }

  get isStopping(): boolean {
    return this.#isStopping;
  }

  /**
   * A session begins, with a connection that stays the caller's too. Undefined where there is no process for it, of which
   * is told.
   */
  begin(fd: number, session: Omit<Session, 'config'>): SourceProcess | undefined {
    try {
      const process = this.#spare.take();
      process.begin(fd, { ...session, config: this.#config });
      this.#spare.later();
      return process;
    } catch (error) {
      const { libvirt, log, lastError } = this.#options;
      tellFailure(log.child({ guest: session.name }), failedOf(session, libvirt), PagewireError.from(error), lastError);
      return undefined;
    }
  }

  /** For sessions that run and for those to come. */
  change(config: Required<Config>): void {
    this.#config = config;
    for (const process of this.#all) process.change(config);
  }

  /** Begins no more; each session ends as it does by a signal of its own. */
  stop(): void {
    this.#isStopping = true;
    this.#spare.close();
    for (const process of this.#all) process.stop();
    this.#settleIfDone();
  }

  #start(): SourceProcess {
    const process = new SourceProcess(this.#options, (ended) => {
      this.#all.delete(ended);
      this.#spare.lost(ended);
      this.#settleIfDone();
    });
    this.#all.add(process);
    return process;
  }

  #settleIfDone(): void {
    if (this.#isStopping && this.#all.size === 0) this.#settle();
  }
}

/** What is told of a session that has not told anything itself. */
export function failedOf({ name, connect }: Pick<Session, 'name' | 'connect'>, libvirt: boolean): Failed {
  return { role: 'source', name, peer: connect.join(', '), tunnel: libvirt ? NO_MIGRATION : null };
}
