/**
 * Connections of libvirt and QEMU to other hosts that this host's packet filter has redirected to us: each that goes to
 * a port where none of them went before begins a migration, the others are its further connections.
 *
 *     libvirtd ─▶ dst:49152 ─ redirected ─▶ 127.0.0.1:PORT ─▶ where did it go? ─▶ the session for dst:49152
 */
import { closeSync } from 'node:fs';
import { PagewireError } from '../errors.js';
import { native, type NativeListener } from '../native.js';
import type { Log } from '../telemetry/log.js';
import { type Endpoint, endpointText } from '../transport/endpoint.js';
import { type Failed, lastErrorOf, tellFailure } from './failure.js';
import type { InDoubt } from './outcome.js';
import { LISTEN, sessionOf, type SourceProxySettings } from './source-proxy.js';
import { type SessionEnd, SourceSession } from './source.js';
import type { SessionSnapshot } from './snapshot.js';
import type { StockSession } from './stock.js';

/** What our own sockets carry, so that the packet filter lets them pass. The letters "PW". */
export const MARK = 0x5057;

/** The port of `--listen intercept:PORT`, or undefined for what is another endpoint. */
export function interceptionPort(listen: string): number | undefined {
  const text = /^intercept:(.*)$/s.exec(listen)?.[1];
  if (text === undefined) return undefined;
  const port = Number(text);
  if (!/^\d{1,5}$/.test(text) || port < 1 || port > 65535) {
    throw new PagewireError('BAD_OPTION', `--listen ${listen}: intercept: takes a port, from 1 to 65535`);
  }
  return port;
}

/** What the settings of an interception have in the place of one destination: `{host}` and `{port}` in `connect`. */
export type InterceptionSettings = Omit<SourceProxySettings, 'listen' | 'socket' | 'port'> & {
  /** Where the packet filter redirects connections to, on loopback. */
  listenPort: number;
  /** The file that tells of the last migration that failed. */
  lastError?: string | undefined;
};

/** How a migration ended. */
export type Ended = { readonly end: SessionEnd } | { readonly failure: PagewireError };

interface Running {
  readonly session: SourceSession | StockSession;
  readonly done: Promise<void>;
}

export class Interception {
  /** Settled when it was told to stop and all migrations have ended. */
  readonly done: Promise<void>;
  readonly #settings: InterceptionSettings;
  readonly #log: Log;
  readonly #ended: (snapshot: SessionSnapshot, ended: Ended) => void;
  readonly #listeners: NativeListener[] = [];
  /** The last that was begun for each original destination. */
  readonly #sessions = new Map<string, Running>();
  /** All that have not ended. */
  readonly #open = new Set<Running>();
  #isStopped = false;
  #settle!: () => void;

