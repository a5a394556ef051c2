/**
 * A destination that serves many migrations: it takes connections, and gives each to the process of its session. No
 * byte of a guest, and no byte of a peer that is not known yet, comes through here but the routing preamble.
 */
import { closeSync } from 'node:fs';
import { plain } from '../control/standard-streams.js';
import { PagewireError } from '../errors.js';
import { native, type NativeAddress, type NativeListener, type NativeListenOptions } from '../native.js';
import type { Log, LogFormat } from '../telemetry/log.js';
import { receiveHello, refuse } from './accept.js';
import { Carrier, processGone, Spare, tellSpareGone } from './carrier.js';
import { tellFailure } from './failure.js';
import type { Refuse } from './hello.js';
import { type HostSettings, UNKNOWN_SESSION } from './host.js';
import type { Handover, ToListener, ToSession } from './ipc.js';
import type { InDoubt } from './outcome.js';
import { PREAMBLE_BYTES, readPreamble } from './preamble.js';
import { count } from '../telemetry/amounts.js';
import { failedSession, type SessionOutcome } from '../telemetry/session.js';
import { NO_MIGRATION, type SessionSnapshot } from './snapshot.js';

export interface ListenerOptions {
  readonly listen: NativeAddress | { fd: number };
  readonly socket: Pick<NativeListenOptions, 'mode' | 'uid' | 'gid'>;
  /** How the address is shown. */
  readonly shown: string;
  readonly settings: HostSettings;
  readonly maxSessions: number;
  /** Connections whose peer is not known yet; a quarter of them from one address. */
  readonly maxHandshakes: number;
  readonly log: Log;
  readonly logging: { format: LogFormat; quiet: boolean; verbose: boolean };
  /** The file that tells of the last session that failed. */
  readonly lastError?: string | undefined;
  /** A session has told how it stands, and in the end how it ended. */
  readonly onSnapshot?: (snapshot: SessionSnapshot, outcome?: SessionOutcome) => void;
}

/** A session, or one to be. */
interface Place {
  readonly carrier: Carrier<ToSession, ToListener>;
  /** The routing number of its session. */
  id?: string;
  /** The guest's name, once it has one. */
  name?: string;
  /** Who opened it. */
  who?: string;
  linked: boolean;
  snapshot?: SessionSnapshot;
  /** The numbers of the handshakes that it has under way. */
  readonly handshakes: Set<number>;
}

/** What a session that was superseded may take to go, in milliseconds. */
const SUPERSEDE_MS = 5000;

/** So many connections that come to nothing are told of one by one, in so many milliseconds. */
const CLOSINGS = { most: 10, ms: 10_000 };

export class Listener {
  /** Resolves when the listener is closed and all its sessions have ended. */
  readonly done: Promise<void>;
  readonly #options: ListenerOptions;
  readonly #log: Log;
  readonly #listener: NativeListener;
  readonly #places = new Set<Place>();
  readonly #spare: Spare<Place>;
  /**
   * Where the handshakes come from that are under way, by their numbers; without those of links for sessions that are
   * here, whose number a stranger does not know: no crowd may keep these out.
   */
  readonly #strangers = new Map<number, string>();
  #settings: HostSettings;
  #count = 0;
  #stopRequests = 0;
  /** Connections that came to nothing lately. */
  #closings = 0;
  #settle!: () => void;

  constructor(options: ListenerOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#settings = options.settings;
    this.done = new Promise((resolve) => (this.#settle = resolve));
    const { maxHandshakes, socket, settings } = options;
    this.#listener = native.NativeListener.listen(
      options.listen,
      { ...socket, preamble: true, maxPending: maxHandshakes, timeoutMs: settings.handshakeMs },
      (fd, preamble, peer, network) => {
        this.#route(fd, preamble ?? Buffer.alloc(0), peer, network ?? peer);
      },
      (peer, reason) => {
        this.#closed(peer, plain(reason));
      },
    );
    this.#spare = new Spare(
      () => this.#start(),
      ({ carrier }) => {
        carrier.tell({ type: 'stop', requests: 1 });
      },
    );
  }