  /** `ended` hears of each migration's end; one that failed is in the log then. */
  constructor(settings: InterceptionSettings, log: Log, ended: (snapshot: SessionSnapshot, ended: Ended) => void) {
    this.#settings = settings;
    this.#log = log;
    this.#ended = ended;
    this.done = new Promise((resolve) => (this.#settle = resolve));
    checkExample(settings, log);
    native.setMark(MARK);
    for (const host of ['127.0.0.1', '::1']) {
      try {
        const address = { kind: 'tcp', host, port: settings.listenPort } as const;
        this.#listeners.push(
          native.NativeListener.listen(address, LISTEN, (fd) => {
            this.#accept(fd);
          }),
        );
      } catch (error) {
        // A host may be without IPv6, and then nothing comes from there.
        if (host === '127.0.0.1') throw PagewireError.from(error);
        log.debug(`no IPv6: ${PagewireError.from(error).message}`);
      }
    }
  }

  /** How the migrations that are under way stand. */
  snapshots(): SessionSnapshot[] {
    return [...this.#open].map(({ session }) => session.snapshot());
  }

  /** Takes no more connections; each migration ends as it does by a signal of its own. */
  stop(): void {
    this.#isStopped = true;
    for (const listener of this.#listeners) listener.close();
    for (const { session } of this.#open) session.stop();
    if (this.#open.size === 0) this.#settle();
  }

  /** Something in pagewire itself broke. */
  fault(error: unknown): void {
    for (const { session } of this.#open) {
      if (session instanceof SourceSession) session.fault(error);
      else session.stop();
    }
  }

  /** For migrations that run and for those to come. */
  change(changed: { maxBandwidth: number; inDoubt: InDoubt; reconnectMs: number }): void {
    Object.assign(this.#settings, changed);
    for (const { session } of this.#open) {
      if (!(session instanceof SourceSession)) continue;
      session.setMaxBandwidth(changed.maxBandwidth);
      session.setInDoubt(changed.inDoubt);
      session.setReconnect(changed.reconnectMs);
    }
  }

  #accept(fd: number): void {
    const original = native.originalDestination(fd);
    if (original?.kind !== 'tcp' || this.#isStopped) {
      if (!this.#isStopped) this.#log.warn(`${native.peerOfSocket(fd)} was not redirected to us, but came by itself`);
      closeSync(fd);
      return;
    }
    const to = { kind: 'tcp', host: original.host, port: original.port } as const;
    const before = this.#sessions.get(endpointText(to));
    if (!before) {
      this.#begin(fd, to);
      return;
    }
    switch (before.session.snapshot().state) {
      case 'waiting':
      case 'connecting':
      case 'running':
      case 'reconnecting':
        before.session.accept(fd);
        break;
      // All of it has arrived, and the other end still knows it: the next one is to come after it.
      case 'ending':
        void before.done.then(() => {
          this.#begin(fd, to);
        });
        break;
      // It waits for its end by itself: the destination knows whether a new one may come.
      case 'in doubt':
      case 'ended':
      case 'failed':
        this.#begin(fd, to);
    }
  }

  #begin(fd: number, to: Endpoint & { kind: 'tcp' }): void {
    const settings = settingsFor(this.#settings, to);
    const log = this.#log.child({ guest: settings.name });
    const fail = (failed: Failed, failure: PagewireError): void => {
      const peer = failed.peer ?? settings.connect.join(', ');
      tellFailure(log, lastErrorOf({ ...failed, peer }, failure), this.#settings.lastError);
    };
    log.info(`a migration to ${endpointText(to)}`);
    let session: SourceSession | StockSession;
    try {
      if (this.#isStopped) throw new PagewireError('STOPPED', 'stopped: the migration fails and the guest stays here');
      session = sessionOf(settings, log);
    } catch (error) {
      fail({ role: 'source', name: settings.name, peer: null, tunnel: null }, PagewireError.from(error));
      closeSync(fd);
      return;
    }
    const done = session.done.then(
      (end) => {
        this.#finish(running, { end });
      },
      (error: unknown) => {
        const failure = PagewireError.from(error);
        fail(session.snapshot(), failure);
        this.#finish(running, { failure });
      },
    );
    const running = { session, done };
    this.#sessions.set(endpointText(to), running);
    this.#open.add(running);
    session.accept(fd);
  }

  #finish(running: Running, ended: Ended): void {
    this.#open.delete(running);
    for (const [key, last] of this.#sessions) if (last === running) this.#sessions.delete(key);
    this.#ended(running.session.snapshot(), ended);
    if (this.#isStopped && this.#open.size === 0) this.#settle();
  }
}

/** The settings of the migration that goes there. */
function settingsFor(settings: InterceptionSettings, to: { host: string; port: number }): SourceProxySettings {
  const { listenPort, ...rest } = settings;
  const host = to.host.includes(':') ? `[${to.host}]` : to.host;
  const connect = settings.connect.map((text) => text.replaceAll('{host}', host).replaceAll('{port}', String(to.port)));
  return { ...rest, name: `${settings.name}-${to.port}`, port: to.port, connect, listen: `intercept:${listenPort}` };
}

/** What is wrong with the settings of every migration is told before there is one. (An address for documentation.) */
function checkExample(settings: InterceptionSettings, log: Log): void {
  const session = sessionOf(settingsFor(settings, { host: '192.0.2.1', port: 49152 }), log);
  session.done.catch(() => undefined);
  session.stop();
}