  /** Sessions that are open. */
  get sessions(): number {
    return [...this.#places].filter(({ name }) => name !== undefined).length;
  }

  /** Takes no more connections; sessions end as they do by a signal of their own. */
  stop(): void {
    this.#stopRequests++;
    if (this.#stopRequests === 1) {
      this.#listener.close();
      this.#spare.close();
      if (this.sessions > 0) this.#log.info(`stopping ${count(this.sessions, 'session')}`);
    }
    for (const { carrier } of this.#places) carrier.tell({ type: 'stop', requests: this.#stopRequests });
    this.#settleIfDone();
  }

  /** For sessions that run and for those to come. */
  change({ inDoubt, reconnectMs }: { inDoubt: InDoubt; reconnectMs: number }): void {
    this.#settings = { ...this.#settings, inDoubt, reconnectMs };
    for (const { carrier } of this.#places) {
      carrier.tell(this.#settingsFor());
      carrier.tell({ type: 'change', inDoubt, reconnectMs });
    }
  }

  /** `host`: what counts as one address with others. */
  #route(fd: number, bytes: Buffer, peer: string, host: string): void {
    const preamble = bytes.length === PREAMBLE_BYTES ? readPreamble(bytes) : undefined;
    if (!preamble) {
      closeSync(fd);
      this.#closed(peer, 'is no pagewire proxy, or a later one');
      return;
    }
    const { maxHandshakes, maxSessions } = this.#options;
    const share = Math.max(Math.floor(maxHandshakes / 4), 1);
    const known = [...this.#places].find(({ id }) => id === preamble.session);
    // Before it has a name, who opened it may be a stranger.
    const joined = preamble.kind === 'join' && known?.name !== undefined ? known : undefined;
    const here = [...this.#strangers.values()].filter((other) => other === host).length;
    if (joined ? joined.handshakes.size >= maxHandshakes : this.#strangers.size >= maxHandshakes || here >= share) {
      closeSync(fd);
      this.#closed(peer, 'came while too many others wait to be known (--max-handshakes)');
      return;
    }
    const handshake = this.#count++;
    const sessions = { now: this.sessions, most: maxSessions };
    const handover: Handover = { handshake, preamble: bytes.toString('hex'), peer, sessions };
    if (joined) {
      this.#hand(joined, fd, handover);
      return;
    }
    this.#strangers.set(handshake, host);
    if (preamble.kind === 'join') {
      void this.#refuse(fd, handshake, peer, { code: 'UNKNOWN_SESSION', message: UNKNOWN_SESSION });
    } else if (known || this.#places.size - this.#spare.size >= maxSessions + share) {
      void this.#refuse(fd, handshake, peer, { code: 'BUSY', message: allTaken(maxSessions) });
    } else {
      let place: Place;
      try {
        place = this.#spare.take();
      } catch (error) {
        this.#log.error(`no process for a session: ${PagewireError.from(error).message}`);
        void this.#refuse(fd, handshake, peer, { code: 'BUSY', message: 'no process can be started for the session' });
        return;
      }
      place.id = preamble.session;
      this.#hand(place, fd, handover);
    }
  }

  #hand(place: Place, fd: number, handover: Handover): void {
    place.handshakes.add(handover.handshake);
    try {
      place.carrier.hand(fd, handover);
    } catch (error) {
      this.#shaken(place, handover.handshake);
      this.#closed(handover.peer, plain(PagewireError.from(error).message));
    } finally {
      closeSync(fd);
    }
  }

  /** Says no, to a peer that is who it should be. */
  async #refuse(fd: number, handshake: number, peer: string, why: Refuse): Promise<void> {
    const { tls, handshakeMs, end } = this.#settings;
    try {
      const link = await native.acceptLink(fd, tls, handshakeMs);
      await receiveHello(link, end.program, handshakeMs);
      await refuse(link, why, handshakeMs);
    } catch (error) {
      this.#closed(peer, plain(PagewireError.from(error).message));
    } finally {
      this.#strangers.delete(handshake);
    }
  }

  /** A connection came to nothing. Somebody who makes thousands of them must not fill the log. */
  #closed(peer: string, why: string): void {
    this.#closings++;
    // Where it is named already, it may be by another kind of endpoint.
    const isNamed = why.includes(peer.slice(peer.indexOf(':') + 1));
    if (this.#closings <= CLOSINGS.most) this.#log.warn({ peer }, isNamed ? why : `${peer} ${why}`);
    if (this.#closings > 1) return;
    const timer = setTimeout(() => {
      const more = this.#closings - CLOSINGS.most;
      if (more > 0) this.#log.warn(`${more} more connections came to nothing in the last ${CLOSINGS.ms / 1000} s`);
      this.#closings = 0;
    }, CLOSINGS.ms);
    timer.unref();
  }

  #start(): Place {
    const carrier = new Carrier<ToSession, ToListener>(
      { module: './process.js' },
      {
        hear: (message) => {
          this.#hear(place, message);
        },
        failed: (error) => {
          this.#log.error(`a session's process: ${error.message}`);
        },
        gone: (code, signal) => {
          this.#gone(place, code, signal);
        },
      },
    );
    const place: Place = { carrier, linked: false, handshakes: new Set() };
    this.#places.add(place);
    carrier.tell(this.#settingsFor());
    return place;
  }

  #settingsFor(): ToSession {
    const { logging, lastError } = this.#options;
    return { type: 'settings', settings: this.#settings, log: logging, lastError };
  }

  #hear(place: Place, message: ToListener): void {
    switch (message.type) {
      case 'shaken':
        this.#shaken(place, message.handshake, message.hasSession);
        if (message.why !== undefined) this.#closed(message.peer, message.why);
        break;
      case 'claim':
        void this.#claim(place, message.name, message.who);
        break;
      case 'snapshot':
        place.snapshot = message.snapshot;
        place.linked = message.linked;
        this.#options.onSnapshot?.(message.snapshot);
        break;
      case 'ended':
        delete place.snapshot;
        this.#options.onSnapshot?.(message.snapshot, message.outcome);
        break;
    }
  }

  /** A handshake is over; a process that nothing has come of is there for whoever comes next. */
  #shaken(place: Place, handshake: number, hasSession = false): void {
    place.handshakes.delete(handshake);
    this.#strangers.delete(handshake);
    if (hasSession || place.name !== undefined || place.handshakes.size > 0) return;
    delete place.id;
    this.#spare.back(place);
  }

  /** A guest has one session: one that has lost its link gives way to a newer one of the same peer, unless in doubt. */
  async #claim(place: Place, name: string, who: string): Promise<void> {
    const { maxSessions } = this.#options;
    const other = [...this.#places].find((each) => each.name === name);
    let no: Refuse | undefined;
    if (this.#stopRequests > 0) {
      no = { code: 'BUSY', message: 'the destination proxy is stopping' };
    } else if (other?.linked === true) {
      no = { code: 'BUSY', message: `guest ${name} is being migrated here already, from ${peerOf(other)}` };
    } else if (other && other.who !== who) {
      no = { code: 'BUSY', message: `guest ${name} is being migrated here already, from another source` };
    } else if (other?.snapshot && (other.snapshot.doubt || other.snapshot.state === 'in doubt')) {
      no = { code: 'BUSY', message: `guest ${name} may run here already: its last session is in doubt` };
    } else if (!other && this.sessions >= maxSessions) {
      no = { code: 'BUSY', message: `${allTaken(maxSessions)} (--max-sessions)` };
    } else {
      place.name = name;
      place.who = who;
      place.linked = true;
      if (other) await this.#supersede(other, name);
    }
    place.carrier.tell({ type: 'claimed', ...(no && { refuse: no }) });
    if (!no) this.#spare.later();
  }

  async #supersede(other: Place, name: string): Promise<void> {
    this.#log.warn({ guest: name }, 'a new session takes the place of one that has lost its link');
    delete other.name;
    other.carrier.tell({ type: 'superseded' });
    const timer = setTimeout(() => {
      other.carrier.kill('SIGKILL');
    }, SUPERSEDE_MS);
    await other.carrier.gone;
    clearTimeout(timer);
  }

  #gone(place: Place, code: number | null, signal: NodeJS.Signals | null): void {
    this.#places.delete(place);
    this.#spare.lost(place);
    for (const handshake of place.handshakes) this.#strangers.delete(handshake);
    const { name, snapshot } = place;
    const libvirt = this.#settings.allow !== undefined;
    const failure = new PagewireError('INTERNAL', processGone(code, signal, libvirt));
    const killed = signal !== null && name !== undefined;
    const failed =
      snapshot ??
      (killed
        ? ({ role: 'destination', name, peer: null, tunnel: libvirt ? NO_MIGRATION : null } as const)
        : undefined);
    if (failed) {
      // It could not tell so itself.
      const log = this.#log.child({ guest: failed.name });
      tellFailure(log, failed, failure, this.#options.lastError);
    } else if (name === undefined && this.#stopRequests === 0) {
      tellSpareGone(this.#log, code, signal);
    }
    if (snapshot) this.#options.onSnapshot?.(snapshot, failedSession(failure));
    this.#settleIfDone();
  }

  #settleIfDone(): void {
    if (this.#stopRequests > 0 && this.#places.size === 0) this.#settle();
  }
}

function allTaken(most: number): string {
  return most === 1 ? 'the only place is taken' : `all ${most} places are taken`;
}

function peerOf({ snapshot }: Place): string {
  return snapshot?.peer ?? 'another source';
}
